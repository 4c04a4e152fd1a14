"""Time of the C steps against the number of weights, from 10^4 to 10^8, and of k-means elsewhere.

    python -m benchmarks.csteps.scaling [--largest 8] [--record]

Each C step stands beside torch.sort of the same weights, whose n log n is the aim, and k-means
beside scikit-learn and kmeans1d. The least of a few repeats is kept.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

import leco
from benchmarks import records, timing

SLOW = {"scikit-learn, one start": 6, "scikit-learn, ten starts": 5, "kmeans1d": 6}
"""The largest power of ten of peers that take minutes above it."""


def c_steps(x: Tensor) -> dict[str, Callable[[], Any]]:
    """Cold C steps of one row; `warm` from the Theta of slightly different weights."""
    sixteen = leco.Codebook(16, exact=False)
    near = sixteen.compress(x + 0.01 * torch.randn_like(x), 1.0)
    both = [(leco.Vector(), leco.Binary()), (leco.Vector(), leco.TopK(0.01))]
    return {
        "Binary()": lambda: leco.Binary().compress(x, 1.0),
        "Ternary()": lambda: leco.Ternary().compress(x, 1.0),
        "Codebook(2)": lambda: leco.Codebook(2).compress(x, 1.0),
        "Codebook(16), cold": lambda: sixteen.compress(x, 1.0),
        "Codebook(16), warm": lambda: sixteen.compress(x, 1.0, near),
        "TopK, 5 %": lambda: leco.TopK(0.05).compress(x, 1.0),
        "Binary() + 1 %": lambda: leco.Additive(both).compress(x, 1.0),
        "torch.sort": lambda: torch.sort(x),
    }


def peers(x: Tensor) -> dict[str, Callable[[], float]]:
    """k-means with 16 values; each gives its distortion."""
    import kmeans1d
    from sklearn.cluster import KMeans

    column, plain = x.numpy()[:, None], x.double()

    def exact() -> float:
        found = kmeans1d.cluster(cast(Any, plain.numpy()), 16)
        values = torch.tensor(found.centroids, dtype=torch.float64)
        return distortion(plain, values[torch.tensor(found.clusters)])

    def sklearn(starts: Any) -> float:
        return cast(Any, KMeans(16, n_init=starts, random_state=0).fit(column)).inertia_

    return {
        "scikit-learn, one start": lambda: sklearn(1),
        "scikit-learn, ten starts": lambda: sklearn(10),
        "kmeans1d": exact,
    }


def distortion(x: Tensor, other: Tensor) -> float:
    return float((x.double() - other.double()).square().sum())


def least(function: Callable[[], Any], budget: float = 2.0) -> float:
    """The least seconds of up to five runs, which take `budget` seconds in all."""
    found, start = [timing.seconds(function)], time.perf_counter()
    while len(found) < 5 and time.perf_counter() - start + found[-1] < budget:
        found.append(timing.seconds(function))
    return min(found)


def rows(power: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    x = torch.randn(10**power) * 0.05
    found = [{"c_step": name, "seconds": least(step)} for name, step in c_steps(x).items()]
    for name, peer in peers(x).items():
        if power <= SLOW[name]:
            found.append({"c_step": name, "seconds": least(peer), "distortion": peer()})
    ours = leco.Codebook(16, exact=False).compress(x, 1.0).decompress()
    found.append({"c_step": "Codebook(16), cold", "distortion": distortion(x, ours)})
    return [{"weights": len(x), **row} for row in found]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", type=int, default=8, help="the largest power of ten")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", action="store_true", help="add a line to results/csteps.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = list[dict[str, Any]]()
    for power in range(4, args.largest + 1):
        found += rows(power)
        print(*found[-12:], sep="\n", flush=True)
    if args.record:
        records.append("csteps", "scaling", rows=found)


if __name__ == "__main__":
    main()
