"""A broken compression, and the law that must notice it."""

from typing import Any, NamedTuple


class Fault(NamedTuple):
    """`compression` takes the place of the one in the case named `case`, where `law` must fail."""

    law: str
    case: str
    compression: Any
