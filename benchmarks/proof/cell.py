"""A cell of the tables: one net, compression and seed, and how it trains."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import leco
from benchmarks.data import Data
from benchmarks.proof import training
from benchmarks.proof.trainer import Curve, Trainer, epochs


@dataclass(frozen=True)
class Settings:
    """How a cell trains.

    LC makes `steps` steps of equal length, with mu from `start` to `end` times the curvature by
    `leco.automatic`. Then a share `retrain` of the epochs trains what is free.
    """

    epochs: float
    batch: int
    lr: float
    steps: int
    scale: float = 0.0
    """Stands for the curvature where it is above 0.

    Prices make direct compression depend on mu, and so the curvature.
    """
    start: float = 0.05
    end: float = 7.0
    power: float = 1.5
    retrain: float = 0.1
    retrain_lr: float = 1e-3
    weight_decay: float = 0.0
    soft: bool = True
    """The reference's probabilities are targets, too."""
    multipliers: bool = True
    reset: bool = False
    """Forget the momentum before each L step."""
    from_delta: bool = False
    """Each L step starts at w = Delta(Theta), not where the last one ended."""
    rounds: int = 1
    """L and C steps at each mu."""
    restart: bool = False
    """The rate's cosine starts anew at each L step."""
    clip: bool = True
    """Keep the rate below leco.stable_lr."""
    lr_end: float = 0.0
    """The rate falls geometrically to so much of `lr` where this is above 0, else by a cosine."""
    max_norm: float = 0.0
    """Clip the loss's gradient to this norm where it is above 0."""
    fisher: float = 0.0
    """Damping of the Fisher diagonal, which is the metric where this is above 0."""
    optimizer: str = "sgd"
    way: str = "attach"
    """How the penalty acts: "attach", "loss" or "proximal"."""
    tighten: float = 0.0
    """The share of the steps in which a budget's limit falls from `loose` times itself."""
    loose: float = 8.0
    recalibrate: bool = True
    """Find batch-norm statistics again for the compressed net."""
    evaluations: int = 12
    """Evaluations of the compressed net on validation data, over the run."""


@dataclass
class Cell:
    """The net, what is compressed how, the data, and where the checkpoint is."""

    model: nn.Module
    tasks: dict[str, leco.Task]
    data: Data
    settings: Settings
    seed: int
    checkpoint: Path
    soft: Tensor | None = None
    limit: float | None = None
    """The cost that LC's ranks have, for baselines that are to meet it."""
    curvature: float | None = None
    curve: Curve = field(default_factory=list)

    def trainer(
        self,
        epochs: float | None = None,
        lr: float | None = None,
        shape: Callable[[float], float] = training.cosine,
        part: int = 0,
    ) -> Trainer:
        """For all epochs, or for one part of a method."""
        s = self.settings
        return Trainer(
            self.data,
            batch=s.batch,
            epochs=s.epochs if epochs is None else epochs,
            lr=s.lr if lr is None else lr,
            seed=10 * self.seed + part,
            soft=self.soft,
            shape=(lambda share: s.lr_end**share) if s.lr_end and lr is None else shape,
        )

    def optimizer(self) -> torch.optim.Optimizer:
        groups = training.decayed(self.model, self.settings.weight_decay)
        make = training.sgd if self.settings.optimizer == "sgd" else torch.optim.AdamW
        return make(groups, self.settings.lr)

    def validate(self) -> tuple[float, float]:
        """Loss and error in % of the model as it is."""
        return training.evaluate(self.model, self.data, self.data.validation, True)

    def note(self, trainer: Trainer, loss: float, error: float) -> None:
        """Add a point to the curve."""
        epoch = trainer.done / trainer.per_epoch
        self.curve.append({"epoch": epoch, "train_loss": loss, "validation_error": error})

    def first_mu(self, lc: leco.LC) -> float:
        """`start` times the curvature from the reference to direct compression.

        The curvature is that of the loss over 2,000 examples.
        """
        self.curvature = self.curvature or self.settings.scale or None
        if self.curvature is None:
            images, labels = (part[:2000] for part in self.data.train)
            count = math.ceil(len(images) / 500)

            def backward() -> None:
                self.model.train()
                for k in range(count):
                    part = slice(500 * k, 500 * k + 500)
                    soft = None if self.soft is None else self.soft[:2000][part]
                    outputs = self.model(self.data.prepare(images[part]))
                    (training.objective(outputs, labels[part], soft) / count).backward()

            self.curvature = lc.curvature(backward)
        return self.settings.start * self.curvature

    def weigh(self, lc: leco.LC) -> None:
        """Give the LC its metric: from 2,000 examples, in batches of 20."""
        if not self.settings.fisher:
            return
        images, labels = (part[:2000] for part in self.data.train)

        def backward(part: slice) -> None:
            self.model.train()
            soft = None if self.soft is None else self.soft[:2000][part]
            outputs = self.model(self.data.prepare(images[part]))
            training.objective(outputs, labels[part], soft).backward()

        parts = [slice(k, k + 20) for k in range(0, len(images), 20)]
        lc.set_metric(leco.fisher(lc, backward, parts, self.settings.fisher))

    def compressed_error(self, lc: leco.LC) -> float:
        """The error of the compressed net on validation data."""
        images = training.calibration(self.data) if self.settings.recalibrate else None
        with lc.compressed(images):
            return self.validate()[1]

    def epochs(self, trainer: Trainer, stateful: dict[str, Any]) -> Iterator[int]:
        """The epochs that are left; writes the checkpoint after each."""
        return epochs(self.checkpoint, trainer, {"model": self.model, **stateful}, self.curve)


def trace(curve: Curve) -> dict[str, Any]:
    """The few numbers of a curve that the tables use."""
    steps = [r for r in curve[1:] if "l_seconds" in r]
    found: dict[str, Any] = {}
    if steps:
        found["steps"] = len(steps)
        found |= {key: sum(r[key] for r in steps) for key in ("l_seconds", "c_seconds")}
    changed = [r["changed"] for r in curve if r.get("changed") is not None]
    if changed:
        found["changed"] = {"third": changed[len(changed) // 3], "last": changed[-1]}
    before = [r["validation_error"] for r in curve if r.get("part") == "before retraining"]
    if before:
        found["before_retraining"] = before[0]
    if curve and "validation_error" in curve[-1]:
        found["last_validation_error"] = curve[-1]["validation_error"]
    return found
