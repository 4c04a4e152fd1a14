"""Loops that go wrong silently, noticed."""

import warnings
from collections.abc import Mapping

from torch import nn

FORGOTTEN = (
    "LC: the weights were trained, but the penalty was not applied since the last step: call "
    "lc.attach(optimizer), or add lc.penalty() to the loss; an optimizer that steps by other "
    "methods than step() (SAM's first_step, second_step) needs lc.penalty()"
)
TWICE = (
    "LC: the penalty was applied twice since the last step, by attach and by lc.penalty(): leave "
    "one out (under torch.no_grad() lc.penalty() only measures)"
)


class Watch:
    """Counts how often the penalty was applied, and which weights Theta belongs to.

    It reads the version counters of tensors, which every in-place operation advances: no copy of
    the weights is needed. Each warning is given once.
    """

    def __init__(self) -> None:
        self.added = self.valued = 0
        self._versions: dict[str, int] = {}
        self._said = set[str]()

    def belong(self, params: Mapping[str, nn.Parameter]) -> None:
        """From now on Theta belongs to these weights."""
        self._versions = {name: p._version for name, p in params.items()}

    def moved(self, params: Mapping[str, nn.Parameter]) -> bool:
        """Whether any of the weights that Theta belongs to has changed since."""
        return any(p._version != self._versions.get(name) for name, p in params.items())

    def at_step(self, params: Mapping[str, nn.Parameter]) -> None:
        """Before a C step that follows an L step: warn where the penalty was applied too rarely or
        too often."""
        trained = any(p.grad is not None for p in params.values()) and self.moved(params)
        if trained and not self.added and not self.valued:
            self.say(FORGOTTEN)
        if self.added and self.valued:
            self.say(TWICE)
        self.added = self.valued = 0

    def say(self, text: str) -> None:
        """Warn, once for each kind of text."""
        kind = text[:40]
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(text, stacklevel=4)
