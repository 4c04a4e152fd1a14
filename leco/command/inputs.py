"""The data of a command: texts, images, or what a function gives, as batches of inputs."""

import math
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from leco.command.recipe import Calibrate
from leco.command.sources import Source, called
from leco.optional import optional

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
JUDGED = 32  # sequences of the text that judges


def batches(given: Calibrate, source: Source, device: str) -> list[Any]:
    """Return the batches of calibration inputs.

    Raises:
        ValueError: no such data, too little of it, or data of a kind that the model does not take.
    """
    path = Path(given.data)
    if path.is_dir():
        found = _images(path, given, source)
    elif path.is_file():
        found = list(sequences(path, source, given.length, given.samples).split(given.batch))
    elif ":" in given.data:
        found = _from_function(given.data)
    else:
        raise ValueError(
            f"{given.data!r} is not a text file, a folder of images, or package.module:function"
        )
    return [moved(batch, device) for batch in found]


def samples(inputs: list[Any]) -> int:
    """Return about how many tokens or rows the inputs have."""
    total = 0
    for batch in inputs:
        first = next(iter(batch.values())) if isinstance(batch, dict) else batch
        first = first[0] if isinstance(first, tuple) else first
        total += first.numel() if not first.is_floating_point() else len(first)
    return total


def moved(batch: Any, device: str) -> Any:
    """Return a batch on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {name: moved(value, device) for name, value in batch.items()}
    return tuple(moved(x, device) for x in batch) if isinstance(batch, tuple) else batch


def sequences(path: Path, source: Source, length: int, most: int) -> Tensor:
    """Return the first sequences of a text, tokens (n, length).

    Raises:
        ValueError: a model without a tokenizer, or a text shorter than one sequence.
    """
    if source.folder is None:
        raise ValueError(
            f"{path}: a text needs the tokenizer of a Hugging Face folder; for other models give "
            "package.module:function"
        )
    transformers = optional("transformers", "leco: a text", "transformers", "trainers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"{source.folder}: no tokenizer can be loaded from it ({line})") from error
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the file is not text in UTF-8 ({error})") from None
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    count = min(most, len(ids) // length)
    if count == 0:
        raise ValueError(
            f"{path}: the text has {len(ids)} tokens, fewer than one sequence of {length}; give a "
            f"longer text, or a smaller --length"
        )
    return ids[: count * length].view(count, length)


def _images(path: Path, given: Calibrate, source: Source) -> list[Any]:
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGES)[: given.samples]
    if not files:
        raise ValueError(f"{path}: the folder has no images ({', '.join(IMAGES)})")
    if source.folder is None:
        raise ValueError(
            f"{path}: images need the image processor of a Hugging Face folder; for other models "
            "give package.module:function"
        )
    transformers = optional("transformers", "leco: images", "transformers", "trainers")
    image = optional("PIL.Image", "leco: images", "pillow", "images")
    try:
        process = transformers.AutoImageProcessor.from_pretrained(
            source.folder, local_files_only=True, use_fast=False
        )
        pictures = [image.open(file).convert("RGB") for file in files]
        pixels = process(pictures, return_tensors="pt")["pixel_values"]
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: the images can't be prepared ({line})") from error
    return [{"pixel_values": part} for part in pixels.split(given.batch)]


def _from_function(name: str) -> list[Any]:
    try:
        found = list(called(name))
    except TypeError as error:
        raise ValueError(f"{name} must return batches of inputs: {error}") from error
    if not found:
        raise ValueError(f"{name} returned no batches")
    return found


class Judge:
    """Measures the error of a net, as `--evaluate` says: a number, the smaller the better.

    Args:
        given: a text, for the perplexity of at most 32 sequences, or a function.
        source: has the tokenizer.
        length: tokens of a sequence.
        device: of the sequences.

    Raises:
        ValueError: no such text or function.
    """

    def __init__(self, given: str, source: Source, length: int, device: str):
        path = Path(given)
        self._given, self._ids = given, None
        if path.is_file():
            self.name = f"perplexity of {path.name}"
            self._ids = sequences(path, source, length, JUDGED).to(device)
        elif ":" in given:
            self.name = given
        else:
            raise ValueError(f"{given!r} is neither a text file nor package.module:function")

    @property
    def tokens(self) -> int:
        """How many tokens the text has; 0 of a function."""
        return 0 if self._ids is None else self._ids.numel()

    def __call__(self, model: nn.Module, bar: bool = False) -> float:
        """Return the number. Raises ValueError where a function gives none, or where the net gives
        no logits of the next token."""
        with torch.no_grad():
            if self._ids is not None:
                return perplexity(model, self._ids, bar)
            found = called(self._given, model)
        try:
            return float(found)
        except (TypeError, ValueError):
            raise ValueError(f"{self.name} must return a number, not {found!r}") from None


def perplexity(model: Any, ids: Tensor, bar: bool = False) -> float:
    """Return exp of the mean cross-entropy of the next token, over sequences (n, length)."""
    total = 0.0
    for row in track(ids, "judge", disable=not bar, transient=True):
        logits = getattr(model(row[None]), "logits", None)
        if logits is None or logits.shape[:2] != (1, len(row)):
            raise ValueError(
                f"{type(model).__name__} does not give logits of the next token, so a text can't "
                "judge it; give --evaluate package.module:function"
            )
        total += float(nn.functional.cross_entropy(logits[0, :-1].float(), row[1:]))
    return math.exp(min(total / len(ids), 700.0))
