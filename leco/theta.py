"""The compressed forms Theta, each with its decompression Delta(Theta): every Delta of the library is on this page.

A Theta is a NamedTuple of tensors and ints. It knows nothing of how it was found: several compressions share one form, and a file
of Thetas loads without the compressions, options or costs that made them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from leco.views import VIEWS, View

Array = Tensor | tuple[Tensor, ...]
"""What a view gives and a compression takes: one tensor, or the blocks of `leco.Blocks`."""


@runtime_checkable
class Theta(Protocol):
    """What the algorithm and the file need of a compressed form. A new form is a NamedTuple with these two methods.

    A field is a tensor, an int, another Theta (quantized values of the kept weights), a view, or a tuple of these. `free` names the float
    fields that stay free once the discrete choices (indices, masks, ranks) are fixed: what retraining moves.
    """

    _fields: tuple[str, ...]

    def __iter__(self) -> Iterator[Any]: ...
    def _replace(self, **fields: Any) -> "Theta": ...
    def decompress(self) -> Any: ...
    def free(self) -> tuple[str, ...]: ...


def lookup(values: Tensor, indices: Tensor) -> Tensor:
    """values[..., indices]: `values` (..., K) or (K,), `indices` (..., n) integers below K, result (..., n); differentiable in `values`."""
    values = values.expand(*indices.shape[:-1], values.shape[-1])
    if values.shape[-1] == 2:  # one bit: a select is several times faster than a gather, and needs no wide indices
        return torch.where(indices.bool(), values[..., 1:], values[..., :1])
    return values.gather(-1, indices.long())


class Codes(NamedTuple):
    """Learned codebook: w_i = codebook[indices_i]. `indices` (..., n) integers, `codebook` (..., K) floats."""

    indices: Tensor
    codebook: Tensor

    def decompress(self) -> Tensor:
        return lookup(self.codebook, self.indices)

    def free(self) -> tuple[str, ...]:
        return ("codebook",)


class Fixed(NamedTuple):
    """Given codebook: w_i = values[indices_i]. `indices` (..., n) integers, `values` (K,) floats that nothing moves."""

    indices: Tensor
    values: Tensor

    def decompress(self) -> Tensor:
        return lookup(self.values, self.indices)

    def free(self) -> tuple[str, ...]:
        return ()


class Scaled(NamedTuple):
    """Given codebook, learned scale: w_i = scale * values[indices_i]. `indices` (..., n), `values` (K,), `scale` (...)."""

    indices: Tensor
    values: Tensor
    scale: Tensor

    def decompress(self) -> Tensor:
        return lookup(self.scale.unsqueeze(-1) * self.values, self.indices)

    def free(self) -> tuple[str, ...]:
        return ("scale",)


class Affine(NamedTuple):
    """Uniform grid: w_i = scale * (indices_i - zero_point). `indices` (..., n) uint8, `scale` (...) float, `zero_point` (...) uint8."""

    indices: Tensor
    scale: Tensor
    zero_point: Tensor

    def decompress(self) -> Tensor:
        levels = self.indices.to(self.scale.dtype) - self.zero_point.to(self.scale.dtype).unsqueeze(-1)
        return self.scale.unsqueeze(-1) * levels

    def free(self) -> tuple[str, ...]:
        return ("scale",)


class Sparse(NamedTuple):
    """w = 0 where `mask` is False, and `values` in order where it is True. `mask` (..., n) bool, `values` (number of True,)."""

    mask: Tensor
    values: Tensor

    def decompress(self) -> Tensor:
        kept = values(self.values)
        return torch.zeros(self.mask.shape, dtype=kept.dtype, device=self.mask.device).masked_scatter(self.mask, kept)

    def free(self) -> tuple[str, ...]:
        return ("values",)


class Dense(NamedTuple):
    """w = values: no smaller form exists (an l2 ball, a full rank)."""

    values: Tensor

    def decompress(self) -> Tensor:
        return self.values

    def free(self) -> tuple[str, ...]:
        return ("values",)


class Factors(NamedTuple):
    """Low rank: W = u v. `u` (..., m, r), `v` (..., r, n); r = 0 is the zero matrix."""

    u: Tensor
    v: Tensor

    def decompress(self) -> Tensor:
        return values(self.u) @ values(self.v)

    def free(self) -> tuple[str, ...]:
        return ("u", "v")


class ConvFactors(NamedTuple):
    """Low rank of a convolution kernel (out, in, height, width), as two smaller convolutions.

    scheme 1: the matrix out x (in height width); scheme 2: the matrix (out height) x (in width). `u` (rows, r), `v` (r, columns).
    """

    u: Tensor
    v: Tensor
    scheme: int
    height: int
    width: int

    def decompress(self) -> Tensor:
        matrix = values(self.u) @ values(self.v)
        if self.scheme == 1:
            return matrix.unflatten(1, (-1, self.height, self.width))
        return matrix.unflatten(1, (-1, self.width)).unflatten(0, (-1, self.height)).transpose(1, 2)

    def free(self) -> tuple[str, ...]:
        return ("u", "v")


class Term(NamedTuple):
    """A Theta seen through `view`: Delta of the blocks `at`, of the shapes that the `Sum` it stands in lists."""

    theta: Theta
    view: View
    at: tuple[int, ...]

    def decompress(self) -> Any:
        return self.theta.decompress()

    def free(self) -> tuple[str, ...]:
        return ("theta",)


class Sum(NamedTuple):
    """Block b is the sum of the terms that have b among their blocks; 0 where none has. `single`: 1 for one tensor, 0 for a tuple of blocks."""

    terms: tuple[Term, ...]
    shapes: tuple[tuple[int, ...], ...]
    single: int

    def blocks(self) -> tuple[Tensor, ...]:
        found: dict[int, Tensor] = {}
        for term in self.terms:
            parts = term.view.backward(term.decompress(), [torch.Size(self.shapes[b]) for b in term.at])
            for b, part in zip(term.at, parts, strict=True):
                found[b] = found[b] + part if b in found else part
        like = next(iter(found.values()))
        return tuple(found[b] if b in found else like.new_zeros(shape) for b, shape in enumerate(self.shapes))

    def decompress(self) -> Array:
        blocks = self.blocks()
        return blocks[0] if self.single else blocks

    def free(self) -> tuple[str, ...]:
        return ("terms",)


THETAS: tuple[type, ...] = (Codes, Fixed, Scaled, Affine, Sparse, Dense, Factors, ConvFactors, Term, Sum)
"""The forms that a file may name."""


def values(field: Any) -> Any:
    """The numbers of a field that is a tensor, or a Theta of it."""
    return field if isinstance(field, Tensor) else field.decompress()


def leaves(field: Any) -> list[Tensor]:
    """All tensors of a Theta, those of the Thetas in it included, in order."""
    if isinstance(field, Tensor):
        return [field]
    return [leaf for member in field for leaf in leaves(member)] if isinstance(field, tuple) else []


def free_leaves(theta: Theta) -> list[Tensor]:
    """The float tensors of a Theta, and of the Thetas in it, that stay free."""
    found: list[Tensor] = []
    for name in theta.free():
        field = getattr(theta, name)
        for member in field if type(field) is tuple else (field,):
            found += [member] if isinstance(member, Tensor) else free_leaves(member)
    return found


def with_free_leaves(theta: Theta, new: Sequence[Tensor]) -> Theta:
    """The Theta whose `free_leaves` are `new`."""
    rest = iter(new)

    def fill(field: Any) -> Any:
        if isinstance(field, Tensor):
            return next(rest)
        if type(field) is tuple:
            return tuple(fill(member) for member in field)
        return field._replace(**{name: fill(getattr(field, name)) for name in field.free()})

    filled = fill(theta)
    assert next(rest, None) is None
    return filled


def theta_state(field: Any) -> Any:
    """A Theta as a dict with the name of its form, and its fields, likewise all that stands in it; tensors and ints as they are."""
    if hasattr(field, "_fields"):
        return {"form": type(field).__name__, "fields": {name: theta_state(member) for name, member in zip(field._fields, field, strict=True)}}
    if isinstance(field, tuple):
        return [theta_state(member) for member in field]
    if is_dataclass(field):
        return {"view": type(field).__name__, "options": {f.name: getattr(field, f.name) for f in fields(field)}}
    return field


def theta_from_state(state: Any, forms: Sequence[type], device: torch.device, views: Sequence[type] = VIEWS) -> Any:
    """The Theta that `theta_state` described, on `device`. Raises ValueError for a form or view that is not among `forms`, `views`."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, (list, tuple)):
        return tuple(theta_from_state(member, forms, device, views) for member in state)
    if not isinstance(state, Mapping):
        return state
    kind, known = ("form", forms) if "form" in state else ("view", views)
    found = cast(Any, next((f for f in known if f.__name__ == state[kind]), None))
    if found is None:
        raise ValueError(f"unknown {'form of Theta' if kind == 'form' else kind} {state[kind]!r}; known are {sorted(f.__name__ for f in known)}")
    if kind == "view":
        return found(**{name: tuple(value) if isinstance(value, list) else value for name, value in state["options"].items()})
    return found(**{name: theta_from_state(member, forms, device, views) for name, member in state["fields"].items()})
