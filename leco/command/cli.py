"""The command `leco`: `main` runs one of its commands and returns the exit code."""

import sys
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from leco.command import commands as commands
from leco.command import inspect as inspect
from leco.command.app import app, one_line

WRONG, INTERRUPTED = 1, 130
"""Exit codes: an error, said in one line; Ctrl-C. Options that do not exist give 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command with these arguments, or those of the process, and return the exit code.

    An error is one line on stderr, without a traceback.
    """
    command = typer.main.get_command(app)
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        found = command.main(args=given, prog_name="leco", standalone_mode=False)
        code = found if isinstance(found, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except TyperException as error:
        print("leco:", " ".join(error.format_message().split()), file=sys.stderr)
        return error.exit_code
    except Exception as error:
        print("leco:", one_line(error), file=sys.stderr)
        return WRONG
    if code == INTERRUPTED:  # typer's code of Ctrl-C too
        print("leco: interrupted", file=sys.stderr)
    return code
