"""`leco compress`: does a recipe, and makes a folder with the file, the recipe and the report."""

import json
import platform
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import leco.command.report as reports
from leco.algorithm.lc import LC
from leco.algorithm.record import Record, Snapshot
from leco.command import recipe as recipes
from leco.command.folder import Log, Workplace, check_space, logged
from leco.command.inputs import Judge, batches, samples
from leco.command.plan import Plan, plan, rest_type
from leco.command.recipe import Recipe
from leco.command.results import latency_of, layers_of, parts_of
from leco.command.sources import Source, copy_beside, source
from leco.command.work import calibrated, chosen, effects_from, trained
from leco.files.load import load
from leco.files.save import save
from leco.layerwise.record import Calibration
from leco.task import Task

FILE = "model.safetensors"


@dataclass(frozen=True)
class Job:
    """A recipe with its model, data and plan."""

    recipe: Recipe
    source: Source
    inputs: list[Any]
    judge: Judge | None
    plan: Plan


def prepared(recipe: Recipe) -> Job:
    """Load what a recipe names, and plan it.

    Raises:
        ValueError: a model or data that can't be loaded, or a plan that can't be made.
    """
    torch.manual_seed(recipe.seed)
    found = source(recipe.model, recipe.device)
    given = recipe.calibrate
    inputs = batches(given, found, recipe.device) if given else []
    length = given.length if given else 512
    judge = Judge(recipe.evaluate, found, length, recipe.device) if recipe.evaluate else None
    judged = judge.tokens if judge else 0
    some = samples(inputs[: effects_from(inputs)])
    planned = plan(found, recipe, samples(inputs), judged, some)
    return Job(recipe, found, inputs, judge, planned)


def compress(job: Job, out: Path, console: Console, bar: bool) -> dict[str, Any]:
    """Do a job, and make its folder. After an interruption, the same call goes on.

    Returns:
        What `result.json` holds.

    Raises:
        ValueError: a folder that is not empty; as `calibrate`, `run` and `save`.
        OSError: a disk without space.
    """
    check_space(out.parent, job.plan.after + 8 * sum(w.count for w in job.plan.weights.values()))
    place = Workplace(out, job.recipe)
    with logged(console, place.part / "log.txt") as log:
        if place.resumed:
            log.say(f"going on with the interrupted job in {place.part}")
        try:
            result = _worked(job, place, log, bar)
        except KeyboardInterrupt:
            log.say(f"stopped; the same command goes on from {place.part}")
            raise
        (place.result / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        reports.write(place.result, result)
        log.write("finished")
    shutil.copy(place.part / "log.txt", place.result / "log.txt")
    place.finish()
    return result


def _worked(job: Job, place: Workplace, log: Log, bar: bool) -> dict[str, Any]:
    """Write the compressed net into the result folder; return what `result.json` holds."""
    recipe, model, start = job.recipe, job.source.model, time.perf_counter()
    before = _judged(job, log, "before", bar)
    # the tasks
    tasks, words = dict(job.plan.tasks), {row.name: row.word for row in job.plan.rows}
    rest = rest_type(job.source, recipe)
    rest = rest if rest in (torch.float16, torch.bfloat16) else None
    if job.plan.search:
        more, found = chosen(model, job.plan, job.inputs, place.part, rest, log, bar)
        tasks, words = {**tasks, **more}, {**words, **found}
    # the work
    ran = _run(job, _ordered(job, tasks), place.part, log, bar)
    # the file, and the net that it holds
    log.say("writing the file")
    file = place.result / FILE
    save(file, ran.lc, snapshot=ran.best, dtype=rest)
    load(file, model)
    times = latency_of(model, ran.lc, job.inputs[0]) if job.inputs and ran.best is None else None
    after = _judged(job, log, "after", bar)
    _accompany(job, place.result)
    dense = {row.name: row.before for row in job.plan.rows}
    data = {
        **_setting(job, time.perf_counter() - start),
        "bytes": {"before": job.plan.before, "after": file.stat().st_size},
        "measured": job.judge and {"name": job.judge.name, "before": before, "after": after},
        "layers": layers_of(file, job.plan, words, dense, ran.calibration),
        "parts": parts_of(file),
        "latency": times,
        "records": [record._asdict() for record in ran.records],
        "notes": [*ran.calibration.notes] if ran.calibration else [],
    }
    return _plain(data)


def _judged(job: Job, log: Log, when: str, bar: bool) -> float | None:
    if job.judge is None:
        return None
    value = job.judge(job.source.model, bar)
    log.say(f"{job.judge.name} {when}: {value:.4g}")
    return value


def _ordered(job: Job, tasks: dict[str, Task]) -> dict[str, Task]:
    """Return the tasks in the order of the model's parameters."""
    order = {row.name: i for i, row in enumerate(job.plan.rows)}
    return dict(sorted(tasks.items(), key=lambda item: order[item[1].params[0]]))


@dataclass(frozen=True)
class _Ran:
    """The results of the work on a net."""

    lc: LC
    best: Snapshot | None = None
    records: tuple[Record, ...] = ()
    calibration: Calibration | None = None


def _run(job: Job, tasks: dict[str, Task], part: Path, log: Log, bar: bool) -> _Ran:
    """Calibrate, train, do both, or compress directly."""
    recipe, model = job.recipe, job.source.model
    lc = LC(model, tasks)
    ran = _Ran(lc)
    if recipe.calibrate:
        log.say(f"calibrating {len(tasks)} tasks on {len(job.inputs)} batches")
        found = calibrated(lc, recipe, job.inputs, part, bar)
        log.write(str(found))
        ran = replace(ran, calibration=found)
    if recipe.train:
        log.say(f"training with {recipe.train.function}")
        records, best = trained(lc, recipe, part, bar)
        ran = replace(ran, records=tuple(records), best=best)
    if not recipe.calibrate and not recipe.train:
        log.say("direct compression; --calibrate or --train makes the error smaller")
        lc.mu = 1.0
    return ran


def _accompany(job: Job, folder: Path) -> None:
    """Write the recipe, and the files that a folder of Hugging Face has beside the weights."""
    recipe, source_ = job.recipe, job.source
    reference = str(Path(source_.reference).resolve()) if source_.folder else source_.reference
    recipes.write(folder / "recipe.yaml", recipe.model_copy(update={"model": reference}))
    if source_.folder is None:
        return
    copy_beside(source_, folder)
    config = json.loads((source_.folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "leco", "packed": False}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _setting(job: Job, seconds: float) -> dict[str, Any]:
    """Return versions, data, seed and machine."""
    return {
        "model": job.source.reference,
        "class": type(job.source.model).__name__,
        "recipe": job.recipe.model_dump(exclude_none=True),
        "seconds": seconds,
        "batches": len(job.inputs),
        "samples": samples(job.inputs),
        "versions": {
            "leco": leco_version(),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "machine": f"{platform.machine()}, {job.recipe.device}, {torch.get_num_threads()} threads",
    }


def leco_version() -> str:
    """Return the version of the installed package, or "source"."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("leco")
    except PackageNotFoundError:
        return "source"


def _plain(value: Any) -> Any:
    """Return the value with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _plain(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
