"""How much each layer's outputs suffer under each of several compressions, and a choice of one for
each layer at a size in bytes."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

import leco.distributed as distributed
from leco.algorithm.lc import LC
from leco.algorithm.owners import owned as owners
from leco.atomic import atomically
from leco.coding.tensors import bits
from leco.compressions.protocol import Compression
from leco.layerwise.calibrate import blocks_of, owned, quiet
from leco.layerwise.checkpoint import Checkpoint
from leco.layerwise.effects import Alone, effects_of
from leco.layerwise.moments import Recorder
from leco.layerwise.quadratic import Layer
from leco.layerwise.record import Calibration
from leco.layerwise.solve import Problem, Schedule, solve
from leco.layerwise.solver import Report, Solver
from leco.layerwise.stream import Stream
from leco.layerwise.units import Units
from leco.task import Task
from leco.theta import Theta
from leco.views import View

CELLS = 2**16  # sizes that the choice tells apart
MU = (0.1, 10.0)  # the first and the last

Candidates = Mapping[str, tuple[View, Compression[Any]]]


@dataclass
class Sensitivity:
    """A table of relative errors and sizes, by layer and candidate.

    Args:
        errors: tr((W - W0) H (W - W0)') / tr(W0 H W0') of a layer under a candidate.
        bits: of the layer's coded Theta.
        weights: a factor of each layer's error in the sum that `choose` minimises: what the net's
            output suffers from it, where `sensitivity` measured that, else 1.
    """

    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    bits: dict[str, dict[str, int]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the table as JSON."""
        table = {"errors": self.errors, "bits": self.bits, "weights": self.weights}
        text = json.dumps(table, indent=1)

        def write(name: str) -> None:
            Path(name).write_text(text, encoding="utf-8")

        atomically(Path(path), write)

    @staticmethod
    def load(path: str | Path) -> "Sensitivity":
        """Read what `save` wrote."""
        return Sensitivity(**json.loads(Path(path).read_text(encoding="utf-8")))

    def __str__(self) -> str:
        names = list(next(iter(self.errors.values()), {}))
        wide = max([len("layer"), *map(len, self.errors)])
        lines = [f"{'layer':<{wide}}  " + "  ".join(f"{name:>10}" for name in names)]
        for layer, found in self.errors.items():
            lines.append(f"{layer:<{wide}}  " + "  ".join(f"{found[n]:10.3g}" for n in names))
        return "\n".join(lines)

    def choose(self, limit: float) -> dict[str, str]:
        """The candidate of each layer with the least weighed sum of relative errors, at `limit`
        bytes for all layers together.

        Exact up to a resolution of 2^-16 of the limit, by dynamic programming over sizes: sizes
        are rounded up, so that the limit holds. O(layers candidates 2^16).

        Raises:
            ValueError: a limit below the smallest candidates' sizes.
        """
        layers, unit = list(self.errors), 8 * limit / CELLS
        least = sum(min(self.bits[layer].values()) for layer in layers)
        if not limit * 8 >= least:
            raise ValueError(
                f"Sensitivity: limit = {limit:,} bytes must be at least {math.ceil(least / 8):,}, "
                "the sum of each layer's smallest candidate"
            )
        error = torch.zeros(CELLS + 1, dtype=torch.float64)
        taken = list[torch.Tensor]()
        for layer in layers:
            found, which = (
                torch.full_like(error, torch.inf),
                torch.zeros(CELLS + 1, dtype=torch.int32),
            )
            for j, (name, size) in enumerate(self.bits[layer].items()):
                cells = math.ceil(size / unit)
                if cells > CELLS:
                    continue
                own = torch.full_like(error, torch.inf)
                weighed = self.weights.get(layer, 1.0) * self.errors[layer][name]
                own[cells:] = error[: CELLS + 1 - cells] + weighed
                which[own < found] = j
                found = torch.minimum(found, own)
            error, taken = found, [*taken, which]

        # back from the least error
        at = int(error.argmin())
        if not math.isfinite(float(error[at])):  # by the rounding of sizes
            return {
                layer: min(self.bits[layer], key=self.bits[layer].__getitem__) for layer in layers
            }
        chosen = dict[str, str]()
        for layer, which in zip(reversed(layers), reversed(taken), strict=True):
            name = list(self.bits[layer])[int(which[at])]
            chosen[layer] = name
            at -= math.ceil(self.bits[layer][name] / unit)
        return {layer: chosen[layer] for layer in layers}

    def tasks(self, candidates: Candidates, limit: float) -> dict[str, Task]:
        """`choose` as tasks, for an LC."""
        return {n: Task(n, *candidates[name]) for n, name in self.choose(limit).items()}


