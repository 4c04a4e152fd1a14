"""Files that are replaced at once or not at all."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def atomically(path: Path, write: Callable[[str], None]) -> None:
    """Write a file beside `path` and rename it: `path` is the old file or the new one, never half
    of either, even when the power fails."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.touch(exist_ok=False)  # an OSError where there is no such folder
    try:
        rights = temporary.stat().st_mode
        write(str(temporary))
        temporary.chmod(rights)  # safetensors makes a file that only its owner can read
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
