"""A Theta in memory at its own size: integers packed in bytes, and its Delta decoded from them by
tensor operations that compile and export.

    Coded, Grid  codebooks, signs, grids, codewords (`leco.layers.codes`)
    Scattered    0 but for some entries, or groups of them
    Patterned    n of each m
    Summed       sums of these
    Viewed       any of these, where its order is another one than the weight's
    Whole        any other form: its fields, each packed or not, and its own decompress

Each is a module whose buffers are what it takes, and whose `forward()` is Delta, flattened.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from leco.layers.integers import Integers, Levels, Lookup, select
from leco.layers.layout import Through, entries
from leco.theta import (
    Dense,
    GroupSparse,
    IndexCoded,
    NMSparse,
    Sparse,
    Sum,
    Theta,
    index_coded,
    patterns,
    shape_of,
    take,
)
from leco.theta.tree import leaves
from leco.views import Kernel, Shapes, View


class Floats(nn.Module):
    """A tensor of floats, as it is."""

    values: Tensor

    def __init__(self, values: Tensor):
        super().__init__()
        self.register_buffer("values", values.detach().clone())

    def forward(self) -> Tensor:
        return self.values


class Scattered(nn.Module):
    """0, but for the groups where `mask` (groups,) is True: those have the rows of `values` (number
    of True, size), in order."""

    def __init__(self, mask: Tensor, values: nn.Module):
        super().__init__()
        self.groups, self.values = mask.numel(), values
        gaps = Integers(
            mask.reshape(-1)
            .nonzero()
            .squeeze(1)
            .diff(prepend=torch.full((1,), -1, device=mask.device))
            - 1
        )
        bits = Integers(mask.reshape(-1), 2)
        self.gaps: Any
        self.mask: Any
        self.gaps, self.mask = (
            (gaps, None) if gaps.codes.nbytes < bits.codes.nbytes else (None, bits)
        )

    def forward(self) -> Tensor:
        values = self.values()
        values = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
        if self.mask is not None:
            return select(pad(values, (0, 0, 1, 0)), self._places()).view(-1)
        gaps = self.gaps()
        at = gaps.cumsum(0, dtype=torch.int64) + torch.arange(len(gaps), device=gaps.device)
        if values.shape[1] == 1:
            return values.new_zeros(self.groups).scatter_(0, at, values.view(-1))
        return values.new_zeros(self.groups, values.shape[1]).index_copy_(0, at, values).view(-1)

    def _places(self) -> Tensor:
        """For each group its place among those that are kept, from 1; 0 for the others. Byte by
        byte: a masked_scatter takes several times longer."""
        digits, codes = self.mask.digits(), self.mask.codes.int()
        ranks = torch.where(digits > 0, digits.cumsum(1, dtype=torch.int32), -(2**30))
        counts = digits.sum(1, dtype=torch.int32).index_select(0, codes)
        before = counts.cumsum(0, dtype=torch.int32) - counts
        return (
            embedding(codes, ranks).add_(before.unsqueeze(1)).clamp_(min=0).view(-1)[: self.groups]
        )


class Patterned(nn.Module):
    """n weights of each m, at the places of the block's pattern, 0 elsewhere."""

    places: Tensor

    def __init__(self, pattern: Tensor, values: nn.Module, n: int, m: int):
        super().__init__()
        places, _ = patterns(n, m, pattern.device)
        self.m, self.values, self.pattern = m, values, Integers(pattern.reshape(-1), len(places))
        self.register_buffer("places", places.to(torch.uint8))

    def forward(self) -> Tensor:
        places = self.pattern.lookup(self.places.long())
        at = places + self.m * torch.arange(len(places), device=places.device).unsqueeze(1)
        values = self.values()
        return values.new_zeros(len(places) * self.m).scatter_(0, at.view(-1), values.reshape(-1))


class Summed(nn.Module):
    """A sum of parts, each divided by its weight."""

    def __init__(self, parts: list[nn.Module], weights: list[float]):
        super().__init__()
        self.parts, self.weights = nn.ModuleList(parts), weights

    def forward(self) -> Tensor:
        found = [
            part().reshape(-1) if weight == 1 else part().reshape(-1) / weight
            for part, weight in zip(self.parts, self.weights, strict=True)
        ]
        return functools.reduce(torch.add, found)


class Viewed(nn.Module):
    """The tensor of a view's array, flattened."""

    def __init__(self, array: nn.Module, view: View, shape: torch.Size):
        super().__init__()
        self.array, self.view, self.shape, self.inner = array, view, shape, view.shape([shape])

    def forward(self) -> Tensor:
        return self.view.backward(self.array().view(self.inner), [self.shape])[0].reshape(-1)


class Whole(nn.Module):
    """A Theta of any form: its tensors packed, and its own Delta."""

    def __init__(self, theta: Theta):
        super().__init__()
        self.form, self.fields = type(theta), nn.ModuleList(_Field(field) for field in theta)

    def forward(self) -> Any:
        theta = self.form(*(field() for field in self.fields))
        with torch.autocast(next(self.buffers()).device.type, enabled=False):
            return theta.decompress()


