"""The words of `--to`."""

import re
from dataclasses import dataclass

from leco.command.schemes import KINDS, Scheme

KEEP = "keep"
HELP = "2bit ... 8bit, 3bit:32 (groups of 32), int4, 1bit, ternary, 2:4, 30%, rank:64, q4_0, keep"
UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Search:
    """A choice of a scheme for each layer, at a size.

    Args:
        word: as the user wrote it.
        limit: bytes of the file; None for the bytes of 3bit.
        words: the schemes to choose from.
    """

    word: str
    limit: int | None
    words: tuple[str, ...]


def parse(word: str) -> Scheme | Search | None:
    """Return the compression or the search that a word names; None for "keep".

    Raises:
        ValueError: an unknown word, or a number out of bounds.

    >>> import torch
    >>> from leco.command.schemes import Weight
    >>> from leco.command.words import parse
    >>> parse("3bit").make(Weight((10, 128), 0, torch.float32))
    (Groups(size=64), Uniform(bits=3, zero_point=True))
    >>> parse("budget:1.5MB").limit
    1500000
    """
    word = str(word).strip()
    if word == KEEP:
        return None
    if word == "auto" or word.startswith(("auto:", "budget:")):
        return _search(word)
    for pattern, build in KINDS.items():
        found = re.fullmatch(pattern, word)
        if found:
            return build(word, *found.groups())
    raise ValueError(f"{word!r} is not a compression; the words are {HELP}, budget:20MB, auto")


def fixed(word: str) -> Scheme:
    """Return the scheme of a word that is no search and not "keep"."""
    found = parse(word)
    if not isinstance(found, Scheme):
        raise ValueError(f"{word!r} does not name one compression; the words are {HELP}")
    return found


def size_of(text: str) -> int:
    """Return the bytes of a size such as 20MB, with a million bytes in each MB.

    >>> size_of("20MB"), size_of("1500")
    (20000000, 1500)
    """
    found = re.fullmatch(r"([0-9.]+)\s*([A-Za-z]*)", text.strip())
    if not found or found[2] not in UNITS or found[1].count(".") > 1 or found[1] == ".":
        raise ValueError(f"{text!r} is not a size; write bytes, or 500kB, 20MB, 1.5GB")
    return int(float(found[1]) * UNITS[found[2]])


def _search(word: str) -> Search:
    kind, _, size = word.partition(":")
    limit = size_of(size) if size else None
    if limit is None and kind == "budget":
        raise ValueError("budget: needs a size, such as budget:20MB")
    grids = ("1bit", "2bit", "3bit", "4bit", "6bit", "8bit")
    return Search(word, limit, grids if kind == "budget" else (*grids, "ternary", "10%", "30%"))
