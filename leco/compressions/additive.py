"""Sums of compressions: w = Delta_1(Theta_1) + Delta_2(Theta_2) + ..., so that each does what it is
best at.

Idelbayev and Carreira-Perpinan, "More general and effective model compression via an additive
combination of compressions", ECML-PKDD 2021 (Part V, arXiv 2107.04380).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.metric import Mu, distortion, mu_of_blocks
from leco.compressions.parts import OfParts, Part, block_shapes, join
from leco.compressions.protocol import Compression, common_scaling
from leco.compressions.rivals import SPARSE, is_fixed, is_full, rivals
from leco.compressions.window import window
from leco.theta import Array, Sum, Theta
from leco.views import View, blocks

COLD = 5  # times as many sweeps where there is no Theta to start from
ENOUGH = 1e-4  # relative decrease of the objective, by a sweep, that is not worth another one


@dataclass(frozen=True)
class Additive(OfParts, Compression[Sum]):
    """min mu/2 ||x - Delta_1(Theta_1) - ... - Delta_T(Theta_T)||^2 + (the terms' prices), over all
    Theta_t. Part V.

    A descent step: block coordinate descent, Theta_t <- the C step of term t at x less the other
    terms, warm-started from its last Theta_t. That solves the problem over Theta_t with the others
    fixed, so that the objective never rises. It starts from the last Thetas. Without them, each
    term is tried as the first one, at x itself, with the others in the order given at what is left,
    and the best start
    goes on: it is no worse than any term alone, where the sets of the others hold 0. A sweep costs
    one C step of each term.

    Exact, in a metric too where not said otherwise, and in one pass whatever the start, where

    (a) each term is a codebook without scale (`FixedCodebook`, `PowersOfTwo`, `Binary` or
    `Ternary`) or sparse (`TopK`, `L1Ball`,
        `L0Penalty`, `L1Penalty`), and no two of one kind share a block: the nearest value q(x),
        then the sparse term at r = x - q(x).
        Proof, entry by entry and so in any metric: with the codes fixed, the best sparse term
        costs a function of r that does not fall in any |r_i|. For if |r_i| <= |r'_i| for all i, and
        s' is best for r', then s_i = sign(r_i) min(|s'_i|, |r_i|) has no more entries that are not
        0, and no larger ones, than s', so that it is in the same set at no higher a price, and
        |r_i - s_i| = max(|r_i| - |s'_i|, 0) <= |r'_i - s'_i|. The nearest values make all |r_i|
        least at once. (l2 terms, gamma in `TopK`, fall with the |s_i| too.)
    (b) the terms are `Binary()` and `TopK(kappa)`, both through `Vector()` of the same blocks: a is
    the mean of those n - kappa consecutive
        values of the sorted |x_i| that have the least variance. Proof: the kappa corrected weights
        cost nothing, the others (|x_i| - a)^2 each, with the sign of x_i. With a fixed, those n -
        kappa of the |x_i| that are nearest to a stay, a window of the sorted values; with the
        window fixed, a is its mean and the cost n - kappa times its variance. O(n log n). Without a
        metric only.

    Args:
        terms: `leco.Part`s, or (view, compression) pairs that take all blocks jointly. Every block
            needs a term.
        sweeps: at most so many from a warm start, and 5 times as many from none.

    Raises:
        ValueError: fewer than two terms; a block without a term (it would be 0); two terms for the
            same freedom, such as two low ranks of one matrix, whose sum is one low rank.

    >>> import torch, leco
    >>> x = torch.tensor([1.0, -1.1, 0.9, 9.0])
    >>> additive = leco.Additive([(leco.Vector(), leco.Binary()), (leco.Vector(), leco.TopK(1))])
    >>> additive.compress(x, mu=1.0).decompress()
    tensor([ 1., -1.,  1.,  9.])
    """

    takes_metric: ClassVar[bool] = True

    terms: Sequence[Part | tuple[View, Compression[Any]]]
    sweeps: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("Additive: sweeps", self.sweeps, 1)
        object.__setattr__(
            self,
            "terms",
            tuple(term if isinstance(term, Part) else Part(*term) for term in self.terms),
        )
        if len(self.terms) < 2:
            raise ValueError(
                f"Additive: terms = {self.terms} must be at least two; a single one is a "
                "compression by itself"
            )
        for t, part in enumerate(self.parts):
            if part.weight != 1:
                raise ValueError(
                    f"Additive: term {t} has weight = {part.weight}, which must be 1: the "
                    "terms share one distortion"
                )
        self._check_rivals([part.at for part in self.parts], lambda one, other: one == other)

    def scaling(self) -> int | None:
        return common_scaling(part.compression for part in self.parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.terms  # pyright: ignore[reportReturnType]

    def check(self, shape: Any) -> None:
        shapes = block_shapes(shape)
        for t, part in enumerate(self.parts):
            try:
                part.check(shapes)
            except ValueError as error:
                raise ValueError(f"Additive: term {t}: {error}") from error
        places = [part.places(len(shapes)) for part in self.parts]
        missing = sorted(set(range(len(shapes))) - set().union(*places))
        if missing:
            raise ValueError(
                f"Additive: block {missing[0]}, of shape {tuple(shapes[missing[0]])}, has "
                "no term and would be 0; give it one"
            )
        self._check_rivals(places, lambda one, other: not set(one).isdisjoint(other))
        for t, (part, own) in enumerate(zip(self.parts, places, strict=True)):
            array = part.view.shape([shapes[b] for b in own])
            if is_full(part.compression, array) and any(
                s != t and not set(own).isdisjoint(places[s]) for s in range(len(places))
            ):
                raise ValueError(
                    f"Additive: term {t}, {part.compression}, holds any array of shape "
                    f"{tuple(array)}: nothing is left for others"
                )

    def _check_rivals(self, places: Sequence[Any], meet: Callable[[Any, Any], bool]) -> None:
        for t, part in enumerate(self.parts):
            for s in range(t):
                reason = meet(places[s], places[t]) and rivals(
                    self.parts[s], part, places[s] == places[t]
                )
                if reason:
                    raise ValueError(
                        f"Additive: terms {s} and {t}, {self.parts[s].compression} and "
                        f"{part.compression}, compete: {reason}"
                    )

    def price(self, theta: Sum) -> float:
        return sum(
            part.compression.price(term.theta)
            for part, term in zip(self.parts, theta.terms, strict=True)
        )

    def c_step(self, x: Array, mu: Mu, theta: Sum | None = None) -> Sum:
        whole = blocks(x)
        exact = self._one_pass(whole, mu) or window(self.parts, whole, mu)
        return join(self.parts, exact or self._descend(whole, mu, theta), x)

    def _left(
        self, x: Sequence[Tensor], thetas: Sequence[Theta | None], t: int
    ) -> dict[int, Tensor]:
        """The blocks of term t, less the other terms that have a Theta."""
        left = {b: x[b] for b in self.parts[t].places(len(x))}
        for s, (part, theta) in enumerate(zip(self.parts, thetas, strict=True)):
            if s != t and theta is not None and not left.keys().isdisjoint(part.places(len(x))):
                for b, delta in part.delta(theta, [block.shape for block in x]).items():
                    if b in left:
                        left[b] = left[b] - delta
        return left

    def _descend(self, x: Sequence[Tensor], mu: Mu, start: Sum | None) -> list[Theta]:
        """Sweeps from the start, or from the best of the cold ones, each with another term
        first."""
        shapes, terms = tuple(tuple(block.shape) for block in x), range(len(self.parts))
        warm = start is not None and len(start.terms) == len(terms) and start.shapes == shapes
        if start is not None and warm:
            state, sweeps = (
                self._update_terms(
                    x,
                    mu,
                    _Progress(
                        [term.theta for term in start.terms], [0.0] * len(terms), [0.0] * len(x)
                    ),
                    terms,
                ),
                self.sweeps,
            )
        else:
            nothing = _Progress([None] * len(terms), [0.0] * len(terms), [0.0] * len(x))
            orders = [(t, *(s for s in terms if s != t)) for t in terms]
            state, sweeps = (
                min(
                    (self._update_terms(x, mu, nothing, order) for order in orders),
                    key=lambda s: s.objective,
                ),
                COLD * self.sweeps,
            )
        for _ in range(sweeps - 1):
            last, state = state, self._update_terms(x, mu, state, terms, guarded=True)
            if not state.objective < last.objective * (1 - ENOUGH):
                break
        return state.thetas

    def _update_terms(
        self,
        x: Sequence[Tensor],
        mu: Mu,
        state: "_Progress",
        order: Sequence[int],
        guarded: bool = False,
    ) -> "_Progress":
        """The C step of each term. A first sweep takes what they give: retrained Thetas need not be
        in the set that they start from."""
        thetas, prices, errors = list(state.thetas), list(state.prices), list(state.errors)
        mus = mu_of_blocks(mu, len(x))
        for t in order:
            part, left = self.parts[t], self._left(x, thetas, t)
            theta = part.compression.compress(
                part.view.forward(list(left.values())), part.mu(mu, len(x)), thetas[t]
            )
            delta, price = (
                part.delta(theta, [block.shape for block in x]),
                part.compression.price(theta),
            )
            reached = {b: distortion(left[b], delta[b], mus[b]) for b in left}
            rise = sum(reached.values()) - sum(errors[b] for b in reached) + price - prices[t]
            if not guarded or rise < 0:
                thetas[t], prices[t] = theta, price
                for b, error in reached.items():
                    errors[b] = error
        return _Progress(thetas, prices, errors)

    def _one_pass(self, x: Sequence[Tensor], mu: Mu) -> list[Theta] | None:
        """Case (a) of the docstring."""
        sparse = [isinstance(part.compression, SPARSE) for part in self.parts]
        taken = [
            b
            for part, own in zip(self.parts, sparse, strict=True)
            if own
            for b in part.places(len(x))
        ]
        if len(set(taken)) < len(taken) or not all(
            own or is_fixed(part.compression) for part, own in zip(self.parts, sparse, strict=True)
        ):
            return None
        thetas: list[Any] = [None] * len(self.parts)
        for t in sorted(range(len(self.parts)), key=lambda t: sparse[t]):
            thetas[t] = self.parts[t].compression.compress(
                self.parts[t].view.forward(list(self._left(x, thetas, t).values())),
                self.parts[t].mu(mu, len(x)),
            )
        return thetas


class _Progress(NamedTuple):
    """Thetas and prices of the terms, and the distortion of each block."""

    thetas: list[Any]
    prices: list[float]
    errors: list[float]

    @property
    def objective(self) -> float:
        return sum(self.errors) + sum(self.prices)
