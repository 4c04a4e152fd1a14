"""The compressed forms Theta, each with its decompression Delta(Theta): every Delta of the library is on this page.

A Theta is a NamedTuple of tensors and ints. It knows nothing of how it was found: several compressions share one form, and a file
of Thetas loads without the compressions, options or costs that made them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Theta(Protocol):
    """What the algorithm and the file need of a compressed form. A new form is a NamedTuple with these two methods.

    `free` names the float fields that stay free once the discrete choices (indices, masks, ranks) are fixed: what retraining moves.
    """

    _fields: tuple[str, ...]

    def __iter__(self) -> Iterator[Any]: ...
    def decompress(self) -> Tensor: ...
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
        return torch.zeros(self.mask.shape, dtype=self.values.dtype, device=self.mask.device).masked_scatter(self.mask, self.values)

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
        return self.u @ self.v

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
        matrix = self.u @ self.v
        if self.scheme == 1:
            return matrix.unflatten(1, (-1, self.height, self.width))
        return matrix.unflatten(1, (-1, self.width)).unflatten(0, (-1, self.height)).transpose(1, 2)

    def free(self) -> tuple[str, ...]:
        return ("u", "v")


THETAS: tuple[type, ...] = (Codes, Fixed, Scaled, Affine, Sparse, Dense, Factors, ConvFactors)
"""The forms that a file may name."""


def theta_state(theta: Theta) -> dict[str, Any]:
    """A Theta as a dict: the name of its form, and its fields."""
    return {"form": type(theta).__name__, "fields": dict(zip(theta._fields, theta, strict=True))}


def theta_from_state(state: Mapping[str, Any], forms: Sequence[type], device: torch.device) -> Theta:
    """The Theta that `theta_state` described, on `device`. Raises ValueError for a form that is not among `forms`."""
    form = next((f for f in forms if f.__name__ == state["form"]), None)
    if form is None:
        raise ValueError(f"unknown form of Theta {state['form']!r}; known are {[f.__name__ for f in forms]}")
    return form(**{name: value.to(device) if isinstance(value, Tensor) else value for name, value in state["fields"].items()})
