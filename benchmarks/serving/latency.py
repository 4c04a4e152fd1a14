"""How long nets take that compute from a Theta, beside the dense one: packed, factorised, narrow;
all variants in turns in one process."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import common
import nets
import onnxruntime
import torch
from torch import Tensor, nn

import leco

BATCHES = (1, 64)
SIDE, RANK = 2048, 64


def low_rank(model: nn.Module) -> nn.Module:
    """Every layer but the last by a pair of a quarter of its full rank."""
    weights = leco.match(
        model,
        *(
            kind
            for kind in (nn.Linear, nn.Conv2d)
            if any(isinstance(m, kind) for m in model.modules())
        ),
    )[:-1]
    quarter = {
        name: max(1, min(model.get_parameter(name).flatten(1).shape) // 4) for name in weights
    }
    lc = leco.LC(
        model,
        {
            name: leco.Task(name, leco.Matrix(), leco.LowRank(rank))
            for name, rank in quarter.items()
        },
    )
    lc.mu = 1.0
    return leco.factorize(model, lc)


def half_the_filters(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Without half of the channels of every set that can be pruned."""
    model = copy.deepcopy(model)
    sets = leco.coupled(model, inputs)
    lc = leco.LC(
        model,
        {name: leco.Task(own.params, own.view, leco.GroupTopK(0.5)) for name, own in sets.items()},
    )
    lc.mu = 1.0
    lc.project_()
    return leco.narrow(lc.model, inputs)


def filters(model: nn.Module) -> int:
    return sum(
        module.weight.shape[0] for module in model.modules() if isinstance(module, nn.Conv2d)
    )


def timed(
    variants: Mapping[str, nn.Module],
    make_inputs: Callable[[int], tuple[Tensor, ...]],
    repeats: int,
) -> list[dict[str, Any]]:
    """A row for each variant and batch; the first variant is the dense net. Medians, minima, and
    the median ratio of neighbours in time."""
    found = list[dict[str, Any]]()
    for batch in BATCHES:
        inputs = make_inputs(batch)
        with torch.inference_mode():
            times = common.in_turn(
                {
                    name: lambda net=net, inputs=inputs: net.eval()(*inputs)
                    for name, net in variants.items()
                },
                repeats,
            )
        dense = next(iter(times.values()))
        for name, own in times.items():
            ratios = sorted(a / b for a, b in zip(dense, own, strict=True))
            row = {
                "variant": name,
                "batch": batch,
                "seconds": sorted(own)[len(own) // 2],
                "least_seconds": min(own),
            }
            found.append(
                {
                    **row,
                    "times_faster": ratios[len(ratios) // 2],
                    "least_times_faster": min(dense) / min(own),
                }
            )
    return found


def rows(
    net: str, model: nn.Module, packed: Mapping[str, leco.LC], repeats: int
) -> list[dict[str, Any]]:
    one = nets.inputs(net, 1)
    variants: dict[str, nn.Module] = {
        "dense": model,
        "a quarter of the full ranks": low_rank(model),
    }
    narrow = half_the_filters(model, one)
    before, after = (sum(leco.multiply_adds(each, *one).values()) for each in (model, narrow))
    variants[f"half of the units or filters ({before / after:.1f} times fewer multiply-adds)"] = (
        narrow
    )
    for name, lc in packed.items():
        for cache in ("none", "keep"):
            variants[f"packed, {name}, cache {cache}"] = leco.pack(model, lc, cache=cache)
    found = timed(variants, lambda batch: nets.inputs(net, batch), repeats)
    # as nets are deployed: each convolution with its batch norm
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        from torch.fx.experimental.optimization import fuse  # the import warns of torch.jit

        folded = {
            f"{name}, batch norms folded": fuse(copy.deepcopy(own).eval())
            for name, own in variants.items()
            if own in (model, narrow)
        }
        found += timed(folded, lambda batch: nets.inputs(net, batch), repeats)
    return found


class Session(nn.Module):
    """A layer with weights on a grid, exported with integer products (MatMulNBits), in onnxruntime
    with torch's number of threads."""

    def __init__(self, layer: nn.Linear, bits: int, level: Literal[1, 4]):
        super().__init__()
        lc = leco.LC(layer, leco.each(["weight"], leco.Rows(), leco.Uniform(bits)))
        lc.mu = 1.0
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.onnx"
            leco.export_onnx(
                path,
                layer,
                lc,
                torch.zeros(2, layer.in_features),
                weights="nbits",
                accuracy_level=level,
            )
            self.session = onnxruntime.InferenceSession(path.read_bytes(), options)

    def forward(self, x: Tensor) -> Any:
        return self.session.run(None, {self.session.get_inputs()[0].name: x.numpy()})


def earlier() -> list[dict[str, Any]]:
    """The rows of the recorded run and those before it, at the largest batch, of nets that ought to
    be faster: ratios vary from run to run."""
    runs = [run["latency"] for run in common.load("artifact.json") if "latency" in run]
    wanted = [
        row
        for run in runs
        for row in run["rows"]
        if row["batch"] == max(BATCHES) and row["variant"].startswith(("half", "pair"))
    ]
    return [row for run in runs for row in run.get("earlier", [])] + wanted


def linear_rows(repeats: int) -> list[dict[str, Any]]:
    """A Linear layer, its low-rank pair, and its grids in onnxruntime."""
    dense = nn.Linear(SIDE, SIDE)
    lc = leco.LC(dense, leco.each(["weight"], leco.Matrix(), leco.LowRank(RANK)))
    lc.mu = 1.0
    variants: dict[str, nn.Module] = {
        "dense": dense,
        f"pair of rank {RANK}": leco.factorize(dense, lc),
    }
    for bits in (4, 8):
        variants[f"onnxruntime, {bits} bits, products in float32"] = Session(dense, bits, 1)
        variants[f"onnxruntime, {bits} bits, products in int8"] = Session(dense, bits, 4)
    found = timed(variants, lambda batch: (torch.randn(batch, SIDE),), repeats)
    return [{"net": f"Linear {SIDE} x {SIDE}", **row} for row in found]
