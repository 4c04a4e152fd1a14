"""Magnitude pruning: gradually, by a cubic schedule, and in rounds with the learning rate
rewound."""

import dataclasses

import torch
from torch import Tensor

import leco
from benchmarks.proof.cell import Cell


def cubic(share: float, kept: float, until: float = 0.75) -> float:
    """The share of weights kept after a share of the run: 1 - (1 - kept) (1 - (1 - t)^3), t = share
    / until."""
    t = min(1.0, share / until)
    return kept + (1 - kept) * (1 - t) ** 3


def gradual(cell: Cell, updates: int = 50, epochs: float | None = None) -> leco.LC:
    """The smallest weights are zeroed, ever more of them, while the net trains. Zhu and Gupta,
    arXiv 1710.01878, equation 1."""
    final, trainer, optimizer = _kept(cell), cell.trainer(epochs), cell.optimizer()
    every, masks = max(1, trainer.total // updates), dict[str, Tensor]()
    _mask_after_steps(optimizer, cell, masks)
    for _ in cell.epochs(trainer, {"optimizer": optimizer}):
        losses = []
        for _ in range(0, trainer.left, every):
            masks.update(_prune_(cell, cubic(trainer.done / trainer.total, final)))
            losses.append(trainer.run(cell.model, optimizer, min(every, trainer.left)))
        cell.note(trainer, sum(losses) / len(losses), cell.validate()[1])
    return _end(cell)


def rewound(cell: Cell, rounds: int = 4) -> leco.LC:
    """Prune to kept^(k/rounds), train with the learning rate's whole schedule, and again. Renda,
    Frankle and Carbin, arXiv 2003.02389."""
    final, masks = _kept(cell), dict[str, Tensor]()
    for k in range(rounds):
        masks.update(_prune_(cell, final ** ((k + 1) / rounds)))
        trainer, optimizer = cell.trainer(cell.settings.epochs / rounds, part=k), cell.optimizer()
        _mask_after_steps(optimizer, cell, masks)
        loss = trainer.run(cell.model, optimizer, trainer.total)
        cell.note(trainer, loss, cell.validate()[1])
        cell.curve[-1]["epoch"] = (k + 1) * cell.settings.epochs / rounds
    return _end(cell)


def _kept(cell: Cell) -> float:
    (task,) = cell.tasks.values()
    if not isinstance(task.compression, leco.TopK) or not isinstance(task.compression.kappa, float):
        raise ValueError(
            f"magnitude pruning: the task must be one TopK with a share, got {task.compression}"
        )
    return task.compression.kappa


def _prune_(cell: Cell, kept: float) -> dict[str, Tensor]:
    """Zero all but the largest weights; which are left."""
    if kept < 1:
        (task,) = cell.tasks.values()
        fewer = dataclasses.replace(task, compression=leco.TopK(kept))
        lc = leco.LC(cell.model, {"all": fewer}, multipliers=False)
        lc.mu = 1.0
        lc.project_()
    return {
        name: (p != 0).to(p.dtype)
        for name, p in cell.model.named_parameters()
        if any(name in t.params for t in cell.tasks.values())
    }


def _mask_after_steps(
    optimizer: torch.optim.Optimizer, cell: Cell, masks: dict[str, Tensor]
) -> None:
    @torch.no_grad()
    def mask_() -> None:
        for name, mask in masks.items():
            cell.model.get_parameter(name).mul_(mask)

    optimizer.register_step_post_hook(lambda *_: mask_())


def _end(cell: Cell) -> leco.LC:
    lc = leco.LC(cell.model, cell.tasks)
    lc.mu = 1.0  # of no effect in a set
    return lc
