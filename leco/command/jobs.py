"""Jobs of several recipes, each in a folder of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from leco.command import recipe as recipes
from leco.command.compress import compress, prepared
from leco.command.recipe import Recipe

RESULT = "result.json"


def work(
    made: Mapping[Path, Recipe],
    titles: Mapping[Path, str],
    jobs: int,
    console: Console,
    bar: bool,
) -> None:
    """Do the recipes whose folders are not there yet.

    Args:
        made: recipes by folder.
        titles: what is printed before each.
        jobs: processes; with 1, this process does the work.

    Raises:
        ValueError: a folder of another recipe, or a job that fails; the other folders stay.
    """
    todo = {folder: recipe for folder, recipe in made.items() if not _done(folder, recipe)}
    if jobs > 1:
        return _processes(todo, titles, jobs, console)
    for folder, recipe in todo.items():
        console.print(titles[folder], markup=False)
        compress(prepared(recipe), folder, console, bar)
    return None


def _done(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder has this recipe's result. Raises ValueError where it has another's."""
    if not (folder / RESULT).is_file():
        return False
    if recipes.checked(result_of(folder)["recipe"], str(folder)) != recipe:
        raise ValueError(f"{folder} is of another recipe; remove it, or give another --out")
    return True


def _processes(
    made: Mapping[Path, Recipe], titles: Mapping[Path, str], jobs: int, console: Console
) -> None:
    """Do recipes in processes of their own, some at a time, which share the threads."""
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // jobs))}

    def one(folder: Path) -> str:
        file = folder.with_name(folder.name + ".yaml")
        recipes.write(file, made[folder])
        command = [sys.executable, "-m", "leco", "compress", "--recipe", str(file)]
        command += ["--out", str(folder), "--json"]
        ran = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **threads}
        )
        file.unlink()
        lines = ran.stderr.strip().splitlines()
        if ran.returncode:
            line = lines[-1] if lines else f"ended with exit code {ran.returncode}"
            return f"{folder.name}: {line.removeprefix('leco: ')}"
        console.print(f"done: {titles[folder]}", markup=False)
        return ""

    with ThreadPoolExecutor(jobs) as pool:
        wrong = [text for text in pool.map(one, made) if text]
    if wrong:
        raise ValueError("; ".join(wrong))


def result_of(folder: Path) -> dict[str, Any]:
    """What a job has written of itself.

    Raises:
        ValueError: a folder without it, or a damaged file.
    """
    path = folder / RESULT
    if not path.is_file():
        raise ValueError(f"{folder}: no {RESULT} in it; give a folder that leco compress made")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error})") from None


def point(word: str, folder: Path) -> dict[str, Any]:
    """A folder as a point of error against bytes.

    The value is what `--evaluate` measured, or else the mean relative error of a layer.
    """
    found = result_of(folder)
    errors = [row["error"] for row in found["layers"] if row.get("error") is not None]
    mean = sum(errors) / len(errors) if errors else None
    return {
        "word": word,
        "folder": folder.name,
        "bytes": found["bytes"]["after"],
        "ratio": found["bytes"]["before"] / found["bytes"]["after"],
        "value": found["measured"]["after"] if found["measured"] else mean,
    }


def measured(folder: Path) -> str:
    """What the value of a point is."""
    found = result_of(folder)["measured"]
    return found["name"] if found else "mean relative error of a layer"
