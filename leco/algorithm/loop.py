"""The loop over a run, with a progress bar."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from leco.algorithm.checkpoint import DivergedError
from leco.algorithm.lc import LC
from leco.algorithm.record import Record, Result
from leco.algorithm.run import Run, count
from leco.distributed import rank


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
        The records, the best net and why the run ended. Ctrl-C ends the run with the results so
        far, and so do NaN and infinity in the model; `stopped` says which. The model and `lc` are
        then in the state after the last completed step, that of the last record.

    Raises:
        ValueError: an empty, non-positive or decreasing schedule; a checkpoint of other tasks, of
            other mu than the schedule's first ones, or damaged; NaN in the model before or in
            the first L step.
        KeyboardInterrupt: Ctrl-C before direct compression was evaluated.
    """
    count("rounds", rounds)
    state = Run(lc, schedule, **options)
    with _bar(len(state.mus), progress) as show:
        try:
            for k in state:
                show(k, state.records[-1])
                _step(state, k, l_step, rounds)
            show(state.next, state.records[-1])
        except KeyboardInterrupt:
            state.undo()
            if state.best is None:  # not even direct compression
                raise
            state.stopped = "interrupted"
            warnings.warn(
                f"leco.run: interrupted in LC step {state.next}; the result holds the steps before "
                "it, and the model and lc are as they were after the last of them",
                stacklevel=2,
            )
        except DivergedError as error:
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
        shown = shown and rank() == 0
        self.bar = Progress(TextColumn("LC"), *columns, *times, disable=not shown)
        self.line = self.bar.add_task("", total=total)

    def __enter__(self) -> Callable[[int, Record], None]:
        self.bar.__enter__()
        return lambda k, record: self.bar.update(
            self.line, completed=k, description=_describe(record)
        )

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)


def _mean(losses: Sequence[float | None]) -> float:
    """NaN where an L step returned none."""
    return math.fsum(math.nan if loss is None else float(loss) for loss in losses) / len(losses)


def _describe(record: Record) -> str:
    parts = [f"mu {record.mu:.2g}", f"gap {record.relative_gap:.2g}"]
    if record.bits is not None:
        parts.append(f"{record.bits / 8e3:.3g} kB")
    if not math.isnan(record.compressed_error):
        parts.append(f"error {record.compressed_error:.4g}")
    return ", ".join(parts)
