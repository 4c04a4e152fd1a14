"""A choice of scheme within the C step: for each block of weights, the candidate of least
distortion and cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from leco.coding.tensors import bits
from leco.compressions.checks import check_number
from leco.compressions.metric import Mu, mu_of_blocks
from leco.compressions.parts import OfParts, Part, block_shapes
from leco.compressions.protocol import Compression, Offer, Penalty, common_scaling, is_penalty
from leco.theta import Array, Dense, Sum, Term, Theta
from leco.views import View, blocks


@dataclass(frozen=True)
class Uncompressed(Compression[Dense]):
    """w = x: no compression, the candidate of a `leco.Choice` that always fits. Exact, O(n).

    >>> import torch, leco
    >>> leco.bits(leco.Uncompressed().compress(torch.ones(10), mu=1.0))
    320
    """

    takes_metric: ClassVar[bool] = True

    def c_step(self, x: Tensor, mu: float, theta: Dense | None = None) -> Dense:
        return Dense(x.clone())


class _Option(NamedTuple):
    """One candidate's Theta for one block: mu/2 ||x - Delta(Theta)||^2 (with the candidate's own
    price, if a set form has one), and its cost."""

    term: Term
    distortion: float
    cost: float


@dataclass(frozen=True)
class Choice(OfParts, Penalty[Sum]):
    """min over k, Theta_k of mu/2 ||x - Delta_k(Theta_k)||^2 + alpha C_k(Theta_k), for each block
    of x on its own: a scheme for each layer.

    Exact where every candidate is: the minimum over (k, Theta_k) is the least of the minima over
    Theta_k, and each of those is a candidate's own C step (of a penalty form, at the price alpha
    unit; of a set form, at its cost, which the set is taken to fix; where it varies within the set,
    as the coded bits of a sparsity pattern do, this is the best of the candidates' C steps and of
    the last Theta). The cost of a candidate is `unit` times C(Theta) of a penalty form, whose own
    alpha is not used, and `unit` times cost(Theta) of a set
    form: with the default, bits, a kept weight of `L0Penalty` has a unit of 32 and the bits of its
    place, a parameter of `RankSelection` one of 32. One C step of every candidate, and one pass
    each to compare. In a metric the distortions are weighed. x is a tensor or a tuple of blocks
    (`leco.Blocks()`). Idelbayev and
    Carreira-Perpinan, ICASSP 2021, for the choice among low-rank schemes.

    Args:
        alpha: price of a unit of cost.
        candidates: `Part(view, compression, unit=...)`, or (view, compression); each is tried on
            every block whose shape it can take.
        cost: of the Theta of a set form; the coded bits.

    Raises:
        ValueError: no candidate; one with `at`; a block that no candidate can take.

    >>> import torch, leco
    >>> kept = leco.Part(leco.Vector(), leco.L0Penalty(0), unit=40)
    >>> candidates = leco.Part(leco.Vector(), leco.Binary()), kept
    >>> x = torch.tensor([1.0, -1.0] * 50), torch.tensor([9.0, -5.0] + [0.1] * 98)
    >>> theta = leco.Choice(1e-3, candidates).compress(x, mu=1.0)
    >>> [(term.candidate, type(term.theta).__name__) for term in theta.terms]
    [(0, 'Scaled'), (1, 'Sparse')]
    """

    takes_metric: ClassVar[bool] = True

    alpha: float
    candidates: Sequence[Part | tuple[View, Compression[Any]]]
    cost: Callable[[Any], float] = bits

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Choice: alpha", self.alpha)
        object.__setattr__(
            self,
            "candidates",
            tuple(part if isinstance(part, Part) else Part(*part) for part in self.candidates),
        )
        if not self.candidates:
            raise ValueError("Choice: candidates is empty; give at least one leco.Part")
        for k, part in enumerate(self.parts):
            if part.weight != 1:
                raise ValueError(
                    f"Choice: candidates[{k}] has weight = {part.weight}, which must be "
                    "1: the candidates share one distortion"
                )
            if part.at is not None:
                raise ValueError(
                    f"Choice: candidates[{k}] has at = {part.at}, which must be None: "
                    "each candidate is tried on every block"
                )

    def scaling(self) -> int | None:
        return 2 if common_scaling(part.compression for part in self.parts) is not None else None

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.candidates  # pyright: ignore[reportReturnType]

    def _members(self, theta: Sum) -> list[int]:
        return [term.candidate for term in theta.terms]

    def check(self, shape: Any) -> None:
        for b, block in enumerate(block_shapes(shape)):
            self._fitting(b, block)

    def check_metric(self, shape: Any) -> None:
        for b, block in enumerate(block_shapes(shape)):
            for k in self._fitting(b, block):
                self.parts[k].check_metric([torch.Size(block)])

    def family(self, x: Array, mu: Mu, theta: Sum | None = None) -> Callable[[float], Sum]:
        select = self.offers(x, mu, theta)[0]
        return lambda alpha: select(alpha)[0]

    def offers(self, x: Array, mu: Mu, theta: Sum | None = None) -> list[Offer]:
        """The choice; and, of one block, each candidate by itself."""
        shapes = tuple(tuple(block.shape) for block in blocks(x))
        last = {} if theta is None else {term.at[0]: term for term in theta.terms}
        each = enumerate(zip(blocks(x), mu_of_blocks(mu, len(shapes)), strict=True))
        menus = [self._menu(b, block, own, last.get(b)) for b, (block, own) in each]

        def select(
            alpha: float, menus: list[list[Callable[[float], _Option]]]
        ) -> tuple[Sum, float]:
            chosen = [
                min(
                    (option(alpha) for option in menu),
                    key=lambda o: (o.distortion + alpha * o.cost, o.cost),
                )
                for menu in menus
            ]
            return Sum(
                tuple(option.term for option in chosen), shapes, int(isinstance(x, Tensor))
            ), sum(option.cost for option in chosen)

        alone = [[[option]] for option in menus[0]] if len(menus) == 1 else []
        return [partial(select, menus=part) for part in [menus, *alone]]

    def usage(self, theta: Sum) -> float:
        return sum(self._cost(term) for term in theta.terms)

    def price(self, theta: Sum) -> float:
        return self.alpha * self.usage(theta) + sum(self._own_price(term) for term in theta.terms)

    def _fitting(self, b: int, shape: Sequence[int]) -> list[int]:
        """The candidates that can take a block of this shape."""
        found, reasons = [], []
        for k, part in enumerate(self.parts):
            try:
                part.check([torch.Size(shape)])
                found.append(k)
            except ValueError as error:
                reasons.append(str(error))
        if not found:
            raise ValueError(
                f"Choice: no candidate can take block {b} of shape {tuple(shape)}: "
                f"{'; '.join(reasons)}"
            )
        return found

    def _menu(
        self, b: int, block: Tensor, mu: float | Tensor, last: Term | None
    ) -> list[Callable[[float], _Option]]:
        """alpha to the option of each candidate, and of the last Theta; what does not depend on
        alpha is computed here."""

        def weigh(k: int, theta: Theta) -> _Option:
            part = self.parts[k]
            term = Term(theta, part.view, (b,), k)
            return _Option(
                term,
                part.loss(theta, [block], mu) + self._own_price(term),
                self._cost(term),
            )

        def of_penalty(
            k: int, unit: float, family: Callable[[float], Theta]
        ) -> Callable[[float], _Option]:
            return lambda alpha: weigh(k, family(alpha * unit))

        menu = [] if last is None else [_always(weigh(last.candidate, last.theta))]
        for k in self._fitting(b, block.shape):
            part, array = self.parts[k], self.parts[k].array([block])
            weight = part.mu(mu, 1)
            start = last.theta if last is not None and last.candidate == k else None
            compression: Any = part.compression
            if is_penalty(compression):
                menu.append(of_penalty(k, part.unit, compression.family(array, weight, start)))
            else:
                menu.append(_always(weigh(k, compression.compress(array, weight, start))))
        return menu

    def _cost(self, term: Term) -> float:
        part = self.parts[term.candidate]
        return (
            part.cost(term.theta)
            if is_penalty(part.compression)
            else part.unit * self.cost(term.theta)
        )

    def _own_price(self, term: Term) -> float:
        compression = self.parts[term.candidate].compression
        return 0.0 if is_penalty(compression) else compression.price(term.theta)


def _always(option: _Option) -> Callable[[float], _Option]:
    return lambda alpha: option
