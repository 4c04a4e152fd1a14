"""Compressions: pure tensor functions, each a family Delta with its C step. They know no module, no
file and no loop."""

from leco.compressions import catalogue
from leco.compressions.catalogue import *  # noqa: F403
from leco.compressions.protocol import Compression, Penalty

ALL: tuple[type[Compression], ...] = tuple(
    kind
    for kind in vars(catalogue).values()
    if isinstance(kind, type)
    and issubclass(kind, Compression)
    and kind not in (Compression, Penalty)
)
"""Every compression: the laws in `tests/laws` run over this list."""
