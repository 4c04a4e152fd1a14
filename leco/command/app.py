"""The parts that all commands share: the typer application, output and errors."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    name="leco",
    help="Compress a trained net, and look at the result.",
    rich_markup_mode=None,
    add_completion=False,
)

Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def terminal(quiet: bool = False) -> Console:
    """Return the console for people: stderr where stdout is for programs (`quiet`), else stdout."""
    return Console(stderr=quiet, highlight=False, soft_wrap=True)


def show(text: str) -> None:
    """Print to stdout; characters that its encoding lacks become escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    show(json.dumps(value, indent=2) + "\n")


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    named = isinstance(error, (ValueError, TypeError, OSError, ImportError))
    return text if named else f"{type(error).__name__}: {text}"
