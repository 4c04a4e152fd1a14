"""A compression through a view of some of the blocks: what additive combinations, budgets and
choices are made of."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leco.compressions.metric import Mu, distortion, mu_of_blocks
from leco.compressions.protocol import Compression, check_metric
from leco.theta import Array, Sum, Term, Theta
from leco.views import View, blocks


@dataclass(frozen=True)
class Part:
    """Delta of the blocks `at` (None: all of them, jointly), seen through `view`; in the other
    blocks it is 0.

    Args:
        unit: the cost of one unit of a penalty form's C(Theta), where it competes with others
            (`leco.Budget`): 4 bytes a parameter, say.
        weight: the distortion of these blocks counts weight^2 times, where they compete with
            others: the compression sees weight x, and Delta is divided by it. Layers whose weights
            are small by nature (many inputs) are pruned away entirely otherwise.

    >>> import torch, leco
    >>> x = (torch.randn(4, 3), torch.randn(2, 3))
    >>> leco.Part(leco.Matrix(), leco.LowRank(1)).array(x).shape
    torch.Size([6, 3])
    """

    view: View
    compression: Compression[Any]
    at: tuple[int, ...] | None = None
    unit: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name, value, method in (
            ("view", self.view, "forward"),
            ("compression", self.compression, "compress"),
        ):
            if isinstance(value, type) or not hasattr(value, method):
                raise TypeError(
                    f"Part: {name} = {value!r} is not an instance of a {name}; the order "
                    "is Part(view, compression)"
                )
        for name, number in (("unit", self.unit), ("weight", self.weight)):
            if not 0 < number < math.inf:
                raise ValueError(f"Part: {name} = {number} must be positive and finite")

    def check_metric(self, shapes: Sequence[torch.Size]) -> None:
        """Raise ValueError where the compression takes no metric."""
        shape = self.view.shape([shapes[b] for b in self.places(len(shapes))])
        check_metric(self.compression, shape)

    def places(self, count: int) -> tuple[int, ...]:
        """The blocks that the part takes of `count`."""
        return tuple(range(count)) if self.at is None else self.at

    def check(self, shapes: Sequence[torch.Size]) -> None:
        """Raise ValueError where blocks of these shapes can't be taken."""
        places = self.places(len(shapes))
        if (
            not places
            or len(set(places)) < len(places)
            or not all(0 <= b < len(shapes) for b in places)
        ):
            raise ValueError(
                f"Part: at = {self.at} must be distinct blocks from 0 to {len(shapes) - 1}"
            )
        self.compression.check(self.view.shape([shapes[b] for b in places]))

    def array(self, x: Sequence[Tensor]) -> Any:
        """What the compression sees of the blocks x."""
        array = self.view.forward(
            [x[b] if self.weight == 1 else x[b] * self.weight for b in self.places(len(x))]
        )
        return array.contiguous() if isinstance(array, Tensor) else array

    def delta(self, theta: Theta, shapes: Sequence[torch.Size]) -> dict[int, Tensor]:
        """Delta(Theta) by block."""
        places = self.places(len(shapes))
        parts = self.view.backward(theta.decompress(), [shapes[b] for b in places])
        return {
            b: part if self.weight == 1 else part / self.weight
            for b, part in zip(places, parts, strict=True)
        }

    def mu(self, mu: Mu, count: int) -> Mu:
        """The mu of what the compression sees, from that of `count` blocks."""
        if not isinstance(mu, (Tensor, tuple)):
            return mu
        whole = blocks(mu)
        return self.view.forward([whole[b] for b in self.places(count)])

    def loss(self, theta: Theta, x: Sequence[Tensor], mu: Mu) -> float:
        """weight^2 sum_i mu_i/2 (x_i - Delta(Theta)_i)^2 over the blocks that the part takes."""
        deltas, whole = self.delta(theta, [block.shape for block in x]), mu_of_blocks(mu, len(x))
        return self.weight**2 * sum(distortion(x[b], d, whole[b]) for b, d in deltas.items())

    def cost(self, theta: Theta) -> float:
        """unit C(Theta) of a penalty form."""
        compression: Any = self.compression
        return self.unit * compression.usage(theta)

    def term(self, theta: Theta, count: int) -> Term:
        return Term(theta, self.view, self.places(count), weight=self.weight)


def each_part(
    view: View,
    compression: Compression[Any],
    blocks: Iterable[int],
    unit: float = 1.0,
    weights: Iterable[float] = (),
) -> tuple[Part, ...]:
    """A part for each of the blocks: ranks, codebooks or sparsities of their own. `weights`: of
    each, all 1 by default."""
    places = tuple(blocks)
    each = tuple(weights) or (1.0,) * len(places)
    return tuple(
        Part(view, compression, (block,), unit, weight)
        for block, weight in zip(places, each, strict=True)
    )


def own_forms(parts: Iterable[Part]) -> tuple[type, ...]:
    """Forms of Theta that the parts' compressions bring."""
    return tuple(form for part in parts for form in getattr(part.compression, "forms", ()))


def own_views(parts: Iterable[Part]) -> tuple[type, ...]:
    """The parts' views, and those that their compressions bring."""
    return tuple(
        view
        for part in parts
        for view in (type(part.view), *getattr(part.compression, "views", ()))
    )


class OfParts:
    """What compressions made of `parts` have in common: the forms of Theta and the views that
    checkpoints and files must find."""

    @property
    def parts(self) -> tuple[Part, ...]:
        raise NotImplementedError

    @property
    def forms(self) -> tuple[type, ...]:
        return own_forms(self.parts)

    @property
    def views(self) -> tuple[type, ...]:
        return own_views(self.parts)

    def check_metric(self, shape: Any) -> None:
        """Raise ValueError where a part takes no metric."""
        for part in self.parts:
            part.check_metric(block_shapes(shape))

    def feasible(self, theta: Sum) -> Sum:
        """Each term within its own set."""
        terms = [
            term._replace(theta=self.parts[which].compression.feasible(term.theta))
            for which, term in zip(self._members(theta), theta.terms, strict=True)
        ]
        return theta._replace(terms=tuple(terms))

    def _members(self, theta: Sum) -> Iterable[int]:
        """The part that each term is of."""
        return range(len(theta.terms))


def block_shapes(shape: Any) -> tuple[torch.Size, ...]:
    """Of an array or of blocks: the shapes of the blocks."""
    return (shape,) if isinstance(shape, torch.Size) else tuple(shape)


def join(parts: Sequence[Part], thetas: Sequence[Theta], x: Array) -> Sum:
    """The Theta of the parts' Thetas together, of an x that is a tensor or a tuple of blocks."""
    shapes = tuple(tuple(block.shape) for block in blocks(x))
    terms = tuple(part.term(theta, len(shapes)) for part, theta in zip(parts, thetas, strict=True))
    return Sum(terms, shapes, int(isinstance(x, Tensor)))
