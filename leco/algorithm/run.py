"""One LC run: the schedule, evaluation, the best net, checkpoints, stopping.

`Run` has all of it but the loop and the training, so that the callback of another trainer can drive
it. `run` is the loop over it for those who want none of their own:

    run.start()                       direct compression, or the state of a checkpoint
    for k in run:
        run.begin(k)                  mu, compressions, the start of the L step
        loss = train()                the L step
        run.end(k, loss)              C step, multipliers, evaluation, checkpoint
    result = run.finish()             warnings
"""

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

from leco.algorithm import checkpoint as checkpoints
from leco.algorithm.batchnorm import unlike_training
from leco.algorithm.lc import LC
from leco.algorithm.record import Record, Result, Snapshot
from leco.algorithm.state import described, restored
from leco.compressions.protocol import Compression, is_penalty
from leco.theta.tree import choices, share_changed

LARGE_GAP = 0.05  # of ||w||: above it at the end, w and Delta(Theta) are different nets
STUCK = 0.001  # of indices and masks: below it at the end, the net is direct compression, retrained
SMALL_GAP = 1e-4  # of ||w||: below it the net does not change any more

Bounds = Callable[[int], Mapping[str, Compression[Any]]]
"""The tasks' compressions for each LC step."""
Evaluate = Callable[[], tuple[float, float]]
Batches = Callable[[], Iterable[Any]]