class _Field(nn.Module):
    """A field of a Theta, as its `decompress` takes it: a Theta in it is decoded, and stands as
    `Dense`."""

    def __init__(self, field: Any):
        super().__init__()
        self.constant = self.shape = self.dtype = self.packed = None
        if not leaves(field):
            self.constant = field
        elif not isinstance(field, Tensor) and not hasattr(field, "_fields"):
            self.packed = nn.ModuleList(_Field(member) for member in field)
        elif isinstance(field, Tensor) and (
            field.is_floating_point() or (field.numel() and int(field.min()) < 0)
        ):
            self.packed = Floats(field)
        elif isinstance(field, Tensor):
            self.packed, self.shape, self.dtype = (
                Integers(field.reshape(-1)),
                field.shape,
                field.dtype,
            )
        else:
            self.packed, self.shape = decoder_of(field), field.decompress().shape

    def forward(self) -> Any:
        if self.packed is None:
            return self.constant
        if isinstance(self.packed, nn.ModuleList):
            return tuple(field() for field in self.packed)
        if self.shape is None:
            return self.packed()
        found = self.packed().view(self.shape)
        return Dense(found) if self.dtype is None else found.to(self.dtype)


def _values(field: Any) -> nn.Module:
    return Floats(field) if isinstance(field, Tensor) else decoder_of(field)


def decoder_of(theta: Theta, columns: int = 0) -> nn.Module:
    """What decodes Delta(theta), as an array of any shape with its entries in row-major order.

    Args:
        columns: see `Lookup`.
    """
    codes = index_coded(theta)
    if codes is not None:
        return _of_indices(codes, columns)
    match theta:
        case Sparse(mask, values) | GroupSparse(mask, values):
            return Scattered(mask, _values(values))
        case NMSparse(pattern, values, m):
            return Patterned(pattern, _values(values), shape_of(values)[-1], m)
        case Dense(values):
            return _values(values)
        case Sum(_, shapes, _):
            return content(theta, Kernel(), [torch.Size(shapes[0])], 0)
        case _:
            return Whole(theta)


def _of_indices(codes: IndexCoded, columns: int) -> nn.Module:
    """What decodes indices into values. A uniform grid of up to 16 levels is looked up too."""
    scale = None if codes.scale is None else codes.scale.unsqueeze(-1)
    if codes.values is not None:
        values = codes.values if codes.values.ndim == 3 else codes.values.unsqueeze(-1)
        zero = None if codes.zero_point is None else codes.zero_point.to(values).unsqueeze(-1)
        return Lookup(codes.indices, values, scale, zero, columns)
    assert scale is not None
    assert codes.zero_point is not None
    zero, highest = codes.zero_point.to(scale).unsqueeze(-1), int(codes.indices.max())
    if highest < 16:
        levels = torch.arange(2 ** highest.bit_length(), dtype=scale.dtype, device=scale.device)
        return Lookup(codes.indices, levels.view(1, -1, 1), scale, zero, columns)
    # of 8 bits with sign
    signed, zero = codes.indices.to(torch.uint8).bitwise_xor(128).view(torch.int8), zero - 128
    return Levels(signed, scale, zero if bool(zero.any()) else None, columns)


class UnpackableError(ValueError):
    """A parameter whose packed form does not exist, or is no smaller."""


def content(theta: Theta, view: View, shapes: Shapes, which: int, columns: int = 0) -> nn.Module:
    """What decodes the tensor `which` of those that `view` makes one array of, flattened. Raises
    UnpackableError."""
    if isinstance(theta, Sum):
        return _sum(theta, view, shapes, which)
    if not isinstance(view.shape(shapes), torch.Size):
        raise UnpackableError(f"is seen through {type(view).__name__}")
    at = entries(view, shapes, which, leaves(theta)[0].device)
    run = torch.arange(at.numel(), device=at.device) + at.min()
    in_order = bool((at.reshape(-1) == run).all())
    found = theta if len(shapes) == 1 and in_order else take(theta, at)
    if found is not None:
        return decoder_of(found, columns)
    alone = (
        theta
        if len(shapes) == 1
        else take(theta, run)
        if bool((entries(view, [at.shape], 0, at.device) + at.min() == at).all())
        else None
    )
    if alone is None:
        raise UnpackableError(f"stands in one {type(theta).__name__} with other parameters")
    return Viewed(decoder_of(alone), view, at.shape)


def _sum(theta: Sum, view: View, shapes: Shapes, which: int) -> nn.Module:
    blocks = [torch.Size(shape) for shape in theta.shapes]
    if theta.single:
        found = [
            (term, content(term.theta, Through(term.view, blocks[0], view), shapes, which))
            for term in theta.terms
        ]
    else:
        terms = [term for term in theta.terms if which in term.at]
        found = [
            (
                term,
                content(term.theta, term.view, [blocks[b] for b in term.at], term.at.index(which)),
            )
            for term in terms
        ]
    if not found:
        raise UnpackableError("is in no term of the sum")
    return Summed([packed for _, packed in found], [term.weight for term, _ in found])
