"""What the examples share: training on tensors, evaluation, and the comparison of methods."""

import copy
import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leco

# share and temperature of the teacher's probabilities (Hinton, Vinyals and Dean, arXiv 1503.02531)
SOFT, TEMPERATURE = 0.7, 3.0
METHODS = ("DC", "DC + retraining", "LC")


class Data(NamedTuple):
    """Inputs and classes. `validation` is for choices and may be the training data."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an LC run trains. docs/algorithm.md has a table of the authors' settings."""

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
    """Every method that trains also has the reference's outputs as targets."""


class Row(NamedTuple):
    """A line of the table.

    Errors are in %, `bytes` is the file's length, `ratio` the reference's bytes over it, and `gap`
    the last relative gap of LC.
    """

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
    """Cross-entropy, a share of it against a teacher's probabilities if `soft` gives them."""
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
    """Train for some epochs of shuffled minibatches; return the mean loss of the last one.

    `soft` holds a teacher's probabilities at TEMPERATURE.
    """
    x, y = data
    model.train()
    total = torch.zeros(())
    for _ in range(epochs):
        total = torch.zeros(())
        for chosen in torch.randperm(len(x)).split(batch):
            # autocast keeps the weights that it has cast: enter it for each forward pass
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
    """Plain training; the learning rate decays after each epoch."""
    optimizer = sgd(list(model.parameters()), lr, weight_decay)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = lr * decay**epoch
        train(model, optimizer, data.train, 1, batch, bfloat16=bfloat16)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


class Comparison:
    """Direct compression, DC + retraining and LC of one reference net, each to a file."""

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
        """Compress a copy of the reference by each method."""
        return [self._row(name, method, tasks, progress) for method in methods]

    def _row(self, name: str, method: str, tasks: dict[str, leco.Task], progress: bool) -> Row:
        steps: dict[str, Callable[[str, leco.LC, bool], leco.Snapshot | None]] = {
            "DC": self._dc,
            "DC + retraining": self._retrain,
            "LC": self._lc,
            "LC + retraining": self._lc_retrain,
        }

        # compress
        lc = leco.LC(copy.deepcopy(self.reference), tasks)
        start = time.perf_counter()
        snapshot = steps[method](name, lc, progress)
        seconds, gap = time.perf_counter() - start, 0.0
        if method == "LC":  # a resumed run also counts the time of its earlier parts
            gap = lc.record().relative_gap
            seconds = sum(r.l_seconds + r.c_seconds for r in self.records[name][1:])
        if snapshot is not None:
            lc.restore_(snapshot)

        # save and evaluate
        path = self.folder / f"{_slug(name)}-{_slug(method)}.safetensors"
        size = leco.save(path, lc)
        with lc.compressed():
            loss = evaluate(lc.model, self.data.train)[0]
            error = evaluate(lc.model, self.data.test)[1]
            validation = evaluate(lc.model, self.data.validation)[1]
        ratio = self.dense / size
        return Row(name, method, error, validation, loss, size, ratio, gap, seconds, str(path))

    def _train(self, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> float:
        s = self.settings
        return train(model, optimizer, self.data.train, epochs, s.batch, self.soft, s.bfloat16)

    def _dc(self, name: str, lc: leco.LC, progress: bool) -> None:
        lc.mu = self.settings.mu

    def _retrain(self, name: str, lc: leco.LC, progress: bool) -> None:
        lc.mu = self.settings.mu
        self._train_free(lc)

    def _lc_retrain(self, name: str, lc: leco.LC, progress: bool) -> None:
        best = self._lc(name, lc, progress)  # starts from its checkpoint if LC has already run
        if best is not None:
            lc.restore_(best)
        lc.detach()
        self._train_free(lc)

    def _train_free(self, lc: leco.LC) -> None:
        s = self.settings
        free = leco.Retraining(lc)
        # SGD would need a rate for each shared value: its gradient sums over its weights
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

        held_out = self.data.validation[0] is not self.data.train[0]
        chosen = self.data.validation if held_out else self.data.test
        result = leco.run(
            lc,
            l_step,
            leco.exponential(s.mu, s.factor, s.steps),
            evaluate=lambda: evaluate(lc.model, chosen),
            from_delta=False,  # the authors' L steps start where the last one ended
            checkpoint=self.folder / f"{_slug(name)}-lc.checkpoint",
            stateful={"optimizer": optimizer},
            progress=progress,
        )
        self.records[name] = result.records
        return result.best if held_out else None  # None: the last net, not chosen by test error
