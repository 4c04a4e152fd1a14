"""The file: its length against the entropy bound and zstd, the time to load it, and how fast the
nets are that compute from it.

    python benchmarks/artifact.py --references FOLDER [--only files load latency] [--nets resnet20
    ...] [--record]

FOLDER holds the trained nets (benchmarks/reference.py); all-MiniLM-L6-v2 comes from its package.
Each net is compressed directly: the length of a file, and the speed, depend little on training
under the constraint. --untrained takes random weights, for a trial.
"""

import argparse
import hashlib
import json
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cifar
import common
import latency
import nets
import numpy as np
import torch
import zstandard
from torch import Tensor, nn

import leco
from leco.theta.tree import leaves

NETS = ("lenet300", "resnet20", "resnet56", "minilm")
TEMPLATES: dict[str, Callable[[], nn.Module]] = {**nets.NETS, "minilm": nets.minilm}


def rate(weights: Tensor) -> float:
    """The price of a bit that spends about 2 bits on a normal weight."""
    return 0.06 * float(weights.var())


def ranks(weights: Tensor) -> leco.RankSelection:
    """What keeps about the singular values above those of noise."""
    return leco.RankSelection(0.6 * float(weights.var()), leco.storage)


LAYERWISE: dict[str, tuple[Any, Callable[[Tensor], leco.Compression]]] = {
    "1 bit": (leco.Rows(), lambda w: leco.Binary()),
    "ternary": (leco.Vector(), lambda w: leco.Ternary()),
    "16 values": (leco.Vector(), lambda w: leco.Codebook(16)),
    "4-bit grid": (leco.Rows(), lambda w: leco.Uniform(4)),
    "entropy-coded, 16 values": (leco.Vector(), lambda w: leco.EntropyCodebook(rate(w), 16)),
    "5 % of the weights, 16 values": (
        leco.Vector(),
        lambda w: leco.Compose(leco.TopK(0.05), leco.Codebook(16)),
    ),
    "learned ranks": (leco.Matrix(), ranks),
}
PACKED = ("1 bit", "16 values", "4-bit grid", "5 % of the weights, 16 values")


def compressed(model: nn.Module, name: str) -> leco.LC:
    """Directly: each layer's weight, and an embedding's, by itself."""
    weights = leco.match(
        model,
        *(
            kind
            for kind in (nn.Linear, nn.Conv2d, nn.Embedding)
            if any(isinstance(m, kind) for m in model.modules())
        ),
    )
    view, make = LAYERWISE[name]
    lc = leco.LC(
        model,
        {
            weight: leco.Task(weight, view, make(model.get_parameter(weight).detach()))
            for weight in weights
        },
    )
    lc.mu = 1.0
    return lc


def packed(model: nn.Module, names: Sequence[str]) -> dict[str, leco.LC]:
    return {name: compressed(model, name) for name in names if name in PACKED}


def raw(tensor: Tensor) -> bytes:
    return (
        tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        if tensor.numel()
        else b""
    )


def entropy_bytes(symbols: Tensor) -> float:
    """n H / 8, with the entropy H of the symbols' frequencies."""
    counts = np.bincount(symbols.reshape(-1).int().numpy())
    used = counts[counts > 0]
    return float(used @ np.log2(used.sum() / used)) / 8


def fixed_width(symbols: Tensor) -> bytes:
    """As many bits for each as the greatest has, one after another."""
    values = symbols.reshape(-1).numpy().astype(">u4")
    width = int(values.max(initial=0)).bit_length()
    return b"".join(
        np.packbits(
            np.unpackbits(part.view(np.uint8).reshape(-1, 4), axis=1)[:, 32 - width :]
        ).tobytes()
        for part in chunks(values)
    )


def chunks(values: np.ndarray, size: int = 2**20) -> list[np.ndarray]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def zstd(data: bytes) -> int:
    """Bytes of `zstd -19`, kept by the data's digest: it takes a minute for 90 MB."""
    kept = cifar.CACHE / "zstd" / hashlib.sha256(data).hexdigest()
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(str(len(zstandard.ZstdCompressor(level=19).compress(data))))
    return int(kept.read_text())


