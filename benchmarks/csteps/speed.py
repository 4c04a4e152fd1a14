"""Time and memory of the C steps, each against the plain operation that it can't do without, in one
run.

    python benchmarks/csteps.py [--weights 25000000] [--record]

Ratios are medians over pairs, the C step and its yardstick in turn. Memory is the peak of the C
step above its input, in copies of the input, its result included.
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

import common
import torch
from rich.console import Console
from rich.table import Table

import leco

PRICE = 1e-4  # of a bit: 2.3 bits a weight


def warm(compression: Any, x: torch.Tensor) -> Callable[[], Any]:
    """The C step from the Theta of a slightly different x, as one LC step is from the next."""
    theta = compression.compress(x + 0.01 * x.std() * torch.randn_like(x), 1.0)
    return lambda: compression.compress(x, 1.0, theta)


def corrected(quantizer: Any) -> leco.Additive:
    """Quantized, but for the 1 % of the weights that are corrected."""
    return leco.Additive([(leco.Vector(), quantizer), (leco.Vector(), leco.TopK(0.01))])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=int, default=25_000_000)
    parser.add_argument(
        "--side", type=int, default=1200, help="side of the square matrix of the low-rank rows"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--record", action="store_true", help="write benchmarks/results/csteps.json"
    )
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(args.weights) * 0.05
    rows_of = x[: args.weights // 1000 * 1000].view(-1, 1000)
    fours = x[: args.weights // 4 * 4]
    matrix = torch.randn(args.side, args.side)
    kappa = args.weights // 20
    side = math.isqrt(args.weights)
    pruned = torch.where(torch.rand(side, side) < 0.05, x[: side * side].view(side, side), 0.0)
    place = args.weights - kappa + 1

    def sort() -> Any:
        return torch.sort(x)

    def svd() -> Any:
        return torch.linalg.svd(matrix, full_matrices=False)

    eights = x[: args.weights // 8 * 8].view(-1, 8)
    codewords = torch.randn(8, 256)

    def products() -> None:
        for part in eights.split(4096):
            torch.mm(part, codewords)

    def cold(compression: Any, array: torch.Tensor = x) -> Callable[[], Any]:
        return lambda: compression.compress(array, 1.0)

    kernel = torch.randn(256, 256, 3, 3)
    last = kernel.permute(0, 2, 3, 1).contiguous()

    def svd_of_kernel() -> Any:
        return torch.linalg.svd(kernel.flatten(1), full_matrices=False)

    parts = (
        leco.Part(leco.Matrix(), leco.RankSelection(0), (0,), unit=4),
        leco.Part(leco.Vector(), leco.L0Penalty(0), (1,), unit=5),
    )
    # half of the matrix's bytes, 4 % of the weights
    budget = leco.Budget(parts, limit=2 * matrix.numel() + 0.2 * x.numel())

    choice = leco.Choice(
        1e-6,
        [
            (leco.Vector(), leco.Binary()),
            (leco.Vector(), leco.Codebook(4)),
            leco.Part(leco.Vector(), leco.L0Penalty(0), unit=40),
        ],
    )
    cases: list[
        tuple[str, Callable[[], Any], str, Callable[[], Any], float | None, torch.Tensor]
    ] = [
        ("Binary()", cold(leco.Binary()), "x.abs().mean()", lambda: x.abs().mean(), 3.0, x),
        (
            "TopK, 5 %",
            cold(leco.TopK(kappa)),
            "kthvalue of abs(x)",
            lambda: x.abs().kthvalue(place),
            1.2,
            x,
        ),
        (
            "TopK, 5 %",
            cold(leco.TopK(kappa)),
            "topk of abs(x)",
            lambda: x.abs().topk(kappa),
            1.2,
            x,
        ),
        ("Ternary()", cold(leco.Ternary()), "torch.sort", sort, 1.5, x),
        ("Codebook(16), cold", cold(leco.Codebook(16)), "torch.sort", sort, 3.0, x),
        ("Codebook(16), warm", warm(leco.Codebook(16), x), "torch.sort", sort, 1.0, x),
        (
            "EntropyCodebook(16), cold",
            cold(leco.EntropyCodebook(PRICE)),
            "torch.sort",
            sort,
            None,
            x,
        ),
        (
            "EntropyCodebook(16), warm",
            warm(leco.EntropyCodebook(PRICE), x),
            "torch.sort",
            sort,
            None,
            x,
        ),
        (
            "EntropyMatrix(16), 5 % nonzero",
            cold(leco.EntropyMatrix(PRICE), pruned),
            "torch.sort",
            lambda: pruned.view(-1).sort(),
            None,
            pruned,
        ),
        (
            "PowersOfTwo(4, scale)",
            cold(leco.PowersOfTwo(4, scale=True)),
            "torch.sort",
            sort,
            None,
            x,
        ),
        ("Uniform(4)", cold(leco.Uniform(4)), "torch.sort", sort, None, x),
        (
            "Uniform(8, zero_point)",
            cold(leco.Uniform(8, zero_point=True)),
            "torch.sort",
            sort,
            None,
            x,
        ),
        ("L1Ball", cold(leco.L1Ball(float(x.abs().sum()) / 10)), "torch.sort", sort, None, x),
        (
            "VectorCodebook(256, sweeps=3) of 8, cold",
            cold(leco.VectorCodebook(256, 3), eights),
            "x @ c.T, in parts",
            products,
            None,
            eights,
        ),
        (
            "VectorCodebook(256, sweeps=1) of 8, warm",
            warm(leco.VectorCodebook(256, 1), eights),
            "x @ c.T, in parts",
            products,
            None,
            eights,
        ),
        ("Hashed, 5 %", cold(leco.Hashed(kappa)), "x.abs().sum()", lambda: x.abs().sum(), None, x),
        (
            "Codebook(4), rows of 1,000",
            cold(leco.Codebook(4), rows_of),
            "torch.sort",
            sort,
            None,
            rows_of,
        ),
        ("NM(2, 4)", cold(leco.NM(2, 4), fours), "clone", lambda: fours.clone(), 5.0, fours),
        (
            "GroupTopK, half of rows of 1,000",
            cold(leco.GroupTopK(0.5), rows_of),
            "clone",
            lambda: rows_of.clone(),
            5.0,
            rows_of,
        ),
        (
            "GroupL0Penalty, rows of 1,000",
            cold(leco.GroupL0Penalty(1.25), rows_of),
            "clone",
            lambda: rows_of.clone(),
            5.0,
            rows_of,
        ),
        (
            "GroupL1Penalty, rows of 1,000",
            cold(leco.GroupL1Penalty(1.5), rows_of),
            "clone",
            lambda: rows_of.clone(),
            None,
            rows_of,
        ),
        ("L0Penalty, 5 %", cold(leco.L0Penalty(0.005)), "clone", lambda: x.clone(), None, x),
        (
            "Compose: TopK, 5 %, then Codebook(4), warm",
            warm(leco.Compose(leco.TopK(0.05), leco.Codebook(4)), x),
            "torch.sort",
            sort,
            None,
            x,
        ),
        ("Choice: Binary(), Codebook(4), L0Penalty", cold(choice), "torch.sort", sort, None, x),
        (
            "Additive: Binary() + TopK, 1 %, exact",
            warm(corrected(leco.Binary()), x),
            "torch.sort",
            sort,
            12.0,
            x,
        ),
        (
            "Additive: Codebook(4) + TopK, 1 %, warm",
            warm(corrected(leco.Codebook(4)), x),
            "torch.sort",
            sort,
            12.0,
            x,
        ),
        (
            "Additive: Ternary() + TopK, 1 %, warm",
            warm(corrected(leco.Ternary()), x),
            "torch.sort",
            sort,
            12.0,
            x,
        ),
        (
            "RankSelection",
            cold(leco.RankSelection(1.0), matrix),
            "torch.linalg.svd",
            svd,
            1.1,
            matrix,
        ),
        (
            "Budget: RankSelection + L0Penalty",
            lambda: budget.compress((matrix, x), 1.0),
            "svd and torch.sort",
            lambda: (svd(), sort()),
            None,
            x,
        ),
        (
            "Tucker2, 64 of 256 x 256 x 3 x 3",
            cold(leco.Tucker2((64, 64)), kernel),
            "svd, unfolding",
            svd_of_kernel,
            None,
            kernel,
        ),
        (
            "Tucker2, the same, warm",
            warm(leco.Tucker2((64, 64)), kernel),
            "svd, unfolding",
            svd_of_kernel,
            None,
            kernel,
        ),
        (
            "TuckerSelection",
            cold(leco.TuckerSelection(1.0), kernel),
            "svd, unfolding",
            svd_of_kernel,
            None,
            kernel,
        ),
        (
            "TensorTrain, 64",
            cold(leco.TensorTrain((64, 64, 64)), last),
            "svd, unfolding",
            svd_of_kernel,
            None,
            kernel,
        ),
        (
            "TensorTrain, 64, warm",
            warm(leco.TensorTrain((64, 64, 64)), last),
            "svd, unfolding",
            svd_of_kernel,
            None,
            kernel,
        ),
        ("CP(64)", cold(leco.CP(64), kernel), "svd, unfolding", svd_of_kernel, None, kernel),
        ("CP(64), warm", warm(leco.CP(64), kernel), "svd, unfolding", svd_of_kernel, None, kernel),
    ]
    table = Table(
        "C step",
        "s",
        "yardstick",
        "s",
        "ratio",
        "bound",
        "peak, copies",
        title=f"{args.weights:,} float32 weights",
    )
    rows = []
    for name, step, yardstick_name, yardstick, bound, array in cases:
        ours, theirs, ratio = common.paired(step, yardstick, args.repeats)
        copies = common.peak_bytes(step) / array.nbytes
        table.add_row(
            name,
            f"{ours:.3f}",
            yardstick_name,
            f"{theirs:.3f}",
            f"{ratio:.2f}",
            "" if bound is None else f"{bound}",
            f"{copies:.2f}",
        )
        rows.append(
            {
                "c_step": name,
                "seconds": ours,
                "yardstick": yardstick_name,
                "yardstick_seconds": theirs,
                "ratio": ratio,
                "bound": bound,
                "copies": copies,
            }
        )
    Console(width=120).print(table)
    if args.record:
        common.record("csteps", rows, weights=args.weights, side=args.side, repeats=args.repeats)


if __name__ == "__main__":
    main()
