"""`leco export`: a compressed net for another runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import leco.export as exports
from leco.command.compress import FILE
from leco.command.sources import Source, called, source
from leco.files.load import thetas
from leco.optional import optional


def export_net(given: str, to: str, out: Path, inputs: str | None) -> dict[str, str]:
    """Write a net for a runtime; return how each parameter is held.

    Raises:
        ValueError: an unknown runtime, or an `out` that is there already.
    """
    if to not in WRITERS:
        raise ValueError(f"--to {to!r} must be one of {', '.join(WRITERS)}")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; remove it, or give another --out")
    path = Path(given)
    file = path / FILE if path.is_dir() else path
    found = source(given)
    return WRITERS[to](found, file, out, inputs)


def _onnx(found: Source, file: Path, out: Path, inputs: str | None) -> dict[str, str]:
    if inputs is not None:
        example = called(inputs)
    elif found.folder is not None:
        example = torch.zeros(1, 8, dtype=torch.int64)
    else:
        raise ValueError("onnx needs example inputs; give --inputs package.module:function")
    return exports.export_onnx(out, found.model, thetas(file), example)


def _compressed_tensors(found: Source, file: Path, out: Path, inputs: str | None) -> dict[str, str]:
    config: Any = getattr(found.model, "config", None)
    described = config.to_dict() if config is not None else None
    return exports.export_compressed_tensors(out, found.model, thetas(file), described)


def _gguf(found: Source, file: Path, out: Path, inputs: str | None) -> dict[str, str]:
    transformers = optional("transformers", "leco export --to gguf", "transformers", "trainers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(found.folder, local_files_only=True)
    return exports.export_gguf(out, found.model, thetas(file), tokenizer=tokenizer)


def _dense(found: Source, file: Path, out: Path, inputs: str | None) -> dict[str, str]:
    """The weights Delta(Theta) as an ordinary safetensors file or folder of Hugging Face."""
    if found.folder is not None:
        model: Any = found.model
        model.config.quantization_config = None
        model.save_pretrained(out)
    else:
        import safetensors.torch

        safetensors.torch.save_model(found.model, str(out))
    return dict.fromkeys((name for name, _ in found.model.named_parameters()), "dense")


WRITERS: dict[str, Callable[[Source, Path, Path, str | None], dict[str, str]]] = {
    "onnx": _onnx,
    "compressed-tensors": _compressed_tensors,
    "dense": _dense,
    "gguf": _gguf,
}
