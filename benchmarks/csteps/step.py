"""Time and memory of whole LC steps of a transformer of GPT-2's size: random float32 weights.

    python -m benchmarks.csteps.step [--only "1 bit"] [--threads 2] [--record]

A process for each scheme. Cold is the direct compression (`lc.mu = mu_0`); warm is `lc.step()`, the
C step and the multipliers' step with the record, after weights and mu have moved. Memory is the
peak of the resident memory above that before the LC is made, in copies of the compressed weights:
Delta(Theta), the multipliers, Theta and temporaries.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import leco
from benchmarks import records, timing
from leco.views import View

SCHEMES: dict[str, Callable[[], tuple[View, leco.Compression[Any]]]] = {
    "1 bit by rows": lambda: (leco.Rows(), leco.Binary()),
    "4 bits in groups of 64": lambda: (leco.Groups(64), leco.Uniform(4)),
    "2:4 by rows": lambda: (leco.Rows(), leco.NM(2, 4)),
    "10 % kept jointly": lambda: (leco.Vector(), leco.TopK(0.1)),
    "rank 64": lambda: (leco.Matrix(), leco.LowRank(64)),
}
JOINT = "10 % kept jointly"  # one task for all weights; the others have one for each
WIDTH, BLOCKS, TOKENS, POSITIONS = 768, 12, 50257, 1024


class Block(nn.Module):
    """The weights of a block of GPT-2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)


def transformer(width: int, blocks: int, tokens: int, positions: int) -> nn.Module:
    """The weights of GPT-2: 124 million with its own sizes."""
    parts = {
        "tokens": nn.Embedding(tokens, width),
        "positions": nn.Embedding(positions, width),
        "blocks": nn.ModuleList([Block(width) for _ in range(blocks)]),
        "norm": nn.LayerNorm(width),
    }
    return nn.ModuleDict(parts)


def tasks_of(model: nn.Module, scheme: str) -> dict[str, leco.Task]:
    """Every matrix, the embeddings too."""
    names = [name for name, p in model.named_parameters() if p.dim() == 2]
    view, compression = SCHEMES[scheme]()
    if scheme == JOINT:
        return {"all": leco.Task(names, view, compression)}
    return leco.each(names, view, compression)


def clocked(step: Callable[[], Any]) -> dict[str, float]:
    """Seconds by the clock, and of all threads: other work on the machine adds to the first."""
    start = time.process_time()
    seconds = timing.seconds(step)
    return {"seconds": seconds, "processor_seconds": time.process_time() - start}


def measured(scheme: str, blocks: int) -> dict[str, Any]:
    """One scheme, in a process of its own."""
    torch.manual_seed(0)
    model = transformer(WIDTH, blocks, TOKENS, POSITIONS)
    tasks, found = tasks_of(model, scheme), dict[str, Any](scheme=scheme)
    weights = sum(p.numel() for p in model.parameters() if p.dim() == 2)

    def run() -> None:
        lc = leco.LC(model, tasks)
        found["cold"] = clocked(lambda: setattr(lc, "mu", 1e-3))
        for k in range(2):
            with torch.no_grad():
                for p in lc.params.values():
                    p.mul_(1 + 1e-3)
            lc.mu = 1e-3 * 1.1 ** (k + 1)
            found["warm"] = clocked(lc.step)

    found["copies"] = timing.peak_bytes(run) / (4 * weights)
    return {**found, "weights": weights}


def in_its_own_process(scheme: str, blocks: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.csteps.step", "--one", scheme]
    command += ["--blocks", str(blocks), "--threads", str(threads)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[""], help="schemes whose names begin so")
    parser.add_argument("--one", choices=SCHEMES, help="measure it in this process, print JSON")
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="add a line to results/csteps.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(measured(args.one, args.blocks)))
        return
    chosen = [scheme for scheme in SCHEMES if scheme.startswith(tuple(args.only))]
    rows = [in_its_own_process(scheme, args.blocks, args.threads) for scheme in chosen]
    records.show(f"an LC step of {rows[0]['weights']:,} float32 weights", rows)
    if args.record:
        records.append("csteps", "step", blocks=args.blocks, rows=rows)


if __name__ == "__main__":
    main()
