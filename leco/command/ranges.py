"""Ranges in the words of `--to`: "rank:8..64" stands for the words from rank:8 to rank:64."""

import re
from dataclasses import dataclass

from leco.command.schemes import NUMBER
from leco.command.words import Search, parse

RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})")
WIDE = 10  # a ratio of the ends from which a range is searched by its logarithm


@dataclass(frozen=True)
class Range:
    """The words between two ends.

    Args:
        word: as the user wrote it.
        low, high: the two ends.
        whole: whether all of its numbers are whole.
    """

    word: str
    low: float
    high: float
    whole: bool

    @property
    def log(self) -> bool:
        """Whether the search is by the logarithm."""
        return self.low > 0 and self.high >= WIDE * self.low

    def at(self, value: float) -> str:
        """Return the word at a number, to three digits.

        >>> from leco.command.ranges import ranged
        >>> ranged("rank:8..64").at(20), ranged("l0:1e-6..1e-2").at(0.00012345)
        ('rank:20', 'l0:0.000123')
        """
        number = str(round(value)) if self.whole else f"{value:.3g}"
        return RANGE.sub(number, self.word)


def ranged(word: str) -> Range | None:
    """Return the range in a word, or None.

    Raises:
        ValueError: an end that makes no word, ends in the wrong order, or a range of group sizes.
    """
    found = RANGE.search(word)
    if found is None:
        return None
    low, high = (float(text) for text in found.groups())
    if not low < high:
        raise ValueError(f"{word!r}: the range must go up")
    if "bit" in word[: found.start()] or "ternary" in word:
        raise ValueError(f"{word!r}: give each size of groups as a word, such as 3bit:32, 3bit:64")
    made = Range(word, low, high, all(text.isdigit() for text in found.groups()))
    for end in (low, high):
        check_word(made.at(end))
    return made


def check_word(word: str) -> None:
    """Raise ValueError for a word that no single layer can get."""
    if isinstance(parse(word), Search):
        raise ValueError(f"{word!r} is a search of its own; give words such as 3bit")
