"""NaN and infinity in what is compressed."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_known_finite = ContextVar("known_finite", default=False)


@contextmanager
def known_finite() -> Iterator[None]:
    """Inside, `check_finite` takes its arrays for finite: for who has looked at all of them at once, as each look makes the host wait."""
    token = _known_finite.set(True)
    try:
        yield
    finally:
        _known_finite.reset(token)


def check_finite(x: Tensor) -> None:
    """Raise ValueError where `x` has a NaN or an infinity: one pass over memory, no temporaries."""
    if _known_finite.get():
        return
    low, high = torch.aminmax(x)
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise ValueError("the array to compress holds NaN or infinite entries; the L step diverged (lower its learning rate)")
