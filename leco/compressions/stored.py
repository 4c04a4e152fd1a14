"""Scales that a runtime stores in half precision: the nearest numbers of that type, found inside
the C step, so that the weights that the runtime computes are Delta(Theta) to the bit."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from leco.compressions.metric import Mu
from leco.compressions.scale_search import LARGEST, NOTHING, Nearest, Rows, Tried, better, per_row

TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""The types of stored scales, by the names that the option `scale_dtype` takes."""
DEFAULTS = {"scale_dtype": None, "either_sign": False}
REFITS = 2  # least-squares scales that are rounded, after the one that was found


def check_scale_options(name: str, scale: bool, dtype: Any) -> None:
    """Raise ValueError where `scale_dtype` is no type of stored scales, or there is no scale."""
    if dtype is not None and dtype not in TYPES:
        raise ValueError(
            f"{name}: scale_dtype = {dtype!r} must be None or one of {', '.join(map(repr, TYPES))}"
        )
    if dtype is not None and not scale:
        raise ValueError(f"{name}: scale_dtype = {dtype!r} needs scale = True")


def untold(name: str, value: Any) -> bool:
    """Whether an option of stored scales is at its default, and needs no word."""
    return name in DEFAULTS and value == DEFAULTS[name]


def shown(options: Any) -> str:
    """The options of a dataclass as a call, without those of stored scales that are at their
    defaults."""
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    told = [f"{k}={v!r}" for k, v in values.items() if not untold(k, v)]
    return f"{type(options).__name__}({', '.join(told)})"


def stored(scale: Tensor, dtype: str | None) -> Tensor:
    """The number of a type that is nearest to each scale, in the scale's own type."""
    if dtype is None:
        return scale
    largest = torch.finfo(TYPES[dtype]).max
    return scale.clamp(-largest, largest).to(TYPES[dtype]).to(scale.dtype)


def with_stored_scale(theta: Any, dtype: str | None) -> Any:
    """A Theta whose scales moved freely, with the nearest numbers of the type."""
    if dtype is None or "scale" not in theta._fields:
        return theta
    return theta._replace(scale=stored(theta.scale, dtype))


def beside(scale: Tensor, dtype: str) -> Tensor:
    """The two numbers of a type, (2, ...), between which each scale of at least 0 lies: the nearest
    one, and the one on the other side."""
    near, wanted = stored(scale, dtype).to(TYPES[dtype]), scale.to(torch.float64)
    away = torch.where(near.double() < wanted, torch.inf, -torch.inf).to(near)
    other = torch.nextafter(near, away)
    other = torch.where(other.isfinite(), other, near).clamp_(min=0)
    return torch.stack([near, other]).to(scale.dtype)


def stored_scales(
    x: Tensor,
    weights: Tensor | None,
    nearest: Nearest,
    grids: tuple[Tensor, Tensor | None],
    last: tuple[Tensor, Tensor | None] | None,
    dtype: str,
    buffers: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """The best of the numbers of a type on both sides of each scale, of those of least-squares
    scales from there, and of the last scales.

    Args:
        x: rows (R, n).
        weights: d (R, n) in a metric, None without one.
        nearest: finds the nearest values at the scale 1.
        grids: the scales (R,) and zero points (R,) that a search found.
        last: those of the last Theta, numbers of the type.
        dtype: the type.
        buffers: (3, m), as `Rows` takes them.

    Returns:
        scales and zero points (R,).
    """
    scale, zero = grids
    unit = scale.clamp(min=torch.finfo(x.dtype).tiny * LARGEST**2)
    rows = Rows(x, None if weights is None else per_row(weights), unit, nearest, buffers)
    best, error = beside(scale, dtype)[0], torch.full_like(scale, torch.inf)

    def keep_better(scales: Tensor, zeros: Tensor | None) -> None:
        nonlocal best, error, zero
        share = (scales / unit).clamp_(NOTHING, LARGEST)
        tried = rows.errors(share, None if zeros is None else zeros.expand(share.shape))
        found = better(Tried(best, zero, error), tried._replace(share=scales))
        best, zero, error = found.share, found.zero, found.error

    # the scale that was found, and the last one
    keep_better(beside(scale, dtype), zero)
    if last is not None:
        keep_better(stored(last[0], dtype).unsqueeze(0), last[1])

    # least squares
    for _ in range(REFITS):
        share = (best / unit).clamp_(NOTHING, LARGEST).unsqueeze(0)
        fit = rows.fits(share, None if zero is None else zero.unsqueeze(0))
        keep_better(beside(fit.share[0] * unit, dtype), zero)
    return best, zero


def either_sign(
    step: Callable[[Tensor, Mu, Any], Any], x: Tensor, mu: Mu, theta: Any | None
) -> Any:
    """The better of the C step of x and of that of -x turned round, for each problem of x (..., n):
    scales of either sign, for levels that are not symmetric."""
    up = step(x, mu, theta)
    down = step(-x, mu, None if theta is None else theta.scaled(-1.0)).scaled(-1.0)
    errors = [_errors(x - own.decompress(), mu) for own in (up, down)]
    turned = errors[1] < errors[0]
    indices = torch.where(turned.unsqueeze(-1), down.indices, up.indices)
    return up._replace(indices=indices, scale=torch.where(turned, down.scale, up.scale))


def _errors(gap: Tensor, mu: Mu) -> Tensor:
    """sum_i d_i gap_i^2 of each problem; without a metric, of d = 1."""
    square = gap.square_()
    if isinstance(mu, Tensor):
        square.mul_(per_row(mu.expand_as(gap).reshape(-1, gap.shape[-1])).view(gap.shape))
    return square.sum(-1)
