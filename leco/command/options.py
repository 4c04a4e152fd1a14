"""The options of `leco compress` and `leco sweep`, and the recipe that they make."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from leco.command import recipe as recipes
from leco.command.recipe import Recipe
from leco.command.words import HELP

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="a folder of Hugging Face, package.module:function, or a folder of leco",
    ),
]
To = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WORD",
        help=f"{HELP}, budget:20MB or auto; or PATTERN=WORD, several times",
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(metavar="DATA", help="texts.txt, a folder of images, or package.module:function"),
]
Training = Annotated[
    str | None, typer.Option(metavar="FUNCTION", help="package.module:function(model, lc)")
]
Judging = Annotated[
    str | None, typer.Option(metavar="DATA", help="test.txt, or package.module:function(model)")
]
File = Annotated[
    Path | None,
    typer.Option("--recipe", metavar="FILE", help="in YAML (leco recipes); options overrule it"),
]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="the folder to make")]
Samples = Annotated[int | None, typer.Option(help="sequences of a text, or images [32]")]
Length = Annotated[int | None, typer.Option(help="tokens of a sequence [512]")]
Batch = Annotated[int | None, typer.Option(help="samples of a batch [1]")]
Steps = Annotated[int | None, typer.Option(help="LC steps of each layer, or of the training [40]")]
Polish = Annotated[int | None, typer.Option(help="epochs of training each block [0]")]
Distill = Annotated[int | None, typer.Option(help="epochs towards the dense net's outputs [0]")]
Rest = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="of what is not compressed: float32, float16, bfloat16, or auto, as it was [auto]",
    ),
]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, ... [cpu]")]
Seed = Annotated[int | None, typer.Option(help="of the random numbers [0]")]


@dataclass(frozen=True)
class Given:
    """The options that describe a job; None where an option is not given."""

    model: Model = None
    to: To = None
    calibrate: Calibration = None
    train: Training = None
    evaluate: Judging = None
    file: File = None
    samples: Samples = None
    length: Length = None
    batch: Batch = None
    steps: Steps = None
    polish: Polish = None
    distill: Distill = None
    rest: Rest = None
    device: Device = None
    seed: Seed = None


def of_a_job(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the first parameter of a command by the options of `Given`.

    Args:
        command: a function of a `Given` and of options of its own, which have defaults.
    """
    fields = signature(Given).parameters

    @wraps(command)
    def call(**values: Any) -> None:
        return command(Given(**{name: values.pop(name) for name in fields}), **values)

    # what typer reads
    _, *own = signature(command).parameters.values()
    every = [*fields.values(), *own]
    call.__signature__ = Signature(every)  # pyright: ignore[reportAttributeAccessIssue]
    call.__annotations__ = {p.name: p.annotation for p in every}
    return call


def recipe_of(given: Given, **parts: Any) -> Recipe:
    """Return the recipe of the file, if one is given, with the options that are given.

    Args:
        given: the options.
        parts: of the recipe, in place of the words of `--to`.

    Raises:
        ValueError: one line that says what is wrong.
    """
    found = recipes.read(given.file) if given.file else {}
    for name in ("model", "evaluate", "rest", "device", "seed"):
        if getattr(given, name) is not None:
            found[name] = getattr(given, name)
    if given.to and not parts:
        found["to"] = words(given.to)
    found |= parts
    # steps are those of the training, if there is one
    steps = {"steps": given.steps}
    names = "samples", "length", "batch", "polish", "distill"
    own = {name: getattr(given, name) for name in names}
    own |= {"data": given.calibrate, **({} if given.train else steps)}
    for name, values, needed in (
        ("calibrate", own, "data"),
        ("train", {"function": given.train, **steps}, "function"),
    ):
        values = {key: value for key, value in values.items() if value is not None}
        if values.get(needed) or isinstance(found.get(name), dict):
            found[name] = {**(found.get(name) or {}), **values}
    # checked
    made = recipes.checked({"model": "", **found}, str(given.file) if given.file else "options")
    if not made.model:
        raise ValueError("give a MODEL: a Hugging Face folder, package.module:function, or a file")
    return made


def search_of(given: Given, trials: int | None, asked: bool) -> Recipe | None:
    """Return the recipe of a search, from the file or from `--optimize` and `--to`; else None.

    Raises:
        ValueError: --optimize without words, --trials without a search; as `recipe_of`.
    """
    found = recipes.read(given.file).get("optimize") if given.file else None
    own = dict(found) if isinstance(found, dict) else {}
    if asked and given.to:
        own["words"] = alternatives(given.to)
    if asked and "words" not in own:
        raise ValueError("--optimize: give the words to choose from, such as --to 2bit --to 4bit")
    if not own and found is None:
        if trials is not None:
            raise ValueError("--trials belongs to a search; give --optimize too")
        return None
    if trials is not None:
        own["trials"] = trials
    return recipe_of(given, optimize=own or found)


def alternatives(to: list[str]) -> list[str] | dict[str, list[str]]:
    """Return the words to choose from, or those of each pattern.

    >>> from leco.command.options import alternatives
    >>> alternatives(["2bit", "3bit"])
    ['2bit', '3bit']
    >>> alternatives(["*.mlp.*=2bit", "*.mlp.*=3bit", "others=keep"])
    {'*.mlp.*': ['2bit', '3bit'], 'others': ['keep']}
    """
    if not any("=" in text for text in to):
        return to
    found = dict[str, list[str]]()
    for text in to:
        pattern, equals, word = text.rpartition("=")
        if not equals:
            raise ValueError(f"--to {text!r}: give PATTERN=WORD, as the others are")
        found.setdefault(pattern, []).append(word)
    return found


def words(to: list[str]) -> str | dict[str, str]:
    """Return a word, or words by pattern.

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
            raise ValueError(f"--to: the pattern {pattern!r} is given twice")
        found[pattern] = word
    return found
