"""Where the nonzero entries of a matrix are, in few bits: a model that learns, row by row, which
columns have them.

Row i is announced by the class b_i of its number of nonzero entries r_i, its length in binary (0
for an empty row, 1 for 1, 2 for 2 to 3, 3 for 4 to 7, ...), coded by the classes' frequencies.
Given b_i, entry j of a row that is not empty is nonzero with probability

    p_ij = r^_i w_ij / sum_j w_ij,   w_ij = 5 (nonzero entries of column j in the rows above i) + 2,
                                     r^_i the middle of class b_i,

rounded to a whole number of 1/65536 from 1 to 61440. Everything is in integers, so that coder and
decoder agree on every machine. Pruned nets have many empty rows and columns (dead units, dark
pixels), which cost next to nothing here. An adaptive estimator as in Krichevsky and Trofimov, IEEE
Trans. Inf. Theory 27, 1981.
"""

import math

import torch
from torch import Tensor

ONE = 65536
MOST = 61440  # of 65536: no entry is taken for certain
GAIN, PRIOR = 5, 2


def row_classes(counts: Tensor) -> Tensor:
    """b_i from r_i."""
    powers = 2 ** torch.arange(32, device=counts.device)
    return torch.searchsorted(powers, counts, right=True)


def _middle(classes: Tensor) -> Tensor:
    """r^_i, doubled: 0, 2, 5, 11, 23, ... = 3 2^(b-1) - 1, the sum of the least and the greatest of
    the class."""
    return torch.where(classes > 0, 3 * 2 ** (classes - 1).clamp(min=0) - 1, 0)


def probabilities(classes: Tensor, above: Tensor) -> Tensor:
    """p_ij in units of 1/65536, (rows, n), from b (rows,) and the numbers of nonzero entries above
    (rows, n): int64."""
    weights = GAIN * above.long() + PRIOR
    return (
        ONE // 2 * _middle(classes).unsqueeze(1) * weights // weights.sum(1, keepdim=True)
    ).clamp(1, MOST)


def position_bits(nonzero: Tensor) -> Tensor:
    """The code length of the positions in a matrix (m, n) of bools, without that of the classes'
    table: a scalar, float64."""
    counts = nonzero.sum(1)
    classes = row_classes(counts)
    alive = counts > 0
    ones = nonzero[alive]
    weights = (GAIN * (ones.cumsum(0, dtype=torch.int32) - ones.int()) + PRIOR).float()
    p = weights * (
        _middle(classes[alive]) / 2 / weights.sum(1, dtype=torch.float64)
    ).float().unsqueeze(1)
    p = p.clamp_(1 / ONE, MOST / ONE)
    return (
        -torch.where(ones, p, 1 - p).log2_().sum(dtype=torch.float64)
        + code_bits(classes.bincount()).sum()
    )


def code_bits(counts: Tensor) -> Tensor:
    """counts * lengths, with the lengths -log2(counts / their sum) of the best code: (..., K),
    float64."""
    counts = counts.double()
    return -torch.xlogy(counts, counts / counts.sum(-1, keepdim=True).clamp(min=1)) / math.log(2)


class PlaceLengths:
    """What a nonzero entry costs more than a zero, in bits, by place: the symmetric form of the
    model, for a matrix (m, n) of bools as it is.

    log2((1 - p)/p) with p_ij = r_i c_j / N, at most 1/2, of the row's, the column's and all nonzero
    entries, the first two with half an entry more.
    """

    def __init__(self, nonzero: Tensor):
        self._rows, self._columns = (nonzero.sum(dim).float() + 0.5 for dim in (1, 0))
        self._rows /= self._rows.sum()
        self.least = float(self._bits(self._rows.max() * self._columns.max()))

    @staticmethod
    def _bits(p: Tensor) -> Tensor:
        return (1 / p.clamp(1 / ONE, 0.5) - 1).log2()

    def at(self, places: Tensor) -> Tensor:
        """Of entries, by their places in row-major order."""
        n = len(self._columns)
        return self._bits(self._rows[places // n] * self._columns[places % n])
