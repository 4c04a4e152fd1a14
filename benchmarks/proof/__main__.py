"""Compress reference nets by LC, by the baselines of its pieces and by others' methods, to files.

    python -m benchmarks.proof --net lenet300 --data FOLDER --out FOLDER \\
        --compression "2 values" --method DC LC --record
    python -m benchmarks.proof --net resnet20 --compression "binary, channels" --method LC \\
        --set epochs=6 lr=0.05 --group ablation --note "rate 0.05"

`python -m benchmarks.proof.reference` trains the reference net first, into --out. 5,000 training
images are held out for every choice. The test error is that of the net loaded from the file, once,
at the end. A cell that is cut off goes on from its checkpoint; with --record one that is recorded
already is not run again.
"""

import argparse
import copy
import dataclasses
import os
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import leco
from benchmarks import data, nets, records
from benchmarks.baselines import decomposition, deep_compression, latent, magnitude
from benchmarks.proof import compressions, methods, training
from benchmarks.proof.cell import Cell, Settings, trace
from leco.atomic import atomically

METHODS: dict[str, Callable[[Cell], leco.LC]] = {
    **methods.METHODS,
    "straight-through": latent.straight_through,
    "BinaryRelax": latent.binary_relax,
    "PARQ": latent.parq,
    "gradual magnitude": magnitude.gradual,
    "magnitude, rewound": magnitude.rewound,
    "SVD, uniform ranks": decomposition.uniform_ranks,
    "SVD, greedy ranks": decomposition.greedy_ranks,
    "Deep Compression": deep_compression.deep_compression,
}
LENET = Settings(epochs=60, batch=512, lr=0.1, steps=40)
RESNET = Settings(
    epochs=20, batch=128, lr=0.05, steps=20, start=0.07, weight_decay=5e-4, soft=False
)
KEYS = ("net", "group", "compression", "method", "note", "seed")  # what makes a cell


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower().replace("%", "pc")).strip("-")


def changed(settings: Settings, changes: list[str]) -> Settings:
    """`settings` with the changes NAME=VALUE."""
    kinds: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(settings)}
    found: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in kinds:
            raise ValueError(f"--set {change}: {name!r} is none of {', '.join(kinds)}")
        found[name] = text in ("1", "True") if kinds[name] is bool else kinds[name](text)
    return dataclasses.replace(settings, **found)


def reference(net: str, folder: Path, seed: int, device: torch.device) -> nn.Module:
    """As `reference.py` left it."""
    path = folder / f"{net}{f'-seed{seed}' if seed else ''}.pt"
    if not path.exists():
        how = f"python -m benchmarks.proof.reference --net {net} --seed {seed} --out {folder}"
        raise FileNotFoundError(f"{path} is not there: {how} makes it")
    model = nets.NETS[net]().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.to(device)


def prepared(net: str, images: data.Data, out: Path, seed: int) -> tuple[nn.Module, Tensor, Any]:
    """The reference, its soft targets, and its errors; a file keeps them for these weights."""
    model = reference(net, out, seed, images.train[0].device)
    weights = torch.stack([p.detach().double().square().sum() for p in model.parameters()]).cpu()
    path = out / f"{net}-seed{seed}.prepared"
    kept = torch.load(path, weights_only=True) if path.exists() else None
    if kept is None or not torch.equal(kept["weights"], weights):
        found = {"train_loss": training.evaluate(model, images, images.train, True)[0]}
        found["validation_error"] = training.evaluate(model, images, images.validation)[1]
        found["test_error"] = training.evaluate(model, images, images.test)[1]
        found["bytes"] = leco.dense_bytes(model)
        kept = {"weights": weights, "soft": training.soft_targets(model, images), "found": found}
        atomically(path, lambda temporary: torch.save(kept, temporary))
    return model, kept["soft"].to(images.train[0].device), kept["found"]


def lc_cost(path: Path, tasks: dict[str, leco.Task]) -> float | None:
    """C(Theta) of the file that LC made, for tasks whose price is a cost of ranks."""
    ranked = leco.RankSelection, leco.ConvRankSelection
    if not path.exists() or not all(isinstance(t.compression, ranked) for t in tasks.values()):
        return None
    found = leco.thetas(path)
    return sum(task.compression.usage(found[name].theta) for name, task in tasks.items())  # pyright: ignore[reportAttributeAccessIssue]