def sensitivity(
    model: nn.Module,
    params: Iterable[str],
    candidates: Candidates,
    batches: Iterable[Any],
    *,
    blocks: Sequence[nn.Module | str] | None = None,
    steps: int = 5,
    damping: float = 0.01,
    effects: int = 0,
    progress: bool = True,
) -> Sensitivity:
    """The relative error of each layer's outputs under each candidate, with all other layers dense:
    LC without training, in one pass over the blocks. The model stays as it is.

    With `effects`, the weight of a layer is the relative error of the net's output with this layer
    alone compressed, by the layer's own relative error. A byte saves more of the plain sum of
    errors in a small layer, whether the net needs it there or not.

    Args:
        model: the net.
        params: names of weights.
        candidates: name to a view and a compression.
        batches: inputs of the model, as `leco.calibrate` takes them.
        blocks: as for `leco.calibrate`.
        steps: LC steps of each candidate; a few tell candidates apart.
        damping: as for `leco.calibrate`.
        effects: the first so many batches of each rank measure the net's output, once for each
            layer; 0 to weigh all layers alike. A layer takes a pass over these batches from its
            block on, half a pass on average; a layer outside of the blocks takes a whole one.
        progress: show bars.

    Raises:
        ValueError: no candidates; effects below 0; a candidate that can't take a weight's shape; a
            weight that no calibration input reaches; and as `leco.calibrate`.

    >>> import leco, torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
    >>> grids = {f"{b} bits": (leco.Rows(), leco.Uniform(b)) for b in (2, 4, 8)}
    >>> names = leco.match(net, "*.weight")
    >>> table = leco.sensitivity(net, names, grids, [torch.randn(64, 8)], progress=False)
    >>> errors = table.errors["0.weight"]
    >>> errors["8 bits"] < errors["4 bits"] < errors["2 bits"]
    True
    """
    if not candidates:
        raise ValueError("sensitivity: candidates is empty; give at least one")
    if not isinstance(effects, int) or effects < 0:
        raise ValueError(f"sensitivity: effects = {effects} must be an integer, at least 0")
    names = list(params)
    every = {name: LC(model, {n: Task(n, *how) for n in names}) for name, how in candidates.items()}
    lc = next(iter(every.values()))
    with quiet(lc.model):
        stream, kept = Stream(lc.model, blocks_of(lc, blocks), batches), Checkpoint(None, None)
        tasks = {name: own.tasks for name, own in every.items()}
        trials = _Trials(tasks, owned(lc), Schedule(steps, *MU), damping, effects > 0)
        Units(lc, stream, trials, 0, kept, progress).all()
        if effects:
            some = list(islice(batches, effects))
            own = effects_of(lc.model, trials.middle, some, stream.blocks, progress)
            every = {n: e for others in distributed.gathered(own) for n, e in others.items()}
            trials.found.weights = {name: every.get(name, 0.0) for name in trials.found.errors}
    return trials.found


class _Trials(Solver):
    """Tries every candidate of every task, and takes none."""

    def __init__(
        self,
        candidates: Mapping[str, Mapping[str, Task]],
        own: Mapping[str, Mapping[str, nn.Parameter]],
        schedule: Schedule,
        damping: float,
        keep: bool,
    ):
        tasks = next(iter(candidates.values()))
        super().__init__(tasks, own, schedule, damping, Calibration())
        self.candidates, self.found = candidates, Sensitivity()
        self.keep, self.middle = keep, dict[str, Alone]()  # of this rank's tasks

    @torch.no_grad()
    def thetas(
        self, names: Sequence[str], recorder: Recorder, joint: bool, done: Report
    ) -> dict[str, Theta]:
        """None. Each rank tries its share of the tasks."""
        for name in names:
            if why := self.why_left(name, recorder):
                raise ValueError(f"sensitivity: {name!r}: {why}")
        queues = owners({n: self.cost(n) for n in names}, distributed.ranks())
        own = dict[str, dict[str, tuple[float, int]]]()
        for name in queues[distributed.rank()]:
            own[name] = self._tried(name, self.problem(name, recorder, joint, {}))
            done(name)
        every = {n: tried for others in distributed.gathered(own) for n, tried in others.items()}
        for name in names:
            self.found.errors[name] = {c: error for c, (error, _) in every[name].items()}
            self.found.bits[name] = {c: size for c, (_, size) in every[name].items()}
        return {}

    def _tried(self, name: str, problem: Problem) -> dict[str, tuple[float, int]]:
        """The error and the bits of each candidate. The one of middle error is kept, where
        effects are wanted."""
        found, thetas = dict[str, tuple[float, int]](), dict[str, Theta]()
        for candidate, tasks in self.candidates.items():
            layers = [Layer(layer.w0, layer.moments) for layer in problem.layers]
            own = Problem(tasks[name], layers, problem.layouts, problem.shapes)
            solved = solve(own, self.schedule)
            found[candidate] = solved.error, bits(solved.theta)
            thetas[candidate] = solved.theta
        wrong = sorted((c for c in found if found[c][0] > 0), key=lambda c: found[c][0])
        if wrong and self.keep:
            kept = wrong[len(wrong) // 2]
            task, (error, _) = self.candidates[kept][name], found[kept]
            self.middle[name] = Alone(task, thetas[kept], error, self.own[name])
        return found
