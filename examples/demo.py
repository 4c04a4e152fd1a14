"""Compress a real net on real data, several ways, in under two minutes: the digits that ship with
scikit-learn.

    make demo        or        python examples/demo.py [--out FOLDER]

Trains a net (64-300-100-10), compresses it to 1 bit per weight, to 5 % of its weights and to ranks
that it chooses itself, each by direct compression (DC), DC + retraining and the
learning-compression algorithm (LC). Ends with a table, a figure of error against bytes, and the
smallest file that keeps the error, loaded by a new process that measures the error again.
"""

import argparse
import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import compare
import torch
from sklearn.datasets import load_digits
from torch import nn

import leco

SETTINGS = compare.Settings(
    mu=1e-3,
    factor=1.3,
    steps=30,
    epochs=10,
    first_epochs=20,
    lr=0.1,
    decay=0.97,
    batch=128,
    retrain_epochs=320,
    retrain_lr=1e-3,
)
ALLOWED = 1.0  # points of validation error above the reference that the chosen file may cost


def digits() -> compare.Data:
    """1,797 images of 8 x 8: 1,000 to train, 297 to choose with, 500 to report."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    images, labels = torch.tensor(x, dtype=torch.float32)[order] / 16 - 0.3, torch.tensor(y)[order]
    parts = list(zip(images.split([1000, 297, 500]), labels.split([1000, 297, 500]), strict=True))
    return compare.Data(parts[0], parts[1], parts[2])


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder for the files and the figure"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--smoke", action="store_true", help="a few short steps: shows that it runs"
    )
    parser.add_argument("--record", type=Path, help="write the result here, as JSON")
    parser.add_argument(
        "--check", type=Path, help="load this file and print its test error; nothing else"
    )
    args = parser.parse_args()
    data = digits()
    if args.check:
        print(compare.evaluate(leco.load(args.check, net()), data.test)[1])
        return

    start = time.perf_counter()
    torch.set_num_threads(1)  # the net is so small that threads only wait for each other
    settings = (
        dataclasses.replace(
            SETTINGS, steps=3, epochs=1, first_epochs=1, factor=30.0, retrain_epochs=2
        )
        if args.smoke
        else SETTINGS
    )
    args.out.mkdir(parents=True, exist_ok=True)
    for old in args.out.glob("*.checkpoint"):
        old.unlink()
    torch.manual_seed(args.seed)
    reference = net()
    compare.train_reference(reference, data, 5 if args.smoke else 60, 0.1, 0.97, 128)
    reference_error, chosen_by = (
        compare.evaluate(reference, data.test)[1],
        compare.evaluate(reference, data.validation)[1],
    )
    dense = leco.dense_bytes(reference)

    weights = leco.match(reference, "*.weight")
    families = {
        "1 bit": leco.each(weights, leco.Vector(), leco.Binary()),
        "5 % of weights": {"all": leco.Task(weights, leco.Vector(), leco.TopK(0.05))},
        "learned ranks": leco.each(weights, leco.Matrix(), leco.RankSelection(alpha=1e-5)),
    }
    comparison = compare.Comparison(reference, data, settings, args.out)
    rows: list[compare.Row] = []
    for name, tasks in families.items():
        print(f"\n{name}:\n{leco.plan(leco.LC(reference, tasks))}" if not rows else f"{name} ...")
        rows += comparison.run(name, tasks, progress=sys.stderr.isatty())
    title = "digits: 64-300-100-10, test error of 500 images"
    compare.table(rows, title, reference_error, dense)
    figure = args.out / "error-against-bytes.png"
    compare.draw(rows, title, reference_error, dense, figure)

    good = [row for row in rows if row.validation_error <= chosen_by + ALLOWED] or rows
    best = min(good, key=lambda row: (row.bytes, row.validation_error))
    print(f"\nfigure: {figure}")
    print(
        f"chosen on validation data: {best.compression}, {best.method}: {best.path}, {best.bytes:,} bytes, 1/{best.ratio:.1f} of the net"
    )
    answer = subprocess.run(
        [sys.executable, __file__, "--check", best.path], capture_output=True, text=True, check=True
    )
    error = float(answer.stdout)
    print(
        f"loaded in a new process: test error {error:.2f} % (here {best.error:.2f} %), in {time.perf_counter() - start:.0f} s in all"
    )
    if args.record:
        found = {"test_error": reference_error, "bytes": dense}
        compare.record(
            args.record,
            args.seed,
            time.perf_counter() - start,
            found,
            rows,
            settings=dataclasses.asdict(settings),
        )
    if error != best.error:
        sys.exit("the file does not give the net that was saved")


if __name__ == "__main__":
    main()
