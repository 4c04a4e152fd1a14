"""Scales and codebooks of many small problems, each beside torch.sort of the same array along its
rows: cold, warm, and warm in a metric, as layer-wise compression calls them.

    python -m benchmarks.csteps.many [--weights 1000000] [--record]

Ratios are medians over pairs: the C step and the sort in turn.
"""

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor

import leco
from benchmarks import records
from benchmarks.csteps.speed import Case, cold, in_metric, measured, warm

SIZES = (32, 64, 128, 1000)
COMPRESSIONS = (
    leco.Uniform(2),
    leco.Uniform(3),
    leco.Uniform(4),
    leco.Uniform(8),
    leco.Uniform(2, zero_point=True),
    leco.Uniform(4, zero_point=True),
    leco.Uniform(8, zero_point=True),
    leco.PowersOfTwo(4, scale=True),
    leco.Ternary(),
    leco.Codebook(4),
    leco.Codebook(16),
)
WARM, WEIGHED = 1.0, 2.0  # sorts, at most


def cases(x: Tensor) -> Iterator[Case]:
    for n in SIZES:
        rows = x[: len(x) // n * n].view(-1, n)
        for compression in COMPRESSIONS:
            first = 3.0 if isinstance(compression, leco.Uniform) else 6.0
            name = f"{compression}, {n} each"
            for how, step, bound in (
                ("cold", cold(compression, rows), first),
                ("warm", warm(compression, rows), WARM),
                ("warm in a metric", in_metric(compression, rows), WEIGHED),
            ):
                yield Case(f"{name}, {how}", step, "torch.sort", rows.sort, bound, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=int, default=10**6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="add a line to results/csteps.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = [measured(case, args.repeats) for case in cases(torch.randn(args.weights) * 0.05)]
    records.show(f"{args.weights:,} float32 weights", rows)
    if args.record:
        records.append("csteps", "many", weights=args.weights, repeats=args.repeats, rows=rows)


if __name__ == "__main__":
    main()
