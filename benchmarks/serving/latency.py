"""How long nets take that compute from a Theta, beside the dense one: packed, factorised, narrow.

    python -m benchmarks.serving.latency --references FOLDER [--nets resnet20 ...] [--record]

All variants of a net run in turns in one process, in float32. FOLDER has the trained nets
(benchmarks/proof/reference.py); --untrained takes random weights, which are as fast.
"""

import argparse
import copy
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import onnxruntime
import torch
from torch import Tensor, nn

import leco
from benchmarks import nets, records, timing
from benchmarks.file import lengths

BATCHES = (1, 64)
RANK = 64
PACKED = ("1 bit", "16 values", "4-bit grid", "5 % of the weights, 16 values")
Variants = dict[str, nn.Module]


def direct(model: nn.Module, tasks: dict[str, leco.Task]) -> leco.LC:
    lc = leco.LC(model, tasks)
    lc.mu = 1.0
    return lc


def low_rank(model: nn.Module) -> nn.Module:
    """Every layer but the last by a pair of a quarter of its full rank."""
    tasks = dict[str, leco.Task]()
    for name in lengths.layer_weights(model, nn.Linear, nn.Conv2d)[:-1]:
        rank = max(1, min(model.get_parameter(name).flatten(1).shape) // 4)
        tasks[name] = leco.Task(name, leco.Matrix(), leco.LowRank(rank))
    return leco.factorize(model, direct(model, tasks))


def half_the_filters(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Without half of the channels of every set that can be pruned."""
    model, half = copy.deepcopy(model), leco.GroupTopK(0.5)
    sets = leco.coupled(model, inputs)
    lc = direct(model, {n: leco.Task(own.params, own.view, half) for n, own in sets.items()})
    lc.project_()
    return leco.narrow(lc.model, inputs)


def timed(
    variants: Mapping[str, nn.Module], inputs: Callable[[int], tuple[Tensor, ...]], repeats: int
) -> list[dict[str, Any]]:
    """A row for each variant and batch; the first variant is the dense net.

    The rows have medians, minima, and the median ratio of neighbours in time.
    """
    found = list[dict[str, Any]]()
    for batch in BATCHES:
        x = inputs(batch)
        ways = {n: lambda net=net, x=x: net.eval()(*x) for n, net in variants.items()}
        with torch.inference_mode():
            times = timing.in_turn(ways, repeats)
        dense = next(iter(times.values()))
        for name, own in times.items():
            ratios = [a / b for a, b in zip(dense, own, strict=True)]
            row = {"variant": name, "batch": batch, "seconds": statistics.median(own)}
            row |= {"least_seconds": min(own), "times_faster": statistics.median(ratios)}
            found.append(row | {"least_times_faster": min(dense) / min(own)})
    return found


def variants(model: nn.Module, one: tuple[Tensor, ...], names: list[str]) -> Variants:
    """The dense net, smaller ones, and packed ones."""
    narrow = half_the_filters(model, one)
    before, after = (sum(leco.multiply_adds(each, *one).values()) for each in (model, narrow))
    fewer = f"({before / after:.1f} times fewer multiply-adds)"
    found = {"dense": model, "a quarter of the full ranks": low_rank(model)}
    found[f"half of the units or filters {fewer}"] = narrow
    for name in names:
        lc = lengths.compressed(model, name)
        for cache in ("none", "keep"):
            found[f"packed, {name}, cache {cache}"] = leco.pack(model, lc, cache=cache)
    return found


def rows(net: str, model: nn.Module, names: list[str], repeats: int) -> list[dict[str, Any]]:
    """Of all variants; nets with batch norms folded stand beside the dense one with folded ones."""
    every = variants(model, nets.inputs(net, 1), names)
    found = timed(every, lambda batch: nets.inputs(net, batch), repeats)
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        from torch.fx.experimental.optimization import fuse  # the import warns of torch.jit

        both = {n: own for n, own in every.items() if n.startswith(("dense", "half"))}
        folded = {
            f"{n}, batch norms folded": fuse(copy.deepcopy(o).eval()) for n, o in both.items()
        }
        found += timed(folded, lambda batch: nets.inputs(net, batch), repeats)
    return [{"net": net, **row} for row in found]


class Session(nn.Module):
    """A layer with weights on a grid in onnxruntime (MatMulNBits), with torch's threads."""

    def __init__(self, layer: nn.Linear, bits: int, level: Literal[1, 4]):
        super().__init__()
        lc = direct(layer, leco.each(["weight"], leco.Rows(), leco.Uniform(bits)))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        x = torch.zeros(2, layer.in_features)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.onnx"
            leco.export_onnx(path, layer, lc, x, weights="nbits", accuracy_level=level)
            self.session = onnxruntime.InferenceSession(path.read_bytes(), options)

    def forward(self, x: Tensor) -> Any:
        return self.session.run(None, {self.session.get_inputs()[0].name: x.numpy()})


def linear_rows(side: int, repeats: int) -> list[dict[str, Any]]:
    """A Linear layer, its low-rank pair, and its grids in onnxruntime."""
    dense = nn.Linear(side, side)
    lc = direct(dense, leco.each(["weight"], leco.Matrix(), leco.LowRank(RANK)))
    every: Variants = {"dense": dense, f"pair of rank {RANK}": leco.factorize(dense, lc)}
    for bits in (4, 8):
        every[f"onnxruntime, {bits} bits, products in float32"] = Session(dense, bits, 1)
        every[f"onnxruntime, {bits} bits, products in int8"] = Session(dense, bits, 4)
    found = timed(every, lambda batch: (torch.randn(batch, side),), repeats)
    return [{"net": f"Linear {side} x {side}", **row} for row in found]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lengths.add_nets(parser)
    parser.set_defaults(compressions=list(PACKED))
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--side", type=int, default=2048, help="of a Linear layer; 0: none")
    parser.add_argument("--record", action="store_true", help="add a line to results/serving.jsonl")
    args = parser.parse_args()
    models = lengths.models(args, parser)
    load, found = os.getloadavg()[0], list[dict[str, Any]]()
    for net, (model, _) in models.items():
        found += rows(net, model, args.compressions, args.repeats)
    if args.side:
        found += linear_rows(args.side, args.repeats)
    records.show("latency", found)
    if args.record:
        origins = {net: origin for net, (_, origin) in models.items()}
        how = {"load_average": load, "repeats": args.repeats}
        records.append("serving", "latency", **how, references=origins, rows=found)


if __name__ == "__main__":
    main()
