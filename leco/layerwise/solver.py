"""The solves of a unit's tasks, each on the moments of its layers, shared out among the ranks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import leco.distributed as distributed
from leco.algorithm.owners import shared_c_steps
from leco.compressions.checks import full_dtype
from leco.layerwise.layouts import Layout
from leco.layerwise.moments import Inputs, Recorder, whole, why_not
from leco.layerwise.quadratic import Layer, Moments
from leco.layerwise.record import Calibration, LayerRecord
from leco.layerwise.solve import Problem, Schedule, solve
from leco.task import Task
from leco.theta import Theta

Report = Callable[[str], None]


class Solver:
    """Solves tasks, and writes into the result what there is to tell.

    Args:
        tasks: by name.
        own: the parameters of each task by name.
        schedule: of mu.
        damping: of the moments.
        result: takes the records, notes and tasks left, on every rank.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        own: Mapping[str, Mapping[str, nn.Parameter]],
        schedule: Schedule,
        damping: float,
        result: Calibration,
    ):
        self.tasks, self.own, self.result = tasks, own, result
        self.schedule, self.damping = schedule, damping
        self._moments: Moments | None = None
        self._h: Tensor | None = None

    @torch.no_grad()
    def thetas(
        self, names: Sequence[str], recorder: Recorder, joint: bool, done: Report
    ) -> dict[str, Theta]:
        """The Thetas of tasks, on every rank; each rank solves its share.

        Args:
            names: of the tasks.
            recorder: the moments of their parameters, which are used up.
            joint: whether each layer's error counts relative to its output.
            done: called with each task that this rank has done.
        """
        left = {n: why for n in names if (why := self.why_left(n, recorder))}
        records = dict[str, LayerRecord]()
        told = dict[str, list[str]]()

        def given(name: str, mine: bool) -> Problem | None:
            found = None if name in left or not mine else self.problem(name, recorder, joint, told)
            for parameter in self.own[name]:
                recorder.seen[parameter].parts.clear()
            return found

        def solved(name: str, problem: Problem | None) -> Theta:
            theta = self._direct(name) if problem is None else self._solved(name, problem, records)
            done(name)
            return theta

        # Each task on its owner
        costs = {n: self.cost(n) for n in names}
        devices = {n: next(iter(self.own[n].values())).device for n in names}
        thetas = shared_c_steps(costs, given, solved, devices)
        self._moments = self._h = None

        # What all ranks have to tell
        every = distributed.gathered((records, told))
        found = {n: record for records, _ in every for n, record in records.items()}
        notes = {n: lines for _, told in every for n, lines in told.items()}
        self.result.records += [found[n] for n in names if n in found]
        self.result.notes += [line for n in names for line in notes.get(n, [])]
        self.result.left |= left
        return thetas

    def cost(self, name: str) -> float:
        """Of a task's solve in some unit: the products of its weights with H."""
        return sum(p.numel() * max(p.shape, default=1) for p in self.own[name].values())

    def why_left(self, name: str, recorder: Recorder) -> str:
        """Why a task is left at direct compression; empty where it is not."""
        for parameter, p in self.own[name].items():
            if why := why_not(p, recorder.seen[parameter]):
                return f"{parameter}: {why}" if len(self.own[name]) > 1 else why
        return ""

    def problem(
        self, name: str, recorder: Recorder, joint: bool, told: dict[str, list[str]]
    ) -> Problem:
        """A task with its layers."""
        own, layers, layouts = self.own[name], list[Layer](), list[Layout]()
        for parameter, p in own.items():
            found = whole(p, recorder.seen[parameter])
            assert isinstance(found, Inputs)  # by `why_left`
            moments = self._decomposed(found)
            told.setdefault(name, []).extend(_notes(parameter, found, moments))
            layer = Layer(found.layout.matrices(p.detach()), moments)
            if joint and layer.energy:
                layer.weight = 1 / layer.energy
            layers.append(layer)
            layouts.append(found.layout)
        return Problem(self.tasks[name], layers, layouts, [p.shape for p in own.values()])

    def _decomposed(self, inputs: Inputs) -> Moments:
        """H with its decomposition: the last one where layers share their inputs."""
        if self._moments is None or self._h is None or not torch.equal(self._h, inputs.h):
            self._h, self._moments = inputs.h, Moments(inputs.h, self.damping)
        return self._moments

    def _solved(self, name: str, problem: Problem, records: dict[str, LayerRecord]) -> Theta:
        try:
            solved = solve(problem, self.schedule)
        except ValueError as error:
            raise ValueError(f"calibrate: task {name!r}: {error}") from error
        records[name] = LayerRecord(name, *solved[1:])
        return solved.theta

    def _direct(self, name: str) -> Theta:
        """Direct compression without H."""
        view, compression = self.tasks[name].view, self.tasks[name].compression
        x: Any = view.forward([p.detach().to(full_dtype(p.dtype)) for p in self.own[name].values()])
        return compression.compress(x, self.schedule.last)


def _notes(name: str, inputs: Inputs, moments: Moments) -> list[str]:
    """What is damped or unseen of a parameter's inputs."""
    notes, groups, unseen = list[str](), len(inputs.h), int(moments.unseen.sum())
    if unseen:
        notes.append(
            f"{name}: no calibration input reaches {unseen} of its {groups} groups, in which "
            "all weights count alike"
        )
    if not moments.diagonal and inputs.samples < inputs.h.shape[-1]:
        notes.append(
            f"{name}: {inputs.samples} samples are fewer than its {inputs.h.shape[-1]} inputs; "
            "damping alone tells some of them apart"
        )
    return notes
