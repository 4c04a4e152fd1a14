"""Cells of the tables: reference nets compressed by LC, by the baselines of its pieces and by
others' methods, each to a file.

    python benchmarks/proof.py --net lenet300 --data FOLDER --out FOLDER --compression "2 values"
    --method DC LC python benchmarks/proof.py --net resnet20 --compression "binary, channels"
    --method LC --set epochs=6 lr=0.05 --group ablation --note "rate 0.05"

The reference net is trained by `reference.py` first (--out has its NET.pt). 5,000 training images
are held out for every choice; the test error is that of the net loaded from the file, once, at the
end. A cell that is cut off goes on from its checkpoint; one that is recorded in
benchmarks/results/proof/ is not run again.
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

import common
import methods
import nets
import rows
import torch
import training
from baselines import decomposition, deep_compression, latent, magnitude
from methods import Cell, Settings
from proof_cells import FOLDER
from torch import nn

import leco
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


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower().replace("%", "pc")).strip("-")


def changed(settings: Settings, changes: list[str]) -> Settings:
    """`settings` with the changes NAME=VALUE."""
    found: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        kinds: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(settings)}
        if name not in kinds:
            raise ValueError(f"--set {change}: {name!r} is none of {', '.join(kinds)}")
        found[name] = text in ("1", "True") if kinds[name] is bool else kinds[name](text)
    return dataclasses.replace(settings, **found)


def reference(net: str, folder: Path, seed: int, device: torch.device) -> nn.Module:
    """As `reference.py` left it."""
    path = folder / f"{net}{f'-seed{seed}' if seed else ''}.pt"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: python benchmarks/reference.py --net {net} --seed {seed} --out {folder} makes it"
        )
    model = nets.NETS[net]().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.to(device)


def of_reference(model: nn.Module, data: training.Data) -> dict[str, float]:
    loss = training.evaluate(model, data, data.train, True)[0]
    errors = {
        name: training.evaluate(model, data, split)[1]
        for name, split in (("validation_error", data.validation), ("test_error", data.test))
    }
    return {"train_loss": loss, **errors, "bytes": leco.dense_bytes(model)}


def prepared(
    original: nn.Module, data: training.Data, path: Path
) -> tuple[torch.Tensor, dict[str, float]]:
    """The reference's soft targets and errors; kept in a file, for the weights that they are of."""
    weights = torch.stack([p.detach().double().square().sum() for p in original.parameters()]).cpu()
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if torch.equal(kept["weights"], weights):
            return kept["soft"].to(data.train[0].device), kept["found"]
    soft, found = training.soft_targets(original, data), of_reference(original, data)
    atomically(
        path,
        lambda temporary: torch.save(
            {"weights": weights, "soft": soft.cpu(), "found": found}, temporary
        ),
    )
    return soft, found


def lc_cost(path: Path, tasks: dict[str, leco.Task]) -> float | None:
    """C(Theta) of the file that LC made, for tasks whose price is a cost of ranks."""
    if not path.exists() or not all(hasattr(task.compression, "cost") for task in tasks.values()):
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
    fresh = leco.load(path, copy.deepcopy(original))
    return {
        "test_error": training.evaluate(fresh, cell.data, cell.data.test)[1],
        "validation_error": training.evaluate(fresh, cell.data, cell.data.validation)[1],
        "train_loss": training.evaluate(fresh, cell.data, cell.data.train, True)[0],
        "bytes": size,
        "ratio": leco.dense_bytes(original) / size,
        "gap": gap,
        "seconds": seconds,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=list(nets.NETS), required=True)
    parser.add_argument("--compression", nargs="+", required=True, help="names in rows.py")
    parser.add_argument(
        "--method",
        nargs="+",
        choices=list(METHODS),
        default=["DC", "DC + retraining", "iterated DC", "LC"],
    )
    parser.add_argument(
        "--teacher",
        choices=list(nets.NETS),
        help="the net whose probabilities are soft targets (--out has it, too)",
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of methods.Settings"
    )
    parser.add_argument(
        "--group", default="", help="of cells that belong together, such as an ablation"
    )
    parser.add_argument(
        "--note", default="", help="what is special about these cells: a part of their names"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LECO_DATA", ".")))
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("references"),
        help="folder of the reference nets, for checkpoints and files",
    )
    parser.add_argument("--results", type=Path, default=FOLDER)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings, device = (
        changed(LENET if args.net in nets.LENETS else RESNET, args.set),
        torch.device(args.device),
    )
    data, original = (
        training.load(args.net, args.data, device),
        reference(args.net, args.out, args.seed, device),
    )
    soft, found = prepared(original, data, args.out / f"{args.net}-seed{args.seed}.prepared")
    if args.teacher:
        if not settings.soft:
            parser.error(
                "--teacher: its probabilities are soft targets, which --set soft=1 turns on"
            )
        soft = prepared(
            reference(args.teacher, args.out, 0, device),
            data,
            args.out / f"{args.teacher}-seed0.prepared",
        )[0]
    print(
        f"{args.net} on {data.name}: {found['test_error']:.2f} % test error, {found['bytes']:,} bytes",
        flush=True,
    )
    args.results.mkdir(parents=True, exist_ok=True)
    (args.out / "cells").mkdir(exist_ok=True)

    def name_of(compression: str, method: str) -> str:
        return (
            "-".join(
                slug(part)
                for part in (args.group, args.net, compression, method, args.note)
                if part
            )
            + f"-seed{args.seed}"
        )

    for compression in args.compression:
        for method in args.method:
            name = name_of(compression, method)
            record, path = args.results / f"{name}.json", args.out / "cells" / f"{name}.safetensors"
            if record.exists():
                continue
            model = copy.deepcopy(original)
            tasks = rows.tasks(args.net, model, compression)
            cost = lc_cost(args.out / "cells" / f"{name_of(compression, 'LC')}.safetensors", tasks)
            cell = Cell(
                model,
                tasks,
                data,
                settings,
                args.seed,
                path.with_suffix(".checkpoint"),
                soft if settings.soft else None,
                cost,
            )
            row = run(cell, method, original, path)
            print(
                f"{compression}, {method}: {row['test_error']:.2f} %, {row['bytes']:,} bytes, {row['seconds']:.0f} s",
                flush=True,
            )
            what = {
                "net": args.net,
                "data": data.name,
                "compression": compression,
                "method": method,
                "seed": args.seed,
            }
            what |= {
                "group": args.group,
                "note": args.note,
                "settings": dataclasses.asdict(settings),
                "curvature": cell.curvature,
            }
            what["bfloat16"] = training.multiplies_bfloat16(device)
            content = {
                **common.origin(),
                **what,
                "reference": found,
                "row": row,
                "curve": cell.curve,
            }
            common.write(record, content)
            cell.checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
