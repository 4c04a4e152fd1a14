"""What the examples share: training on tensors, evaluation, the comparison of methods, its table
and its figure."""

import copy
import dataclasses
import json
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import leco

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

# share and temperature of the teacher's probabilities (Hinton, Vinyals and Dean, arXiv 1503.02531)
SOFT, TEMPERATURE = 0.7, 3.0


class Data(NamedTuple):
    """Inputs and classes to train on, to choose with (may be the training data), and to report."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an LC run trains: see the table of the authors' settings in docs/algorithm.md."""

    mu: float
    factor: float
    steps: int
    epochs: int
    first_epochs: int
    lr: float
    decay: float
    batch: int
    retrain_epochs: int
    retrain_lr: float
    bfloat16: bool = False
    soft: bool = False
    """Whether the reference's outputs are targets too, in every method that trains."""


class Row(NamedTuple):
    """A line of the table: errors in %, the file's length, the reference's bytes over it, the
    relative gap that LC ended with."""

    compression: str
    method: str
    error: float
    validation_error: float
    train_loss: float
    bytes: int
    ratio: float
    gap: float
    seconds: float
    path: str


def objective(logits: Tensor, classes: Tensor, soft: Tensor | None = None) -> Tensor:
    """Cross-entropy, with a share of it against a teacher's probabilities at TEMPERATURE where they
    are given."""
    loss = F.cross_entropy(logits, classes)
    if soft is None:
        return loss
    return (1 - SOFT) * loss + SOFT * TEMPERATURE**2 * F.kl_div(
        F.log_softmax(logits / TEMPERATURE, 1), soft, reduction="batchmean"
    )


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor],
    epochs: int,
    batch: int,
    soft: Tensor | None = None,
    bfloat16: bool = False,
) -> float:
    """Epochs over shuffled minibatches of tensors; the mean loss of the last one. `soft`: a
    teacher's probabilities, at TEMPERATURE."""
    x, y = data
    model.train()
    total = torch.zeros(())
    for _ in range(epochs):
        total = torch.zeros(())
        for chosen in torch.randperm(len(x)).split(batch):
            # around each forward pass: it keeps the weights that it has cast
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = model(x[chosen])
            loss = objective(logits.float(), y[chosen], None if soft is None else soft[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(chosen)
    return float(total) / len(x)


@torch.no_grad()
def evaluate(model: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Mean loss, and error in %."""
    x, y = data
    model.eval()
    logits = torch.cat([model(part) for part in x.split(5000)])
    return float(F.cross_entropy(logits, y)), 100 * float((logits.argmax(1) != y).double().mean())


@torch.no_grad()
def teacher(model: nn.Module, x: Tensor) -> Tensor:
    """The model's probabilities at TEMPERATURE."""
    model.eval()
    return torch.cat([F.softmax(model(part) / TEMPERATURE, 1) for part in x.split(5000)])


def sgd(parameters: list[nn.Parameter], lr: float, weight_decay: float = 0.0) -> torch.optim.SGD:
    return torch.optim.SGD(
        parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay
    )


def train_reference(
    model: nn.Module,
    data: Data,
    epochs: int,
    lr: float,
    decay: float,
    batch: int,
    weight_decay: float = 0.0,
    bfloat16: bool = False,
) -> None:
    """Plain training, the learning rate decayed after each epoch."""
    optimizer = sgd(list(model.parameters()), lr, weight_decay)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = lr * decay**epoch
        train(model, optimizer, data.train, 1, batch, bfloat16=bfloat16)


METHODS = ("DC", "DC + retraining", "LC")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


class Comparison:
    """Direct compression, DC + retraining and LC of one reference net by one compression, each to a
    file."""

    def __init__(self, reference: nn.Module, data: Data, settings: Settings, folder: Path):
        self.reference, self.data, self.settings, self.folder = reference, data, settings, folder
        self.dense = leco.dense_bytes(reference)
        self.records: dict[str, list[leco.Record]] = {}
        self.soft = teacher(reference, data.train[0]) if settings.soft else None

    def run(
        self,
        name: str,
        tasks: dict[str, leco.Task],
        methods: Sequence[str] = METHODS,
        progress: bool = False,
    ) -> list[Row]:
        steps: dict[str, Callable[[str, leco.LC, bool], leco.Snapshot | None]] = {
            "DC": self._dc,
            "DC + retraining": self._retrain,
            "LC": self._lc,
            "LC + retraining": self._lc_retrain,
        }
        rows = []
        for method in methods:
            lc = leco.LC(copy.deepcopy(self.reference), tasks)
            start = time.perf_counter()
            snapshot = steps[method](name, lc, progress)
            seconds = time.perf_counter() - start
            gap = lc.record().relative_gap if method == "LC" else 0.0
            if method == "LC":  # a resumed run counts the time of its earlier parts
                seconds = sum(r.l_seconds + r.c_seconds for r in self.records[name][1:])
            if snapshot is not None:
                lc.restore_(snapshot)
            path = self.folder / f"{_slug(name)}-{_slug(method)}.safetensors"
            size = leco.save(path, lc)
            with lc.compressed():
                loss, error = (
                    evaluate(lc.model, self.data.train)[0],
                    evaluate(lc.model, self.data.test)[1],
                )
                validation = evaluate(lc.model, self.data.validation)[1]
            rows.append(
                Row(
                    name,
                    method,
                    error,
                    validation,
                    loss,
                    size,
                    self.dense / size,
                    gap,
                    seconds,
                    str(path),
                )
            )
        return rows

    def _train(self, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> float:
        return train(
            model,
            optimizer,
            self.data.train,
            epochs,
            self.settings.batch,
            self.soft,
            self.settings.bfloat16,
        )

    def _dc(self, name: str, lc: leco.LC, progress: bool) -> None:
        lc.mu = self.settings.mu

    def _retrain(self, name: str, lc: leco.LC, progress: bool) -> None:
        lc.mu = self.settings.mu
        self._train_free(lc)

    def _lc_retrain(self, name: str, lc: leco.LC, progress: bool) -> None:
        best = self._lc(name, lc, progress)  # from its checkpoint, where LC has run already
        if best is not None:
            lc.restore_(best)
        lc.detach()
        self._train_free(lc)

    def _train_free(self, lc: leco.LC) -> None:
        s = self.settings
        free = leco.Retraining(lc)
        # a shared value's gradient sums over its weights: SGD would need a rate each
        optimizer = torch.optim.Adam(free.parameters(), s.retrain_lr)
        free.attach(optimizer)
        for epoch in range(s.retrain_epochs):
            optimizer.param_groups[0]["lr"] = s.retrain_lr * 0.05 ** (epoch / s.retrain_epochs)
            self._train(lc.model, optimizer, 1)

    def _lc(self, name: str, lc: leco.LC, progress: bool) -> leco.Snapshot | None:
        s = self.settings
        optimizer = sgd(list(lc.model.parameters()), s.lr)
        lc.attach(optimizer)

        def l_step(k: int) -> float:
            lr = s.lr * s.decay**k
            optimizer.param_groups[0]["lr"] = leco.stable_lr(lr, lc.mu, momentum=0.9, nesterov=True)
            return self._train(lc.model, optimizer, s.first_epochs if k == 0 else s.epochs)

        chosen = (
            self.data.validation
            if self.data.validation[0] is not self.data.train[0]
            else self.data.test
        )
        result = leco.run(
            lc,
            l_step,
            leco.exponential(s.mu, s.factor, s.steps),
            from_delta=False,
            evaluate=lambda: evaluate(lc.model, chosen),
            checkpoint=self.folder / f"{_slug(name)}-lc.checkpoint",
            stateful={"optimizer": optimizer},
            progress=progress,
        )
        self.records[name] = result.records
        # with no validation data: the last net, whatever the test error was
        return result.best if chosen is self.data.validation else None


def record(
    path: Path,
    seed: int,
    seconds: float,
    reference: dict[str, float],
    rows: list[Row],
    **extra: Any,
) -> None:
    """Write a run, with its command, versions and machine, as JSON."""
    content = {
        "command": shlex.join(
            ["python", *(Path(a).name if a.startswith(("/", "..")) else a for a in sys.argv)]
        ),
        "seed": seed,
        "versions": {
            "leco": leco.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "seconds": seconds,
        "reference": reference,
        "rows": [{**row._asdict(), "path": Path(row.path).name} for row in rows],
        **extra,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"recorded in {path}")


def table(rows: list[Row], title: str, reference_error: float, dense: int) -> None:
    """Print the comparison."""
    out = Table(
        "compression",
        "method",
        "test error %",
        "file bytes",
        "ratio",
        "gap",
        "seconds",
        title=title,
    )
    out.add_row("none", "reference", f"{reference_error:.2f}", f"{dense:,}", "1.0", "", "")
    for row in rows:
        gap = f"{row.gap:.2g}" if row.method == "LC" else ""
        out.add_row(
            row.compression,
            row.method,
            f"{row.error:.2f}",
            f"{row.bytes:,}",
            f"{row.ratio:.1f}",
            gap,
            f"{row.seconds:.1f}",
        )
    Console(width=110).print(out)


def draw(rows: list[Row], title: str, reference_error: float, dense: int, path: Path) -> None:
    """Error against bytes, a marker for each method, the rows of one compression joined by a
    line."""
    markers = {"DC": "x", "DC + retraining": "s", "LC": "o", "LC + retraining": "D"}
    colours = plt.get_cmap("tab10")
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for number, name in enumerate(dict.fromkeys(row.compression for row in rows)):
        own = [row for row in rows if row.compression == name]
        axes.plot(
            [row.bytes for row in own],
            [row.error for row in own],
            color=colours(number),
            lw=0.8,
            alpha=0.6,
        )
        axes.plot([], [], color=colours(number), lw=3, label=name)
        for row in own:
            axes.plot(row.bytes, row.error, markers[row.method], color=colours(number), ms=7)
    for method in dict.fromkeys(row.method for row in rows):
        axes.plot([], [], markers[method], color="black", label=method)
    axes.plot(dense, reference_error, "*", color="black", ms=12, label="reference")
    axes.axhline(reference_error, color="black", lw=0.5, ls=":")
    axes.set(
        xscale="log", yscale="log", xlabel="bytes of the file", ylabel="test error (%)", title=title
    )
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g} kB")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
