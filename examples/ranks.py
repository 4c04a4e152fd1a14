"""Quantize a small classifier to 2 bits a weight on several processes.

    torchrun --nproc-per-node 2 examples/ranks.py [--shard] [--smoke] [--out FOLDER]

Each process trains on its share of the data. Without torchrun there is one process.
"""

import argparse
import gc
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import leco


def data() -> TensorDataset:
    inputs = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, (inputs[:, 0] * inputs[:, 1] > 0).long())


def main() -> None:
    # The ranks
    options = arguments()
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    several = dist.is_initialized()
    rank = dist.get_rank() if several else 0
    torch.manual_seed(0)

    # The net, wrapped or sharded, and the LC of it
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 2))
    model: nn.Module = net
    if several and options.shard:
        fully_shard(net)
    elif several:
        model = DistributedDataParallel(net)
    lc = leco.LC(model, leco.each(leco.match(net, nn.Linear), leco.Vector(), leco.Codebook(4)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    rows = data()
    sampler = DistributedSampler(rows) if several else None
    loader = DataLoader(rows, 32, sampler=sampler)

    # Training, plain and then as L steps
    def epoch(k: int) -> float:
        if sampler is not None:
            sampler.set_epoch(k)
        loss = torch.zeros(())
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    def evaluate() -> tuple[float, float]:
        with torch.no_grad():
            logits = model(rows.tensors[0])
        wrong = (logits.argmax(1) != rows.tensors[1]).float().mean()
        return float(F.cross_entropy(logits, rows.tensors[1])), 100 * float(wrong)

    for k in range(15 if options.smoke else 40):
        epoch(k)
    error = evaluate()[1]
    lc.attach(optimizer)
    inputs, labels = rows.tensors
    h = lc.curvature(lambda: F.cross_entropy(model(inputs), labels).backward())
    mus = leco.automatic(h, 2 if options.smoke else 40)

    def l_step(k: int) -> float:
        optimizer.param_groups[0]["lr"] = 3e-2 * (1 - k / len(mus))
        return epoch(k)

    result = leco.run(lc, l_step, mus, evaluate=evaluate, progress=not options.smoke)

    # The file
    options.out.mkdir(parents=True, exist_ok=True)
    size = leco.save(options.out / "ranks.safetensors", lc, result.best)
    best = result.records[result.best_step]
    if rank == 0:
        print(f"error {error:.1f} % -> {best.compressed_error:.1f} %, {size:,} bytes")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shard", action="store_true", help="fully_shard the net (FSDP2)")
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    parser.add_argument("--out", type=Path, default=Path("out"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
    gc.collect()  # the net, which holds the group of its shards
    if dist.is_initialized():
        dist.destroy_process_group()
