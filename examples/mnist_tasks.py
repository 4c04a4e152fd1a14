"""The compressions of `mnist.py`: from a model to its tasks."""

from collections.abc import Callable

import torch
from torch import nn

import leco
from leco.views import View

Names = tuple[str, ...]
Make = Callable[[nn.Module, Names], dict[str, leco.Task]]


def tasks(compression: str, model: nn.Module) -> dict[str, leco.Task]:
    """The tasks of a name in COMPRESSIONS, or of a budget such as "9000 bytes"."""
    if compression.endswith(" bytes"):
        return within(float(compression.split()[0]), model)
    return COMPRESSIONS[compression](model, leco.match(model, "*.weight"))


def balance(model: nn.Module, weights: Names) -> list[float]:
    """One over the root of the size of each layer's weights; its square weighs the distortion.

    Weights are small in units with many inputs; this keeps such layers alive in a budget.
    """
    return [
        round(float(model.get_parameter(name).detach().square().mean()) ** -0.25, 3)
        for name in weights
    ]


def within(limit: float, model: nn.Module) -> dict[str, leco.Task]:
    """One budget of bytes for entropy-coded weights and biases; the C step divides it."""
    weights, biases = leco.match(model, "*.weight"), leco.match(model, "*.bias")
    sizes = balance(model, weights)
    count, total = len(weights), len(weights) + len(biases)
    layers = leco.each_part(leco.Matrix(), leco.EntropyMatrix(0, 8), range(count), 1 / 8, sizes)
    rest = leco.Part(
        leco.Vector(), leco.EntropyCodebook(0, 8), tuple(range(count, total)), 1 / 8, max(sizes)
    )
    budget = leco.Budget((*layers, rest), limit)
    return {"all": leco.Task([*weights, *biases], leco.Blocks(), budget)}


def units(model: nn.Module, weights: Names) -> dict[str, leco.Task]:
    """Half of the hidden units or channels of each layer."""
    sets = leco.coupled(model, torch.zeros(1, 1, 28, 28))
    return {
        name: leco.Task(own.params, own.view, leco.GroupTopK(0.5)) for name, own in sets.items()
    }


def joint(compression: leco.Compression) -> Make:
    """One task and one vector for all layers."""
    return lambda model, weights: {"all": leco.Task(weights, leco.Vector(), compression)}


def layerwise(view: View, compression: leco.Compression) -> Make:
    """A task for each layer."""
    return lambda model, weights: leco.each(weights, view, compression)


def parts(compression: leco.Compression) -> Make:
    """One task for all layers, as blocks."""
    return lambda model, weights: {"all": leco.Task(weights, leco.Blocks(), compression)}


CHOICE = leco.Choice(
    alpha=0,
    candidates=(
        (leco.Rows(), leco.Binary()),
        (leco.Vector(), leco.Codebook(4)),
        (leco.Vector(), leco.EntropyCodebook(0, 8)),
        leco.Part(leco.Matrix(), leco.RankSelection(0), unit=32),
    ),
)
COMPRESSIONS: dict[str, Make] = {
    "codebook2": layerwise(leco.Vector(), leco.Codebook(2)),
    "binary": layerwise(leco.Vector(), leco.Binary()),
    "prune5": joint(leco.TopK(0.05)),
    "ranks": layerwise(leco.Matrix(), leco.RankSelection(alpha=1e-6, cost=leco.storage)),
    "codebook2 + 1 %": joint(
        leco.Additive([(leco.Vector(), leco.Codebook(2)), (leco.Vector(), leco.TopK(0.01))])
    ),
    "binary + 1 %": joint(
        leco.Additive([(leco.Vector(), leco.Binary()), (leco.Vector(), leco.TopK(0.01))])
    ),
    "two codebooks": layerwise(
        leco.Kernel(),
        leco.Additive([(leco.Vector(), leco.Codebook(2)), (leco.Rows(), leco.Binary())]),
    ),
    "low rank + 3 %": layerwise(
        leco.Kernel(),
        leco.Additive([(leco.Matrix(), leco.LowRank(8)), (leco.Vector(), leco.TopK(0.03))]),
    ),
    "5 %, 4 values": joint(leco.Compose(leco.TopK(0.05), leco.Codebook(4))),
    "rank 8, 8 bits": layerwise(leco.Matrix(), leco.Compose(leco.LowRank(8), leco.Uniform(8))),
    "2:4": layerwise(leco.Matrix(), leco.NM(2, 4)),
    "units": units,
    "4 weights a codeword": layerwise(leco.Groups(4), leco.VectorCodebook(16)),
    "hashed": joint(leco.Hashed(8000)),
    "choice in 20 kB": parts(
        leco.Budget(leco.each_part(leco.Kernel(), CHOICE, range(3), unit=1 / 8), limit=20_000)
    ),
    # LeNet5: the second convolution, 25,000 weights, by 1,500 numbers; the first Linear, 400,000
    # weights, by 6,342
    "tensors": lambda model, weights: {
        "conv": leco.Task("2.weight", leco.Kernel(), leco.Tucker2((8, 5))),
        "fc": leco.Task("5.weight", leco.Reshape((20, 25, 50, 16)), leco.TensorTrain((15, 6, 12))),
    },
}
