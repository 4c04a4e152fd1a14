"""The work of a job on its net: the choice of schemes, calibration, training."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from leco.algorithm.lc import LC
from leco.algorithm.loop import run
from leco.algorithm.record import Snapshot
from leco.algorithm.schedules import exponential
from leco.command.folder import Log
from leco.command.inputs import samples
from leco.command.plan import Plan
from leco.command.recipe import Recipe
from leco.command.schemes import NotPossible, Weight
from leco.command.sources import called
from leco.command.words import Search, fixed
from leco.files.overhead import file_overhead
from leco.layerwise.calibrate import calibrate
from leco.layerwise.distill import distill
from leco.layerwise.record import Calibration
from leco.layerwise.sensitivity import Sensitivity, sensitivity
from leco.task import Task

Made = dict[str, Any]
EFFECTS = 4  # batches that measure what the net's output suffers from each layer, at most
EFFECT_SAMPLES = 512  # tokens or rows of these batches, at most, where the first has no more


def chosen(
    model: nn.Module, plan: Plan, batches: list[Any], part: Path, rest: Any, log: Log, bar: bool
) -> tuple[dict[str, Task], dict[str, str]]:
    """Choose the words of a plan's search; return its tasks and their words.

    Raises:
        ValueError: a budget below the smallest choice.
    """
    (search, names), *_ = plan.search.items()
    weights = {name: plan.weights[name] for name in names}
    table = _table(model, search, weights, batches, part / "sensitivity.json", log, bar)
    limit = search.limit
    if limit is None:  # the bytes of 3bit for all
        room = sum(fixed("3bit").bits(w) * w.count / 8 for w in weights.values())
    else:
        smallest = {n: _task(n, "1bit", w) for n, w in weights.items()}
        probe = LC(model, {**smallest, **plan.tasks})
        probe.mu = 1.0
        overhead = file_overhead(probe, rest) + 200 * len(names)
        fixed_bytes = sum(row.after for row in plan.rows if row.name in plan.tasks)
        room = 0.99 * limit - overhead - fixed_bytes
        least = sum(min(own.values()) for own in table.bits.values()) / 8
        if room < least:
            needed = (least + overhead + fixed_bytes) / 0.99
            raise ValueError(
                f"to: {search.word!r} is too small; the smallest choice takes about "
                f"{needed / 1e6:.3g} MB"
            )
    words = table.choose(room)
    return {name: _task(name, word, weights[name]) for name, word in words.items()}, words


def _task(name: str, word: str, weight: Weight) -> Task:
    return Task(name, *fixed(word).make(weight))


def _table(
    model: nn.Module,
    search: Search,
    weights: Mapping[str, Weight],
    batches: list[Any],
    kept: Path,
    log: Log,
    bar: bool,
) -> Sensitivity:
    """Measure the error and size of each candidate and the effect of each weight on the net's
    output, or read those of an interrupted job."""
    if kept.exists():
        return Sensitivity.load(kept)
    effects = effects_from(batches)
    log.say(
        f"measuring {len(search.words)} schemes on {len(weights)} weights, and the effect of each "
        f"on the output for {samples(batches[:effects]):,} samples"
    )
    alike = dict[str, tuple[Made, list[str]]]()  # weights that have the same candidates
    for name, weight in weights.items():
        made = _candidates(search, weight)
        alike.setdefault(repr(made), (made, []))[1].append(name)
    table = Sensitivity()
    for made, names in alike.values():
        found = sensitivity(model, names, made, batches, effects=effects, progress=bar)
        table.errors |= found.errors
        table.bits |= found.bits
        table.weights |= found.weights
    table.save(kept)
    return table


def effects_from(batches: list[Any]) -> int:
    """Return how many of the first batches measure the effect of each weight on the output."""
    fit = [k for k in range(1, EFFECTS + 1) if samples(batches[:k]) <= EFFECT_SAMPLES]
    return max(fit, default=1)


def _candidates(search: Search, weight: Weight) -> Made:
    found: Made = {}
    for word in search.words:
        try:
            found[word] = fixed(word).make(weight)
        except NotPossible:
            continue
    return found


def calibrated(lc: LC, recipe: Recipe, batches: list[Any], part: Path, bar: bool) -> Calibration:
    """Calibrate and distill, with checkpoints in the folder `part`."""
    given = recipe.calibrate
    assert given is not None
    options: Any = {"progress": bar, "checkpoint": part / "calibration"}
    dense = copy.deepcopy(lc.model) if given.distill else None
    found = calibrate(lc, batches, steps=given.steps, polish=given.polish, **options)
    if dense is not None:
        losses = distill(lc, dense, batches, epochs=given.distill, **options)
        count = min(len(batches), len(losses) // 2 or 1)
        first, last = (sum(part) / count for part in (losses[:count], losses[-count:]))
        found.notes.append(f"distilled: loss {first:.3g} to {last:.3g}, means of {count} batches")
    return found


def trained(lc: LC, recipe: Recipe, part: Path, bar: bool) -> tuple[list[Any], Snapshot]:
    """Train with the function of the recipe; return the records and the best net.

    Raises:
        ValueError: a function that returns no L step.
        KeyboardInterrupt: Ctrl-C; the checkpoint has the steps before it.
    """
    given = recipe.train
    assert given is not None
    found = called(given.function, lc.model, lc)
    options: dict[str, Any] = found if isinstance(found, dict) else {"l_step": found}
    l_step: Callable[[int], Any] | None = options.pop("l_step", None)
    if not callable(l_step):
        raise ValueError(
            f"{given.function} must return the L step, a function of k, or a dict with 'l_step' "
            "and options of leco.run"
        )
    schedule = options.pop("schedule", exponential(given.mu, given.factor, given.steps))
    options["progress"] = bar
    result = run(lc, l_step, schedule, checkpoint=part / "training", **options)
    if result.stopped == "interrupted":
        raise KeyboardInterrupt
    return result.records, result.best
