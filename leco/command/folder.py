"""The folder of a job. It appears when it is whole; an interrupted job goes on."""

import os
import shutil
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from leco.command import recipe as recipes
from leco.command.recipe import Recipe


class Workplace:
    """`OUT.part`, where a job keeps its recipe, checkpoints and log until `OUT` is whole.

    Args:
        out: the folder to make.
        recipe: of the job.

    Raises:
        ValueError: `out` is there and not empty, or an interrupted job of another recipe.
    """

    def __init__(self, out: Path, recipe: Recipe):
        self.out, self.part = out, out.with_name(out.name + ".part")
        check_free(out)
        beside = self.part / "recipe.yaml"
        self.resumed = beside.exists()
        if self.resumed and recipes.checked(recipes.read(beside), str(beside)) != recipe:
            raise ValueError(
                f"{self.part} is of an interrupted job with another recipe; remove it, or give "
                "another --out"
            )
        self.result.mkdir(parents=True, exist_ok=True)
        recipes.write(beside, recipe)

    @property
    def result(self) -> Path:
        """The folder that is renamed to `OUT` at the end."""
        return self.part / "result"

    def finish(self) -> None:
        """Rename the result to `OUT`, and remove the rest."""
        if self.out.exists():
            self.out.rmdir()
        os.replace(self.result, self.out)
        shutil.rmtree(self.part, ignore_errors=True)


def check_free(out: Path) -> None:
    """Raise ValueError where a folder can't be made."""
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; remove it, or give another --out")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give another --out")


def check_space(folder: Path, needed: int) -> None:
    """Raise OSError where the disk has less space than is needed."""
    place = folder if folder.exists() else next(p for p in folder.parents if p.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            f"{place}: the disk has {free / 1e6:,.0f} MB free, and the job needs about "
            f"{needed / 1e6:,.0f} MB; make room, or give another --out"
        )


class Log:
    """Writes the lines of a job to the terminal, and with their times to a file.

    Args:
        console: of the terminal.
        path: of the file.
    """

    def __init__(self, console: Console, path: Path):
        self.console = console
        self._file: TextIO = path.open("a", encoding="utf-8")

    def say(self, text: str) -> None:
        """Write a line to the terminal and to the file."""
        self.console.print(text, markup=False, highlight=False)
        self.write(text)

    def write(self, text: str) -> None:
        """Write lines to the file alone."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._file.writelines(f"{stamp} {line}\n" for line in text.splitlines())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@contextmanager
def logged(console: Console, path: Path) -> Iterator[Log]:
    """Open a log. It also gets the warnings inside, and the traceback of an error."""
    log = Log(console, path)

    def warn(message: Any, category: Any, *_: Any, **__: Any) -> None:
        log.write(f"{category.__name__}: {message}")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = warn
            yield log
    except BaseException:
        log.write(traceback.format_exc())
        raise
    finally:
        log.close()
