"""Products with packed weights: leco's, torch's kernels, torch.compile and torchao, as ratios to
the dense float32 layer of torch.

    python -m benchmarks.serving.kernels [--side 2048] [--record]

One thread. All ways of a form run in turns; the time is that of the processor, the least of the
repeats, so that other processes count less. "Largest error" is against the product in float64 with
the way's own weights, by the largest output. Weights and scales of torch's kernels are random.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import leco
from benchmarks import records

BATCHES = (1, 16, 64, 256)
FORMS: dict[str, tuple[Any, Any]] = {
    "8 bits, rows": (leco.Rows(), leco.Uniform(8)),
    "4 bits, rows": (leco.Rows(), leco.Uniform(4)),
    **{f"4 bits, groups of {n}": (leco.Groups(n), leco.Uniform(4)) for n in (128, 64, 32)},
    "2 bits, rows": (leco.Rows(), leco.Uniform(2)),
    "2 bits, groups of 64": (leco.Groups(64), leco.Uniform(2)),
    "ternary, rows": (leco.Rows(), leco.Ternary()),
    "ternary, groups of 64": (leco.Groups(64), leco.Ternary()),
    "1 bit, rows": (leco.Rows(), leco.Binary()),
    "16 values": (leco.Vector(), leco.Codebook(16)),
    "200 values": (leco.Vector(), leco.Codebook(200)),
}
COMPILED = ("4 bits, groups of 32",)
SLOW = 16
"""From so many vectors on, torch's float32 kernels take seconds."""
Way = tuple[Callable[[Tensor], Tensor], Tensor, torch.dtype]


def ways(form: str, side: int) -> Iterator[tuple[str, Way]]:
    """The ways to multiply with a form, each with its weight (out, in) and the type of its
    inputs."""
    view, compression = FORMS[form]
    layer = nn.Linear(side, side, bias=False)
    lc = leco.LC(layer, leco.each(["weight"], view, compression))
    lc.mu = 1.0
    delta = lc.delta["weight"].double()
    net = leco.pack(layer, lc).eval()
    yield "leco", (net, delta, torch.float32)
    if form in COMPILED:
        torch.compiler.reset()
        yield "leco, torch.compile", (torch.compile(net, dynamic=False), delta, torch.float32)
    if form.startswith("8 bits") or form.startswith("4 bits"):
        yield "torchao", (leco.export_torchao(layer, lc)[0].eval(), delta, torch.float32)
    for dtype in (torch.bfloat16, torch.float32):
        name = f"torch's kernel, {str(dtype).removeprefix('torch.')}"
        if form == "8 bits, rows":
            yield name, int8(side, dtype)
        elif form.startswith("4 bits, groups"):
            yield name, int4(side, int(form.split()[-1]), dtype)


def int8(side: int, dtype: torch.dtype) -> Way:
    levels = torch.randint(-127, 128, (side, side), dtype=torch.int8)
    scale = torch.rand(side, dtype=dtype)
    weight = levels.double() * scale.double().unsqueeze(1)
    return lambda x: torch._weight_int8pack_mm(x, levels, scale), weight, dtype


def int4(side: int, group: int, dtype: torch.dtype) -> Way:
    levels = torch.randint(0, 16, (side, side), dtype=torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 8)
    scale = torch.rand(side // group, side, dtype=dtype)
    both = torch.stack([scale, torch.zeros_like(scale)], -1).contiguous()
    weight = (levels.double() - 8) * scale.double().T.repeat_interleave(group, 1)
    kernel = torch.ops.aten._weight_int4pack_mm_for_cpu
    return lambda x: kernel(x, packed, group, both), weight, dtype


def least(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, float]:
    """The least seconds of the processor of each call, in turns."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            for _ in range(3):
                start = clock()
                call()
                found[name] = min(found[name], clock() - start)
    return found


def rows(form: str, side: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each way and batch."""
    dense, every, found = nn.Linear(side, side, bias=False), dict(ways(form, side)), []
    for batch in BATCHES:
        x = torch.randn(batch, side)
        calls: dict[str, Callable[[], Any]] = {"dense": lambda x=x: dense(x)}
        errors = dict[str, float]()
        for name, (run, weight, dtype) in every.items():
            if name == "torch's kernel, float32" and batch >= SLOW:
                continue
            own = x.to(dtype)
            wanted = own.double() @ weight.T
            errors[name] = float((run(own).double() - wanted).abs().max() / wanted.abs().max())
            calls[name] = lambda run=run, own=own: run(own)
        times = least(calls, repeats)
        for name, error in errors.items():
            row = {"form": form, "way": name, "batch": batch, "seconds": times[name]}
            row |= {"times_faster": times["dense"] / times[name], "error": error}
            found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--record", action="store_true", help="add a line to results/serving.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    load, found = os.getloadavg()[0], list[dict[str, Any]]()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for form in args.forms:
            found += rows(form, args.side, args.repeats)
    records.show("kernels", found)
    if args.record:
        how = {"load_average": load, "repeats": args.repeats, "side": args.side}
        records.append("serving", "kernels", **how, rows=found)


if __name__ == "__main__":
    main()
