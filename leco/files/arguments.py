"""Arguments in the wrong order or of another kind: a TypeError that gives the right order."""

import os
from typing import Any


def check_path(call: str, path: Any) -> None:
    """Raise TypeError unless `path` is a path; `call` is how the function is called."""
    check_kind(call, "path", path, (str, os.PathLike), "a string or a Path")


def check_kind(call: str, name: str, value: Any, kind: Any, text: str) -> None:
    """Raise TypeError unless `value` is of `kind`, which `text` describes."""
    if not isinstance(value, kind):
        got = type(value).__name__
        raise TypeError(f"leco.{call.split('(')[0]}: {name} must be {text}, not {got}; call {call}")
