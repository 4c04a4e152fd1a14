"""Compressions of whole nets, by name."""

from collections.abc import Callable

import torch
from torch import nn

import leco
from leco.views import View

Names = tuple[str, ...]
Make = Callable[[nn.Module, Names], dict[str, leco.Task]]
PRUNED = (0.2, 0.1, 0.05, 0.02, 0.01)


def balance(model: nn.Module, names: Names) -> list[float]:
    """Of each layer in a budget: one over the root of its weights' size.

    The square of it weighs the distortion. Weights are small where a unit has many inputs, and this
    keeps such layers alive.
    """
    sizes = [float(model.get_parameter(name).detach().square().mean()) for name in names]
    return [round(size**-0.25, 3) for size in sizes]


def everything_within(
    limit: float, model: nn.Module, balanced: bool = True
) -> dict[str, leco.Task]:
    """All weights and biases, entropy-coded within so many bytes in all; each layer's distortion
    weighed by its size, or alike, as a metric weighs it."""
    names, biases = leco.match(model, "*.weight"), leco.match(model, "*.bias")
    sizes, coded = balance(model, names), leco.EntropyMatrix(0, 8)
    sizes = sizes if balanced else [1.0] * len(names)
    layers = leco.each_part(leco.Matrix(), coded, range(len(names)), 1 / 8, sizes)
    places = tuple(range(len(names), len(names) + len(biases)))
    rest = leco.Part(leco.Vector(), leco.EntropyCodebook(0, 8), places, 1 / 8, max(sizes))
    budget = leco.Budget((*layers, rest), limit)
    return {"all": leco.Task([*names, *biases], leco.Blocks(), budget)}


