"""Notice training loops that go wrong silently."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from leco.distributed import local

FORGOTTEN = (
    "LC: the weights were trained, but the penalty was not applied since the last step: call "
    "lc.attach(optimizer), or add lc.penalty() to the loss; an optimizer that steps by other "
    "methods than step() (SAM's first_step, second_step) needs lc.penalty()"
)
TWICE = (
    "LC: the penalty was applied twice since the last step, by attach and by lc.penalty() in the "
    "loss: leave one out"
)
STALE = (
    "LC: the weights were changed since the last C step, and Theta was not: the file holds "
    "Delta(Theta) of that step; call lc.step() first, or restore Theta together with the weights "
    "(lc.load_state_dict)"
)
LOST = (
    "LC: the weights were changed inside `with lc.compressed()`; the change is lost, as w and "
    "Delta(Theta) are put back"
)
SAMPLES = 16  # rows of a weight, and entries of each, that are remembered


class Watch:
    """Counts how often the penalty was applied, and knows which weights Theta belongs to.

    Weights are compared by the version counter of their tensor, which in-place operations advance,
    and by a few of their entries, as fused optimizers do not advance it. No copy of the weights is
    needed. Each warning is given once.
    """

    def __init__(self) -> None:
        self.added = self.valued = 0
        self._known: dict[str, tuple[int, Tensor]] = {}
        self._said = set[str]()

    def belong(self, params: Mapping[str, nn.Parameter]) -> None:
        """From now on Theta belongs to these weights."""
        own = {name: local(p) for name, p in params.items()}
        self._known = {name: (w._version, _sample(w).clone()) for name, w in own.items()}

    def moved(self, params: Mapping[str, nn.Parameter]) -> bool:
        """Whether any of the weights that Theta belongs to has changed since."""
        known, own = self._known, {name: local(p) for name, p in params.items()}
        return any(
            name not in known
            or w._version != known[name][0]
            or not torch.equal(_sample(w), known[name][1])
            for name, w in own.items()
        )

    def forget(self) -> None:
        """From now on Theta belongs to no weights that the model has had."""
        self._known = {}

    def at_step(self, params: Mapping[str, nn.Parameter]) -> None:
        """Before a C step that follows an L step: warn where the penalty was not applied, or twice.

        Weights that were changed without gradients count as set by you, not as trained.
        """
        trained = any(p.grad is not None for p in params.values())
        if self.added and self.valued:
            self.say("twice", TWICE)
        elif trained and not self.added and not self.valued and self.moved(params):
            self.say("forgotten", FORGOTTEN)
        self.added = self.valued = 0

    def reached(self, _: Tensor) -> None:
        """A hook on the penalty's value: a backward pass reached it."""
        self.valued += 1

    def say(self, kind: str, text: str) -> None:
        """Warn, once for each kind."""
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(text, stacklevel=4)


@torch.no_grad()
def _sample(w: Tensor) -> Tensor:
    """A few entries, from rows all over the weight."""
    rows = w.reshape(1) if w.dim() == 0 else w
    rows = rows[:: max(1, len(rows) // SAMPLES)]
    return rows if rows.dim() == 1 else rows.flatten(1)[:, :SAMPLES]
