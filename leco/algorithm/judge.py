"""What speaks for a net, and what speaks against a run."""

import math
from collections.abc import Iterator, Sequence

from leco.algorithm.lc import LC
from leco.algorithm.record import Record
from leco.compressions.protocol import is_penalty

LARGE_GAP = 0.05  # of ||w||: above it at the end, w and Delta(Theta) are different nets
STUCK = 0.001  # of indices and masks: below it at the end, the net is direct compression, retrained
SMALL_GAP = 1e-4  # of ||w||: below it the net does not change any more


def starts_at_delta(lc: LC) -> bool:
    """Whether L steps start at Delta(Theta) by default: for sets, whose Theta does not depend on
    mu. At the small mu of such L steps the price of a penalty form would win."""
    return not _priced(lc)


def tolerance(lc: LC, from_delta: bool) -> float:
    """The relative gap at which a run ends by default: 0 where a small gap says nothing.

    With L steps from Delta(Theta) the gap is what one L step moves. The ranks and supports of
    penalty forms change with mu, at any gap.
    """
    return 0.0 if from_delta or _priced(lc) else SMALL_GAP


def _priced(lc: LC) -> bool:
    return any(is_penalty(task.compression) for task in lc.tasks.values())


def score(record: Record) -> tuple[float, float]:
    """Least is best. A net whose loss or error is NaN is never better than another."""
    error, loss = record.compressed_error, record.compressed_loss
    return (math.inf, math.inf) if math.isnan(error) or math.isnan(loss) else (error, loss)


def dead(lc: LC) -> Iterator[str]:
    """Doubts about a direct compression: tasks whose price has won."""
    for name, task in lc.tasks.items():
        if is_penalty(task.compression) and not any(lc.delta[n].any() for n in lc.names[name]):
            yield (
                f"task {name!r}: at mu = {lc.mu:g} the price of {task.compression!r} wins, and "
                "all of its weights are 0; start at a larger mu, such as that of "
                "leco.automatic(h, steps, from_delta=False) with from_delta=False here, or "
                "lower alpha"
            )


def doubts(
    records: Sequence[Record], best: Record, stopped: str, since: int, from_delta: bool
) -> Iterator[str]:
    """Doubts about a result.

    Args:
        records: of all steps.
        best: the record of the best net.
        stopped: why the run ended.
        since: the first record with the last compressions.
        from_delta: whether L steps start at Delta(Theta): the gap is what the last one moved.
    """
    first, last = records[0], records[-1]
    if stopped == "schedule" and last.relative_gap > LARGE_GAP:
        cure = (
            "let the learning rate of the last L steps go to 0"
            if from_delta
            else "add steps, or raise the factor of the schedule"
        )
        yield (
            f"mu ended at {last.mu:g} with ||w - Delta(Theta)|| still {last.relative_gap:.1%} "
            f"of ||w||; {cure}"
        )
    if stopped in ("schedule", "gap") and not since and last.changed < STUCK:
        yield (
            f"{last.changed:.2%} of the indices and masks differ from direct compression: mu "
            f"grew before the training could move them; start below mu = {first.mu:g} "
            "(lc.curvature says how far), or lower the factor of the schedule"
        )
    if math.isnan(best.compressed_error + best.compressed_loss) and _evaluated(records):
        yield "evaluate returned NaN for every net: the best one is the first of them"


def _evaluated(records: Sequence[Record]) -> bool:
    """Whether a record has a loss or an error of the compressed net."""
    return any(not math.isnan(r.compressed_error) for r in records) or any(
        not math.isnan(r.compressed_loss) for r in records
    )
