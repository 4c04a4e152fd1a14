"""The options of `leco compress` and `leco sweep`, and the recipe that they make."""

from pathlib import Path
from typing import Annotated, Any

import typer

from leco.command import recipe as recipes
from leco.command.recipe import Recipe
from leco.command.words import HELP

Model = Annotated[
    str | None,
    typer.Argument(help="a Hugging Face folder, package.module:function, or a file of leco"),
]
To = Annotated[
    list[str] | None,
    typer.Option(help=f"{HELP}, budget:20MB or auto; or PATTERN=WORD, several times"),
]
Calibration = Annotated[
    str | None, typer.Option(help="texts.txt, a folder of images, or package.module:function")
]
Training = Annotated[str | None, typer.Option(help="package.module:function(model, lc)")]
Judging = Annotated[str | None, typer.Option(help="test.txt, or package.module:function(model)")]
File = Annotated[Path | None, typer.Option("--recipe", help="a YAML file; options overrule it")]
Out = Annotated[Path, typer.Option(help="the folder to make")]
Samples = Annotated[int | None, typer.Option(help="sequences of a text, or images")]
Length = Annotated[int | None, typer.Option(help="tokens of a sequence")]
Batch = Annotated[int | None, typer.Option(help="samples of a batch")]
Steps = Annotated[int | None, typer.Option(help="LC steps of each layer, or of the training")]
Polish = Annotated[int | None, typer.Option(help="epochs of training each block")]
Rest = Annotated[
    str | None, typer.Option(help="float type of the rest: auto, float32, float16, bfloat16")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...")]
Seed = Annotated[int | None, typer.Option(help="of the random numbers")]


def parts(
    data: str | None,
    function: str | None,
    samples: int | None,
    length: int | None,
    batch: int | None,
    steps: int | None,
    polish: int | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of calibration and of training; the steps are those of the training, if any."""
    calibrate = {"data": data, "samples": samples, "length": length, "batch": batch}
    calibrate |= {"polish": polish, "steps": None if function else steps}
    return calibrate, {"function": function, "steps": steps}


def recipe_of(
    file: Path | None,
    to: list[str] | None,
    calibrate: dict[str, Any],
    train: dict[str, Any],
    **values: Any,
) -> Recipe:
    """The recipe of a file, if one is given, with the options that are given.

    Args:
        file: a YAML file, or None.
        to: words, or patterns with words.
        calibrate, train: options of these parts; None where they are not given.
        values: the others.

    Raises:
        ValueError: one line that says what is wrong.
    """
    found = recipes.read(file) if file else {}
    found |= {name: value for name, value in values.items() if value is not None}
    if to:
        found["to"] = words(to)
    for name, own, needed in (("calibrate", calibrate, "data"), ("train", train, "function")):
        given = {key: value for key, value in own.items() if value is not None}
        if given.get(needed) or isinstance(found.get(name), dict):
            found[name] = {**(found.get(name) or {}), **given}
    made = recipes.checked({"model": "", **found}, str(file) if file else "options")
    if not made.model:
        raise ValueError("give a MODEL: a Hugging Face folder, package.module:function, or a file")
    return made


def words(to: list[str]) -> str | dict[str, str]:
    """A word, or words by pattern.

    >>> from leco.command.options import words
    >>> words(["3bit"]), words(["*.mlp.*=2bit", "others=3bit"])
    ('3bit', {'*.mlp.*': '2bit', 'others': '3bit'})
    """
    if len(to) == 1 and "=" not in to[0]:
        return to[0]
    found = dict[str, str]()
    for text in to:
        pattern, equals, word = text.rpartition("=")
        if not equals:
            raise ValueError(f"--to {text!r}: give one word for all, or PATTERN=WORD for each")
        if pattern in found:
            raise ValueError(f"--to: the pattern {pattern!r} stands twice")
        found[pattern] = word
    return found
