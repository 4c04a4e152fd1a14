"""A small problem for the methods: two Linear layers on points of the plane, in two classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("PIL")

import leco
from benchmarks.data import Data
from benchmarks.proof import training
from benchmarks.proof.cell import Cell, Settings
from benchmarks.proof.trainer import Trainer
from leco.views import View

SHORT: dict[str, Any] = {"epochs": 8, "batch": 64, "lr": 0.05, "steps": 8, "evaluations": 4}


def cell(
    folder: Path, compression: leco.Compression[Any], view: View | None = None, **changes: Any
) -> Cell:
    """A cell whose reference is trained for 40 epochs."""
    torch.manual_seed(0)
    x = torch.randn(256, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    data = Data("points", (x, y), (x, y), (x, y), same, same, False)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    trainer = Trainer(data, batch=64, epochs=40, lr=0.1, seed=0, bfloat16=False)
    trainer.run(model, training.sgd(model.parameters(), 0.1), trainer.total)

    # one task for all weights where they compete for their number
    names, view = leco.match(model, "*.weight"), view or leco.Vector()
    joint = isinstance(compression, leco.TopK | leco.Compose)
    one = {"all": leco.Task(names, view, compression)}
    tasks = one if joint else leco.each(names, view, compression)
    settings = Settings(**{**SHORT, "start": 0.1, "end": 3000.0, **changes})
    return Cell(model, tasks, data, settings, 0, folder / "cell.checkpoint")


def same(images: torch.Tensor) -> torch.Tensor:
    return images


def loss(lc: leco.LC, found: Cell) -> float:
    with lc.compressed():
        return found.validate()[0]
