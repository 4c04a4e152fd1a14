"""The error of four layers of a language model by each method in each format, in minutes.

    python -m benchmarks.layerwise.layers --data FOLDER --rows "3 bits" "2:4" --record

The inputs are those of the dense net, 16 sequences of 512 tokens of FOLDER/wikitext-2/valid.txt.xz.
LC has 40 steps, and fewer. With --record a row that is recorded with all its methods is not run
again.
"""

import argparse
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import leco
from benchmarks import records
from benchmarks.baselines.oneshot import layer_error
from benchmarks.layerwise import methods, smollm2, stream
from benchmarks.layerwise.rows import ROWS, Layer, Row
from leco.atomic import atomically

NAME, KIND = "layerwise", "layers"
LAYERS = ("3.self_attn.q_proj", "3.mlp.down_proj", "15.mlp.up_proj", "27.self_attn.o_proj")
SEQUENCES = 16
STEPS = {"LC": 40, "LC, 20 steps": 20, "LC, 10 steps": 10}
Found = dict[str, Any]


@lru_cache(len(LAYERS))
def samples(h: Tensor) -> Tensor:
    """As many inputs (in, in) as there are of a layer, of these second moments."""
    values, vectors = torch.linalg.eigh(h.double())
    x = (vectors * values.clamp(min=0).sqrt()) @ vectors.T * len(h) ** 0.5
    return x.to(h.dtype)


def lc(row: Row, steps: int = 40) -> Layer:
    """`leco.calibrate` of one layer, on inputs that have the given second moments."""

    def compress(w0: Tensor, h: Tensor) -> Tensor:
        net = nn.Linear(*w0.T.shape, bias=False)
        net.weight.data = w0.clone()
        task = leco.Task("weight", row.view, row.compression((w0.shape[0], w0.shape[1])))
        problem = leco.LC(net, {"layer": task})
        leco.calibrate(problem, [samples(h)], steps=steps, progress=False)
        return net.weight.detach()

    return compress


@torch.no_grad()
def dense_moments(net: Any, sequences: Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    """W0 and H of layers by their names after "model.layers." in the dense net."""
    found: dict[str, Any] = {}
    last = max(int(name.split(".")[0]) for name in names)
    blocks: list[nn.Module] = list(net.model.layers)[: last + 1]
    hidden, others = stream.inputs(net, blocks[0], smollm2.batches(sequences))
    for k, layers, moments in stream.blockwise(blocks, hidden, others):
        for name, layer in layers.items():
            if f"{k}.{name}" in names:
                found[f"{k}.{name}"] = layer.weight.detach().clone(), moments.of(name)
    return {name: found[name] for name in names}


def methods_of(row: Row) -> dict[str, Layer]:
    """All but HQQ, which looks at no inputs, and needs its package."""
    others = {name: each for name, each in methods.by_layers(row).items() if name != "HQQ"}
    return others | {name: lc(row, steps) for name, steps in STEPS.items()}


def measured(name: str, layers: dict[str, Any]) -> list[Found]:
    """The errors of the layers and the processor seconds of all, of each method of a row."""
    found = []
    for _, h in layers.values():
        samples(h)  # kept, so that no method's time has it
    for method, layer in methods_of(ROWS[name]).items():
        start = time.process_time()
        errors = {key: layer_error(layer(w0, h), w0, h) for key, (w0, h) in layers.items()}
        seconds = time.process_time() - start
        found.append({"method": method, "cpu_seconds": seconds, "errors": errors})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the folder that has wikitext-2")
    add("--rows", nargs="+", choices=ROWS, default=[*ROWS][1:], metavar="ROW")
    add("--threads", type=int, default=1)
    add("--record", action="store_true", help="add a line to results/layerwise.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    # the layers, once
    kept = smollm2.CACHE / "smollm2-135m" / "moments.pt"
    if not kept.exists():
        sequences = smollm2.tokens(args.data, "valid", SEQUENCES)
        found = dense_moments(smollm2.model(), sequences, LAYERS)
        atomically(kept, lambda path: torch.save(found, path))
    layers = torch.load(kept, weights_only=True)

    # row by row
    done: dict[str, set[str]] = {}
    for run in records.read(NAME, KIND) if args.record else ():
        done[run["row"]] = {row["method"] for row in run["rows"]}
    for name in args.rows:
        if done.get(name, set()) >= {*methods_of(ROWS[name])}:
            continue
        rows = measured(name, layers)
        records.show(name, rows)
        if args.record:
            records.append(NAME, KIND, row=name, sequences=SEQUENCES, rows=rows)


if __name__ == "__main__":
    main()
