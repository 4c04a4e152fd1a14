"""Lossless coding against the entropy, and of floats against zstd -19; how fast each is.

    python -m benchmarks.file.coding [--symbols 10000000] [--record]

Speeds are of whole calls of `encode` and `decode` on one thread, in processor time, the least of
some repeats. The entropy is that of the frequencies in the stream itself.
"""

import argparse
import math
import os
import time
from collections.abc import Callable
from typing import Any

import torch
import zstandard
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks import nets, records
from benchmarks.file.lengths import entropy_bytes, raw
from leco.coding.tensors import decode, encode

Row = dict[str, Any]


def timed(x: Tensor, repeats: int) -> tuple[Any, float, float]:
    """The coding, and the least seconds of `encode` and `decode`.

    What comes back is compared bit by bit.
    """
    coded = encode(x)
    if raw(decode(*coded, x.shape, x.dtype)) != raw(x):
        raise AssertionError("what was decoded is not what was encoded")
    writing = min(processor(lambda: encode(x)) for _ in range(repeats))
    reading = min(processor(lambda: decode(*coded, x.shape, x.dtype)) for _ in range(repeats))
    return coded, writing, reading


def processor(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def stream_row(name: str, x: Tensor, repeats: int) -> Row:
    (payload, coding), writing, reading = timed(x, repeats)
    entropy = entropy_bytes(x)
    return {
        "stream": name,
        "type": kind(x),
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
    """Integers of many alphabets and frequencies."""
    generator = torch.Generator().manual_seed(0)

    def drawn(odds: Tensor, count: int) -> Tensor:
        cuts = (odds.double().cumsum(0) / odds.double().sum())[:-1]
        uniform = torch.rand(count, dtype=torch.float64, generator=generator)
        return torch.bucketize(uniform, cuts).to(torch.uint8)

    def geometric(k: int) -> Tensor:
        return 0.5 ** torch.arange(k).clamp(max=20)

    def normal(k: int) -> Tensor:
        return torch.exp(-0.5 * (6 * (torch.arange(k) + 0.5) / k - 3) ** 2)

    # by alphabet
    found = {}
    for k in (2, 3, 4, 8, 16, 256):
        found[f"flat {k}"] = drawn(torch.ones(k), n)
        found[f"geometric {k}"] = drawn(geometric(k), n)
        found[f"normal {k}"] = drawn(normal(k), n)

    # masks, a matrix, and short streams
    for share in (0.3, 0.05, 0.001):
        found[f"mask, {100 * share:g} % True"] = drawn(torch.tensor([1 - share, share]), n).bool()
    side, odds = math.isqrt(n), torch.tensor([0.95, 0.02, 0.02, 0.01])
    found["matrix, 95 % one value"] = drawn(odds, side * side).view(side, side)
    for k in (2, 4, 16):
        found[f"geometric {k}, short"] = drawn(geometric(k), 10_001)
        found[f"normal {k}, short"] = drawn(normal(k), 10_001)
    side = min(2500, side)
    rows = torch.rand(side, 1, generator=generator) ** 3
    columns = torch.rand(side, generator=generator) ** 3
    found["mask by rows and columns"] = torch.rand(side, side, generator=generator) < rows * columns
    return found


def float_row(name: str, tensors: list[Tensor], repeats: int) -> Row:
    """All floats of a net, tensor by tensor; zstd gets them in one piece."""
    total = sum(x.nbytes for x in tensors)
    rows = [timed(x, repeats) for x in tensors]
    coded = sum(len(row[0].payload) for row in rows)
    packed = len(zstandard.ZstdCompressor(level=19).compress(b"".join(map(raw, tensors))))
    return {
        "net": name,
        "type": kind(tensors[0]),
        "raw_bytes": total,
        "bytes": coded,
        "ratio": round(coded / total, 4),
        "zstd_19_bytes": packed,
        "zstd_19_ratio": round(packed / total, 4),
        "encode_MB_s": round(total / sum(row[1] for row in rows) / 1e6, 1),
        "decode_MB_s": round(total / sum(row[2] for row in rows) / 1e6, 1),
    }


def trained(epochs: int) -> list[Tensor]:
    """A net of 300 and 100 hidden units on scikit-learn's digits."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(0)
    first = [nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU()]
    net = nn.Sequential(*first, nn.Linear(100, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    return [p.detach() for p in net.parameters()]


def floats(epochs: int) -> dict[str, list[Tensor]]:
    """The floats of two trained nets, in three types."""
    found = {"300-100 on digits": trained(epochs)}
    try:
        (path,) = nets.minilm_folder().glob("*.safetensors")
        found["all-MiniLM-L6-v2"] = [x for x in load_file(path).values() if x.is_floating_point()]
    except ImportError as error:
        print(f"without all-MiniLM-L6-v2: {error}")
    types = (torch.bfloat16, torch.float16)
    halves = {f"{n}, {t}".replace("torch.", ""): (n, t) for n in found for t in types}
    return found | {name: [x.to(t) for x in found[n]] for name, (n, t) in halves.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--symbols", type=int, default=10_000_000)
    parser.add_argument("--epochs", type=int, default=60, help="of the net on digits")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="add a line to results/file.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()
    rows = [stream_row(name, x, args.repeats) for name, x in streams(args.symbols).items()]
    records.show("streams", rows)
    coded = [float_row(n, x, args.repeats) for n, x in floats(args.epochs).items()]
    records.show("floats", coded)
    if args.record:
        loads = {"load_before": before, "load_after": os.getloadavg()}
        records.append("file", "coding", **loads, rows=rows, floats=coded)


if __name__ == "__main__":
    main()
