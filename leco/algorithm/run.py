"""One LC run without its loop: the schedule, evaluation, the best net, checkpoints, the end.

The callback of another trainer can drive it, and so can a loop of your own:

    run = leco.Run(lc, schedule)
    for k in run:                     direct compression first, or the state of a checkpoint
        run.begin(k)                  mu, compressions, the start of the L step
        loss = train()                the L step
        run.end(k, loss)              C step, multipliers, evaluation, checkpoint
    result = run.finish()             warnings

`leco.run` (loop.py) is that loop with a progress bar.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from leco.algorithm import checkpoint as checkpoints
from leco.algorithm import judge, run_state
from leco.algorithm.batchnorm import unlike_training
from leco.algorithm.interrupts import uninterrupted
from leco.algorithm.lc import LC
from leco.algorithm.record import Record, Result, Snapshot
from leco.algorithm.rollback import Moment, back_, moment
from leco.compressions.protocol import Compression
from leco.distributed import mean, together
from leco.theta.tree import choices, share_changed

Bounds = Callable[[int], Mapping[str, Compression[Any]]]
"""The tasks' compressions for each LC step."""
Evaluate = Callable[[], tuple[float, float]]
Batches = Callable[[], Iterable[Any]]


class _Kept(NamedTuple):
    """What `undo` goes back to: the state after the last record."""

    moment: Moment
    since: int
    first: list[Tensor]