def run(cell: Cell, method: str, original: nn.Module, path: Path) -> dict[str, Any]:
    """Run the method, write its file, load it again and evaluate that."""
    torch.manual_seed(1000 + cell.seed)
    start = time.perf_counter()
    lc = METHODS[method](cell)
    seconds = time.perf_counter() - start
    gap = lc.record().relative_gap
    lc.project_()
    if method != "DC" and cell.settings.recalibrate:
        leco.recalibrate_(cell.model, training.calibration(cell.data))
    size = leco.save(path, lc)
    fresh, images = leco.load(path, copy.deepcopy(original)), cell.data
    parts = (r.get(key) for r in cell.curve for key in ("seconds", "l_seconds", "c_seconds"))
    return {
        "test_error": training.evaluate(fresh, images, images.test)[1],
        "validation_error": training.evaluate(fresh, images, images.validation)[1],
        "train_loss": training.evaluate(fresh, images, images.train, True)[0],
        "bytes": size,
        "ratio": leco.dense_bytes(original) / size,
        "gap": gap,
        # a cell that was cut off and went on has the seconds of all its parts
        "seconds": max(seconds, sum(s for s in parts if isinstance(s, float) and s == s)),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.proof",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, cuda = found.add_argument, torch.cuda.is_available()
    add("--net", choices=list(nets.NETS), required=True)
    add("--compression", nargs="+", required=True, help="names in proof/compressions.py")
    usual = ["DC", "DC + retraining", "iterated DC", "LC"]
    add("--method", nargs="+", choices=list(METHODS), default=usual)
    add("--teacher", choices=list(nets.NETS), help="the net that gives soft targets, in --out too")
    add("--set", nargs="*", default=[], metavar="NAME=VALUE", help="fields of proof.cell.Settings")
    add("--group", default="", help="of cells that belong together, such as an ablation")
    add("--note", default="", help="what is special about these cells: a part of their names")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--device", default="cuda" if cuda else "cpu")
    add("--data", type=Path, default=Path(os.environ.get("LECO_DATA", ".")))
    add("--out", type=Path, default=Path("references"), help="for nets, checkpoints and files")
    add("--record", action="store_true", help="add a line a cell to results/proof.jsonl")
    return found


def main() -> None:
    args = parser().parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    settings = changed(LENET if args.net in nets.LENETS else RESNET, args.set)
    images = data.load(args.net, args.data, device)
    original, soft, found = prepared(args.net, images, args.out, args.seed)
    if args.teacher and not settings.soft:
        parser().error("--teacher gives soft targets, which --set soft=1 turns on")
    if args.teacher:
        soft = prepared(args.teacher, images, args.out, 0)[1]
    print(f"{args.net} on {images.name}: {found['test_error']:.2f} % test error", flush=True)
    (args.out / "cells").mkdir(exist_ok=True)

    done = {tuple(cell[key] for key in KEYS) for cell in records.read("proof", "proof")}
    for compression in args.compression:
        for method in args.method:
            own = (args.net, args.group, compression, method, args.note, args.seed)
            if args.record and own in done:
                continue
            what: dict[str, Any] = dict(zip(KEYS, own, strict=True))
            path = file_of(args.out, what)
            model = copy.deepcopy(original)
            tasks = compressions.tasks(args.net, model, compression)
            cost = lc_cost(file_of(args.out, {**what, "method": "LC"}), tasks)
            checkpoint, targets = path.with_suffix(".checkpoint"), soft if settings.soft else None
            cell = Cell(model, tasks, images, settings, args.seed, checkpoint, targets, cost)
            row = run(cell, method, original, path)
            records.show(f"{compression}, {method}", [row])
            what |= {"data": images.name, "settings": dataclasses.asdict(settings)}
            what |= {"curvature": cell.curvature, "reference": found, "row": row}
            what["bfloat16"] = training.multiplies_bfloat16(device)
            if args.record:
                records.append("proof", "proof", **what, trace=trace(cell.curve))
            checkpoint.unlink(missing_ok=True)


def file_of(out: Path, what: dict[str, Any]) -> Path:
    parts = (what[key] for key in ("group", "net", "compression", "method", "note"))
    name = "-".join(slug(part) for part in parts if part)
    return out / "cells" / f"{name}-seed{what['seed']}.safetensors"


if __name__ == "__main__":
    main()
