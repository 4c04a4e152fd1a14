"""The recipes that come with leco: YAML files. The first line of each says what it is for."""

import difflib
from importlib.resources import files
from importlib.resources.abc import Traversable


def every() -> dict[str, str]:
    """Return what each recipe is for, by name."""
    found = {path.name.removesuffix(".yaml"): path for path in _folder().iterdir()}
    return {name: _about(found[name]) for name in sorted(found)}


def text(name: str) -> str:
    """Return a recipe as YAML.

    Raises:
        ValueError: no recipe of this name; the nearest one is named.
    """
    known = list(every())
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"there is no recipe {name!r}; {hint}")
    return _folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def _folder() -> Traversable:
    return files("leco.command").joinpath("recipe_files")


def _about(path: Traversable) -> str:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip()
