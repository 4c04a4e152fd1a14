"""Time of the C steps against the number of weights, from 10^4 to 10^8, and against k-means of
scikit-learn and kmeans1d.

    python benchmarks/scaling.py [--largest 8] [--record]

Each C step stands beside torch.sort of the same weights, whose n log n is the aim; the least of a
few repeats is kept.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, cast

import common
import torch

import leco

# weights: above, minutes
PEERS_LIMIT = {
    "scikit-learn, one start": 10**6,
    "scikit-learn, ten starts": 10**5,
    "kmeans1d": 10**6,
}


def c_steps(x: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Cold C steps, of one row; `warm` from the Theta of slightly different weights."""
    near = leco.Codebook(16, exact=False).compress(x + 0.01 * torch.randn_like(x), 1.0)
    return {
        "Binary()": lambda: leco.Binary().compress(x, 1.0),
        "Ternary()": lambda: leco.Ternary().compress(x, 1.0),
        "Codebook(2)": lambda: leco.Codebook(2).compress(x, 1.0),
        "Codebook(16), cold": lambda: leco.Codebook(16, exact=False).compress(x, 1.0),
        "Codebook(16), warm": lambda: leco.Codebook(16, exact=False).compress(x, 1.0, near),
        "TopK, 5 %": lambda: leco.TopK(0.05).compress(x, 1.0),
        "Binary() + 1 %": lambda: leco.Additive(
            [(leco.Vector(), leco.Binary()), (leco.Vector(), leco.TopK(0.01))]
        ).compress(x, 1.0),
        "torch.sort": lambda: torch.sort(x),
    }


def peers(x: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """k-means with 16 values; each gives its distortion."""
    import kmeans1d
    from sklearn.cluster import KMeans

    column, plain = x.numpy()[:, None], x.double()

    def exact() -> float:
        found = kmeans1d.cluster(cast(Any, plain.numpy()), 16)
        return float(
            (
                plain
                - torch.tensor(found.centroids, dtype=torch.float64)[torch.tensor(found.clusters)]
            )
            .square()
            .sum()
        )

    def sklearn(starts: Any) -> float:
        return cast(Any, KMeans(16, n_init=starts, random_state=0).fit(column)).inertia_

    return {
        "scikit-learn, one start": lambda: sklearn(1),
        "scikit-learn, ten starts": lambda: sklearn(10),
        "kmeans1d": exact,
    }


def least(function: Callable[[], Any], budget: float = 2.0) -> float:
    """Seconds: the least of up to five runs that take `budget` seconds in all, at least one after a
    warm-up of the small ones."""
    found, start = [common.seconds(function)], time.perf_counter()
    while len(found) < 5 and time.perf_counter() - start + found[-1] < budget:
        found.append(common.seconds(function))
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", type=int, default=8, help="the largest power of ten")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--record", action="store_true", help="write benchmarks/results/scaling.json"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    for power in range(4, args.largest + 1):
        n = 10**power
        torch.manual_seed(0)
        x = torch.randn(n) * 0.05
        for name, step in c_steps(x).items():
            rows.append({"weights": n, "c_step": name, "seconds": least(step)})
        for name, peer in peers(x).items():
            if n <= PEERS_LIMIT[name]:
                rows.append(
                    {
                        "weights": n,
                        "c_step": name,
                        "seconds": least(peer),
                        "distortion": float(peer()),
                    }
                )
        ours = leco.Codebook(16, exact=False).compress(x, 1.0).decompress()
        rows.append(
            {
                "weights": n,
                "c_step": "Codebook(16), cold",
                "distortion": float((x.double() - ours.double()).square().sum()),
            }
        )
        for row in rows[-12:]:
            print(
                {
                    key: f"{value:.4g}" if isinstance(value, float) else value
                    for key, value in row.items()
                },
                flush=True,
            )
    if args.record:
        common.record("scaling", rows)


if __name__ == "__main__":
    main()
