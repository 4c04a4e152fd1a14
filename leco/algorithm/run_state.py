"""The state of a run as plain dicts, and its checks when it comes back."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from leco.algorithm.lc import LC
from leco.algorithm.record import Record, Snapshot
from leco.algorithm.state import described, label, restored
from leco.theta.tree import choices

KEYS = ("schedule", "tasks", "lc", "records", "best", "best_step", "first", "since")


class Stateful(Protocol):
    """What the state of a run is taken from."""

    lc: LC
    mus: list[float]
    bounds: Any
    records: list[Record]
    best: Snapshot | None
    best_step: int
    since: int


class Loaded(NamedTuple):
    """The parts of a state that are not plain."""

    records: list[Record]
    best: Snapshot | None
    first: list[Tensor]


def plain(run: Stateful, first: list[Tensor]) -> dict[str, Any]:
    """The state as dicts, lists, tensors and numbers."""
    best = run.best
    return {
        "schedule": run.mus,
        "tasks": _in_words(run.lc, {}),
        "lc": run.lc.state_dict(),
        "records": [tuple(record) for record in run.records],
        "best": None if best is None else {"thetas": described(best.thetas), "rest": best.rest},
        "best_step": run.best_step,
        "first": first,
        "since": run.since,
    }


def check(run: Stateful, saved: Mapping[str, Any]) -> None:
    """Raise ValueError where a state is of another schedule, or of other tasks."""
    # Its parts
    missing = [key for key in KEYS if key not in saved]
    if missing:
        raise ValueError(f"it is no state of a run: it lacks {', '.join(missing)}")

    # The tasks
    done = max(len(saved["records"]) - 1, 0)
    own, others = _in_words(run.lc, run.bounds(max(done - 1, 0))), saved["tasks"]
    if set(own) != set(others):
        raise ValueError(f"it is of the tasks {sorted(others)}, not of {sorted(own)}")
    for name, words in others.items():
        for was, now in zip(words, own[name], strict=True):
            if was != now:
                raise ValueError(f"its task {name!r} has {was}, the present one has {now}")

    # The schedule; what is still ahead may change
    if list(saved["schedule"][:done]) != run.mus[:done]:
        raise ValueError(
            f"it is of another schedule, from mu = {saved['schedule'][0]:g} to "
            f"{saved['schedule'][done - 1]:g} in its first {done} steps"
        )


def loaded(run: Stateful, saved: Mapping[str, Any]) -> Loaded:
    """Load the LC's state, and return the run's. Where it raises ValueError, nothing is changed."""
    check(run, saved)
    records = [Record(*values) for values in saved["records"]]
    before = run.lc.tasks
    try:
        run.lc.set_compressions(run.bounds(max(len(records) - 2, 0)))
        best = None if saved["best"] is None else _snapshot(run.lc, saved["best"])
        run.lc.load_state_dict(saved["lc"])
    except BaseException:
        run.lc.tasks = before
        raise
    now = choices(run.lc.thetas.values())
    pairs = zip(saved["first"], now, strict=False)
    return Loaded(records, best, [first.to(present.device) for first, present in pairs])


def _snapshot(lc: LC, saved: Mapping[str, Any]) -> Snapshot:
    params = {task: {name: lc.params[name] for name in names} for task, names in lc.names.items()}
    return Snapshot(restored(saved["thetas"], lc.tasks, params), saved["rest"])


def _in_words(lc: LC, changed: Mapping[str, Any]) -> dict[str, list[str]]:
    """Of each task: its parameters, view and compression."""
    return {
        name: [
            ", ".join(lc.names[name]),
            label(task.view),
            label(changed.get(name, task.compression)),
        ]
        for name, task in lc.tasks.items()
    }
