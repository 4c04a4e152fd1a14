"""The part of a Theta that is one parameter: its codes in the parameter's own order, so that it is
decoded alone and needs no view."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leco.theta import (
    Affine,
    Codes,
    Dense,
    Fixed,
    GroupSparse,
    NMSparse,
    Scaled,
    Sparse,
    Theta,
    VectorCodes,
    ZeroCodes,
)
from leco.views import Shapes, View


@dataclass(frozen=True)
class Through:
    """The view `inner` of the one array, of `shape`, that `outer` makes of the tensors."""

    inner: View
    shape_: torch.Size
    outer: View

    def shape(self, shapes: Shapes) -> Any:
        return self.inner.shape([self.shape_])

    def forward(self, tensors: Any) -> Any:
        return self.inner.forward([self.outer.forward(tensors)])

    def backward(self, x: Any, shapes: Shapes) -> list[Tensor]:
        return self.outer.backward(self.inner.backward(x, [self.shape_])[0], shapes)


def entries(view: View, shapes: Shapes, which: int, device: torch.device) -> Tensor:
    """Where the entries of tensor `which` are in the view's array, flattened; of the tensor's
    shape."""
    shape = view.shape(shapes)
    return view.backward(torch.arange(math.prod(shape), device=device).view(shape), shapes)[which]


def take(theta: Theta, at: Tensor) -> Theta | None:
    """The Theta of Delta(theta).flatten()[at], `at` (...) int64; None where these entries have no
    Theta of that form of their own."""
    match theta:
        case Dense(values):
            return _replaced(theta, values=pick(values, at))
        case Sparse(mask, values):
            order, kept = mask.reshape(-1).cumsum(0) - 1, mask.reshape(-1)[at]
            return _replaced(theta, mask=kept, values=pick(values, order[at][kept]))
        case GroupSparse(mask, values):
            size = (values if isinstance(values, Tensor) else values.decompress()).shape[-1]
            which = blocks(at, size)
            if which is None:
                return None
            kept = mask.reshape(-1)[which]
            rows = (mask.reshape(-1).cumsum(0) - 1)[which][kept]
            return _replaced(
                theta,
                mask=kept,
                values=pick(
                    values, rows.unsqueeze(1) * size + torch.arange(size, device=rows.device)
                ),
            )
        case NMSparse(pattern, values, m):
            n = (values if isinstance(values, Tensor) else values.decompress()).shape[-1]
            which = blocks(at, m)
            if which is None:
                return None
            inside = which.unsqueeze(1) * n + torch.arange(n, device=at.device)
            return _replaced(theta, pattern=pattern.reshape(-1)[which], values=pick(values, inside))
        case VectorCodes(indices, codebook):
            which = blocks(at, codebook.shape[-1])
            return None if which is None else _coded(theta, indices, which)
        case (
            Codes(indices, _)
            | ZeroCodes(indices, _)
            | Fixed(indices, _)
            | Scaled(indices, _, _)
            | Affine(indices, _, _)
        ):
            return _coded(theta, indices, at)
    return None


def pick(field: Any, at: Tensor) -> Any:
    """The same of a field that is a tensor or a Theta."""
    return field.reshape(-1)[at] if isinstance(field, Tensor) else take(field, at)


def blocks(at: Tensor, size: int) -> Tensor | None:
    """Which runs of `size` entries `at` is made of, or None where it is not."""
    if at.numel() % size:
        return None
    runs = at.reshape(-1, size)
    whole = bool((runs[:, 0] % size == 0).all()) and bool(
        (runs == runs[:, :1] + torch.arange(size, device=at.device)).all()
    )
    return runs[:, 0] // size if whole else None


def _replaced(theta: Any, **fields: Any) -> Any:
    return None if any(field is None for field in fields.values()) else theta._replace(**fields)


OWN = {"indices": 1, "codebook": 1, "scale": 0, "zero_point": 0}
"""The dimensions of each field behind those of the batch."""


def _coded(theta: Any, indices: Tensor, at: Tensor) -> Theta | None:
    """One codebook and scale for all entries; or one for each row, and whole rows."""
    lead, extra = indices.ndim - 1, int(isinstance(theta, VectorCodes))
    fields = {name: getattr(theta, name) for name in OWN if hasattr(theta, name)}
    batched = [
        name
        for name, field in fields.items()
        if field.ndim == lead + OWN[name] + (extra if name == "codebook" else 0)
    ]
    if batched == ["indices"] or not lead:
        return theta._replace(indices=indices.reshape(-1)[at])
    rows = blocks(at, indices.shape[-1])
    return (
        None
        if rows is None
        else theta._replace(**{name: fields[name].flatten(0, lead - 1)[rows] for name in batched})
    )
