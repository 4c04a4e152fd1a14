"""A Theta in memory at its own size: which decoder decodes it, and which part of it one parameter
needs.

    Lookup, Levels         codebooks, signs, grids, codewords (`leco.layers.integers`)
    Scattered, Patterned,
    Summed, Viewed         sparse weights, sums, other orders (`leco.layers.decoders`)
    Whole                  any other form: its fields, each packed or not, and its own `decompress`

A form that has `index_coded` is decoded by a look-up; so is one of your own.
"""

from typing import Any

import torch
from torch import Tensor, nn

from leco.layers.decoders import Floats, Patterned, Scattered, Summed, Viewed
from leco.layers.integers import Integers, Levels, Lookup
from leco.layers.layout import Through, entries, keeps_order
from leco.theta import (
    Dense,
    GroupSparse,
    IndexCoded,
    NMSparse,
    Sparse,
    Sum,
    Theta,
    index_coded,
    shape_of,
    take,
)
from leco.theta.tree import leaves
from leco.views import Kernel, Shapes, View


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
    """A field of a Theta, as its `decompress` takes it. A Theta in it is decoded, and becomes a
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
            self.packed = Integers(field.reshape(-1))
            self.shape, self.dtype = field.shape, field.dtype
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
        zero = None if codes.zero_point is None else _once(codes.zero_point.to(values))
        return Lookup(codes.indices, values, scale, zero, columns)
    # a uniform grid
    assert scale is not None, "a uniform grid has a scale"
    points = codes.zero_point
    zero = scale.new_zeros(1, 1) if points is None else _once(points).to(scale)
    highest = int(codes.indices.max())
    if highest < 16:
        levels = torch.arange(2 ** highest.bit_length(), dtype=scale.dtype, device=scale.device)
        return Lookup(codes.indices, levels.view(1, -1, 1), scale, zero, columns)
    # of 8 bits with sign
    signed, zero = codes.indices.to(torch.uint8).bitwise_xor(128).view(torch.int8), zero - 128
    return Levels(signed, scale, zero if bool(zero.any()) else None, columns)


def _once(points: Tensor) -> Tensor:
    """Zero points (problems or 1,) as (problems or 1, 1): one where all are the same."""
    same = points.numel() > 0 and torch.equal(*torch.aminmax(points))
    return (points[:1] if same else points).unsqueeze(-1)


class UnpackableError(ValueError):
    """A parameter whose packed form does not exist, or is no smaller."""


def content(theta: Theta, view: View, shapes: Shapes, which: int, columns: int = 0) -> nn.Module:
    """What decodes one of the tensors that `view` makes one array of, flattened.

    Args:
        theta: of the array.
        shapes: of all the tensors.
        which: the number of the tensor.
        columns: see `Lookup`.

    Raises:
        UnpackableError: the tensor has no Theta of its own.
    """
    if isinstance(theta, Sum):
        return _sum(theta, view, shapes, which)
    if not isinstance(view.shape(shapes), torch.Size):
        raise UnpackableError(f"is seen through {type(view).__name__}")
    # in the order of the parameter
    if len(shapes) == 1 and keeps_order(view, shapes[0]):
        return decoder_of(theta, columns)
    at = entries(view, shapes, which, leaves(theta)[0].device)
    run = torch.arange(at.numel(), device=at.device) + at.min()
    in_order = bool((at.reshape(-1) == run).all())
    found = theta if len(shapes) == 1 and in_order else take(theta, at)
    if found is not None:
        return decoder_of(found, columns)
    # in the order of the view
    alone = theta if len(shapes) == 1 else None
    if alone is None and bool((entries(view, [at.shape], 0, at.device) + at.min() == at).all()):
        alone = take(theta, run)
    if alone is None:
        raise UnpackableError(f"stands in one {type(theta).__name__} with other parameters")
    return Viewed(decoder_of(alone), view, at.shape)


def _sum(theta: Sum, view: View, shapes: Shapes, which: int) -> nn.Module:
    """What decodes one of the tensors of a sum."""
    blocks = [torch.Size(shape) for shape in theta.shapes]
    if theta.single:
        terms = theta.terms
        found = [
            content(term.theta, Through(term.view, blocks[0], view), shapes, which)
            for term in terms
        ]
    else:
        terms = [term for term in theta.terms if which in term.at]
        found = [
            content(term.theta, term.view, [blocks[b] for b in term.at], term.at.index(which))
            for term in terms
        ]
    if not found:
        raise UnpackableError("is in no term of the sum")
    return Summed(found, [term.weight for term in terms])
