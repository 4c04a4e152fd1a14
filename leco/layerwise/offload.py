"""Where hidden states wait between two blocks: where they are, on another device, or on disk."""

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

Kept = Callable[[], Tensor]
"""Gives a hidden state back."""


class Offload:
    """Puts hidden states away.

    Args:
        place: None for where they are, a device, "disk" for a folder of the system's temporary
            files, or a `Path` of a folder for one inside of it.

    Raises:
        ValueError: no such device or folder.
    """

    def __init__(self, place: str | Path | None):
        self._device: torch.device | None = None
        self._folder: Path | None = None
        self._count = 0
        if place == "disk" or isinstance(place, Path):
            inside = place if isinstance(place, Path) else None
            if inside is not None and not inside.is_dir():
                raise ValueError(f"calibrate: offload = {str(place)!r} is no folder")
            self._folder = Path(tempfile.mkdtemp(prefix="leco-", dir=inside))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        elif place is not None:
            try:
                self._device = torch.empty(0, device=place).device
            except (RuntimeError, AssertionError) as error:
                raise ValueError(
                    f'calibrate: offload = {place!r} is no device here, nor "disk", nor a Path '
                    f"({error})"
                ) from error

    def away(self, hidden: Tensor) -> Kept:
        """Put a hidden state away."""
        hidden = hidden.detach()
        device = hidden.device
        if self._folder is not None:
            return _OnDisk(hidden, self._folder / f"{self._next()}.pt")
        if self._device is not None:
            kept = hidden.to(self._device)
            return lambda: kept.to(device)
        return lambda: hidden

    def _next(self) -> int:
        self._count += 1
        return self._count


class _OnDisk:
    """A hidden state in a file, which goes when nobody holds this any more."""

    def __init__(self, hidden: Tensor, path: Path):
        torch.save(hidden.clone(), path)  # a view alone
        self._path, self._device = path, hidden.device
        weakref.finalize(self, path.unlink, missing_ok=True)

    def __call__(self) -> Tensor:
        return torch.load(self._path, map_location=self._device, weights_only=True)
