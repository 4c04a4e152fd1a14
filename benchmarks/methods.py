"""What a cell of the tables runs: the LC algorithm, and the baselines made of the same pieces. The
others are in baselines/.

Each method has the same data, reference net, epochs, batches, soft targets and peak of the learning
rate, and leaves an `LC` whose Thetas are the compressed net.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import training
from compare import objective
from torch import Tensor, nn

import leco


@dataclass(frozen=True)
class Settings:
    """How a cell trains. LC: `steps` steps of equal length, mu from `start` to `end` times the
    curvature, by leco.automatic's rule; then a share `retrain` of the epochs trains what is
    free."""

    epochs: float
    batch: int
    lr: float
    steps: int
    scale: float = 0.0
    """What stands for the curvature where it is above 0: prices make direct compression depend on
    mu, and the curvature with it."""
    start: float = 0.05
    end: float = 7.0
    power: float = 1.5
    retrain: float = 0.1
    retrain_lr: float = 1e-3
    weight_decay: float = 0.0
    soft: bool = True
    multipliers: bool = True
    reset: bool = False
    """Of the momentum, before each L step."""
    from_delta: bool = False
    """Each L step starts at w = Delta(Theta), not where the last one ended."""
    rounds: int = 1
    """L and C steps at each mu."""
    restart: bool = False
    """Of the learning rate's cosine, at each L step; else one long decay."""
    clip: bool = True
    """The learning rate at leco.stable_lr."""
    lr_end: float = 0.0
    """The rate falls from `lr` geometrically to so much of it where this is above 0, else by a
    cosine to 0."""
    max_norm: float = 0.0
    """Of the loss's gradient, which is clipped to it where it is above 0."""
    optimizer: str = "sgd"
    way: str = "attach"
    """Of the penalty: "attach", "loss" or "proximal"."""
    tighten: float = 0.0
    """The share of LC's steps in which the limit of a budget falls, geometrically, from `loose`
    times itself; 0: it is what it is at once."""
    loose: float = 8.0
    recalibrate: bool = True
    evaluations: int = 12
    """Of the compressed net on validation data, over the run."""


@dataclass
class Cell:
    """One net, compression and seed, and where its checkpoint is."""

    model: nn.Module
    tasks: dict[str, leco.Task]
    data: training.Data
    settings: Settings
    seed: int
    checkpoint: Path
    soft: Tensor | None = None
    limit: float | None = None
    """The cost that LC's ranks have, for baselines that are to meet it."""
    curvature: float | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)

    def trainer(
        self,
        epochs: float | None = None,
        lr: float | None = None,
        shape: Callable[[float], float] = training.cosine,
        part: int = 0,
    ) -> training.Trainer:
        """For all epochs, or for one part of a method."""
        s = self.settings
        return training.Trainer(
            self.data,
            batch=s.batch,
            epochs=s.epochs if epochs is None else epochs,
            lr=s.lr if lr is None else lr,
            seed=10 * self.seed + part,
            soft=self.soft,
            shape=(lambda share: s.lr_end**share) if s.lr_end and lr is None else shape,
        )

    def optimizer(self) -> torch.optim.Optimizer:
        groups = training.decayed(self.model, self.settings.weight_decay)
        return (
            training.sgd(groups, self.settings.lr)
            if self.settings.optimizer == "sgd"
            else torch.optim.AdamW(groups, self.settings.lr)
        )

    def validate(self) -> tuple[float, float]:
        """Of the model as it is."""
        return training.evaluate(self.model, self.data, self.data.validation, True)

    def first_mu(self, lc: leco.LC) -> float:
        """The curvature of the loss from the reference to direct compression, over 2,000 examples,
        times `start`."""
        self.curvature = self.curvature or self.settings.scale or None
        if self.curvature is None:
            parts = [
                range(first, min(first + 500, 2000, len(self.data.train[0])))
                for first in range(0, min(2000, len(self.data.train[0])), 500)
            ]

            def backward() -> None:
                self.model.train()
                for part in parts:
                    chosen = slice(part.start, part.stop)
                    soft = None if self.soft is None else self.soft[chosen]
                    outputs = self.model(self.data.prepare(self.data.train[0][chosen]))
                    (objective(outputs, self.data.train[1][chosen], soft) / len(parts)).backward()

            self.curvature = lc.curvature(backward)
        return self.settings.start * self.curvature

    def compressed_error(self, lc: leco.LC) -> float:
        """On validation data."""
        with lc.compressed(training.calibration(self.data) if self.settings.recalibrate else None):
            return self.validate()[1]

    def epochs(self, trainer: training.Trainer, stateful: dict[str, Any]) -> Iterator[int]:
        """The numbers of the epochs that are left: goes on from the checkpoint, and writes it after
        each."""
        return training.epochs(
            self.checkpoint, trainer, {"model": self.model, **stateful}, self.curve
        )


def direct(cell: Cell) -> leco.LC:
    """The C step of the reference's weights."""
    lc = leco.LC(cell.model, cell.tasks)
    lc.mu = cell.first_mu(lc)
    return lc


def retrained(cell: Cell) -> leco.LC:
    """Direct compression, then training of what it leaves free."""
    lc = direct(cell)
    train_free(cell, lc, cell.settings.epochs)
    return lc