class Run:
    """An LC run as an object, without its loop.

    Between `begin` and `end` the training is yours. A run keeps a copy of the model and of the
    multipliers in main memory, to go back to the last completed step after Ctrl-C or NaN.

    Args:
        lc: the problem. Attach it to your optimizer first, or add `lc.penalty()` to your loss.
        schedule: increasing values of mu, such as `leco.automatic(lc.curvature(...), 40)`.
        evaluate: returns (loss, error) of the model as it is when called: at w = Delta(Theta), on
            validation data. The net of least (error, loss) is the best one; a net whose loss or
            error is NaN never is. Without `evaluate`, the last net is the best one. Of several
            ranks each has its share of the data; the means count.
        batches: gives the inputs to recalibrate batch-norm statistics with before each evaluation,
            augmented as in training. It is called once more at the start, to compare its
            statistics with those of training.
        every: evaluate, and keep the best net, at direct compression, at each such number of steps
            and at the last mu. Use it where L steps are so short that evaluation takes as long.
        from_delta: start each L step at w = Delta(Theta), so that the loss is seen at the
            compressed net. This is the best recipe for quantization and pruning, with a schedule
            such as that of `leco.automatic`. False: start where the last L step ended, with
            `leco.automatic(..., from_delta=False)`. None: True for sets, False where a task is a
            penalty form (docs/algorithm.md, "Where an L step starts").
        compressions: `compressions(k)` gives the tasks' compressions for LC step k, by
            `lc.set_compressions`: bounds that tighten to the last ones. Direct compression is by
            those of step 0. `best` is the best net since they last changed, and `changed` counts
            from the choices of that step.
        tolerance: stop when the relative gap falls below it, and the compressions are the last
            ones. None: 1e-4; 0, which never stops, with `from_delta`, where the gap is what one L
            step moves, and for penalty forms, whose ranks and supports change with mu at any gap.
        checkpoint: a file, written after each step. Where it exists, the run goes on from it,
            exactly. Of several ranks the first one writes it, with the random state of each.
        stateful: other objects with `state_dict` and `load_state_dict` that the L step uses, such
            as the optimizer: kept in the checkpoint.

    Raises:
        ValueError: an empty, non-positive or decreasing schedule; `every` below 1.

    >>> import leco, torch
    >>> model = torch.nn.Linear(4, 2)
    >>> lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), leco.Binary())})
    >>> run = leco.Run(lc, [0.1, 0.2])
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
        from_delta: bool | None = None,
        compressions: Bounds | None = None,
        tolerance: float | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        stateful: Mapping[str, Any] | None = None,
    ):
        # Options
        self.lc, self.mus, self.every = lc, _checked(schedule), count("every", every)
        self.evaluate, self.batches = evaluate, batches
        self.from_delta = judge.starts_at_delta(lc) if from_delta is None else from_delta
        self.bounds: Bounds = compressions or (lambda _: {})
        self.tolerance = judge.tolerance(lc, self.from_delta) if tolerance is None else tolerance
        self.path = None if checkpoint is None else Path(checkpoint)
        self.stateful = dict(stateful or {})

        # State
        self.records: list[Record] = []
        self.best: Snapshot | None = None
        self.best_step = 0
        self.stopped = ""
        self.since = 0  # the first record with the present compressions
        self._first: list[Tensor] = []  # the choices of that record
        self._kept: _Kept | None = None

    # --- the steps

    def start(self) -> None:
        """Go on from the checkpoint where there is one; else make the direct compression, the
        first record. Does nothing where the run has begun.

        Raises:
            ValueError: the checkpoint is damaged or of another run; NaN or infinity in the model.
        """
        # A run that has begun
        if self.records or (self.path is not None and checkpoints.resume(self, self.path)):
            return

        # What can't work
        model = self.lc.model
        together(lambda: checkpoints.check_finite(model, "before the first L step"))
        if self.path is not None:
            checkpoints.check_stateful(self.stateful)
        wrong = None if self.batches is None else unlike_training(self.lc.model, self.batches())
        if wrong is not None:
            warnings.warn(f"leco.run: batches: {wrong}", stacklevel=3)

        # Direct compression
        self.lc.set_compressions(self.bounds(0))
        self.lc.mu = self.mus[0]
        for text in judge.dead(self.lc):
            warnings.warn(f"leco.run: {text}", stacklevel=3)
        self._append(self.lc.record())
        self._evaluate()
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
        """Start the run, then give the steps that are left until it has ended."""
        self.start()
        while not self.done:
            yield self.next

    def begin(self, k: int) -> None:
        """Before the L step: set mu and the compressions of step k, and w = Delta(Theta) where
        L steps start there.

        Raises:
            ValueError: k is not the step that comes next.
        """
        self._check_turn("begin", k)
        if self._kept is None:
            self._kept = self._keep()
        self.lc.mu = self.mus[k]
        before = self.lc.tasks
        self.lc.set_compressions(self.bounds(k))
        if self.lc.tasks != before:  # nets of other compressions are not the best any more
            self.since, self._first = len(self.records), []
        if self.from_delta:
            self.lc.project_()

    def again(self) -> None:
        """Between two L steps at one mu: C step, multipliers, and the next one's start. Raises as
        `end`."""
        self._c_step()
        if self.from_delta:
            self.lc.project_()

    def end(self, k: int, loss: float | None = None, seconds: float = math.nan) -> Record:
        """After the L step: C step, multipliers, evaluation where it is due, checkpoint.

        Args:
            k: the step that `begin` was called for.
            loss: what the L step reached, for the record.
            seconds: how long the L step took, for the record.

        Raises:
            ValueError: NaN or infinity in the model. The state is that of the last record then,
                and so is the checkpoint.
        """
        self._check_turn("end", k)
        loss = math.nan if loss is None else float(loss)
        self._append(self._c_step()._replace(step=k + 1, l_seconds=seconds, loss=loss))
        if (k + 1) % self.every == 0 or k + 1 == len(self.mus):
            self._evaluate()
        self._save()
        return self.records[-1]

    def undo(self) -> None:
        """Put the model and `lc` back into the state after the last record: after Ctrl-C, or NaN.

        The optimizer stays as it is. Where an evaluation was cut off, the record stays, without
        the evaluation."""
        self.lc.leave()
        if self._kept is not None:
            back_(self.lc, self._kept.moment)
            self.since, self._first = self._kept.since, self._kept.first

    def finish(self) -> Result:
        """The result. Warns where mu ended while the gap was still large, where the choices
        (indices, masks) are those of direct compression, and where the best net's loss is NaN.

        Raises:
            ValueError: the run has no record yet.
        """
        if not self.records or self.best is None:
            raise ValueError("Run: finish: there is no record yet; call start() first")
        best = self.records[self.best_step]
        for text in judge.doubts(self.records, best, self.stopped, self.since, self.from_delta):
            warnings.warn(f"leco.run: {text}", stacklevel=3)
        return Result(self.records, self.best, self.best_step, self.stopped)

    # --- the state, for a checkpoint of your own

    def state_dict(self) -> dict[str, Any]:
        """Records, the best net and the LC's state, in plain dicts, lists, tensors and numbers: for
        another trainer's checkpoint. The model's weights are not in it."""
        return run_state.plain(self, self._first)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; load the model's weights too. Raises ValueError,
        changing nothing, where it is of another schedule or of other tasks."""
        loaded = run_state.loaded(self, saved)
        self.records, self.best, self._first = loaded.records, loaded.best, loaded.first
        self.best_step, self.since = saved["best_step"], saved["since"]
        self.stopped, self._kept = "", None

    # --- private

    def _check_turn(self, verb: str, k: int) -> None:
        if not self.records:
            raise ValueError(f"Run: {verb}({k}): the run has not begun; call start() first")
        if k != self.next or k >= len(self.mus):
            what = f"step {self.next} comes next"
            what = what if self.next < len(self.mus) else "the schedule has ended"
            raise ValueError(f"Run: {verb}({k}): {what}")

    def _settled(self) -> bool:
        """Whether the gap is small, with the last compressions and a best net of them."""
        last = self.bounds(len(self.mus) - 1)
        tasks = self.lc.tasks
        there = all(n in tasks and tasks[n].compression == c for n, c in last.items())
        small = len(self.records) > 1 and self.records[-1].relative_gap < self.tolerance
        return small and there and self.best_step >= self.since

    def _c_step(self) -> Record:
        """C step and multipliers; where they can't be, the state of the last record."""
        try:
            model = self.lc.model
            together(lambda: checkpoints.check_finite(model, "after the L step, which diverged"))
            return self.lc.step()
        except ValueError:
            self.undo()
            raise

    def _append(self, record: Record) -> None:
        """A record, and the state that belongs to it."""
        present = choices(self.lc.thetas.values())
        first = self._first or present
        kept = self._keep(first)
        with uninterrupted():
            self._first, self._kept = first, kept
            self.records.append(record._replace(changed=share_changed(first, present)))

    def _keep(self, first: list[Tensor] | None = None) -> _Kept:
        return _Kept(moment(self.lc), self.since, self._first if first is None else first)

    def _evaluate(self) -> None:
        """Evaluate the compressed net of the last record, and keep it where it is the best."""
        step = len(self.records) - 1
        record = self.records[step]._replace(bits=self.lc.bits())
        with self.lc.compressed(None if self.batches is None else self.batches()):
            if self.evaluate is not None:
                loss, error = mean(self.evaluate())
                record = record._replace(compressed_loss=float(loss), compressed_error=float(error))
            better = self._is_best(record)
            best = self.lc.snapshot() if better else self.best
        with uninterrupted():
            self.records[step] = record
            self.best, self.best_step = best, step if better else self.best_step

    def _is_best(self, record: Record) -> bool:
        if self.best is None or self.best_step < self.since or self.evaluate is None:
            return True
        return judge.score(record) < judge.score(self.records[self.best_step])

    def _save(self) -> None:
        if self.path is not None:
            checkpoints.save(self, self.path)


def count(name: str, number: int) -> int:
    """The number. Raises ValueError where it is below 1."""
    if number < 1:
        raise ValueError(f"leco.run: {name} = {number} must be at least 1")
    return number


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
