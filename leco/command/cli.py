"""The command `leco`."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence

from leco.measure.breakdown import breakdown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, or those of the process; 0, or 1 after one line to
    stderr that says what is wrong."""
    parser = argparse.ArgumentParser(prog="leco", description="Files of compressed nets.")
    commands = parser.add_subparsers(required=True)
    inspect = commands.add_parser(
        "inspect",
        help="what each byte of a file is for",
        description="Print what each byte of a file is for.",
    )
    inspect.add_argument("file", help="a file that leco.save wrote")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    try:
        found = breakdown(chosen.file)
    except (OSError, ValueError) as error:
        print("leco:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    width = max(100, min(shutil.get_terminal_size((160, 24)).columns, 160))
    _print(json.dumps(found.json(), indent=2) + "\n" if chosen.json else found.text(width))
    return 0


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