class Run:
    """An LC run as an object, without its loop.

    Args:
        lc: the problem; attach it to your optimizer first, or add `lc.penalty()` to your loss.
        schedule: increasing values of mu, such as `leco.automatic(lc.curvature(...), 40)`.
        evaluate: returns (loss, error) of the model, on validation data, as it is when called: at
            w = Delta(Theta). The net of least (error, loss) is kept; without `evaluate`, the last
            one.
        batches: gives the inputs to recalibrate batch-norm statistics with before each evaluation,
            augmented as in training; called once more at the start, to compare its statistics with
            those of training.
        every: evaluate, and keep the best net, at direct compression, at each such number of steps
            and at the last mu: for L steps so short that evaluation would take as long.
        from_delta: start each L step at w = Delta(Theta), so that the loss is seen at the
            compressed net: the best recipe for quantization and pruning, with a schedule such as
            that of `leco.automatic`. False: where the last L step ended (docs/algorithm.md, "Where
            an L step starts").
        compressions: `compressions(k)` gives the tasks' compressions for LC step k, by
            `lc.set_compressions`: bounds that tighten to the last ones. Direct compression is by
            those of step 0; `best` is the best net since they last changed, and so are the choices
            that `changed` counts from.
        tolerance: stop when the relative gap falls below it, and the compressions are the last
            ones. None: 1e-4; 0 with `from_delta`, where the gap is what one L step moves, and for
            penalty forms, whose ranks and supports change with mu at any gap.
        checkpoint: a file, written after each step. Where it exists, `start` goes on from it,
            exactly.
        stateful: other objects with `state_dict` and `load_state_dict` that the L step uses, such
            as the optimizer: kept in the checkpoint.

    Raises:
        ValueError: an empty, non-positive or decreasing schedule; `every` below 1.

    >>> import leco, torch
    >>> model = torch.nn.Linear(4, 2)
    >>> lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), leco.Binary())})
    >>> run = leco.Run(lc, [0.1, 0.2])
    >>> run.start()
    >>> for k in run:
    ...     run.begin(k)
    ...     record = run.end(k)  # after your L step
    >>> run.stopped, len(run.records)
    ('schedule', 3)
    """

    def __init__(
        self,
        lc: LC,
        schedule: Sequence[float],
        *,
        evaluate: Evaluate | None = None,
        batches: Batches | None = None,
        every: int = 1,
        from_delta: bool = True,
        compressions: Bounds | None = None,
        tolerance: float | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        stateful: Mapping[str, Any] | None = None,
    ):
        # Options
        self.lc, self.mus, self.every = lc, _checked(schedule), _count("every", every)
        self.evaluate, self.batches, self.from_delta = evaluate, batches, from_delta
        self.bounds: Bounds = compressions or (lambda _: {})
        self.tolerance = _tolerance(lc, from_delta) if tolerance is None else tolerance
        self.path = None if checkpoint is None else Path(checkpoint)
        self.stateful = dict(stateful or {})
        # State
        self.records: list[Record] = []
        self.best: Snapshot | None = None
        self.best_step = 0
        self.stopped = ""
        self.since = 0  # the first record with the present compressions
        self._first: list[Tensor] = []  # the choices of that record
        self._kept: dict[str, Tensor] = {}  # what an interrupt puts back

    # --- the steps

    def start(self) -> None:
        """Go on from the checkpoint where there is one; else make the direct compression, the
        first record. Nothing where the run has begun."""
        if self.records or (self.path is not None and checkpoints.resume(self, self.path)):
            return
        wrong = None if self.batches is None else unlike_training(self.lc.model, self.batches())
        if wrong is not None:
            warnings.warn(f"leco.run: batches: {wrong}", stacklevel=3)
        self.lc.set_compressions(self.bounds(0))
        self.lc.mu = self.mus[0]
        self._add(self.lc.record())
        self._save()

    @property
    def next(self) -> int:
        """The LC step that comes next, from 0; the length of the schedule after the last one."""
        return max(len(self.records) - 1, 0)

    @property
    def done(self) -> bool:
        """Whether the run has ended, and `stopped` says why."""
        if not self.stopped and self.records:
            if self.next >= len(self.mus):
                self.stopped = "schedule"
            elif self._settled():
                self.stopped = "gap"
        return bool(self.stopped)

    def __iter__(self) -> Iterator[int]:
        """The steps that are left, until the run has ended."""
        while not self.done:
            yield self.next

    def begin(self, k: int) -> None:
        """Before the L step: set mu and the compressions of step k, and w = Delta(Theta) where
        L steps start there."""
        self.lc.mu = self.mus[k]
        before = self.lc.tasks
        self.lc.set_compressions(self.bounds(k))
        if self.lc.tasks != before:  # nets of other compressions are not the best any more
            self.since, self._first = len(self.records), []
        self._start_l_step()

    def again(self) -> None:
        """Between two L steps at one mu: C step, multipliers, and the next one's start."""
        self.lc.step()
        self._start_l_step()

    def end(self, k: int, loss: float | None = None, seconds: float = math.nan) -> Record:
        """After the L step: C step, multipliers, evaluation where it is due, checkpoint.

        Args:
            loss: what the L step reached, for the record.
            seconds: how long it took, for the record.

        Raises:
            ValueError: NaN or infinity in the model. The state is that before the L step then, and
                so is the checkpoint.
        """
        try:
            checkpoints.check_finite(self.lc.model)
            record = self.lc.step()
        except ValueError:
            self.undo()
            raise
        record = record._replace(
            step=k + 1, l_seconds=seconds, loss=math.nan if loss is None else float(loss)
        )
        due = (k + 1) % self.every == 0 or k + 1 == len(self.mus)
        self._add(record) if due else self._append(record)
        self._save()
        return self.records[-1]

    def undo(self) -> None:
        """Put the model back to where the present L step started: after Ctrl-C, or NaN. The
        optimizer is not."""
        with torch.no_grad():
            state = checkpoints.state_of(self.lc.model)
            for name, value in self._kept.items():
                state[name].copy_(value)
        if self._kept and self.from_delta:
            self.lc.project_()

    def finish(self) -> "Result":
        """The result, with warnings: mu ended while the gap was still large; the choices (indices,
        masks) are those of direct compression."""
        last = self.records[-1]
        if self.stopped == "schedule" and last.relative_gap > LARGE_GAP:
            warnings.warn(
                f"leco.run: mu ended at {last.mu:g} with ||w - Delta(Theta)|| still "
                f"{last.relative_gap:.1%} of ||w||; add steps, or raise the factor of the schedule",
                stacklevel=3,
            )
        if self.stopped in ("schedule", "gap") and not self.since and last.changed < STUCK:
            warnings.warn(
                f"leco.run: {last.changed:.2%} of the indices and masks differ from direct "
                "compression: mu grew before the training could move them; start below "
                f"mu = {self.mus[0]:g} (lc.curvature says how far), or lower the factor of the "
                "schedule",
                stacklevel=3,
            )
        assert self.best is not None
        return Result(self.records, self.best, self.best_step, self.stopped)

    # --- the state, for a checkpoint of your own

    def state_dict(self) -> dict[str, Any]:
        """Records, the best net and the LC's state, in plain dicts, lists, tensors and numbers: for
        another trainer's checkpoint. The model's weights are not in it."""
        best = self.best
        return {
            "schedule": self.mus,
            "lc": self.lc.state_dict(),
            "records": [tuple(record) for record in self.records],
            "best": None if best is None else {"thetas": described(best.thetas), "rest": best.rest},
            "best_step": self.best_step,
            "first": self._first,
            "since": self.since,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises ValueError, changing nothing, where it is of
        another schedule or of other tasks."""
        done = max(len(saved["records"]) - 1, 0)
        if list(saved["schedule"][:done]) != self.mus[:done]:  # what is still ahead may change
            raise ValueError(f"of another schedule, from mu = {saved['schedule'][0]:g}")
        before = self.lc.tasks
        self.lc.set_compressions(self.bounds(max(done - 1, 0)))
        try:
            best = saved["best"] and self._snapshot(saved["best"])
            self.lc.load_state_dict(saved["lc"])
        except BaseException:
            self.lc.tasks = before
            raise
        self.records = [Record(*values) for values in saved["records"]]
        self.best, self.best_step, self.since = best, saved["best_step"], saved["since"]
        now = choices(self.lc.thetas.values())
        devices = [choice.device for choice in now]
        self._first = [
            choice.to(device) for choice, device in zip(saved["first"], devices, strict=False)
        ]

    def _snapshot(self, saved: Mapping[str, Any]) -> Snapshot:
        params = {
            task: {name: self.lc.params[name] for name in names}
            for task, names in self.lc.names.items()
        }
        return Snapshot(restored(saved["thetas"], self.lc.tasks, params), saved["rest"])

    # --- private

    def _settled(self) -> bool:
        """Whether the gap is small, with the last compressions and a best net of them."""
        last = self.bounds(len(self.mus) - 1)
        tasks = self.lc.tasks
        there = all(n in tasks and tasks[n].compression == c for n, c in last.items())
        small = len(self.records) > 1 and self.records[-1].relative_gap < self.tolerance
        return small and there and self.best_step >= self.since

    def _start_l_step(self) -> None:
        if self.from_delta:
            self.lc.project_()
        state = checkpoints.state_of(self.lc.model)
        compressed = set() if not self.from_delta else {id(p) for p in self.lc.params.values()}
        self._kept = {n: t.detach().clone() for n, t in state.items() if id(t) not in compressed}

    def _add(self, record: Record) -> None:
        """A record with an evaluation, and the best net."""
        record = record._replace(bits=self.lc.bits())
        with self.lc.compressed(None if self.batches is None else self.batches()):
            if self.evaluate is not None:
                loss, error = self.evaluate()
                record = record._replace(compressed_loss=float(loss), compressed_error=float(error))
            if self._is_best(record):
                self.best, self.best_step = self.lc.snapshot(), len(self.records)
        self._append(record)

    def _is_best(self, record: Record) -> bool:
        if self.best is None or self.best_step < self.since or self.evaluate is None:
            return True
        return _score(record) < _score(self.records[self.best_step])

    def _append(self, record: Record) -> None:
        present = choices(self.lc.thetas.values())
        self._first = self._first or present
        self.records.append(record._replace(changed=share_changed(self._first, present)))

    def _save(self) -> None:
        if self.path is not None:
            checkpoints.save(self, self.path)


def run(
    lc: LC,
    l_step: Callable[[int], float | None],
    schedule: Sequence[float],
    *,
    rounds: int = 1,
    progress: bool = True,
    **options: Any,
) -> Result:
    """Run the LC algorithm over a schedule of mu: a loop over `leco.Run`, with a progress bar.

    Args:
        lc: the problem; attach it to your optimizer first, or add `lc.penalty()` to your loss.
        l_step: `l_step(k)` trains the model for LC step k = 0, 1, ... (mu is set already) and may
            return the training loss. With several rounds its seconds in the records have the C
            steps between them, and the loss is the mean.
        schedule: increasing values of mu, such as `leco.automatic(lc.curvature(...), 40)`.
        rounds: L steps, each with its C step, at each mu: `l_step(k)` is called so many times for
            each k. The records are of the last ones.
        progress: show a bar.
        options: of `leco.Run`: evaluate, batches, every, from_delta, compressions, tolerance,
            checkpoint, stateful.

    Returns:
        Ctrl-C ends the run with the results so far (`stopped` says so); NaN or infinity in the
        model does, too. Model and `lc` are then as they were after the last finished C step.

    Raises:
        ValueError: an empty, non-positive or decreasing schedule; a checkpoint of other tasks, of
            other mu than the schedule's first ones, or damaged; NaN in the first L step.
    """
    _count("rounds", rounds)
    state = Run(lc, schedule, **options)
    with _bar(len(state.mus), progress) as show:
        try:
            state.start()
            for k in state:
                show(k, state.records[-1])
                _step(state, k, l_step, rounds)
            show(state.next, state.records[-1])
        except KeyboardInterrupt:
            if state.best is None or not state.records:
                raise
            state.undo()
            state.stopped = "interrupted"
            warnings.warn(
                f"leco.run: interrupted in LC step {state.next}; the result holds the steps before "
                "it, and the model is as it was after the last C step",
                stacklevel=2,
            )
        except checkpoints.DivergedError as error:
            if state.next == 0:
                raise
            state.stopped = "diverged"
            warnings.warn(f"leco.run: {error}; the result holds the steps before it", stacklevel=2)
    return state.finish()


def _step(state: Run, k: int, l_step: Callable[[int], float | None], rounds: int) -> None:
    """One LC step, timed."""
    start, losses = time.perf_counter(), list[float | None]()
    state.begin(k)
    for i in range(rounds):
        if i:
            state.again()
        losses.append(l_step(k))
    state.end(k, _mean(losses), time.perf_counter() - start)


class _bar:  # noqa: N801
    """A progress bar; inside, a function that shows a record."""

    def __init__(self, total: int, shown: bool):
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = Progress(TextColumn("LC"), *columns, *times, disable=not shown)
        self.line = self.bar.add_task("", total=total)

    def __enter__(self) -> Callable[[int, Record], None]:
        self.bar.__enter__()
        return lambda k, record: self.bar.update(
            self.line, completed=k, description=_describe(record)
        )

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)


def _tolerance(lc: LC, from_delta: bool) -> float:
    priced = any(is_penalty(task.compression) for task in lc.tasks.values())
    return 0.0 if from_delta or priced else SMALL_GAP


def _mean(losses: Sequence[float | None]) -> float:
    """NaN where an L step returned none."""
    return math.fsum(math.nan if loss is None else float(loss) for loss in losses) / len(losses)


def _count(name: str, count: int) -> int:
    if count < 1:
        raise ValueError(f"leco.run: {name} = {count} must be at least 1")
    return count


def _checked(schedule: Sequence[float]) -> list[float]:
    mus = [float(mu) for mu in schedule]
    if not mus:
        raise ValueError("leco.run: schedule is empty; give at least one mu")
    for k, mu in enumerate(mus):
        if not 0 < mu < math.inf:
            raise ValueError(f"leco.run: schedule[{k}] = {mu} must be positive and finite")
        if k and mu < mus[k - 1]:
            raise ValueError(
                f"leco.run: schedule[{k}] = {mu} is below schedule[{k - 1}] = {mus[k - 1]}; mu "
                "must not decrease"
            )
    return mus


def _describe(record: Record) -> str:
    parts = [f"mu {record.mu:.2g}", f"gap {record.relative_gap:.2g}"]
    if record.bits is not None:
        parts.append(f"{record.bits / 8e3:.3g} kB")
    if not math.isnan(record.compressed_error):
        parts.append(f"error {record.compressed_error:.4g}")
    return ", ".join(parts)


def _score(record: Record) -> tuple[float, float]:
    """Least is best. A net whose loss or error is NaN is never better than another."""
    error, loss = record.compressed_error, record.compressed_loss
    return (math.inf, math.inf) if math.isnan(error) or math.isnan(loss) else (error, loss)
