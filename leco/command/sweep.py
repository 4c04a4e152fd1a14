"""`leco sweep`: a folder for each word, and a curve of error against bytes."""

import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

import leco.command.report as reports
from leco.command import recipe as recipes
from leco.command.compress import compress, prepared
from leco.command.recipe import Recipe


def sweep(
    made: Mapping[str, Recipe], out: Path, jobs: int, console: Console, bar: bool
) -> list[dict[str, Any]]:
    """Do each recipe that has no folder yet, and write the report.

    Args:
        made: recipes by word.
        out: the folder of all.
        jobs: processes; with 1, this process does the work.

    Raises:
        ValueError: a folder of another recipe, or a job that fails; the other folders stay.
    """
    if not list(made):
        raise ValueError("--to: give at least one word")
    out.mkdir(parents=True, exist_ok=True)
    folders = {word: out / _name(word) for word in made}
    if len(set(folders.values())) < len(made):
        raise ValueError("--to: a word stands twice")
    todo = [word for word in made if not _done(folders[word], made[word])]
    if jobs == 1:
        for word in todo:
            console.print(f"--to {word}", markup=False)
            compress(prepared(made[word]), folders[word], console, bar and console.is_terminal)
    else:
        _processes({word: made[word] for word in todo}, folders, jobs)
    points = [_point(word, folder) for word, folder in folders.items()]
    first = next(iter(made.values()))
    measured = json.loads((next(iter(folders.values())) / "result.json").read_text())["measured"]
    name = measured["name"] if measured else "mean relative error of a layer"
    for file, text in reports.sweep(points, first.model, name).items():
        (out / file.replace("sweep", "report")).write_text(text, encoding="utf-8")
    return points


def _name(word: str) -> str:
    """A folder's name for a word."""
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in word.replace("%", "percent"))


def _done(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder has this recipe's result. Raises ValueError where it has another's."""
    if not (folder / "result.json").is_file():
        return False
    found = json.loads((folder / "result.json").read_text(encoding="utf-8"))["recipe"]
    if recipes.checked(found, str(folder)) != recipe:
        raise ValueError(f"{folder} is of another recipe; remove it, or give another --out")
    return True


def _processes(made: Mapping[str, Recipe], folders: Mapping[str, Path], jobs: int) -> None:
    """Do recipes in processes of their own, some at a time."""

    def work(word: str) -> str:
        file = folders[word].with_name(folders[word].name + ".yaml")
        recipes.write(file, made[word])
        command = [sys.executable, "-m", "leco", "compress", "--recipe", str(file)]
        command += ["--out", str(folders[word]), "--json"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        file.unlink()
        lines = ran.stderr.strip().splitlines()
        return "" if ran.returncode == 0 else f"{word}: {lines[-1] if lines else 'failed'}"

    with ThreadPoolExecutor(jobs) as pool:
        wrong = [text for text in pool.map(work, made) if text]
    if wrong:
        raise ValueError("; ".join(wrong))


def _point(word: str, folder: Path) -> dict[str, Any]:
    """A folder as a point of the curve."""
    found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    errors = [row["error"] for row in found["layers"] if row.get("error") is not None]
    mean = sum(errors) / len(errors) if errors else None
    return {
        "word": word,
        "folder": folder.name,
        "bytes": found["bytes"]["after"],
        "ratio": found["bytes"]["before"] / found["bytes"]["after"],
        "value": found["measured"]["after"] if found["measured"] else mean,
    }
