"""Compress a real net on real data, several ways, in under two minutes.

    make demo        or        python examples/demo.py [--out FOLDER]

Trains a net (64-300-100-10) on scikit-learn's digits. Compresses it to 1 bit per weight, to 5 % of
its weights, and to ranks that it chooses itself, each by direct compression (DC), DC + retraining
and the learning-compression algorithm (LC). Prints a table and draws error against bytes. Then a
new process loads the smallest file that keeps the error, and measures the error again. Last, the
command `leco compress` compresses a transformer without training (demo_transformer.py).
"""

import argparse
import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import compare
import demo_transformer
import results
import torch
from torch import nn

import leco

try:
    from sklearn.datasets import load_digits
except ImportError as error:
    raise ImportError("the examples need scikit-learn: pip install leco[examples]") from error

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
SMOKE = {"steps": 3, "epochs": 1, "first_epochs": 1, "factor": 30.0, "retrain_epochs": 2}
ALLOWED = 1.0  # points of validation error that the chosen file may have above the reference
TITLE = "digits: 64-300-100-10, test error of 500 images"


def main() -> None:
    args = arguments()
    data = digits()
    if args.check:
        print(compare.evaluate(leco.load(args.check, net()), data.test)[1])
        return
    start = time.perf_counter()
    torch.set_num_threads(1)  # the net is so small that threads only wait for each other

    # train the reference
    torch.manual_seed(args.seed)
    reference = net()
    compare.train_reference(reference, data, 5 if args.smoke else 60, 0.1, 0.97, 128)
    reference_error = compare.evaluate(reference, data.test)[1]
    dense = leco.dense_bytes(reference)

    # compress it
    settings = dataclasses.replace(SETTINGS, **SMOKE) if args.smoke else SETTINGS
    rows = compress(reference, data, settings, args.out)
    results.table(rows, TITLE, reference_error, dense)
    figure = args.out / "error-against-bytes.png"
    results.draw(rows, TITLE, reference_error, dense, figure)
    print(f"\nfigure: {figure}")

    # load the best file in a new process
    best = choose(rows, compare.evaluate(reference, data.validation)[1])
    command = [sys.executable, __file__, "--check", best.path]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    error, seconds = float(answer.stdout), time.perf_counter() - start
    print(f"chosen on validation data: {best.compression}, {best.method}")
    print(f"{best.path}: {best.bytes:,} bytes, 1/{best.ratio:.1f} of the net")
    print(f"loaded in a new process: test error {error:.2f} % (here {best.error:.2f} %)")
    print(f"{seconds:.0f} s in all")

    if args.record:
        found = {"test_error": reference_error, "bytes": dense}
        used = dataclasses.asdict(settings)
        results.record(args.record, args.seed, seconds, found, rows, settings=used)
    if error != best.error:
        sys.exit("the file does not give the net that was saved")
    sys.exit(demo_transformer.compress(args.out, args.smoke))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo-out"), help="folder for the files and the figure")
    add("--seed", type=int, default=0)
    add("--smoke", action="store_true", help="a few short steps: shows that it runs")
    add("--record", type=Path, help="write the result here, as JSON")
    add("--check", type=Path, help="only load this file and print its test error")
    return parser.parse_args()


def digits() -> compare.Data:
    """1,797 images of 8 x 8: 1,000 for training, 297 for choices, 500 for the report."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(x, dtype=torch.float32)[order] / 16 - 0.3
    labels, sizes = torch.tensor(y)[order], [1000, 297, 500]
    parts = list(zip(images.split(sizes), labels.split(sizes), strict=True))
    return compare.Data(parts[0], parts[1], parts[2])


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def compress(
    reference: nn.Module, data: compare.Data, settings: compare.Settings, folder: Path
) -> list[compare.Row]:
    """The rows of three kinds of compression."""
    weights = leco.match(reference, "*.weight")
    families = {
        "1 bit": leco.each(weights, leco.Vector(), leco.Binary()),
        "5 % of weights": {"all": leco.Task(weights, leco.Vector(), leco.TopK(0.05))},
        "learned ranks": leco.each(weights, leco.Matrix(), leco.RankSelection(alpha=1e-5)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.checkpoint"):
        old.unlink()
    comparison = compare.Comparison(reference, data, settings, folder)
    rows: list[compare.Row] = []
    for name, tasks in families.items():
        print(f"\n{name}:\n{leco.plan(leco.LC(reference, tasks))}" if not rows else f"{name} ...")
        rows += comparison.run(name, tasks, progress=sys.stderr.isatty())
    return rows


def choose(rows: list[compare.Row], reference_error: float) -> compare.Row:
    """The smallest file whose validation error is at most ALLOWED above the reference's."""
    good = [row for row in rows if row.validation_error <= reference_error + ALLOWED] or rows
    return min(good, key=lambda row: (row.bytes, row.validation_error))


if __name__ == "__main__":
    main()
