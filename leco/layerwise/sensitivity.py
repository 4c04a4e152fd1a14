"""How much each layer's outputs suffer under each of several compressions, and a choice of one for
each layer at a size in bytes."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leco.algorithm.lc import LC
from leco.atomic import atomically
from leco.coding.tensors import bits
from leco.compressions.protocol import Compression
from leco.layerwise.calibrate import blocks_of, quiet
from leco.layerwise.checkpoint import Checkpoint
from leco.layerwise.moments import Recorder
from leco.layerwise.quadratic import Layer
from leco.layerwise.solve import Problem, Schedule, solve
from leco.layerwise.stream import Stream
from leco.layerwise.units import Units
from leco.task import Task
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
        weights: a factor of each layer's error in the sum that `choose` minimises; 1 at first.
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
    progress: bool = True,
) -> Sensitivity:
    """The relative error of each layer's outputs under each candidate, with all other layers dense:
    LC without training, in one pass over the blocks. The model stays as it is.

    Args:
        model: the net.
        params: names of weights.
        candidates: name to a view and a compression.
        batches: inputs of the model, as `leco.calibrate` takes them.
        blocks: as for `leco.calibrate`.
        steps: LC steps of each candidate; a few tell candidates apart.
        damping: as for `leco.calibrate`.
        progress: show a bar.

    Raises:
        ValueError: no candidates; a candidate that can't take a weight's shape; a weight that no
            calibration input reaches; and as `leco.calibrate`.

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
    names = list(params)
    every = {
        name: LC(model, {n: Task(n, *how) for n in names}, multipliers=False)
        for name, how in candidates.items()
    }
    lc = next(iter(every.values()))
    with quiet(lc.model):
        stream, kept = Stream(lc.model, blocks_of(lc, blocks), batches), Checkpoint(None, None)
        trials = _Trials(lc, stream, Schedule(steps, *MU), damping, 0, kept, progress)
        trials.tasks = {name: own.tasks for name, own in every.items()}
        trials.all()
    return trials.found


class _Trials(Units):
    """Units in which every candidate is tried, and none is taken."""

    tasks: dict[str, dict[str, Task]]

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.found = Sensitivity()

    def _solve(self, task: str, recorder: Recorder, joint: bool) -> None:
        problem = self._problem(task, recorder, joint)
        assert problem is not None
        errors, sizes = self.found.errors.setdefault(task, {}), self.found.bits.setdefault(task, {})
        for name, tasks in self.tasks.items():
            layers = [Layer(layer.w0, layer.moments) for layer in problem.layers]
            own = Problem(tasks[task], layers, problem.layouts, problem.shapes)
            solved = solve(own, self.schedule)
            errors[name], sizes[name] = solved.error, bits(solved.theta)

    def _leave(self, task: str, name: str, why: str) -> None:
        raise ValueError(f"sensitivity: {name!r}: {why}")

    def _finish(self) -> None:
        pass
