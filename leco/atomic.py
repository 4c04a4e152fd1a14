"""Files that are replaced at once or not at all."""

import os
import re
import secrets
import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path

LONGEST = 255  # bytes of a file name, on the usual file systems
DAY = 86400.0  # seconds: a temporary file of another machine is left alone for so long
THIS_PROCESS = secrets.token_hex(3)  # tells this process from an earlier one of the same id


def atomically(path: Path, write: Callable[[str], None]) -> None:
    """Write a file beside `path` and rename it: `path` is the old file or the new one, never half
    of either, even when the power fails.

    Where `path` is a symbolic link, the file that it points to is replaced. The new file has the
    rights of the old one. Temporary files that a killed process left for this name are removed.

    Args:
        path: the file to replace.
        write: writes the content to the file name that it is given.

    Raises:
        OSError: no such folder, no right to write there, or `path` is a folder.
    """
    # Where, and under which name
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file")
    _remove_left(path)
    temporary = path.with_name(f"{_stem(path.name)}.{_writer(os.getpid())}.tmp")

    # The content, then the rename
    temporary.touch(exist_ok=False)
    try:
        rights = (path if path.exists() else temporary).stat().st_mode & 0o7777
        write(str(temporary))
        temporary.chmod(rights)  # safetensors makes a file that only its owner can read
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _stem(name: str) -> str:
    """The name, or the start of a long one with its checksum, so that the temporary's name fits."""
    room = LONGEST - len(f".{_writer(2**31)}.tmp")
    coded = os.fsencode(name)
    if len(coded) <= room:
        return name
    end = f"~{zlib.crc32(coded):08x}"
    return coded[: room - len(end)].decode(errors="ignore") + end


def _writer(process: int) -> str:
    """Machine, process and a random part: who writes a temporary file."""
    return f"{_machine()}-{process}-{THIS_PROCESS}{secrets.token_hex(2)}"


def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _remove_left(path: Path) -> None:
    """Remove the temporary files of `path` whose writer is gone."""
    name = re.compile(re.escape(_stem(path.name)) + r"\.([0-9a-f]{8})-(\d+)-([0-9a-f]{10})\.tmp")
    for other in path.parent.iterdir():
        found = name.fullmatch(other.name)
        if found is not None and _is_left(other, *found.groups()):
            other.unlink(missing_ok=True)


def _is_left(temporary: Path, machine: str, process: str, token: str) -> bool:
    """Whether the writer of a temporary file is gone: its process has ended, or the file is of
    another machine, whose processes cannot be asked, and a day old."""
    if machine == _machine() and os.name == "posix":
        if int(process) == os.getpid():
            return not token.startswith(THIS_PROCESS)
        return not _runs(int(process))
    try:
        return time.time() - temporary.stat().st_mtime > DAY
    except FileNotFoundError:
        return False


def _runs(process: int) -> bool:
    """Whether this machine has such a process. Signal 0 only asks."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
