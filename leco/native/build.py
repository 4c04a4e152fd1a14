"""The compiled library, and why there is none."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from leco.atomic import atomically

SOURCES = tuple(
    Path(__file__).parent / name
    for name in (
        "checksum.c",
        "decode.c",
        "digits.c",
        "few.c",
        "floats.c",
        "levels.c",
        "many.c",
        "streams.c",
    )
)
HEADERS = tuple(Path(__file__).parent / name for name in ("lanes.h", "packed.h"))
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-Wno-psabi")
SECONDS = 120  # for the compiler


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library, compiled at the first call and kept in the user's cache folder; None where that
    fails, with one line in the log that says why.

    The compiler is that of the environment variable CC, or `cc`. The library is compiled for the
    processor of this machine, and compiled again for another one. Calls release Python's lock.
    """
    try:
        return ctypes.CDLL(str(_compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or b""
        reason = f"{error} {output.decode(errors='replace')[-500:]}".strip()
        logging.getLogger("leco").warning(
            "leco: no compiled products and decoders; slower ones are used: %s", reason
        )
        return None


def _compiled() -> Path:
    """The path of the library for these sources, this compiler and this processor."""
    words = shlex.split(os.environ.get("CC") or "cc")
    compiler = shutil.which(words[0]) if words else None
    if compiler is None or sys.platform == "win32":
        raise OSError(f"there is no C compiler {words[:1]} on {sys.platform}")
    command = [compiler, *words[1:], *FLAGS]
    # what it depends on
    texts = (file.read_bytes() for file in (*SOURCES, *HEADERS))
    parts = [*texts, shlex.join(command).encode()]
    parts += [platform.platform().encode(), _processor()]
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
    path = _folder() / f"{name}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomically(path, lambda temporary: _compile(command, temporary))
    return path


def _compile(command: list[str], path: Any) -> None:
    inputs = [str(source) for source in SOURCES]
    subprocess.run(
        [*command, *inputs, "-o", str(path)], check=True, capture_output=True, timeout=SECONDS
    )


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leco" / "native"


def _processor() -> bytes:
    """The processor's name and instructions, as far as the system says them."""
    lines = Path("/proc/cpuinfo")
    text = lines.read_text(errors="replace") if lines.exists() else platform.processor()
    kept = [line for line in text.splitlines() if line.startswith(("flags", "model name"))]
    return "\n".join(dict.fromkeys(kept or [text])).encode()


@functools.cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads that run calls of the library side by side."""
    return ThreadPoolExecutor(threads, thread_name_prefix="leco")


def in_threads(run: Callable[[int, int], Any], count: int, most: int) -> list[Any]:
    """What `run` returns for parts of 0 .. count, one in each of torch's threads, of which there
    are at most `most`."""
    threads = max(1, min(torch.get_num_threads(), count, most))
    if threads == 1:
        return [run(0, count)]
    borders = [count * i // threads for i in range(threads + 1)]
    return list(pool(threads).map(run, borders[:-1], borders[1:]))
