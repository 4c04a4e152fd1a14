"""The LC algorithm on the reconstruction errors of layers, for one task."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leco.compressions.codebooks import Codebook
from leco.compressions.metric import Mu
from leco.layerwise.closed import in_closed_form
from leco.layerwise.layouts import Layout
from leco.layerwise.quadratic import Layer
from leco.layerwise.refine import refined
from leco.task import Task
from leco.theta import Theta
from leco.theta.tree import choices, share_changed

FIRST = 3  # steps in which the choices are only about to change
MANY = 0.01  # the share of choices above which mu grows slowly
FEW = 0.001  # the share of choices at which the steps end


class Solved(NamedTuple):
    """Theta, the relative errors of direct compression and of LC, and the steps made."""

    theta: Theta
    direct: float
    error: float
    steps: int
    seconds: float


@dataclass
class Problem:
    """A task with the layers of its parameters.

    Args:
        task: its view and compression.
        layers: one for each parameter.
        layouts: of the parameters.
        shapes: of the parameters.
    """

    task: Task
    layers: list[Layer]
    layouts: list[Layout]
    shapes: list[torch.Size]

    def __post_init__(self) -> None:
        each = zip(self.layers, self.layouts, self.shapes, strict=True)
        metric = []
        for layer, layout, shape in each:
            d = layer.metric.expand(layer.trained.shape)
            metric.append(layout.weight(d, shape))
        self.metric = self.task.view.forward(metric)

    def array(self, matrices: Iterable[Tensor]) -> Any:
        """What the compression takes, of the matrices of each parameter."""
        each = zip(matrices, self.layouts, self.shapes, strict=True)
        return self.task.view.forward([layout.weight(m, shape) for m, layout, shape in each])

    def matrices(self, array: Any) -> list[Tensor]:
        """The matrices of each parameter, of an array of the view."""
        parts = self.task.view.backward(array, self.shapes)
        return [layout.matrices(part) for part, layout in zip(parts, self.layouts, strict=True)]

    def mu(self, mu: float) -> Mu:
        """mu d, through the view."""
        if isinstance(self.metric, Tensor):
            return mu * self.metric
        return tuple(mu * block for block in self.metric)

    def take(self, theta: Theta) -> None:
        """Let the layers have Delta(Theta)."""
        for layer, delta in zip(self.layers, self.matrices(theta.decompress()), strict=True):
            layer.take(delta)

    def objective(self, theta: Theta) -> float:
        """Half the layers' errors, weighed, and the price of Theta, whose Delta they have."""
        loss = sum(layer.weight * layer.error() for layer in self.layers)
        return loss / 2 + self.task.compression.price(theta)

    def relative(self) -> float:
        """The layers' errors by those of weights of 0."""
        energy = sum(layer.weight * layer.energy for layer in self.layers)
        error = sum(layer.weight * layer.error() for layer in self.layers)
        return error / energy if energy else 0.0


class Schedule(NamedTuple):
    """mu from `first` to `last`, which a constant factor would reach in `steps` steps.

    It grows by the root of that factor while many choices of Theta change, and by its fourth power
    when few do: the steps are spent where the choices are made. Where none changes any more, the
    steps end. Forms without choices have the constant factor.
    """

    steps: int
    first: float
    last: float

    def growth(self, changed: float) -> float:
        """The factor to the next mu, for a share of choices that the last C step changed."""
        factor = (self.last / self.first) ** (1 / max(self.steps - 1, 1))
        if math.isnan(changed):
            return factor
        return factor**0.5 if changed > MANY else factor**4


@torch.no_grad()
def solve(problem: Problem, schedule: Schedule) -> Solved:
    """min 1/2 tr((W - W0) H (W - W0)') + price subject to W = Delta(Theta): in closed form where
    there is one; else by steps from direct compression in the metric diag(H), of which the Theta of
    least objective is refined.

    Args:
        problem: the task and its layers.
        schedule: of mu, in units of the mean eigenvalue of H with a unit diagonal.
    """
    start, compression = time.perf_counter(), problem.task.compression

    # direct compression in the metric, which is the answer where H is diagonal
    x = problem.array(layer.w0 for layer in problem.layers)
    theta = compression.compress(x, problem.mu(schedule.first))
    problem.take(theta)
    direct, best, least = problem.relative(), theta, problem.objective(theta)
    if all(layer.moments.diagonal for layer in problem.layers):
        return Solved(best, direct, direct, 0, time.perf_counter() - start)
    exact = in_closed_form(problem)
    if exact is not None:
        problem.take(exact)
        return Solved(exact, direct, problem.relative(), 0, time.perf_counter() - start)

    # alternate
    step, mu, steps = _by_descent(compression), schedule.first, 0
    while mu <= schedule.last * (1 + 1e-9) and steps < 2 * schedule.steps:
        x = problem.array([layer.l_step(mu) for layer in problem.layers])
        before, theta = theta, step.compress(x, problem.mu(mu), theta)
        problem.take(theta)
        objective = problem.objective(theta)
        if objective < least:
            best, least = theta, objective
        for layer in problem.layers:
            layer.multipliers_step(mu)

        # the next mu
        steps += 1
        changed = share_changed(choices([before]), choices([theta]))
        if schedule.steps == 1 or (steps > FIRST and changed <= FEW):
            break
        early = steps <= FIRST and not math.isnan(changed)
        mu *= schedule.growth(1.0 if early else changed)

    # what Theta leaves free, and its codes, in H
    best = refined(problem, best)
    problem.take(best)
    return Solved(best, direct, problem.relative(), steps, time.perf_counter() - start)


def _by_descent(compression: Any) -> Any:
    """The compression with C steps by descent from the last Theta, where the choice is its own:
    forty exact ones cost more than they bring."""
    if isinstance(compression, Codebook) and compression.exact is None and compression.k > 2:
        return replace(compression, exact=False)
    return compression
