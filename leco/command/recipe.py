"""The recipe of a job, a YAML file. pydantic checks it."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from leco.atomic import atomically
from leco.command.ranges import check_word, ranged
from leco.command.words import parse

OTHERS = "others"


class Strict(BaseModel):
    """A part of a recipe. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Calibrate(Strict):
    """Compression without training, on inputs."""

    data: Annotated[str, Field(description="texts.txt, a folder of images, or module:function")]
    samples: Annotated[int, Field(ge=1, description="sequences of a text, or images")] = 32
    length: Annotated[int, Field(ge=2, description="tokens of a sequence")] = 512
    batch: Annotated[int, Field(ge=1, description="samples of a batch")] = 1
    steps: Annotated[int, Field(ge=1, description="LC steps of each layer")] = 40
    polish: Annotated[int, Field(ge=0, description="epochs of training each block")] = 0
    distill: Annotated[int, Field(ge=0, description="epochs of training scales and norms")] = 0


class Train(Strict):
    """Compression in training."""

    function: Annotated[
        str, Field(description="module:function; called with (model, lc), returns an L step")
    ]
    steps: Annotated[int, Field(ge=1, description="L steps, with a C step after each")] = 40
    mu: Annotated[float, Field(gt=0, description="the first mu")] = 1e-3
    factor: Annotated[float, Field(ge=1, description="of one mu to the next")] = 1.1


class Optimize(Strict):
    """A search by trials: which word each part of the net gets."""

    words: Annotated[
        list[str] | dict[str, list[str]],
        Field(description="the words to choose from, for each kind of layer or by patterns"),
    ]
    trials: Annotated[int, Field(ge=1, description="how many choices are tried")] = 20

    @field_validator("words")
    @classmethod
    def _known(cls, words: list[str] | dict[str, list[str]]) -> list[str] | dict[str, list[str]]:
        for some in words.values() if isinstance(words, dict) else (words,):
            for word in some:
                if ranged(word) is None:
                    check_word(word)
            if not some or len(set(some)) < len(some):
                raise ValueError("give at least one word, and each word once")
        return words


class Recipe(Strict):
    """What `leco compress` does."""

    model: Annotated[str, Field(description="a Hugging Face folder, module:function or leco file")]
    to: Annotated[
        str | dict[str, str],
        Field(description="a word, or words by patterns of parameter names; others: the rest"),
    ] = "3bit"
    calibrate: Calibrate | None = None
    train: Train | None = None
    optimize: Annotated[
        Optimize | None, Field(description="of leco sweep: in place of to, a search by trials")
    ] = None
    evaluate: Annotated[str | None, Field(description="a text, or module:function(model)")] = None
    rest: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        Field(description="float type of what is not compressed; auto: that of the model"),
    ] = "auto"
    smallest: Annotated[
        int, Field(ge=0, description="weights below which a word for all leaves a parameter")
    ] = 1024
    device: str = "cpu"
    seed: int = 0

    @field_validator("to")
    @classmethod
    def _known(cls, to: str | dict[str, str]) -> str | dict[str, str]:
        for word in to.values() if isinstance(to, dict) else (to,):
            parse(word)
        if isinstance(to, dict) and not to:
            raise ValueError("is empty; give a word, or patterns with words")
        return to


PARTS = {"calibrate": Calibrate, "train": Train, "optimize": Optimize}


def checked(values: Any, where: str) -> Recipe:
    """Check plain values, and return them as a recipe.

    Raises:
        ValueError: one line that names the key, what is wrong, and the nearest key.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where}: a recipe has keys and values, such as 'to: 3bit'")
    try:
        return Recipe(**values)
    except ValidationError as error:
        raise ValueError(f"{where}: {_line(error)}") from None


def _line(error: ValidationError) -> str:
    """Return the first error of a recipe, in one line."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    kinds = ("str", "dict[str,str]", "list[str]", "dict[str,list[str]]")
    path = [part for part in path if part not in kinds]
    if first["type"] == "extra_forbidden":
        part = PARTS.get(path[0], Recipe) if len(path) > 1 else Recipe
        known = list(part.model_fields)
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
        return f"unknown key {'.'.join(path)!r}; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(path) or 'recipe'}: {message[:1].lower()}{message[1:]}"


def read(path: Path) -> dict[str, Any]:
    """Return the plain values of a YAML file.

    Raises:
        ValueError: a file that is no YAML, or has a key twice.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: a recipe has keys and values, such as 'to: 3bit'")
    return found


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key that stands twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f"the key {twice!r} stands twice")
        return super().construct_mapping(node, deep)


def write(path: Path, recipe: Recipe) -> None:
    """Write a recipe without the keys that are at their defaults."""
    values = {"model": recipe.model, "to": recipe.to} | recipe.model_dump(exclude_defaults=True)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def fill(name: str) -> None:
        Path(name).write_text(text, encoding="utf-8")

    atomically(path, fill)


def schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe."""
    return Recipe.model_json_schema()
