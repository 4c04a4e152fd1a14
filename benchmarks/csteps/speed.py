"""Time and memory of the C steps, each beside the plain operation that it can't do without.

    python -m benchmarks.csteps.speed [--weights 25000000] [--record]

Ratios are medians over pairs: the C step and its yardstick in turn. Memory is the peak of the C
step above its input, in copies of the input, its result included.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

import leco
from benchmarks import records, timing

PRICE = 1e-4  # of a bit: 2.3 bits a weight


class Case(NamedTuple):
    name: str
    step: Callable[[], Any]
    yardstick: str
    plain: Callable[[], Any]
    bound: float | None
    x: Tensor


def cold(compression: leco.Compression[Any], x: Tensor) -> Callable[[], Any]:
    return lambda: compression.compress(x, 1.0)


def warm(compression: leco.Compression[Any], x: Tensor) -> Callable[[], Any]:
    """The C step from the Theta of a slightly different x, as one LC step is from the next."""
    theta = compression.compress(x + 0.01 * x.std() * torch.randn_like(x), 1.0)
    return lambda: compression.compress(x, 1.0, theta)


def corrected(quantizer: leco.Compression[Any]) -> leco.Additive:
    """Quantized, but for the 1 % of the weights that are corrected."""
    return leco.Additive([(leco.Vector(), quantizer), (leco.Vector(), leco.TopK(0.01))])


def simple(x: Tensor) -> Iterator[Case]:
    """C steps of a vector beside one pass over it, or a selection."""
    kappa, n = len(x) // 20, len(x)

    def case(name: str, compression: Any, plain: Callable[[], Any], yardstick: str, bound: Any):
        return Case(name, cold(compression, x), yardstick, plain, bound, x)

    def kth() -> Tensor:
        return x.abs().kthvalue(n - kappa + 1).values

    five = leco.TopK(kappa)
    yield case("Binary()", leco.Binary(), lambda: x.abs().mean(), "x.abs().mean()", 3.0)
    yield case("TopK, 5 %", five, kth, "kthvalue of abs(x)", 1.2)
    yield case("TopK, 5 %", five, lambda: x.abs().topk(kappa), "topk of abs(x)", 1.2)
    yield case("Hashed, 5 %", leco.Hashed(kappa), lambda: x.abs().sum(), "x.abs().sum()", None)
    yield case("L0Penalty, 5 %", leco.L0Penalty(0.005), x.clone, "clone", None)


def in_rows(x: Tensor) -> Iterator[Case]:
    """C steps of groups beside a copy."""
    rows = x[: len(x) // 1000 * 1000].view(-1, 1000)
    fours = x[: len(x) // 4 * 4]
    four_values = cold(leco.Codebook(4), rows)
    yield Case("Codebook(4), rows of 1,000", four_values, "torch.sort", x.sort, None, rows)
    for name, compression, array, bound in (
        ("NM(2, 4)", leco.NM(2, 4), fours, 5.0),
        ("GroupTopK, half of rows of 1,000", leco.GroupTopK(0.5), rows, 5.0),
        ("GroupL0Penalty, rows of 1,000", leco.GroupL0Penalty(1.25), rows, 5.0),
        ("GroupL1Penalty, rows of 1,000", leco.GroupL1Penalty(1.5), rows, None),
    ):
        yield Case(name, cold(compression, array), "clone", array.clone, bound, array)


def in_metric(compression: leco.Compression[Any], x: Tensor) -> Callable[[], Any]:
    """`warm` in a metric."""
    mu = 0.1 + torch.rand_like(x)
    last = compression.compress(x + 0.01 * x.std() * torch.randn_like(x), mu)
    return lambda: compression.compress(x, mu, last)


def sorting(x: Tensor) -> Iterator[Case]:
    """C steps of a vector beside torch.sort."""
    powers, entropy = leco.PowersOfTwo(4, scale=True), leco.EntropyCodebook(PRICE)
    parts = [(leco.Vector(), leco.Binary()), (leco.Vector(), leco.Codebook(4))]
    third = leco.Part(leco.Vector(), leco.L0Penalty(0), unit=40)
    both = leco.Compose(leco.TopK(0.05), leco.Codebook(4))
    binary, four, ternary = leco.Binary(), leco.Codebook(4), leco.Ternary()
    for name, compression, start, bound in (
        ("Ternary()", leco.Ternary(), cold, 1.5),
        ("Codebook(16), cold", leco.Codebook(16), cold, 3.0),
        ("Codebook(16), warm", leco.Codebook(16), warm, 1.0),
        ("EntropyCodebook(16), cold", entropy, cold, None),
        ("EntropyCodebook(16), warm", entropy, warm, None),
        ("PowersOfTwo(4, scale)", powers, cold, None),
        ("Uniform(4)", leco.Uniform(4), cold, None),
        ("Uniform(8, zero_point)", leco.Uniform(8, zero_point=True), cold, None),
        ("L1Ball", leco.L1Ball(float(x.abs().sum()) / 10), cold, None),
        ("Compose: TopK, 5 %, then Codebook(4), warm", both, warm, None),
        (
            "Choice: Binary(), Codebook(4), L0Penalty",
            leco.Choice(1e-6, [*parts, third]),
            cold,
            None,
        ),
        ("Additive: Binary() + TopK, 1 %, exact", corrected(binary), warm, 12.0),
        ("Additive: Codebook(4) + TopK, 1 %, warm", corrected(four), warm, 12.0),
        ("Additive: Ternary() + TopK, 1 %, warm", corrected(ternary), warm, 12.0),
    ):
        yield Case(name, start(compression, x), "torch.sort", x.sort, bound, x)
    side = math.isqrt(len(x))
    pruned = torch.where(torch.rand(side, side) < 0.05, x[: side * side].view(side, side), 0.0)
    step, plain = cold(leco.EntropyMatrix(PRICE), pruned), pruned.view(-1).sort
    yield Case("EntropyMatrix(16), 5 % nonzero", step, "torch.sort", plain, None, pruned)


def codewords(x: Tensor) -> Iterator[Case]:
    """Vector quantization beside the products with all codewords."""
    eights = x[: len(x) // 8 * 8].view(-1, 8)
    words = torch.randn(8, 256)

    def products() -> None:
        for part in eights.split(4096):
            torch.mm(part, words)

    for sweeps, how, start in ((3, "cold", cold), (1, "warm", warm)):
        name = f"VectorCodebook(256, sweeps={sweeps}) of 8, {how}"
        step = start(leco.VectorCodebook(256, sweeps), eights)
        yield Case(name, step, "x @ c.T, in parts", products, None, eights)

    # a codebook for each 2,048 vectors of 4
    n = min(2048, len(x) // 4)
    fours = x[: len(x) // (4 * n) * 4 * n].view(-1, n, 4)
    each, four_words = leco.VectorCodebook(16), torch.randn(len(fours), 4, 16)
    for how, step in (
        ("cold", cold(each, fours)),
        ("warm", warm(each, fours)),
        ("warm, metric", in_metric(each, fours)),
    ):
        name = f"VectorCodebook(16) of {n:,} vectors of 4 each, {how}"
        yield Case(name, step, "bmm", lambda: torch.bmm(fours, four_words), None, fours)


def matrices(x: Tensor, side: int, channels: int) -> Iterator[Case]:
    """Low rank and tensors beside one SVD."""
    matrix, kernel = torch.randn(side, side), torch.randn(channels, channels, 3, 3)

    def svd(of: Tensor = matrix) -> Any:
        return torch.linalg.svd(of.flatten(1), full_matrices=False)

    ranks = cold(leco.RankSelection(1.0), matrix)
    yield Case("RankSelection", ranks, "torch.linalg.svd", svd, 1.1, matrix)

    # half of the matrix's bytes, 4 % of the weights
    first = leco.Part(leco.Matrix(), leco.RankSelection(0), (0,), unit=4)
    second = leco.Part(leco.Vector(), leco.L0Penalty(0), (1,), unit=5)
    budget = leco.Budget((first, second), limit=2 * matrix.numel() + 0.2 * len(x))
    name, plain = "Budget: RankSelection + L0Penalty", lambda: (svd(), x.sort())
    step = lambda: budget.compress((matrix, x), 1.0)  # noqa: E731
    yield Case(name, step, "svd and torch.sort", plain, None, x)

    last = kernel.permute(0, 2, 3, 1).contiguous()
    r = channels // 4
    tucker, train = leco.Tucker2((r, r)), leco.TensorTrain((r, r, r))
    for name, step in (
        (f"Tucker2, {r} of {channels} x {channels} x 3 x 3", cold(tucker, kernel)),
        ("Tucker2, the same, warm", warm(tucker, kernel)),
        ("TuckerSelection", cold(leco.TuckerSelection(1.0), kernel)),
        (f"TensorTrain, {r}", cold(train, last)),
        (f"TensorTrain, {r}, warm", warm(train, last)),
        (f"CP({r})", cold(leco.CP(r), kernel)),
        (f"CP({r}), warm", warm(leco.CP(r), kernel)),
    ):
        yield Case(name, step, "svd, unfolding", lambda: svd(kernel), None, kernel)


def measured(case: Case, repeats: int) -> dict[str, Any]:
    ours, theirs, ratio = timing.paired(case.step, case.plain, repeats)
    found = {"c_step": case.name, "seconds": ours, "yardstick": case.yardstick}
    found |= {"yardstick_seconds": theirs, "ratio": ratio, "bound": case.bound}
    return found | {"copies": timing.peak_bytes(case.step) / case.x.nbytes}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", default=[""], help="C steps whose names begin so")
    add("--weights", type=int, default=25_000_000)
    add("--side", type=int, default=1200, help="of the square matrix of the low-rank rows")
    add("--channels", type=int, default=256, help="of the 3 x 3 kernel of the tensor rows")
    add("--repeats", type=int, default=5)
    add("--record", action="store_true", help="add a line to results/csteps.jsonl")
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(args.weights) * 0.05
    last = matrices(x, args.side, args.channels)
    cases = chain(simple(x), in_rows(x), sorting(x), codewords(x), last)
    chosen = (case for case in cases if case.name.startswith(tuple(args.only)))
    rows = [measured(case, args.repeats) for case in chosen]
    records.show(f"{args.weights:,} float32 weights", rows)
    if args.record:
        how = {"weights": args.weights, "side": args.side, "repeats": args.repeats}
        records.append("csteps", "speed", **how, rows=rows)


if __name__ == "__main__":
    main()
