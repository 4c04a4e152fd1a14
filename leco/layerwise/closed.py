"""Low ranks in closed form: with one H for all rows, the loss is a plain distance of W H^(1/2)."""

from typing import TYPE_CHECKING

import torch

from leco.compressions.lowrank import LowRank, RankSelection
from leco.theta import Dense, Factors

if TYPE_CHECKING:
    from leco.layerwise.solve import Problem


def in_closed_form(problem: "Problem") -> Factors | Dense | None:
    """The Theta of least objective of `LowRank` and `RankSelection`; None where there is no closed
    form, as in other compressions, and in matrices whose columns are not the inputs.

    With Y = W0 H^(1/2), tr((W - W0) H (W - W0)') = ||W H^(1/2) - Y||^2, and H^(1/2) leaves ranks as
    they are: the C step of Y, times H^(-1/2). Wang et al. (SVD-LLM), arXiv 2403.07378.
    """
    compression, layers = problem.task.compression, problem.layers
    moments, several = layers[0].moments, len(layers) > 1
    shared = all(layer.moments is moments for layer in layers)
    if not isinstance(compression, LowRank | RankSelection) or not shared or len(moments.s) > 1:
        return None

    # Y in the basis of H, each layer by the root of its weight
    root = moments.s.clamp(min=1e-12).sqrt()
    scales = [layer.weight**0.5 for layer in layers]
    parts = [layer.trained * root * scale for layer, scale in zip(layers, scales, strict=True)]
    x, rows = problem.array(parts), torch.cat([part[0] for part in parts])
    turned = x.shape != rows.shape or not torch.equal(x, rows)
    if turned and (several or x.shape != rows.mT.shape or not torch.equal(x, rows.mT)):
        return None

    # back in units of W
    theta = compression.compress(x, 1.0)
    if isinstance(theta, Dense):
        return Dense(problem.array(layer.w0 for layer in layers).clone())
    left, right = (theta.v.mT, theta.u.mT) if turned else theta
    counts = torch.tensor([part.shape[1] for part in parts], device=x.device)
    left = left / left.new_tensor(scales).repeat_interleave(counts).unsqueeze(-1)
    right = moments.straight((right / root).unsqueeze(0))[0]
    return Factors(right.mT, left.mT) if turned else Factors(left, right)
