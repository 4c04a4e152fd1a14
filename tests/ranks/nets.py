"""A net with a parameter for every compression, its tasks, and its training."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from laws.cases import CASES
from torch import nn

import leco
from leco.compressions import cp, tucker
from leco.compressions import train as train_form

DATA = torch.randn(16, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
FAMILIES = {
    f"{k:02d} {case.name}".replace(".", ","): case
    for k, case in enumerate(CASES)
    if all(isinstance(n, int) for n in case.shape)
}
MUS = [0.5, 0.8, 1.3]


class Net(nn.Module):
    """L(w) = the mean over examples a of sum_i ||w_i - a t_i||^2 / 2, with targets t_i."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.w = nn.ParameterDict()
        self.targets = []
        for name, shape in shapes.items():
            start, target = (
                torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2)
            )
            self.w[name] = nn.Parameter(start)
            self.targets.append(target)

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        terms = [
            (w - examples.reshape(-1, *[1] * t.dim()) * t).square().flatten(1).sum(1) / 2
            for w, t in zip(self.w.values(), self.targets, strict=True)
        ]
        return torch.stack(terms).sum(0).mean()


def families() -> Net:
    """A parameter for each compression, and two for a joint task."""
    return Net({**{k: case.shape for k, case in FAMILIES.items()}, "a": (5, 3), "b": (7,)})


def tasks(families: bool = True) -> dict[str, leco.Task]:
    """Each family by itself, and one compression of two parameters jointly."""
    own = FAMILIES.items() if families else ()
    found = {
        name: leco.Task(f"w.{name}", leco.Reshape(tuple(case.shape)), case.compression)
        for name, case in own
    }
    return found | {"joint": leco.Task(("w.a", "w.b"), leco.Vector(), leco.Codebook(3))}


def small() -> Net:
    """Two compressed parameters, and one that is not."""
    return Net({"a": (5, 3), "b": (7,), "c": (5,)})


@contextmanager
def few_sweeps() -> Iterator[None]:
    """Inside, tensor decompositions end after two sweeps, as only equal results count here."""
    with ExitStack() as stack:
        for module in (cp, train_form, tucker):
            stack.enter_context(mock.patch.object(module, "SWEEPS", 2))
        yield


def train(lc: leco.LC, model: nn.Module, optimizer, examples, steps: int = 4) -> None:
    """LC steps over MUS, of so many optimizer steps each."""
    for mu in MUS:
        lc.mu = mu
        l_step(model, optimizer, examples, steps)
        lc.step()


def l_step(model: nn.Module, optimizer, examples: torch.Tensor, steps: int = 4) -> float:
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(examples)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
