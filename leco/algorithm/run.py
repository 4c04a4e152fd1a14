"""The loop of the algorithm for those who want none of their own: progress, evaluation, the best
net kept, checkpoints, stopping."""

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from leco.algorithm.batchnorm import unlike_training
from leco.algorithm.lc import LC
from leco.algorithm.record import Record, Snapshot
from leco.atomic import atomically
from leco.compressions.protocol import Compression
from leco.theta.tree import choices, share_changed, theta_state

LARGE_GAP = 0.05  # of ||w||: above it at the end, w and Delta(Theta) are different nets
# of the indices, or of what masks keep: below it at the end, the net is the direct compression,
# retrained
STUCK = 0.001

Bounds = Callable[[int], Mapping[str, Compression[Any]]]
"""The tasks' compressions for each LC step."""


@dataclass(frozen=True)
class Result:
    """What `run` gives. `records[0]` is direct compression, before any L step; `best` is the
    compressed net of least validation error."""

    records: list[Record]
    best: Snapshot
    best_step: int
    stopped: str
    """One of "schedule" (all mu were used), "gap" (the relative gap is below the tolerance),
    "interrupted"."""


def run(
    lc: LC,
    l_step: Callable[[int], float | None],
    schedule: Sequence[float],
    *,
    evaluate: Callable[[], tuple[float, float]] | None = None,
    batches: Callable[[], Iterable[Any]] | None = None,
    every: int = 1,
    rounds: int = 1,
    from_delta: bool = False,
    compressions: Bounds | None = None,
    tolerance: float = 1e-4,
    checkpoint: str | os.PathLike[str] | None = None,
    stateful: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Result:
    """Run the LC algorithm over a schedule of mu.

    Args:
        lc: the problem; attach it to your optimizer first, or add `lc.penalty()` to your loss.
        l_step: `l_step(k)` trains the model for LC step k = 0, 1, ... (mu is set already) and may
            return the training loss. With several rounds its seconds in the records have the C
            steps between them, and the loss is the mean.
        schedule: increasing values of mu, such as `leco.exponential(9e-5, 1.1, 40)`.
        evaluate: returns (loss, error) of the model, on validation data, as it is when called: at w
            = Delta(Theta). The net of least (error, loss) is kept; without `evaluate`, the last
            one.
        batches: gives the inputs to recalibrate batch-norm statistics with before each evaluation,
            augmented as in training; called once more at the start, to compare its statistics with
            those of training.
        every: evaluate, and keep the best net, at direct compression, at each such number of steps
            and at the last mu: for L steps so short that evaluation would take as long.
        rounds: L steps, each with its C step, at each mu: `l_step(k)` is called so many times for
            each k. The records are of the last ones.
        from_delta: start each L step at w = Delta(Theta), not where the last one ended, so that the
            loss is seen at the compressed net: for quantization by many short L steps at small mu,
            `leco.automatic(h, steps, from_delta=True)` (docs/algorithm.md, "Where an L step
            starts").
        compressions: `compressions(k)` gives the tasks' compressions for LC step k, by
            `lc.set_compressions`: bounds that tighten to the last ones, for where these would
            destroy the net at once. Direct compression is by those of step 0; `best` is the best
            net since they last changed, and so are the choices that `changed` counts from.
        tolerance: stop when the relative gap falls below it, and the compressions are the last
            ones.
        checkpoint: a file, written after each step (beside, then renamed). Where it exists, the run
            goes on from it, exactly.
        stateful: other objects with `state_dict` and `load_state_dict` that the L step uses, such
            as the optimizer: kept in the checkpoint.
        progress: show a bar.

    Raises:
        ValueError: an empty, non-positive or decreasing schedule; a checkpoint of other tasks, or
            of other mu than the schedule's first ones.

    Ctrl-C ends the run with the results so far (`stopped` says so). A warning says when mu ended
    while the gap was still large, when the run ended with the choices (indices, masks) of direct
    compression, and when `batches` are unlike the inputs of training.
    """
    mus = _checked(schedule)
    for name, count in (("every", every), ("rounds", rounds)):
        if count < 1:
            raise ValueError(f"leco.run: {name} = {count} must be at least 1")
    state = _State(
        lc, mus, dict(stateful or {}), Path(checkpoint) if checkpoint is not None else None
    )
    bounds: Bounds = compressions or (lambda _: {})
    stopped = "schedule"
    columns = (
        TextColumn("LC"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not progress) as bar:
        line = bar.add_task("", total=len(mus))
        try:
            if not state.resume(bounds):
                wrong = unlike_training(lc.model, batches()) if batches is not None else None
                if wrong is not None:
                    warnings.warn(f"leco.run: batches: {wrong}", stacklevel=2)
                lc.set_compressions(bounds(0))
                lc.mu = mus[0]
                state.add(lc.record(), evaluate, batches)
                state.save()
            for k in range(len(state.records) - 1, len(mus)):
                bar.update(line, completed=k, description=_describe(state.records[-1]))
                small = k and state.records[-1].relative_gap < tolerance
                if small and _at(lc, bounds(len(mus) - 1)) and state.best_step >= state.since:
                    stopped = "gap"
                    break
                lc.mu = mus[k]
                before = lc.tasks
                lc.set_compressions(bounds(k))
                if lc.tasks != before:
                    state.begin()
                start = time.perf_counter()
                losses = list[float | None]()
                for i in range(rounds):
                    if i:
                        lc.c_step()
                        lc.multipliers_step()
                    if from_delta:
                        lc.project_()
                    losses.append(l_step(k))
                seconds = time.perf_counter() - start
                record = lc.step()._replace(l_seconds=seconds, loss=_mean(losses))
                if (k + 1) % every == 0 or k + 1 == len(mus):
                    state.add(record, evaluate, batches)
                else:
                    state.append(record)
                state.save()
            bar.update(line, completed=len(mus), description=_describe(state.records[-1]))
        except KeyboardInterrupt:
            if state.best is None:
                raise
            stopped = "interrupted"
            warnings.warn(
                f"leco.run: interrupted in LC step {len(state.records) - 1}; the result holds the steps before it",
                stacklevel=2,
            )
    last = state.records[-1]
    if stopped == "schedule" and last.relative_gap > LARGE_GAP:
        warnings.warn(
            f"leco.run: mu ended at {last.mu:g} with ||w - Delta(Theta)|| still {last.relative_gap:.1%} of ||w||; "
            "add steps, or raise the factor of the schedule",
            stacklevel=2,
        )
    if stopped != "interrupted" and not state.since and last.changed < STUCK:
        warnings.warn(
            f"leco.run: {last.changed:.2%} of the indices and masks differ from direct compression: mu grew before the training could move "
            f"them; start below mu = {mus[0]:g} (lc.curvature says how far), or lower the factor of the schedule",
            stacklevel=2,
        )
    assert state.best is not None
    return Result(state.records, state.best, state.best_step, stopped)


def _at(lc: LC, compressions: Mapping[str, Compression[Any]]) -> bool:
    """Whether the tasks have these compressions already."""
    return all(
        name in lc.tasks and lc.tasks[name].compression == compression
        for name, compression in compressions.items()
    )


def _mean(losses: Sequence[float | None]) -> float:
    """NaN where an L step returned none."""
    return math.fsum(math.nan if loss is None else float(loss) for loss in losses) / len(losses)


def _checked(schedule: Sequence[float]) -> list[float]:
    mus = [float(mu) for mu in schedule]
    if not mus:
        raise ValueError("leco.run: schedule is empty; give at least one mu")
    for k, mu in enumerate(mus):
        if not 0 < mu < math.inf:
            raise ValueError(f"leco.run: schedule[{k}] = {mu} must be positive and finite")
        if k and mu < mus[k - 1]:
            raise ValueError(
                f"leco.run: schedule[{k}] = {mu} is below schedule[{k - 1}] = {mus[k - 1]}; mu must not decrease"
            )
    return mus


def _describe(record: Record) -> str:
    parts = [f"mu {record.mu:.2g}", f"gap {record.relative_gap:.2g}", f"{record.bits / 8e3:.3g} kB"]
    if not math.isnan(record.compressed_error):
        parts.append(f"error {record.compressed_error:.4g}")
    return ", ".join(parts)


class _State:
    """Records, the best net, and their checkpoint."""

    def __init__(self, lc: LC, mus: list[float], stateful: dict[str, Any], path: Path | None):
        self.lc, self.mus, self.stateful, self.path = lc, mus, stateful, path
        self.records: list[Record] = []
        self.best: Snapshot | None = None
        self.best_step = 0
        self.first: list[Tensor] = []
        """The choices of direct compression, or of the first step with the present compressions."""
        self.since = 0
        """The first record of the present compressions."""

    def begin(self) -> None:
        """The compressions have changed: nets of others are not the best any more, nor are their
        choices the first."""
        self.since, self.first = len(self.records), []

    def add(
        self,
        record: Record,
        evaluate: Callable[[], tuple[float, float]] | None,
        batches: Callable[[], Iterable[Any]] | None,
    ) -> None:
        with self.lc.compressed(batches() if batches is not None else None):
            if evaluate is not None:
                loss, error = evaluate()
                record = record._replace(compressed_loss=float(loss), compressed_error=float(error))
            stale = self.best is None or self.best_step < self.since
            if stale or evaluate is None or _score(record) < _score(self.records[self.best_step]):
                self.best, self.best_step = self.lc.snapshot(), len(self.records)
        self.append(record)

    def append(self, record: Record) -> None:
        """Without an evaluation."""
        present = choices(self.lc.thetas.values())
        self.first = self.first or present
        self.records.append(record._replace(changed=share_changed(self.first, present)))

    def save(self) -> None:
        if self.path is None or self.best is None:
            return
        best = {
            "thetas": {name: theta_state(theta) for name, theta in self.best.thetas.items()},
            "rest": self.best.rest,
        }
        state = {
            "schedule": self.mus,
            "lc": self.lc.state_dict(),
            "model": self.lc.model.state_dict(),
            "stateful": {name: part.state_dict() for name, part in self.stateful.items()},
            "records": [tuple(record) for record in self.records],
            "best": best,
            "best_step": self.best_step,
            "first": self.first,
            "since": self.since,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        atomically(self.path, lambda temporary: torch.save(state, temporary))

    def resume(self, bounds: Bounds) -> bool:
        """Load the checkpoint where there is one; False where there is none."""
        if self.path is None or not self.path.exists():
            return False
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        done = len(state["records"]) - 1
        if state["schedule"][:done] != self.mus[:done]:  # what is still ahead may change
            raise ValueError(
                f"leco.run: checkpoint {self.path} is of another schedule, from mu = {state['schedule'][0]:g}"
            )
        if set(state["stateful"]) != set(self.stateful):
            raise ValueError(
                f"leco.run: checkpoint {self.path} has the state of {sorted(state['stateful'])}, not of {sorted(self.stateful)}"
            )
        self.lc.set_compressions(bounds(max(done - 1, 0)))
        self.lc.load_state_dict(state["lc"])  # first: it refuses other tasks
        self.lc.model.load_state_dict(state["model"])
        for name, part in self.stateful.items():
            part.load_state_dict(state["stateful"][name])
        self.records = [Record(*values) for values in state["records"]]
        self.best, self.best_step = (
            Snapshot(self.lc.thetas_from_state(state["best"]["thetas"]), state["best"]["rest"]),
            state["best_step"],
        )
        self.since = state["since"]
        self.first = [
            choice.to(now.device)
            for choice, now in zip(state["first"], choices(self.lc.thetas.values()), strict=False)
        ]
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return True


def _score(record: Record) -> tuple[float, float]:
    """Least is best; a diverged net is never best."""
    error, loss = record.compressed_error, record.compressed_loss
    return math.inf if math.isnan(error) else error, math.inf if math.isnan(loss) else loss
