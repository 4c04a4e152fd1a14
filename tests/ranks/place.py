"""Where a case runs, and how its results are compared."""

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Place:
    """Where a case runs: before or after there are ranks (rank 0 of 1), or on one of them."""

    rank: int
    ranks: int
    folder: Path

    def share(self, rows: torch.Tensor) -> torch.Tensor:
        """This rank's rows."""
        return rows[self.rank :: self.ranks]


def key(case) -> str:
    """A name of the case."""
    return f"{case.__module__}.{case.__name__}"


def compare(found, expected) -> None:
    """Equal to 1e-12."""
    found, expected = found or {}, expected or {}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            torch.as_tensor(found[name]),
            torch.as_tensor(value),
            rtol=1e-12,
            atol=1e-12,
            equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )
