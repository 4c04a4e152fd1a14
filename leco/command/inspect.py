"""`leco inspect`: prints what each byte of a file is for."""

import shutil
from typing import Annotated

import typer

from leco.command.app import Json, app, show, show_json
from leco.measure.breakdown import breakdown


@app.command("inspect")
def inspect(
    file: Annotated[str, typer.Argument(help="a file that leco.save wrote")], as_json: Json = False
) -> None:
    """Print what each byte of a file is for."""
    found = breakdown(file)
    width = max(100, min(shutil.get_terminal_size((160, 24)).columns, 160))
    if as_json:
        show_json(found.json())
    else:
        show(found.text(width))
