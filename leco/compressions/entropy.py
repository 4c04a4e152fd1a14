"""Entropy-coded quantization: the bits of the coded indices are the cost, so that training and
lossless coding work together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_count, check_number
from leco.compressions.entropy_descent import best_of, entropy_bits, theta_of
from leco.compressions.entropy_metric import family_in_metric
from leco.compressions.entropy_starts import starting_candidates
from leco.compressions.metric import Mu
from leco.compressions.protocol import Penalty
from leco.compressions.sorted_values import Sorted
from leco.theta import Codes, ZeroCodes


@dataclass(frozen=True)
class EntropyCodebook(Penalty[ZeroCodes | Codes]):
    """min mu/2 ||x - theta||^2 + alpha bits(theta), theta_i one of k values, 0 among them: pruning
    and quantization priced as they are coded.

    bits = n H(f) + 40 (values used), H(f) = -sum_j f_j log2 f_j with the frequencies f of the
    values among the n weights. A descent step in three moves, none of which raises the objective:

        lengths    l_j = -log2 f_j, the best code for given frequencies
        cells      z_i = argmin_j mu/2 (x_i - c_j)^2 + alpha l_j, intervals that are wider for
                   frequent values
        values     c_j = mean of the x_i in cell j; 0 stays 0

    The descent starts from the last Theta, from k-means codebooks of several sizes up to k (their
    value nearest to 0 becomes 0, and 0 also joins few values) and from uniform grids. It drops
    values that do not pay. So it is never worse than the last Theta, nor than such k-means followed
    by coding. On sorted data a sweep is O(k^2 + k log n); the sort, O(n log n), takes most of the
    time.

    In a metric the distortion is weighed and the rate stays the same. Cells are not intervals,
    values are weighted means, and a sweep is O(n k), less the weights that are certainly 0. The
    descent starts from the last Theta, from weighted k-means codebooks, from uniform grids, and
    from the Theta that one mu for each problem, the mean, gives. It tries the starts on a sample of
    at most 8192 weights of each problem, and goes on with all weights from the best ones and from
    the last Theta.

    Reference: Chou, Lookabaugh and Gray, IEEE Trans. ASSP 37, 1989 (entropy-constrained
    quantization).

    Args:
        alpha: price of a bit.
        k: the most values.
        zero: whether 0 is one of them; it is then in use wherever x lies on both sides of 0 (unless
            the last Theta leaves it idle). Without it the most frequent value is some small one,
            and nothing is pruned.

    >>> import torch, leco
    >>> x = torch.tensor([0.1, -0.2, 0.0, 0.3, 5.0, 5.2, -0.1, 0.2])
    >>> leco.EntropyCodebook(alpha=0.01, k=4).compress(x, mu=1.0).decompress()
    tensor([0.0000, 0.0000, 0.0000, 0.0000, 5.1000, 5.1000, 0.0000, 0.0000])
    """

    takes_metric: ClassVar[bool] = True

    alpha: float
    k: int = 16
    zero: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("EntropyCodebook: alpha", self.alpha)
        check_count("EntropyCodebook: k", self.k, 1, 256)

    def scaling(self) -> int | None:
        return 2

    def family(
        self, x: Tensor, mu: Mu, theta: ZeroCodes | Codes | None = None
    ) -> Callable[[float], ZeroCodes | Codes]:
        if isinstance(mu, Tensor):
            return family_in_metric(x, mu, self.k, self.zero, theta)
        data = Sorted(x.clone(memory_format=torch.contiguous_format).view(-1, x.shape[-1]))
        starts = starting_candidates(data, self.k, self.zero, theta)
        return lambda alpha: theta_of(
            x, data, best_of(data, starts, 2 * alpha / mu), 2 * alpha / mu, self.zero
        )

    def usage(self, theta: ZeroCodes | Codes) -> float:
        return float(entropy_bits(theta).sum())
