"""The LC algorithm, and the baselines made of the same pieces; those of others are in baselines/.

Each method has the same data, reference net, epochs, batches, soft targets and peak of the learning
rate, and leaves an `LC` whose Thetas are the compressed net.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import leco
from benchmarks.proof import training
from benchmarks.proof.cell import Cell
from benchmarks.proof.trainer import Trainer


def direct(cell: Cell) -> leco.LC:
    """The C step of the reference's weights."""
    lc = leco.LC(cell.model, cell.tasks)
    cell.weigh(lc)
    lc.mu = cell.first_mu(lc)
    return lc


def retrained(cell: Cell) -> leco.LC:
    """Direct compression, then training of what it leaves free."""
    lc = direct(cell)
    train_free(cell, lc, cell.settings.epochs)
    return lc


def train_free(cell: Cell, lc: leco.LC, epochs: float, part: int = 1) -> None:
    """Train by Adam: the gradient of a shared value sums over its weights, and SGD would need a
    rate for each."""
    free, trainer = leco.Retraining(lc), cell.trainer(epochs, cell.settings.retrain_lr, part=part)
    optimizer = torch.optim.Adam(free.parameters())
    free.attach(optimizer)
    while trainer.done < trainer.total:
        loss = trainer.run(cell.model, optimizer, trainer.left, capture=False)
        point = {"epoch": trainer.done / trainer.per_epoch, "train_loss": loss}
        cell.curve.append({"part": "retraining", **point})
    free.detach()


def plain(cell: Cell) -> leco.LC:
    """A control: training without compression; its direct compression is not what is reported."""
    trainer, optimizer = cell.trainer(), cell.optimizer()
    for _ in cell.epochs(trainer, {"optimizer": optimizer}):
        loss = trainer.run(cell.model, optimizer, trainer.left)
        cell.note(trainer, loss, cell.validate()[1])
    return direct(cell)


def iterated(cell: Cell, rounds: int = 6) -> leco.LC:
    """Train, compress, train, compress; the learning rate's cosine starts anew in each round."""
    lc = leco.LC(cell.model, cell.tasks)
    parts = [cell.trainer(cell.settings.epochs / rounds, part=2 + k) for k in range(rounds)]

    def train(k: int) -> None:
        loss = parts[k].run(cell.model, cell.optimizer(), parts[k].total)
        cell.note(parts[k], loss, cell.validate()[1])
        cell.curve[-1]["epoch"] = (k + 1) * cell.settings.epochs / rounds

    for record in leco.iterated_direct_compression(lc, train, rounds, cell.first_mu(lc)):
        cell.curve[record.step - 1]["gap"] = record.relative_gap
    return lc


def learning_compression(cell: Cell) -> leco.LC:
    """LC, its last net, and training of what is free."""
    s, model, data = cell.settings, cell.model, cell.data
    lc = leco.LC(model, cell.tasks, multipliers=s.multipliers)
    cell.weigh(lc)
    optimizer, trainer = cell.optimizer(), cell.trainer((1 - s.retrain) * s.epochs)
    if s.restart:
        each = trainer.total // s.steps
        trainer.shape = lambda _: training.cosine((trainer.done % each) / each)
    _join(lc, optimizer, cell)

    mus = leco.automatic(cell.first_mu(lc) / s.start, s.steps, s.start, s.end, s.power)
    result = leco.run(
        lc,
        l_step(cell, lc, optimizer, trainer),
        mus,
        evaluate=cell.validate,
        batches=(lambda: training.calibration(data)) if s.recalibrate else None,
        every=max(1, s.steps // s.evaluations),
        rounds=s.rounds,
        from_delta=s.from_delta,
        compressions=(lambda k: loosened(cell, k)) if s.tighten else None,
        tolerance=1e-12,
        checkpoint=cell.checkpoint,
        stateful={"optimizer": optimizer, "trainer": trainer},
        progress=False,
    )
    cell.curve[:] = [record._asdict() for record in result.records]
    lc.detach()
    if s.retrain:
        error = cell.compressed_error(lc)
        cell.curve.append({"part": "before retraining", "validation_error": error})
        train_free(cell, lc, s.retrain * s.epochs)
    return lc


def _join(lc: leco.LC, optimizer: torch.optim.Optimizer, cell: Cell) -> None:
    """Hooks of the optimizer: the gradient's norm first, then the penalty."""
    s = cell.settings

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_(cell.model.parameters(), s.max_norm)

    if s.max_norm:
        optimizer.register_step_pre_hook(clip)
    if s.way == "attach":
        lc.attach(optimizer)
    if s.way == "proximal":
        optimizer.register_step_post_hook(lambda *_: proximal_(lc, optimizer.param_groups[0]["lr"]))


def l_step(
    cell: Cell, lc: leco.LC, optimizer: torch.optim.Optimizer, trainer: Trainer
) -> Callable[[int], float]:
    """The next of `steps` times `rounds` equal parts of the training."""
    s = cell.settings
    calls = s.steps * s.rounds
    term = lc.penalty if s.way == "loss" else None

    def limit(rate: float) -> float:
        stable = s.clip and rate > 0
        return leco.stable_lr(rate, lc.largest_mu, momentum=0.9, nesterov=True) if stable else rate

    def step(k: int) -> float:
        if s.reset:
            optimizer.state.clear()
        due = trainer.total * (-(-trainer.done * calls // trainer.total) + 1) // calls
        return trainer.run(cell.model, optimizer, due - trainer.done, limit=limit, term=term)

    return step


def loosened(cell: Cell, k: int) -> dict[str, leco.Compression[Any]]:
    """The compressions of step k, whose budgets tighten geometrically to their limits."""
    s = cell.settings
    factor = s.loose ** max(0.0, 1 - (k + 1) / (s.tighten * s.steps))
    return {name: loosen(task.compression, factor) for name, task in cell.tasks.items()}


def loosen(compression: leco.Compression[Any], factor: float) -> leco.Compression[Any]:
    """A budget of so many times the limit."""
    if not isinstance(compression, leco.Budget):
        raise ValueError(f"tighten: {compression!r} is no budget, whose limit could tighten")
    return replace(compression, limit=factor * compression.limit)


@torch.no_grad()
def proximal_(lc: leco.LC, lr: float) -> None:
    """w <- (w + lr mu t) / (1 + lr mu), t = Delta(Theta) + lambda/mu: the penalty's proximal step.

    It is stable at every lr.
    """
    if not lc.thetas:
        return
    share, deltas, multipliers = lr * lc.mu / (1 + lr * lc.mu), lc.delta, lc.multipliers
    for name, p in lc.params.items():
        target = deltas[name] + multipliers[name] / lc.mu if multipliers else deltas[name]
        p.lerp_(target, share)


@contextmanager
def weights_at(lc: leco.LC, at: dict[str, Tensor]) -> Iterator[None]:
    """Inside, the compressed parameters are `at`."""
    with torch.no_grad():
        before = {name: p.detach().clone() for name, p in lc.params.items()}
        for name, p in lc.params.items():
            p.copy_(at[name])
    yield
    with torch.no_grad():
        for name, p in lc.params.items():
            p.copy_(before[name])


METHODS: dict[str, Callable[[Cell], leco.LC]] = {
    "plain training": plain,
    "DC": direct,
    "DC + retraining": retrained,
    "iterated DC": iterated,
    "LC": learning_compression,
}
