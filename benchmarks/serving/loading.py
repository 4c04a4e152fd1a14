"""How long a file takes to load, and how much memory: torch's dense file and leco's.

    python -m benchmarks.serving.loading [--nets smollm2 minilm] [--threads 1 2] [--record]

Each net is compressed directly to 4 bits, in groups of 64 neighbouring weights where they divide a
row, else by rows. Its files are kept in the user's cache folder. Each number comes from a process
of its own, which has the net's layers without its code: times from one for each count of threads,
with all ways in turns, into a net that is there and into one on the meta device; the peak of the
resident memory from one for each way, into a net on the meta device. Weights are compared first.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import leco
from benchmarks import nets, records, timing

FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "leco" / "loading"
WAYS = ("torch.load", "leco.load", "leco.load, packed")
Found = dict[str, Any]


def source(net: str) -> nn.Module:
    if net == "minilm":
        return nets.minilm()
    from benchmarks.layerwise import smollm2

    return smollm2.model().eval()


def skeleton(model: nn.Module) -> nn.Module:
    """The net's Linear and Embedding layers and other tensors by their names, on the meta device: a
    pickle that needs torch alone."""
    made: dict[int, Any] = {}

    def copied(module: nn.Module) -> nn.Module:
        if type(module) is nn.Linear:
            bias = module.bias is not None
            own: nn.Module = nn.Linear(module.in_features, module.out_features, bias, device="meta")
        elif type(module) is nn.Embedding:
            own = nn.Embedding(module.num_embeddings, module.embedding_dim, device="meta")
        else:
            own = nn.Module()
        for name, value in module._parameters.items():
            if value is not None:
                meta = made.setdefault(
                    id(value), nn.Parameter(torch.empty_like(value, device="meta"))
                )
                own.register_parameter(name, meta)
        for name, child in module.named_children():
            own.add_module(name, copied(child))
        return own

    return copied(model)


def prepare(net: str) -> Path:
    """The folder with the net's files."""
    folder = FOLDER / f"{net}, 4 bits, groups of 64"
    if (folder / "net.pt").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    model = source(net)
    tasks, seen = dict[str, leco.Task](), set[int]()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            view = leco.Groups(64) if module.weight.shape[1] % 64 == 0 else leco.Rows()
            tasks[f"{name}.weight"] = leco.Task(f"{name}.weight", view, leco.Uniform(4))
    lc = leco.LC(model, tasks)
    lc.mu = 1.0
    leco.save(folder / "ours.safetensors", lc)
    lc.project_()
    torch.save(dict(model.state_dict()), folder / "dense.pt")
    torch.save(skeleton(model), folder / "net.pt")
    return folder


def into(folder: Path, way: str, model: nn.Module, assign: bool) -> nn.Module:
    """The net with the weights of its file."""
    if way == "torch.load":
        state = torch.load(folder / "dense.pt", weights_only=True)
        own = model.state_dict().keys()
        model.load_state_dict({n: state[n] for n in own}, assign=assign)
        return model
    return leco.load(folder / "ours.safetensors", model, packed=way.endswith("packed"))


def peak(folder: Path, way: str) -> Found:
    """The rise of the resident memory, and what the net holds, in bytes."""
    torch.set_num_threads(1)
    meta = torch.load(folder / "net.pt", weights_only=False)
    kept: list[nn.Module] = []
    rise = timing.peak_bytes(lambda: kept.append(into(folder, way, meta, assign=True)))
    tensors = {t.data_ptr(): t.nbytes for t in (*kept[0].parameters(), *kept[0].buffers())}
    return {"peak_bytes": rise, "held_bytes": sum(tensors.values())}


def times(folder: Path, threads: int, repeats: int) -> Found:
    """Seconds of each way, of the processor and of the clock, least and median."""
    torch.set_num_threads(threads)
    meta = torch.load(folder / "net.pt", weights_only=False)
    there = into(folder, "leco.load", copy.deepcopy(meta), assign=True)
    # the same weights
    state = torch.load(folder / "dense.pt", weights_only=True)
    if not all(torch.equal(value, state[name]) for name, value in there.state_dict().items()):
        raise SystemExit("what was loaded is not what was saved")
    del state
    calls: dict[str, Callable[[], Any]] = {}
    for way in WAYS:
        calls[way] = lambda way=way: into(folder, way, there, assign=False)
        if way != "leco.load, packed":
            calls[f"{way}, meta"] = lambda way=way: into(folder, way, copy.deepcopy(meta), True)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            clock, processor = time.perf_counter(), time.process_time()
            call()
            found[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {
        name: {
            "least_seconds": min(wall for wall, _ in own),
            "seconds": statistics.median(wall for wall, _ in own),
            "cpu_seconds": min(cpu for _, cpu in own),
        }
        for name, own in found.items()
    }


def measured(net: str, threads: list[int], repeats: int) -> list[Found]:
    """A row for each way and count of threads."""
    folder, rows = prepare(net), list[Found]()
    peaks = {way: child("--peak", folder, way) for way in WAYS}
    for count in threads:
        for name, own in child("--times", folder, count, repeats).items():
            way = name.removesuffix(", meta")
            file = folder / ("dense.pt" if way == "torch.load" else "ours.safetensors")
            row = {"net": net, "way": way, "meta": name != way, "threads": count}
            rows.append(row | {"bytes": file.stat().st_size, **own, **peaks[way]})
    return rows


def child(*arguments: Any) -> Any:
    """What a process of its own finds."""
    command = [sys.executable, "-m", "benchmarks.serving.loading", *map(str, arguments)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--nets", nargs="+", choices=["smollm2", "minilm"], default=["smollm2", "minilm"])
    add("--threads", nargs="+", type=int, default=[1, 2])
    add("--repeats", type=int, default=5)
    add("--record", action="store_true", help="add a line to results/serving.jsonl")
    add("--peak", nargs=2, help=argparse.SUPPRESS)
    add("--times", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(json.dumps(peak(Path(args.peak[0]), args.peak[1])))
    elif args.times:
        print(json.dumps(times(Path(args.times[0]), int(args.times[1]), int(args.times[2]))))
    else:
        for net in args.nets:
            load = os.getloadavg()[0]
            rows = measured(net, args.threads, args.repeats)
            records.show(net, rows)
            if args.record:
                how = {"load_average": load, "repeats": args.repeats}
                records.append("serving", "loading", net=net, **how, rows=rows)


if __name__ == "__main__":
    main()
