"""Names of parametrized tests."""

import re


def label(value: object) -> str:
    """`str` without the addresses of functions, so that all workers of pytest-xdist agree."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
