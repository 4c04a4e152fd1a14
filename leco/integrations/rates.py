"""Learning rates of SGD that are stable on the penalty, whatever the trainer's schedule says."""

from collections.abc import Iterable
from typing import Any

import torch

from leco.algorithm.attach import innermost
from leco.algorithm.lc import LC
from leco.algorithm.schedules import stable_lr


class StableRates:
    """Bounds the rates of SGD by `leco.stable_lr` during each optimizer step. The trainer's
    schedule finds its own rates before and after the step. Other optimizers are left alone: their
    steps do not grow with mu.

    Args:
        lc: its largest mu d_i is the curvature of the penalty.
        optimizers: the trainer's.
    """

    def __init__(self, lc: LC, optimizers: Iterable[Any]):
        self._lc, self._kept = lc, list[float]()
        for optimizer in map(innermost, optimizers):
            if isinstance(optimizer, torch.optim.SGD):
                optimizer.register_step_pre_hook(self._bound)
                optimizer.register_step_post_hook(self._restore)

    def _bound(self, optimizer: Any, *_: Any) -> None:
        self._kept = [group["lr"] for group in optimizer.param_groups]
        if not self._lc.thetas:
            return
        mu = self._lc.largest_mu
        for group in optimizer.param_groups:
            if group["lr"] > 0:
                group["lr"] = stable_lr(group["lr"], mu, group["momentum"], group["nesterov"])

    def _restore(self, optimizer: Any, *_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._kept, strict=True):
            group["lr"] = rate
