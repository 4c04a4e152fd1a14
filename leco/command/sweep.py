"""`leco sweep`: a folder for each word, or for each trial of a search, and a curve of error
against bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import leco.command.report as reports
from leco.command.jobs import measured, point, work
from leco.command.recipe import Recipe
from leco.command.search import Search
from leco.command.space import spoken


def sweep(
    made: Sequence[tuple[str, Recipe]], out: Path, jobs: int, console: Console, bar: bool
) -> list[dict[str, Any]]:
    """Do each recipe that has no folder yet, and write the report; return its points.

    Args:
        made: words with their recipes.
        out: the folder of all.
        jobs: processes; with 1, this process does the work.

    Raises:
        ValueError: a folder of another recipe, or a job that fails; the other folders stay.
    """
    folders = {word: out / _name(word) for word, _ in made}
    if len(set(folders.values())) < len(made):
        raise ValueError("--to: a word is given twice")
    out.mkdir(parents=True, exist_ok=True)
    recipes = {folders[word]: recipe for word, recipe in made}
    titles = {folder: f"--to {word}" for word, folder in folders.items()}
    work(recipes, titles, jobs, console, bar)
    points = [point(word, folder) for word, folder in folders.items()]
    return _written(points, out, made[0][1])


def optimize(
    recipe: Recipe, out: Path, jobs: int, console: Console, bar: bool
) -> list[dict[str, Any]]:
    """Search by trials, go on with a search that was interrupted, and write the report; return
    its points.

    Raises:
        ValueError: as `Search`, or a job that fails; the trials that are done stay.
    """
    search = Search(recipe, out)
    search.run(jobs, console, bar)
    points = [
        {**point(folder.name, folder), "choice": spoken(words)}
        for folder, words in search.tried.items()
    ]
    return _written(points, out, recipe)


def _written(points: list[dict[str, Any]], out: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """Write the report of points, and say which of them no other one beats."""
    front = [id(p) for p in reports.pareto(points)]
    points = [{**p, "best": id(p) in front} for p in points]
    name = measured(out / points[0]["folder"])
    for file, text in reports.sweep(points, recipe.model, name).items():
        (out / file.replace("sweep", "report")).write_text(text, encoding="utf-8")
    return points


def _name(word: str) -> str:
    """Return a folder's name for a word."""
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in word.replace("%", "percent"))
