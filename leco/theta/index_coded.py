"""Weights as indices into values: the one description of all codebooks, signs and grids from which
packed layers and exports are made."""

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from leco.theta.entries import runs_of


class IndexCoded(NamedTuple):
    """w = scale (values[index] - zero_point), problem by problem.

    Args:
        indices: (..., n) integers; the leading dimensions count the problems.
        values: (problems or 1, K); (problems or 1, K, d) where an index stands for d weights; None
            where the value of an index is the index itself (a uniform grid).
        scale: (problems or 1,), or None for 1. A uniform grid has one.
        zero_point: (problems or 1,) integers, or None for 0.
    """

    indices: Tensor
    values: Tensor | None
    scale: Tensor | None = None
    zero_point: Tensor | None = None

    @property
    def size(self) -> int:
        """How many weights an index stands for: d."""
        return 1 if self.values is None or self.values.ndim == 2 else self.values.shape[2]

    def over(self, weight: float) -> "IndexCoded":
        """The same weights divided by `weight`."""
        if weight == 1:
            return self
        if self.scale is not None:
            return self._replace(scale=self.scale / weight)
        assert self.values is not None, "a uniform grid has a scale"
        return self._replace(values=self.values / weight)


@runtime_checkable
class IndexCodedForm(Protocol):
    """A form that has such a description."""

    def index_coded(self) -> IndexCoded: ...


def index_coded(theta: Any) -> IndexCoded | None:
    """The description of a Theta as indices into values; None where its form has none."""
    return theta.index_coded() if isinstance(theta, IndexCodedForm) else None


def by_problem(field: Tensor, batch: torch.Size, dims: int) -> Tensor:
    """A field with one entry for all problems, or for each of `batch`, as (1, ...) or
    (problems, ...); its last `dims` dimensions are its own."""
    cut = field.ndim - dims
    own = field.shape[cut:]
    if math.prod(field.shape[:cut]) == 1:
        return field.reshape(1, *own)
    return field.expand(*batch, *own).reshape(batch.numel(), *own)


def taken(theta: Any, at: Tensor, **dims: int) -> Any:
    """The entries `at` of a Theta that has `indices` (..., n): with one codebook or scale for all
    entries, or one for each row and whole rows; else None.

    Args:
        at: (...) int64, places among the indices.
        dims: of each other field that may be one for each problem, how many of its dimensions are
            its own.
    """
    indices, batch = theta.indices, theta.indices.shape[:-1]
    fields = {name: by_problem(getattr(theta, name), batch, own) for name, own in dims.items()}
    # one for all
    if all(len(field) == 1 for field in fields.values()):
        alike = {name: field[0] for name, field in fields.items()}
        return theta._replace(indices=indices.reshape(-1)[at], **alike)
    # one for each row
    rows = runs_of(at, indices.shape[-1])
    if rows is None:
        return None
    own = {name: f.expand(batch.numel(), *f.shape[1:])[rows] for name, f in fields.items()}
    return theta._replace(indices=indices.flatten(0, -2)[rows], **own)
