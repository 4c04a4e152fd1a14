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
    """Return whether a folder has the result of this recipe. Raises ValueError where it has that
    of another one."""
    if not (folder / RESULT).is_file():
        return False
    if recipes.checked(result_of(folder)["recipe"], str(folder)) != recipe:
        raise ValueError(f"{folder} is of another recipe; remove it, or give another --out")
    return True


def _processes(
    made: Mapping[Path, Recipe], titles: Mapping[Path, str], jobs: int, console: Console
) -> None:
    """Do each recipe in its own process, `jobs` at a time. They share the threads."""
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
    """Return the numbers in a folder's result.json.

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
    """Return the bytes and the error of a folder, as a point of a sweep.

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
    """Return the name of a point's value."""
    found = result_of(folder)["measured"]
    return found["name"] if found else "mean relative error of a layer"
