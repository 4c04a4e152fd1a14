"""Measured time of a layer as a low-rank pair, by rank."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from leco.algorithm.compressed import Compressed
from leco.compressions.costs import Table
from leco.layers.factorize import LAYERS, factorize
from leco.measure.latency import in_turns, sampler
from leco.theta import Factors
from leco.views import Matrix


def measured_ranks(
    layer: nn.Module, inputs: Tensor, ranks: Sequence[int] | None = None, repeats: int = 30
) -> Table:
    """Seconds of a layer as a low-rank pair, by rank, measured on this machine: a cost for
    `leco.RankSelection(alpha, cost=...)`.

    The pair is that of `leco.factorize`, for a convolution by scheme 1. Each of `ranks` is timed.
    Ranks between are interpolated linearly, and ranks below and above have the time of the nearest
    one. No rank costs more than the dense layer, which is the cost of full rank.

    Args:
        layer: an nn.Linear, Conv1d, Conv2d or Conv3d; it is not changed.
        inputs: a batch of what reaches the layer, of the size that it will run at.
        ranks: from 1 to min(out, in x kernel); None for 1, 2, 3, 4, 6, 8, 12, 16, 24, ....
        repeats: samples for each rank, of a millisecond at least; their median counts.

    Raises:
        ValueError: a layer of another class, a rank out of its bounds, no repeats.

    >>> import leco, torch
    >>> layer = torch.nn.Linear(100, 50)
    >>> cost = leco.measured_ranks(layer, torch.randn(8, 100), ranks=[4, 16], repeats=3)
    >>> len(cost.values), cost.values[50] == max(cost.values)
    (51, True)
    """
    if type(layer) not in LAYERS:
        raise ValueError(
            f"measured_ranks: layer is a {type(layer).__name__}, "
            f"must be one of {', '.join(kind.__name__ for kind in LAYERS)}"
        )
    weight = layer.get_parameter("weight")
    m, n = Matrix().shape([weight.shape])
    full = min(m, n)
    ranks = _usual_ranks(full) if ranks is None else sorted(set(ranks))
    if not ranks or not 1 <= ranks[0] <= ranks[-1] <= full or repeats < 1:
        raise ValueError(
            f"measured_ranks: ranks = {ranks} must be from 1 to {full}, "
            f"repeats = {repeats} at least 1"
        )
    pairs = [_low_rank(layer, _pair(weight, m, n, rank)) for rank in ranks]
    with torch.inference_mode():
        calls = [sampler(lambda net=net: net(inputs)) for net in (layer, *pairs)]
        samples = in_turns(calls, repeats)
    dense, *measured = (float(np.median(own)) for own in samples)
    between = (min(float(value), dense) for value in np.interp(range(full), ranks, measured))
    return Table([*between, dense])


def _low_rank(layer: nn.Module, theta: Factors) -> nn.Module:
    shapes = {"weight": layer.get_parameter("weight").shape}
    return factorize(layer, {"weight": Compressed(shapes, Matrix(), theta)})


def _usual_ranks(full: int) -> list[int]:
    return sorted(
        {
            rank
            for power in range(full.bit_length())
            for rank in (2**power, 3 * 2**power // 2)
            if rank <= full
        }
    )


def _pair(like: Tensor, m: int, n: int, rank: int) -> Factors:
    generator = torch.Generator().manual_seed(0)
    return Factors(
        *(
            torch.randn(size, generator=generator).to(like) / rank**0.5
            for size in ((m, rank), (rank, n))
        )
    )
