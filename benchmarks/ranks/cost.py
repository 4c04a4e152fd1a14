"""What leco adds to a training step of a transformer of 20 million parameters, and how long its C
steps take, on one process and on several.

    python -m benchmarks.ranks.cost [--record]

Whole optimizer steps (forward, backward, AdamW) with and without the penalty, in turn; the ratio is
the median over pairs. Each process has one thread and a batch of its own. All times are processor
seconds of the process, which other work on the machine does not lengthen: waiting does not count.
Of several processes the busiest one counts.
"""

import argparse
import os
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import leco
from benchmarks import records
from leco.distributed import gathered

WORDS = 2000


def transformer(width: int, depth: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True)
    body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    return nn.Sequential(nn.Embedding(WORDS, width), body, nn.Linear(width, WORDS))


def row(args: argparse.Namespace, ranks: int, rank: int) -> dict[str, Any]:
    """The times of one rank."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = transformer(args.width, args.depth)
    model = net if ranks == 1 else DistributedDataParallel(net)
    lc = leco.LC(
        model,
        leco.each(
            leco.match(net, "1.*linear?.weight", "1.*attn.*weight"), leco.Vector(), leco.Codebook(4)
        ),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    words = torch.randint(WORDS, (args.batch, args.length + 1))

    def step() -> None:
        optimizer.zero_grad()
        logits = model(words[:, :-1])
        F.cross_entropy(logits.reshape(-1, WORDS), words[:, 1:].reshape(-1)).backward()
        optimizer.step()

    # Pairs of steps
    lc.mu = 1e-3
    step()
    pairs = []
    for _ in range(args.steps):
        plain = busy(step)
        lc.attach(optimizer)
        pairs.append((busy(step), plain))
        lc.detach()

    # C steps
    c_steps = [busy(lc.c_step) for _ in range(args.c_steps)]
    return {
        "processes": ranks,
        "parameters": sum(p.numel() for p in net.parameters()),
        "compressed": sum(p.numel() for p in lc.params.values()),
        "plain_seconds": max(gathered(statistics.median(plain for _, plain in pairs))),
        "ratio": max(gathered(statistics.median(ours / plain for ours, plain in pairs))),
        "c_step_seconds": max(gathered(statistics.median(c_steps))),
    }


def busy(function: Callable[[], Any]) -> float:
    """Processor seconds of this process."""
    start = time.process_time()
    function()
    return time.process_time() - start


def worker(rank: int, args: argparse.Namespace, ranks: int, port: int, queue: Any) -> None:
    if ranks > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=ranks)
    found = row(args, ranks, rank)
    if rank == 0:
        queue.put(found)
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def measured(args: argparse.Namespace, ranks: int) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(worker, (args, ranks, port, queue), nprocs=ranks)
    return queue.get()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=3, help="pairs of steps")
    parser.add_argument("--c-steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--record", action="store_true", help="add a line to results/ranks.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)  # as in each process
    rows = [measured(args, ranks) for ranks in args.processes]
    records.show(f"batch {args.batch} x {args.length} on each process", rows)
    if args.record:
        sizes = {name: getattr(args, name) for name in ("batch", "length", "width", "depth")}
        records.append("ranks", "cost", **sizes, rows=rows)


if __name__ == "__main__":
    main()