def train_free(cell: Cell, lc: leco.LC, epochs: float, part: int = 1) -> None:
    """By Adam: a shared value's gradient is the sum over its weights, so that SGD would need a rate
    for each."""
    free, trainer = leco.Retraining(lc), cell.trainer(epochs, cell.settings.retrain_lr, part=part)
    optimizer = torch.optim.Adam(free.parameters())
    free.attach(optimizer)
    while trainer.done < trainer.total:
        loss = trainer.run(cell.model, optimizer, trainer.left, capture=False)
        cell.curve.append(
            {"part": "retraining", "epoch": trainer.done / trainer.per_epoch, "train_loss": loss}
        )
    free.detach()


def plain(cell: Cell) -> leco.LC:
    """A control: training without compression; its direct compression is not what is reported."""
    trainer, optimizer = cell.trainer(), cell.optimizer()
    for _ in cell.epochs(trainer, {"optimizer": optimizer}):
        loss = trainer.run(cell.model, optimizer, trainer.left)
        cell.curve.append(
            {
                "epoch": trainer.done / trainer.per_epoch,
                "train_loss": loss,
                "validation_error": cell.validate()[1],
            }
        )
    return direct(cell)


def iterated(cell: Cell, rounds: int = 6) -> leco.LC:
    """Train, compress, train, compress; the learning rate's cosine starts anew in each round."""
    lc = leco.LC(cell.model, cell.tasks)
    trainers = [cell.trainer(cell.settings.epochs / rounds, part=2 + k) for k in range(rounds)]

    def train(k: int) -> None:
        loss = trainers[k].run(cell.model, cell.optimizer(), trainers[k].total)
        cell.curve.append(
            {
                "epoch": (k + 1) * cell.settings.epochs / rounds,
                "train_loss": loss,
                "validation_error": cell.validate()[1],
            }
        )

    for record in leco.iterated_direct_compression(lc, train, rounds, cell.first_mu(lc)):
        cell.curve[record.step - 1]["gap"] = record.relative_gap
    return lc


def learning_compression(cell: Cell) -> leco.LC:
    """LC, its last net, and training of what is free."""
    s, model = cell.settings, cell.model
    lc = leco.LC(model, cell.tasks, multipliers=s.multipliers)
    optimizer, trainer = cell.optimizer(), cell.trainer((1 - s.retrain) * s.epochs)
    if s.restart:
        each = trainer.total // s.steps
        trainer.shape = lambda _: training.cosine((trainer.done % each) / each)

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), s.max_norm)

    if s.max_norm:
        optimizer.register_step_pre_hook(clip)  # before the penalty joins
    if s.way == "attach":
        lc.attach(optimizer)
    if s.way == "proximal":
        optimizer.register_step_post_hook(lambda *_: proximal_(lc, optimizer.param_groups[0]["lr"]))

    def limit(rate: float) -> float:
        return (
            leco.stable_lr(rate, lc.mu, momentum=0.9, nesterov=True)
            if s.clip and rate > 0
            else rate
        )

    def l_step(k: int) -> float:
        if s.reset:
            optimizer.state.clear()
        calls = s.steps * s.rounds
        due = -(-trainer.done * calls // trainer.total) + 1
        return trainer.run(
            model,
            optimizer,
            trainer.total * due // calls - trainer.done,
            limit=limit,
            term=lc.penalty if s.way == "loss" else None,
        )

    def loosened(k: int) -> dict[str, leco.Compression[Any]]:
        factor = s.loose ** max(0.0, 1 - (k + 1) / (s.tighten * s.steps))
        return {name: loosen(task.compression, factor) for name, task in cell.tasks.items()}

    mus = leco.automatic(cell.first_mu(lc) / s.start, s.steps, s.start, s.end, s.power)
    result = leco.run(
        lc,
        l_step,
        mus,
        evaluate=cell.validate,
        batches=(lambda: training.calibration(cell.data)) if s.recalibrate else None,
        every=max(1, s.steps // s.evaluations),
        rounds=s.rounds,
        from_delta=s.from_delta,
        compressions=loosened if s.tighten else None,
        tolerance=1e-12,
        checkpoint=cell.checkpoint,
        stateful={"optimizer": optimizer, "trainer": trainer},
        progress=False,
    )
    cell.curve[:] = [record._asdict() for record in result.records]
    lc.detach()
    if s.retrain:
        cell.curve.append(
            {"part": "before retraining", "validation_error": cell.compressed_error(lc)}
        )
        train_free(cell, lc, s.retrain * s.epochs)
    return lc


def loosen(compression: leco.Compression[Any], factor: float) -> leco.Compression[Any]:
    """A budget of so many times the limit."""
    if not isinstance(compression, leco.Budget):
        raise ValueError(f"tighten: {compression!r} is no budget, whose limit could tighten")
    return replace(compression, limit=factor * compression.limit)


@torch.no_grad()
def proximal_(lc: leco.LC, lr: float) -> None:
    """w <- (w + lr mu t) / (1 + lr mu), t = Delta(Theta) + lambda/mu: the penalty's proximal step,
    stable at every lr."""
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
