"""Training of latent weights u by gradients that are taken at quantized weights: straight-through
estimation, BinaryRelax, PARQ.

The first two go with any compression, whose C step is the projection of u.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

import leco
from benchmarks.proof import training
from benchmarks.proof.cell import Cell
from benchmarks.proof.methods import weights_at


def straight_through(cell: Cell) -> leco.LC:
    """u <- u - lr grad L(Delta(u)): BinaryConnect (Courbariaux, Bengio and David, arXiv
    1511.00363), with a learned scale and without clipping."""
    return _train(cell, lambda share: 1.0)


def relaxation(share: float, start: float = 1.0, end: float = 565.0, exact: float = 0.8) -> float:
    """lambda/(1 + lambda), with lambda growing geometrically over the first 80 % of the run, and 1
    after that.

    The paper's lambda grows by 1.02 every half epoch of 160: from 1 to 565.
    """
    if share >= exact:
        return 1.0
    weight = start * (end / start) ** (share / exact)
    return weight / (1 + weight)


def binary_relax(cell: Cell) -> leco.LC:
    """u <- u - lr grad L(w), w = (u + lambda Delta(u)) / (1 + lambda), then w = Delta(u). Yin et
    al., arXiv 1801.06313, algorithm 1."""
    return _train(cell, relaxation)


def _train(cell: Cell, blend: Callable[[float], float]) -> leco.LC:
    lc = leco.LC(cell.model, cell.tasks, multipliers=False)
    lc.mu = 1.0  # of no effect in a set
    trainer, optimizer = cell.trainer(), cell.optimizer()

    def at() -> AbstractContextManager[None]:
        lc.c_step()
        share, delta = blend(trainer.done / trainer.total), lc.delta
        return weights_at(
            lc, {name: torch.lerp(p.detach(), delta[name], share) for name, p in lc.params.items()}
        )

    for _ in cell.epochs(trainer, {"optimizer": optimizer}):
        loss = trainer.run(cell.model, optimizer, trainer.left, at=at)
        lc.c_step()
        cell.note(trainer, loss, cell.compressed_error(lc))
    lc.c_step()
    return lc


BITS = {leco.Binary: 1, leco.Ternary: 0}  # as torchao counts them


def parq(cell: Cell, annealed: float = 0.8, steepness: float = 10.0) -> leco.LC:
    """torchao's implementation of PARQ (Jin et al., arXiv 2503.15748): w = prox(u), a
    piecewise-affine map that steepens to the projection.

    Raises:
        ValueError: tasks other than scaled binary or ternary, one for each layer or output channel.
    """
    from torchao.prototype.parq import optim, quant

    kinds = {(type(task.compression), type(task.view)) for task in cell.tasks.values()}
    ((compression, view),) = kinds if len(kinds) == 1 else {(object, object)}
    if compression not in BITS or any(len(task.params) > 1 for task in cell.tasks.values()):
        raise ValueError("PARQ: the tasks must be Binary() or Ternary(), each of one parameter")
    lc = leco.LC(cell.model, cell.tasks)
    for p in lc.params.values():
        # torchao flattens kernels in place, which with channels last is a copy
        p.data = p.data.contiguous()
    ids = {id(p) for p in lc.params.values()}
    decay = cell.settings.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": list(lc.params.values()), "quant_bits": BITS[compression], "weight_decay": decay}
    ]
    for group in training.decayed(cell.model, decay):
        groups.append({**group, "params": [p for p in group["params"] if id(p) not in ids]})
    trainer = cell.trainer()
    optimizer = optim.QuantOptimizer(
        training.sgd([group for group in groups if group["params"]], cell.settings.lr),
        quant.LSBQuantizer() if compression is leco.Binary else quant.TernaryUnifQuantizer(),
        optim.ProxPARQ(0, math.floor(annealed * trainer.total), steepness),
        quant_per_channel=view is leco.Rows,
    )
    for _ in cell.epochs(trainer, {"optimizer": optimizer}):
        loss = trainer.run(cell.model, optimizer, trainer.left)
        cell.note(trainer, loss, cell.validate()[1])
    lc.mu = 1.0  # the weights are in the set already: Theta is read off
    gap = lc.record().relative_gap
    if gap > 1e-5:
        raise RuntimeError(f"PARQ ended at weights that are {gap:.1e} of their norm off the set")
    return lc
