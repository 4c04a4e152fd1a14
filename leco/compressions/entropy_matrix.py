"""Entropy-coded quantization of a matrix whose positions are coded by rows and columns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.coding.contexts import PlaceLengths, code_bits, position_bits
from leco.compressions.cells import cells_of
from leco.compressions.checks import check_count, check_number
from leco.compressions.entropy import EntropyCodebook
from leco.compressions.entropy_descent import ENTRY_BITS, Candidates, borders
from leco.compressions.entropy_weighed import CHUNK, coded
from leco.compressions.metric import Mu
from leco.compressions.protocol import Penalty
from leco.theta import ZeroCodes

MATRIX_SWEEPS = 4


@dataclass(frozen=True)
class EntropyMatrix(Penalty[ZeroCodes]):
    """`EntropyCodebook` of one matrix x (m, n) that codes positions by rows and columns.

    Empty rows and columns, such as dead units, cost almost nothing:

        bits = positions, by the adaptive model of `leco.coding.contexts`
             + N H(f), for the values of the N nonzero weights
             + 40 (values used)

    A nonzero weight costs more bits where its row and its column have few others, so the result is
    structured. The C step is a descent step. It starts from the last Theta and from the Theta of
    `EntropyCodebook`, and repeats three moves:

        lengths    of values by their frequencies, and of places log2((1 - p_ij) / p_ij) with
                   p_ij = r_i c_j / N of the row and column counts
        codes      of least distortion + alpha lengths
        values     the means of their weights

    It keeps the Theta of least objective that it meets, so it is never worse than either start. A
    sweep is O(m n). In a metric the distortion is weighed, so that the price of a bit is
    alpha/mu_ij, and a sweep is O(m n k).

    Args:
        alpha: price of a bit.
        k: the most values, 0 included.

    >>> import torch, leco
    >>> x = torch.zeros(20, 30)
    >>> x[3, :15], x[:, 4] = 1.0, -1.0
    >>> single, matrix = leco.EntropyCodebook(0.01, 4), leco.EntropyMatrix(0.01, 4)
    >>> theta = matrix.compress(x, mu=1.0)
    >>> matrix.usage(theta) < 0.9 * single.usage(single.compress(x.view(-1), mu=1.0))
    True
    """

    takes_metric: ClassVar[bool] = True

    alpha: float
    k: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("EntropyMatrix: alpha", self.alpha)
        check_count("EntropyMatrix: k", self.k, 2, 256)

    def scaling(self) -> int | None:
        return 2

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if len(shape) != 2:
            raise ValueError(
                f"EntropyMatrix: takes one matrix, not an array of shape {tuple(shape)}; "
                "use the view leco.Matrix()"
            )

    def family(
        self, x: Tensor, mu: Mu, theta: ZeroCodes | None = None
    ) -> Callable[[float], ZeroCodes]:
        weights, unit = (mu, 1.0) if isinstance(mu, Tensor) else (None, float(mu))
        flat = EntropyCodebook(0.0, self.k).family(
            x.reshape(-1), mu if weights is None else weights.reshape(-1)
        )

        def descend(alpha: float) -> ZeroCodes:
            cold = flat(alpha)
            starts = [ZeroCodes(cold.indices.view(x.shape), cold.codebook)]
            if (
                theta is not None
                and theta.codebook.dim() == 1
                and 0 < theta.codebook.shape[0] < self.k
            ):
                starts.append(theta)
            return _descend_matrix(x, weights, starts, 2 * alpha / unit)

        return descend

    def usage(self, theta: ZeroCodes) -> float:
        return float(matrix_bits(theta))


def matrix_bits(theta: ZeroCodes) -> Tensor:
    """Positions, N H(f) + 40 (values used): a scalar."""
    counts = theta.indices.reshape(-1).bincount(minlength=theta.codebook.shape[-1] + 1)[1:].double()
    return (
        position_bits(theta.indices != 0)
        + code_bits(counts).sum()
        + ENTRY_BITS * counts.count_nonzero()
    )


def _descend_matrix(
    x: Tensor, weights: Tensor | None, starts: list[ZeroCodes], price: float
) -> ZeroCodes:
    """The best of the starts and of what a few sweeps from each of them give."""
    found = []
    for theta in starts:
        found.append(theta)
        for _ in range(MATRIX_SWEEPS):
            if theta.codebook.numel():
                theta = _sweep_matrix(x, weights, theta, price)
        found.append(theta)

    def objective(theta: ZeroCodes) -> float:
        squares = (x - theta.decompress()).square()
        squares = squares if weights is None else squares.mul_(weights)
        return float(squares.sum(dtype=torch.float64) + price * matrix_bits(theta))

    return min(found, key=objective)


def _sweep_matrix(x: Tensor, weights: Tensor | None, theta: ZeroCodes, price: float) -> ZeroCodes:
    """Codes for the lengths of the last ones, and values for these codes. In a metric the price of
    a bit is price/mu_i for weight i."""
    places = PlaceLengths(theta.indices != 0)
    counts = theta.indices.reshape(-1).bincount(minlength=theta.codebook.shape[-1] + 1)[1:].double()
    values, order = theta.codebook.double().sort()
    lengths = -torch.log2(counts / counts.sum())[order]

    # weights that may gain: a value gains at most x^2 less the least bits
    flat, least = x.reshape(-1), float(lengths.min()) + places.least
    prices: float | Tensor = price
    if weights is not None:
        prices = price / weights.reshape(-1)
    place = torch.arange(x.numel(), device=x.device)
    if price > 0 and least > 0:
        bound = torch.as_tensor(prices * least, device=x.device).sqrt()
        place = (flat.abs() > bound * (1 - 1e-6)).nonzero().squeeze(1)
    own = flat[place]
    if isinstance(prices, Tensor):
        prices = prices[place]

    # the best value of each, and whether it pays: x^2 - (x - c)^2 against the bits
    codes = _codes_of(own, prices, values, lengths)
    value, length = values.to(x.dtype)[codes], lengths.to(x.dtype)[codes]
    kept = value * (2 * own - value) > prices * (length + places.at(place).to(x.dtype))
    place, own, codes = place[kept], own[kept], codes[kept]

    # means of those that are kept
    d = torch.ones_like(own) if weights is None else weights.reshape(-1)[place]
    mass, total = (
        torch.zeros(len(values), dtype=torch.float64, device=x.device).index_add_(
            0, codes, terms.double()
        )
        for terms in (d, d * own)
    )
    used = codes.bincount(minlength=len(values)) > 0
    indices = torch.zeros(x.numel(), dtype=theta.indices.dtype, device=x.device)
    indices[place] = used.cumsum(0)[codes].to(indices.dtype)
    return ZeroCodes(indices.view(x.shape), (total[used] / mass[used]).to(x.dtype))


def _codes_of(x: Tensor, price: float | Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """The best of increasing values for each x (n,), at a price of a bit or one for each, by
    squared error and length alone."""
    if isinstance(price, Tensor):
        found = [
            coded(own[None], p[None], values[None], lengths[None]).squeeze(0)
            for own, p in zip(torch.split(x, CHUNK), torch.split(price, CHUNK), strict=True)
        ]
        return torch.cat(found).long()
    zero = torch.zeros_like(values, dtype=torch.bool)
    state = Candidates(*(field.view(1, 1, -1) for field in (values, zero, lengths)))
    return cells_of(x, borders(state, price).view(-1).to(x.dtype)).long()
