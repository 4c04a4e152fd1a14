"""Quantized weights: indices into values that are learned, given or scaled; codewords."""

from typing import NamedTuple

import torch
from torch import Tensor

from leco.native.symbols import looked_up
from leco.theta.entries import runs_of
from leco.theta.index_coded import IndexCoded, by_problem, taken
from leco.theta.protocol import check_indices, integers, require


def lookup(values: Tensor, indices: Tensor) -> Tensor:
    """values[..., indices]: `values` (..., K) or (K,), `indices` (..., n) integers below K, result
    (..., n); differentiable in `values`."""
    # one pass, where a compiled loop does it
    books = values.reshape(-1, values.shape[-1])
    if len(books) in (1, indices[..., 0].numel()) and indices.dim():
        found = looked_up(books, indices.reshape(len(books), -1))
        if found is not None:
            return found.view(indices.shape)
    # one bit: exact at weights 0 and 1, unless the difference overflows; on a CPU many times as
    # fast as a select
    if values.shape[-1] == 2 and bool(values.detach().diff().isfinite().all()):
        return torch.lerp(values[..., :1], values[..., 1:], indices.to(values.dtype))
    # half the memory of a gather, whose indices are int64, and three times as fast
    if values.dim() == 1:
        return values.index_select(0, indices.reshape(-1).int()).view(indices.shape)
    values = values.expand(*indices.shape[:-1], values.shape[-1])
    return values.gather(-1, indices.long())


class Codes(NamedTuple):
    """Learned codebook: w_i = codebook[indices_i]. `indices` (..., n) integers, `codebook` (..., K)
    floats."""

    indices: Tensor
    codebook: Tensor

    def shape(self) -> torch.Size:
        return _looked_up(self.indices, self.codebook.shape[:-1])

    def decompress(self) -> Tensor:
        return lookup(self.codebook, self.indices)

    def scaled(self, c: float) -> "Codes":
        return self._replace(codebook=c * self.codebook)

    def free(self) -> tuple[str, ...]:
        return ("codebook",)

    def check(self) -> None:
        check_indices("indices", self.indices, self.codebook.shape[-1])

    def take(self, at: Tensor) -> "Codes | None":
        return taken(self, at, codebook=1)

    def index_coded(self) -> IndexCoded:
        return IndexCoded(self.indices, by_problem(self.codebook, self.indices.shape[:-1], 1))


class Fixed(NamedTuple):
    """Given codebook: w_i = values[indices_i]. `indices` (..., n) integers, `values` (K,) floats
    that nothing moves."""

    indices: Tensor
    values: Tensor

    def shape(self) -> torch.Size:
        return _looked_up(self.indices, self.values.shape[:-1])

    def decompress(self) -> Tensor:
        return lookup(self.values, self.indices)

    def scaled(self, c: float) -> "Fixed":
        return self._replace(values=c * self.values)

    def free(self) -> tuple[str, ...]:
        return ()

    def check(self) -> None:
        check_indices("indices", self.indices, self.values.shape[-1])

    def take(self, at: Tensor) -> "Fixed | None":
        return taken(self, at, values=1)

    def index_coded(self) -> IndexCoded:
        return IndexCoded(self.indices, by_problem(self.values, self.indices.shape[:-1], 1))


class Scaled(NamedTuple):
    """Given codebook, learned scale: w_i = scale * values[indices_i]. `indices` (..., n), `values`
    (K,), `scale` (...)."""

    indices: Tensor
    values: Tensor
    scale: Tensor

    def shape(self) -> torch.Size:
        require(self.values.dim() == 1, f"values must be (K,), not {tuple(self.values.shape)}")
        return _looked_up(self.indices, self.scale.shape)

    def decompress(self) -> Tensor:
        return lookup(self.scale.unsqueeze(-1) * self.values, self.indices)

    def scaled(self, c: float) -> "Scaled":
        return self._replace(scale=c * self.scale)

    def free(self) -> tuple[str, ...]:
        return ("scale",)

    def check(self) -> None:
        check_indices("indices", self.indices, self.values.shape[-1])

    def take(self, at: Tensor) -> "Scaled | None":
        return taken(self, at, scale=0)

    def index_coded(self) -> IndexCoded:
        scale = by_problem(self.scale, self.indices.shape[:-1], 0)
        return IndexCoded(self.indices, self.values.unsqueeze(0), scale)


class ZeroCodes(NamedTuple):
    """Learned values beside 0: w_i = 0 where indices_i = 0, else codebook[indices_i - 1]. `indices`
    (..., n), `codebook` (..., K) floats."""

    indices: Tensor
    codebook: Tensor

    def shape(self) -> torch.Size:
        return _looked_up(self.indices, self.codebook.shape[:-1])

    def decompress(self) -> Tensor:
        return lookup(torch.nn.functional.pad(self.codebook, (1, 0)), self.indices)

    def scaled(self, c: float) -> "ZeroCodes":
        return self._replace(codebook=c * self.codebook)

    def free(self) -> tuple[str, ...]:
        return ("codebook",)

    def check(self) -> None:
        check_indices("indices", self.indices, self.codebook.shape[-1] + 1)

    def take(self, at: Tensor) -> "ZeroCodes | None":
        return taken(self, at, codebook=1)

    def index_coded(self) -> IndexCoded:
        book = torch.nn.functional.pad(self.codebook, (1, 0))
        return IndexCoded(self.indices, by_problem(book, self.indices.shape[:-1], 1))


class VectorCodes(NamedTuple):
    """Learned codewords of d weights: w_i = codebook[indices_i]. `indices` (..., n) integers,
    `codebook` (..., K, d) floats; w (..., n, d)."""

    indices: Tensor
    codebook: Tensor

    def shape(self) -> torch.Size:
        *batch, _, d = self.codebook.shape
        require(
            tuple(batch) == self.indices.shape[:-1],
            f"codewords {tuple(self.codebook.shape)} "
            f"do not fit indices {tuple(self.indices.shape)}",
        )
        return torch.Size([*integers("indices", self.indices), d])

    def decompress(self) -> Tensor:
        first = self.codebook.shape[-2] * torch.arange(
            self.indices.shape[:-1].numel(), device=self.indices.device
        )
        rows = self.indices.long() + first.view(self.indices.shape[:-1]).unsqueeze(-1)
        return (
            self.codebook.flatten(0, -2)
            .index_select(0, rows.view(-1))
            .view(*self.indices.shape, -1)
        )

    def scaled(self, c: float) -> "VectorCodes":
        return self._replace(codebook=c * self.codebook)

    def free(self) -> tuple[str, ...]:
        return ("codebook",)

    def check(self) -> None:
        check_indices("indices", self.indices, self.codebook.shape[-2])

    def take(self, at: Tensor) -> "VectorCodes | None":
        words = runs_of(at, self.codebook.shape[-1])
        return None if words is None else taken(self, words, codebook=2)

    def index_coded(self) -> IndexCoded:
        return IndexCoded(self.indices, by_problem(self.codebook, self.indices.shape[:-1], 2))


def _looked_up(indices: Tensor, batch: torch.Size) -> torch.Size:
    """The shape of `lookup` with values (*batch, K)."""
    own = integers("indices", indices)[:-1]
    fit = len(batch) <= len(own) and all(
        b in (1, n) for b, n in zip(reversed(batch), reversed(own), strict=False)
    )
    require(fit, f"values for {tuple(batch)} problems do not fit {tuple(own)}")
    return indices.shape