def weights(model: nn.Module) -> Names:
    """Of convolutions and Linear layers, from the first to the last."""
    layers = {
        type(module) for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    return leco.match(model, *layers)


def joint(compression: leco.Compression) -> Make:
    """One task for all layers."""
    return lambda model, names: {"all": leco.Task(names, leco.Vector(), compression)}


def layers(compression: leco.Compression) -> Make:
    return lambda model, names: leco.each(names, leco.Vector(), compression)


def channels(compression: leco.Compression) -> Make:
    """A codebook or scale for each output channel."""
    return lambda model, names: leco.each(names, leco.Rows(), compression)


def corrected(quantized: leco.Compression, share: float) -> Make:
    """Quantized by output channel, and a share of each layer's weights corrected."""
    return lambda model, names: leco.each(
        names,
        leco.Kernel(),
        leco.Additive([(leco.Rows(), quantized), (leco.Vector(), leco.TopK(share))]),
    )


def sparse_and_low_rank(share: float, rank: float) -> Make:
    def make(model: nn.Module, names: Names) -> dict[str, leco.Task]:
        found = {}
        for name in names:
            shape = leco.Matrix().shape([model.get_parameter(name).shape])
            terms = [
                (leco.Matrix(), leco.LowRank(max(1, round(rank * min(shape))))),
                (leco.Vector(), leco.TopK(share)),
            ]
            found[name] = leco.Task(name, leco.Kernel(), leco.Additive(terms))
        return found

    return make


def ranks(rank: int) -> Make:
    """The same rank in each layer but the last, whose rank is at most its number of classes."""
    return lambda model, names: leco.each(names[:-1], leco.Matrix(), leco.LowRank(rank))


def stored_ranks(alpha: float) -> Make:
    """By parameters."""
    return lambda model, names: leco.each(
        names, leco.Matrix(), leco.RankSelection(alpha, leco.storage)
    )


def ranked(
    model: nn.Module, names: Names, alpha: float, schemes: tuple[int, ...] = (1, 2)
) -> list[tuple[View, leco.Compression]]:
    """By multiply-adds: a convolution by the better scheme at each rank, a Linear as a matrix."""
    found = list[tuple[View, leco.Compression]]()
    counts = leco.multiply_adds(
        model, torch.zeros(1, 3, 32, 32, device=model.get_parameter(names[0]).device)
    )
    for name in names:
        weight = model.get_parameter(name)
        cost = leco.MultiplyAdds(counts[name.removesuffix(".weight")] // weight.numel())
        conv = leco.Kernel(), leco.ConvRankSelection(alpha, cost, schemes)
        found.append(conv if weight.ndim == 4 else (leco.Matrix(), leco.RankSelection(alpha, cost)))
    return found


def learned_ranks(alpha: float) -> Make:
    return lambda model, names: {
        name: leco.Task(name, *own)
        for name, own in zip(names, ranked(model, names, alpha), strict=True)
    }


def ranks_within(limit: float, schemes: tuple[int, ...] = (1, 2)) -> Make:
    """So many multiply-adds in all."""

    def make(model: nn.Module, names: Names) -> dict[str, leco.Task]:
        members = [
            leco.Part(view, compression, (i,))
            for i, (view, compression) in enumerate(ranked(model, names, 0.0, schemes))
        ]
        return {"all": leco.Task(names, leco.Blocks(), leco.Budget(members, limit))}

    return make


def coded_within(limit: int) -> Make:
    """Entropy-coded values for each layer, at most 8, in so many bytes in all.

    A layer's distortion counts by one over its weights' size.
    """

    def make(model: nn.Module, names: Names) -> dict[str, leco.Task]:
        parts = leco.each_part(
            leco.Vector(),
            leco.EntropyCodebook(0, 8),
            range(len(names)),
            1 / 8,
            balance(model, names),
        )
        return {"all": leco.Task(names, leco.Blocks(), leco.Budget(parts, limit))}

    return make


def mixed(model: nn.Module, names: Names) -> dict[str, leco.Task]:
    """Of LeNet300: 5,000 weights of layer 1, rank 10 in layer 2, 2 values in layer 3."""
    first, second, third = names
    return {
        "pruned": leco.Task(first, leco.Vector(), leco.TopK(5000)),
        "low rank": leco.Task(second, leco.Matrix(), leco.LowRank(10)),
        "quantized": leco.Task(third, leco.Vector(), leco.Codebook(2)),
    }


QUANTIZED: dict[str, Make] = {
    **{f"{k} values": layers(leco.Codebook(k)) for k in (2, 4, 8, 16)},
    "2 values, channels": channels(leco.Codebook(2)),
    "binary": layers(leco.Binary()),
    "binary, channels": channels(leco.Binary()),
    "ternary": layers(leco.Ternary()),
    **{f"{share:.0%} of the weights": joint(leco.TopK(share)) for share in PRUNED},
    **{
        f"{share:.0%} in 4 values": joint(leco.Compose(leco.TopK(share), leco.Codebook(4)))
        for share in PRUNED
    },
}
LENETS: dict[str, Make] = {
    **QUANTIZED,
    "powers of two": layers(leco.PowersOfTwo(3, scale=True)),
    "rank 10": ranks(10),
    **{f"ranks, alpha {alpha:g}": stored_ranks(alpha) for alpha in (1e-6, 1e-5, 5e-5)},
    "mixed": mixed,
    "2 values, layers 1 and 3": lambda model, names: layers(leco.Codebook(2))(
        model, (names[0], names[2])
    ),
    "2 values + 1 %": joint(
        leco.Additive([(leco.Vector(), leco.Codebook(2)), (leco.Vector(), leco.TopK(0.01))])
    ),
    **{
        f"{limit} bytes": lambda model, names, limit=limit: everything_within(limit, model)
        for limit in (1000, 2600, 3500, 8000)
    },
    **{
        f"{limit} bytes, layers alike": lambda model, names, limit=limit: everything_within(
            limit, model, balanced=False
        )
        for limit in (1000, 2600)
    },
}
RESNETS: dict[str, Make] = {
    **QUANTIZED,
    "binary, channels, inner": lambda model, names: channels(leco.Binary())(model, names[1:-1]),
    "ternary, channels": channels(leco.Ternary()),
    "binary + 1 %": corrected(leco.Binary(), 0.01),
    "binary + 3 %": corrected(leco.Binary(), 0.03),
    **{f"ranks, alpha {alpha:g}": learned_ranks(alpha) for alpha in (1e-9, 3e-9, 1e-8, 3e-8)},
    **{
        f"{limit:g} M multiply-adds": ranks_within(1e6 * limit)
        for limit in (17.4, 26.4, 43.3, 63.7, 68.7)
    },
    **{f"26.4 M multiply-adds, scheme {k}": ranks_within(26.4e6, (k,)) for k in (1, 2)},
    "low rank + 3 %": sparse_and_low_rank(0.03, 0.25),
    **{f"{limit} bytes": coded_within(limit) for limit in (11500, 34000)},
}


def tasks(net: str, model: nn.Module, compression: str) -> dict[str, leco.Task]:
    known = LENETS if net.startswith("lenet") else RESNETS
    if compression not in known:
        raise ValueError(f"{net}: no compression {compression!r}; there are {', '.join(known)}")
    return known[compression](model, weights(model))