def file_row(lc: leco.LC, name: str, path: Path) -> dict[str, Any]:
    size = leco.save(path, lc)
    tensors = [leaf.cpu() for theta in lc.thetas.values() for leaf in leaves(theta)]
    rest = b"".join(map(raw, {id(value): value for value in lc.rest().values()}.values()))
    integers = [t for t in tensors if not t.is_floating_point()]
    floats = b"".join(raw(t) for t in tensors if t.is_floating_point())
    packed = b"".join(map(fixed_width, integers)) + floats + rest
    dense = b"".join(map(raw, [*lc.delta.values(), *lc.rest().values()]))
    return {
        "compression": name,
        "bytes": size,
        "dense_bytes": leco.dense_bytes(lc.model),
        "entropy_bound": math.ceil(sum(map(entropy_bytes, integers))) + len(floats) + len(rest),
        "floats_and_rest": len(floats) + len(rest),
        "packed": len(packed),
        "zstd_of_weights": zstd(dense),
        "zstd_of_packed": zstd(packed),
    }


def load_row(lc: leco.LC, net: str, name: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Into a net that is there, in turns; medians."""
    dense, ours, template = folder / "dense.pt", folder / "ours.safetensors", TEMPLATES[net]()
    leco.save(ours, lc)
    torch.save({**lc.delta, **lc.rest()}, dense)
    ways: dict[str, Callable[[], Any]] = {
        "torch.load": lambda: template.load_state_dict(torch.load(dense, weights_only=True)),
        "leco.load": lambda: leco.load(ours, template),
        "leco.load(packed=True)": lambda: leco.load(ours, template, packed=True),
    }
    for way in ways.values():
        way()
    if not all(
        torch.equal(template.get_parameter(weight), delta) for weight, delta in lc.delta.items()
    ):
        raise AssertionError(f"{net}, {name}: what was loaded is not what was saved")
    times = common.in_turn(ways, repeats)
    seconds = {
        way: {"seconds": statistics.median(found), "least_seconds": min(found)}
        for way, found in times.items()
    }
    return {
        "compression": name,
        "dense_bytes": dense.stat().st_size,
        "bytes": ours.stat().st_size,
        **seconds,
    }


def trained(net: str, folder: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """The net, and what its record says of its training."""
    model = TEMPLATES[net]()
    if net == "minilm":
        return model, {"data": "as published"}
    if folder is None:
        return model, {"data": "none: random weights"}
    model.load_state_dict(torch.load(folder / f"{net}.pt", weights_only=True))
    record = json.loads((folder / f"{net}.json").read_text())
    return model.eval(), {
        key: record[key] for key in ("data", "epochs", "seed", "test_error", "command")
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--references", type=Path, help="folder of NET.pt and NET.json")
    parser.add_argument("--untrained", action="store_true", help="random weights instead")
    parser.add_argument("--nets", nargs="+", choices=list(TEMPLATES), default=list(NETS))
    parser.add_argument(
        "--compressions", nargs="+", choices=list(LAYERWISE), default=list(LAYERWISE)
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=["files", "load", "latency"],
        default=["files", "load", "latency"],
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--record",
        action="store_true",
        help="write benchmarks/results/artifact.json; parts that were not run stay",
    )
    args = parser.parse_args()
    if args.references is None and not args.untrained:
        parser.error(
            "--references is needed: the folder of benchmarks/reference.py --out (or --untrained, for a trial)"
        )
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    models = {net: trained(net, args.references) for net in args.nets}
    for part in args.only:
        load, rows = os.getloadavg()[0], list[dict[str, Any]]()
        for net, (model, _) in models.items():
            if part == "latency":
                rows += [
                    {"net": net, **row}
                    for row in latency.rows(
                        net, model, packed(model, args.compressions), args.repeats
                    )
                ]
                continue
            with tempfile.TemporaryDirectory() as folder:
                for name in args.compressions:
                    lc = compressed(model, name)
                    row = (
                        file_row(lc, name, Path(folder) / "net")
                        if part == "files"
                        else load_row(lc, net, name, Path(folder), args.repeats)
                    )
                    rows.append({"net": net, **row})
        if part == "latency":
            rows += latency.linear_rows(args.repeats)
        common.show(part, rows, 160)
        if args.record:
            references = {net: origin for net, (_, origin) in models.items()}
            extra = {"earlier": latency.earlier()} if part == "latency" else {}
            common.record_part(
                "artifact",
                part,
                rows,
                load_average=load,
                repeats=args.repeats,
                references=references,
                **extra,
            )


if __name__ == "__main__":
    main()
