"""The length of a file against the entropy bound and zstd.

    python -m benchmarks.file.lengths --references FOLDER [--record]

FOLDER has the trained nets (benchmarks/proof/reference.py); all-MiniLM-L6-v2 comes from its
package. Each layer is compressed directly: the length of a file depends little on training under
the constraint. --untrained takes random weights, for a trial.
"""

import argparse
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor, nn

import leco
from benchmarks import cifar, nets, records
from leco.theta.tree import leaves

NETS = ("lenet300", "resnet20", "resnet56", "minilm")
TEMPLATES: dict[str, Callable[[], nn.Module]] = {**nets.NETS, "minilm": nets.minilm}
Make = Callable[[Tensor], leco.Compression[Any]]


def rate(weights: Tensor) -> float:
    """The price of a bit that spends about 2 bits on a normal weight."""
    return 0.06 * float(weights.var())


def ranks(weights: Tensor) -> leco.RankSelection:
    """What keeps about the singular values above those of noise."""
    return leco.RankSelection(0.6 * float(weights.var()), leco.storage)


FEW = leco.Compose(leco.TopK(0.05), leco.Codebook(16))
LAYERWISE: dict[str, tuple[Any, Make]] = {
    "1 bit": (leco.Rows(), lambda w: leco.Binary()),
    "ternary": (leco.Vector(), lambda w: leco.Ternary()),
    "16 values": (leco.Vector(), lambda w: leco.Codebook(16)),
    "4-bit grid": (leco.Rows(), lambda w: leco.Uniform(4)),
    "entropy-coded, 16 values": (leco.Vector(), lambda w: leco.EntropyCodebook(rate(w), 16)),
    "5 % of the weights, 16 values": (leco.Vector(), lambda w: FEW),
    "learned ranks": (leco.Matrix(), ranks),
}


def compressed(model: nn.Module, name: str) -> leco.LC:
    """Directly: each layer's weight, and an embedding's, by itself."""
    view, make = LAYERWISE[name]
    tasks = dict[str, leco.Task]()
    for weight in layer_weights(model, nn.Linear, nn.Conv2d, nn.Embedding):
        compression = make(model.get_parameter(weight).detach())
        tasks[weight] = leco.Task(weight, view, compression)
    lc = leco.LC(model, tasks)
    lc.mu = 1.0
    return lc


def layer_weights(model: nn.Module, *kinds: type[nn.Module]) -> tuple[str, ...]:
    """Of the kinds of layers that the net has."""
    there = [kind for kind in kinds if any(isinstance(m, kind) for m in model.modules())]
    return leco.match(model, *there)


def raw(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def entropy_bytes(symbols: Tensor) -> float:
    """n H / 8, with the entropy H of the symbols' frequencies."""
    counts = np.bincount(symbols.reshape(-1).int().numpy())
    used = counts[counts > 0]
    return float(used @ np.log2(used.sum() / used)) / 8


def fixed_width(symbols: Tensor) -> bytes:
    """As many bits for each as the greatest has, one after another."""
    values = symbols.reshape(-1).numpy().astype(">u4")
    width, size = int(values.max(initial=0)).bit_length(), 2**20
    parts = (values[start : start + size] for start in range(0, len(values), size))
    bits = (np.unpackbits(part.view(np.uint8).reshape(-1, 4), axis=1) for part in parts)
    return b"".join(np.packbits(part[:, 32 - width :]).tobytes() for part in bits)


def zstd(data: bytes) -> int:
    """Bytes of `zstd -19`, kept by the data's digest: it takes a minute for 90 MB."""
    kept = cifar.CACHE / "zstd" / hashlib.sha256(data).hexdigest()
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(str(len(zstandard.ZstdCompressor(level=19).compress(data))))
    return int(kept.read_text())


def length(lc: leco.LC, folder: Path) -> dict[str, Any]:
    """The file's bytes, beside bounds and other codes of the same tensors."""
    tensors = [leaf.cpu() for theta in lc.thetas.values() for leaf in leaves(theta)]
    rest = b"".join(map(raw, {id(value): value for value in lc.rest().values()}.values()))
    integers = [t for t in tensors if not t.is_floating_point()]
    floats = b"".join(raw(t) for t in tensors if t.is_floating_point())
    packed = b"".join(map(fixed_width, integers)) + floats + rest
    dense = b"".join(map(raw, [*lc.delta.values(), *lc.rest().values()]))
    bits = math.ceil(sum(map(entropy_bytes, integers)))
    return {
        "bytes": leco.save(folder / "net", lc),
        "dense_bytes": leco.dense_bytes(lc.model),
        "entropy_bound": bits + len(floats) + len(rest),
        "floats_and_rest": len(floats) + len(rest),
        "packed": len(packed),
        "zstd_of_weights": zstd(dense),
        "zstd_of_packed": zstd(packed),
    }


def trained(net: str, folder: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """The net, and what its record says of its training."""
    model = TEMPLATES[net]()
    if net == "minilm":
        return model, {"data": "as published"}
    if folder is None:
        return model.eval(), {"data": "none: random weights"}
    model.load_state_dict(torch.load(folder / f"{net}.pt", weights_only=True))
    record = json.loads((folder / f"{net}.json").read_text())
    keys = ("data", "epochs", "seed", "test_error", "command")
    return model.eval(), {key: record[key] for key in keys}


def add_nets(parser: argparse.ArgumentParser) -> None:
    """The arguments that name nets, where they are, and what they are compressed by."""
    add = parser.add_argument
    add("--references", type=Path, help="folder of NET.pt and NET.json")
    add("--untrained", action="store_true", help="random weights instead")
    add("--nets", nargs="+", choices=list(TEMPLATES), default=list(NETS))
    add("--compressions", nargs="+", choices=list(LAYERWISE), default=list(LAYERWISE))
    add("--threads", type=int, default=torch.get_num_threads())


def models(args: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    if args.references is None and not args.untrained:
        parser.error("--references is needed, the folder of benchmarks.proof.reference --out")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return {net: trained(net, args.references) for net in args.nets}


def rows(models: dict[str, Any], compressions: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for net, (model, _) in models.items():
        for name in compressions:
            with tempfile.TemporaryDirectory() as folder:
                own = length(compressed(model, name), Path(folder))
            found.append({"net": net, "compression": name, **own})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_nets(parser)
    parser.add_argument("--record", action="store_true", help="add a line to results/file.jsonl")
    args = parser.parse_args()
    found = models(args, parser)
    made = rows(found, args.compressions)
    records.show("lengths", made)
    if args.record:
        origins = {net: origin for net, (_, origin) in found.items()}
        records.append("file", "lengths", references=origins, rows=made)


if __name__ == "__main__":
    main()
