"""LeNet300 and LeNet5 on MNIST by the authors' settings: DC, DC + retraining, LC, LC + retraining.

    python examples/mnist.py --data FOLDER --net lenet300 --compression codebook2 --seed 0

FOLDER holds the four IDX files of MNIST (train-images-idx3-ubyte.gz, ...). Nets train on all 60,000
images, as in the papers. The result of LC is its last net; the test error is only reported. A run
goes on from its checkpoint in --out.
"""

import argparse
import copy
import dataclasses
import sys
import time
from pathlib import Path

import compare
import mnist_nets
import mnist_tasks
import results
import torch
from torch import nn

import leco

METHODS = [*compare.METHODS, "LC + retraining"]
SMOKE = {"steps": 2, "factor": 1e4, "epochs": 1, "first_epochs": 1, "retrain_epochs": 1}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    data = mnist_nets.load(args.data) if args.data else mnist_nets.enlarged_digits()
    folder = args.out / f"{args.net}-{args.init}-seed{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)

    # train the reference
    reference = trained(args, data, folder)
    reference_loss = compare.evaluate(reference, data.train)[0]
    reference_error = compare.evaluate(reference, data.test)[1]
    dense = leco.dense_bytes(reference)
    print(f"reference: {reference_error:.2f} % test error, {dense:,} bytes")

    # compress it
    rows: list[compare.Row] = []
    curves, used, start = {}, {}, time.perf_counter()
    for compression in [*args.compression, *(f"{number} bytes" for number in args.bytes)]:
        settings = used[compression] = chosen_settings(args, compression)
        comparison = compare.Comparison(reference, data, settings, folder)
        tasks = mnist_tasks.tasks(compression, reference)
        torch.manual_seed(1000 + args.seed)
        own = comparison.run(compression, tasks, args.methods, progress=sys.stderr.isatty())
        rows += own
        curves |= {name: [r._asdict() for r in kept] for name, kept in comparison.records.items()}
        if compression == "units":
            for row in own:
                narrow(row, reference, data)
    seconds = time.perf_counter() - start

    # show the results
    title = f"{args.net} on {'MNIST' if args.data else 'digits'}, seed {args.seed}"
    results.table(rows, title, reference_error, dense)
    results.draw(rows, title, reference_error, dense, folder / "error-against-bytes.png")
    if args.record:
        found = {"test_error": reference_error, "train_loss": reference_loss, "bytes": dense}
        extra = {"settings": {k: dataclasses.asdict(v) for k, v in used.items()}, "curves": curves}
        results.record(args.record, args.seed, seconds, found, rows, **extra)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds, default = list(mnist_tasks.COMPRESSIONS), ["codebook2", "prune5", "ranks"]
    add = parser.add_argument
    add("--data", type=Path, help="the folder of the four IDX files")
    add("--net", choices=list(mnist_nets.NETS), default="lenet300")
    help_init = "initial weights of the reference: torch's default, or the authors'"
    add("--init", choices=["torch", "xavier"], default="torch", help=help_init)
    add("--compression", choices=kinds, nargs="*", default=default)
    help_bytes = "also compress by entropy-coded codebooks within each of these budgets"
    add("--bytes", type=int, nargs="+", default=[], help=help_bytes)
    add("--methods", nargs="+", choices=METHODS, default=METHODS)
    help_preset = "fast and short: 154 and 124 epochs, for a ReLU net"
    add("--preset", choices=list(mnist_nets.PRESETS), default="authors", help=help_preset)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=torch.get_num_threads())
    help_out = "folder for files, checkpoints and reference weights"
    add("--out", type=Path, default=Path("mnist-out"), help=help_out)
    add("--record", type=Path, help="write the result here, as JSON")
    help_smoke = "two short steps; without --data on scikit-learn's digits: shows that it runs"
    add("--smoke", action="store_true", help=help_smoke)
    args = parser.parse_args()
    if args.data is None and not args.smoke:
        parser.error("--data is needed: the folder of MNIST's four IDX files (or --smoke)")
    return args


def trained(args: argparse.Namespace, data: compare.Data, folder: Path) -> nn.Module:
    """The trained reference net: read from the folder, or trained and written to it."""
    torch.manual_seed(args.seed)
    net = mnist_nets.NETS[args.net]()
    net.to(memory_format=torch.channels_last)  # faster convolutions  # pyright: ignore[reportCallIssue]
    if args.init == "xavier":
        net.apply(mnist_nets.xavier)
    kept = folder / "reference.pt"
    if kept.exists():
        net.load_state_dict(torch.load(kept, weights_only=True))
        return net
    epochs, lr, decay, batch, weight_decay = mnist_nets.REFERENCES[args.net]
    epochs, bfloat16 = 1 if args.smoke else epochs, args.net == "lenet5"
    compare.train_reference(net, data, epochs, lr, decay, batch, weight_decay, bfloat16)
    torch.save(net.state_dict(), kept)
    return net


def chosen_settings(args: argparse.Namespace, compression: str) -> compare.Settings:
    """The settings of the preset, or those that the compression needs."""
    settings = mnist_nets.PRESETS[args.preset]
    if compression.endswith(" bytes"):
        settings = mnist_nets.BYTES5 if args.net == "lenet5" else mnist_nets.BYTES
    own = {"ranks": mnist_nets.RANKS, "tensors": mnist_nets.TENSORS}
    if args.preset == "authors" and compression in own:
        settings = own[compression]
    return dataclasses.replace(settings, **SMOKE) if args.smoke else settings


def narrow(row: compare.Row, reference: nn.Module, data: compare.Data) -> None:
    """Print the size and error of a file's net without the units that are 0."""
    small = leco.narrow(leco.load(row.path, copy.deepcopy(reference)), data.test[0][:100])
    layers = [m for m in small.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    widths, size = [layer.weight.shape[0] for layer in layers], leco.dense_bytes(small)
    error = compare.evaluate(small, data.test)[1]
    print(f"{row.method}: {error:.2f} % test error with widths {widths}, {size:,} bytes")


if __name__ == "__main__":
    main()
