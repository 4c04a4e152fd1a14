"""Tutorial: compress a vision net in training, and draw error against bytes.

python examples/tutorial_vision.py [--out FOLDER] [--smoke]

docs/tutorial-vision.md explains it step by step. Needs scikit-learn and matplotlib.
"""

import argparse
import copy
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import leco

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, NullFormatter

STEPS, EPOCHS = 50, 2  # LC steps, and epochs of training in each L step


# --- your training script: data, net, epoch, error


def digits() -> list[tuple[Tensor, Tensor]]:
    """Images (n, 1, 8, 8) and labels: 1,000 to train, 297 to choose by, 500 to report."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(x, dtype=torch.float32)[order].view(-1, 1, 8, 8) / 16 - 0.3
    labels, sizes = torch.tensor(y)[order], [1000, 297, 500]
    return list(zip(images.split(sizes), labels.split(sizes), strict=True))


TRAIN, VALIDATION, TEST = digits()


def net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def sgd(model: nn.Module, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True)


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """One epoch; the mean loss of its batches."""
    x, y = TRAIN
    losses = []
    for chosen in torch.randperm(len(x)).split(100):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def judge(model: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Loss, and error in %."""
    x, y = data
    logits = model(x)
    return F.cross_entropy(logits, y).item(), 100 * (logits.argmax(1) != y).double().mean().item()


def reference(epochs: int = 40) -> nn.Module:
    """The trained net."""
    torch.manual_seed(0)
    model = net()
    optimizer = sgd(model, 0.05)
    for k in range(epochs):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.97**k
        epoch(model, optimizer)
    return model


# --- compression


def train(model: nn.Module, lc: leco.LC) -> dict[str, Any]:
    """The L step and other options of `leco.run`. `leco compress --train` calls it, too."""
    optimizer = sgd(model, 0.05)
    lc.attach(optimizer)  # the penalty's gradient joins optimizer.step()

    def l_step(k: int) -> float:
        rate = 0.05 * (1 - k / (STEPS + 1))
        rate = leco.stable_lr(rate, lc.mu, momentum=0.9, nesterov=True)
        optimizer.param_groups[0]["lr"] = rate
        return sum(epoch(model, optimizer) for _ in range(EPOCHS)) / EPOCHS

    return {
        "l_step": l_step,
        "evaluate": lambda: judge(model, VALIDATION),
        "stateful": {"optimizer": optimizer},
    }


def error(model: nn.Module) -> float:
    """Test error in %. `leco compress --evaluate` calls it, too."""
    return judge(model, TEST)[1]


class Found(NamedTuple):
    """What one size of codebook gave."""

    values: int
    direct: float
    error: float
    bytes: int
    records: list[leco.Record]


def compress(dense: nn.Module, values: int, steps: int, path: Path) -> Found:
    """The weights of each layer to a codebook of some values, in a file."""
    torch.manual_seed(0)
    model = copy.deepcopy(dense)
    weights = leco.match(model, "*.weight")
    lc = leco.LC(model, leco.each(weights, leco.Vector(), leco.Codebook(values)))

    # direct compression: one C step
    lc.mu = 1e-3
    with lc.compressed():
        direct = error(model)

    # LC: L steps and C steps in turns, while mu grows
    schedule = leco.exponential(1e-3, 1.15, steps)
    result = leco.run(lc, schedule=schedule, progress=False, **train(model, lc))
    assert result.best is not None
    lc.restore_(result.best)

    # a file, and the net that it gives
    size = leco.save(path, lc)
    return Found(values, direct, error(leco.load(path, net())), size, result.records)


# --- pictures


def draw_curve(rows: list[Found], dense_error: float, dense_bytes: int, path: Path) -> None:
    """Error against bytes."""
    figure, axes = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
    sizes = [row.bytes / 1000 for row in rows]
    axes.plot(sizes, [row.direct for row in rows], "x--", label="direct compression")
    axes.plot(sizes, [row.error for row in rows], "o-", label="LC")
    axes.plot(dense_bytes / 1000, dense_error, "s", color="gray", label="dense net")
    for row in rows:
        at = row.bytes / 1000, row.direct
        axes.annotate(f"{row.values} values", at, (8, 2), textcoords="offset points")
    axes.set(xlabel="kB of the file", ylabel="test error, %", xscale="log", yscale="log")
    axes.legend()
    plain(axes.xaxis, (5, 10, 20, 50, 100))
    plain(axes.yaxis, (1, 2, 5, 10, 20, 50))
    figure.savefig(path, dpi=130)


def plain(axis: Axis, ticks: tuple[int, ...]) -> None:
    """Numbers as they are spoken on a logarithmic axis."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def draw_run(found: Found, path: Path) -> None:
    """What happens in a run: the error of the compressed net, and the gap."""
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(5.4, 4.6), layout="constrained"
    )
    steps = range(len(found.records))
    top.plot(steps, [record.compressed_error for record in found.records], "o-", ms=4)
    top.set(ylabel="validation error of\nthe compressed net, %", yscale="log")
    bottom.plot(steps, [record.relative_gap for record in found.records], "o-", ms=4)
    plain(top.yaxis, (2, 5, 10, 20, 50))
    bottom.set(ylabel="gap, relative to w", xlabel="LC step (0: direct compression)", yscale="log")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("tutorial-vision"))
    parser.add_argument("--smoke", action="store_true", help="a few short steps")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the net is so small that threads only wait for each other

    # the trained net
    dense = reference(2 if given.smoke else 40)
    before = error(dense), leco.dense_bytes(dense)
    print(f"dense net: error {before[0]:.1f} %, {before[1]:,} bytes")

    # three sizes
    rows = []
    for values in (2,) if given.smoke else (2, 4, 16):
        path = given.out / f"{values}-values.safetensors"
        row = compress(dense, values, 2 if given.smoke else STEPS, path)
        print(
            f"{values} values: error {row.direct:.1f} % direct, {row.error:.1f} % LC, "
            f"{row.bytes:,} bytes, 1/{before[1] / row.bytes:.0f}"
        )
        rows.append(row)

    # pictures and a report
    draw_curve(rows, *before, given.out / "curve.png")
    draw_run(rows[0], given.out / "run.png")
    path = given.out / "2-values.safetensors"
    print(leco.breakdown(path))
    packed = leco.load(path, net(), packed=True)
    print(leco.compare(dense, packed, TEST[0][:64], file=path, repeats=3))


if __name__ == "__main__":
    main()
