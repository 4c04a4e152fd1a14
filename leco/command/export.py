"""`leco export`: a compressed net for another runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import leco.export as exports
from leco.command.compress import FILE
from leco.command.sources import Source, called, copy_beside, source
from leco.files.load import thetas
from leco.optional import optional

Held = dict[str, str]


def export_net(given: str, to: str, out: Path, inputs: str | None) -> Held:
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
    if not file.is_file():
        raise ValueError(f"{given}: give a folder that leco compress made, or its {FILE}")
    found = source(given)
    return WRITERS[to](found, file, out, inputs)


def examples(found: Source, inputs: str | None) -> dict[str, Any]:
    """Return example inputs of a net for ONNX and OpenVINO, as arguments of `export_onnx`.

    Args:
        inputs: a function that returns them, or None for those of a model of transformers: texts
            of any batch and length, or images of any batch.

    Raises:
        ValueError: a model whose inputs are not known.
    """
    if inputs is not None:
        return {"example_inputs": called(inputs)}
    model: Any = found.model
    main = getattr(model, "main_input_name", "") if found.folder is not None else ""
    if main == "input_ids":
        ids = torch.zeros(2, 8, dtype=torch.int64)
        free = {0: "batch", 1: "length"}
        kwargs: dict[str, Any] = {"input_ids": ids}
        shapes: dict[str, Any] = {"input_ids": free}
        if model.can_generate():
            kwargs["use_cache"], shapes["use_cache"] = False, None
        else:  # sentences of several lengths in a batch
            kwargs["attention_mask"] = torch.ones_like(ids)
            shapes["attention_mask"] = free
        return {"kwargs": kwargs, "dynamic_shapes": shapes}
    if main == "pixel_values":
        size = model.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        images = torch.zeros(2, getattr(model.config, "num_channels", 3), height, width)
        return {"kwargs": {main: images}, "dynamic_shapes": {main: {0: "batch"}}}
    raise ValueError("the net's inputs are not known; give --inputs package.module:function")


def _onnx(found: Source, file: Path, out: Path, inputs: str | None) -> Held:
    return exports.export_onnx(out, found.model, thetas(file), **examples(found, inputs))


def _openvino(found: Source, file: Path, out: Path, inputs: str | None) -> Held:
    return exports.export_openvino(out, found.model, thetas(file), **examples(found, inputs))


def _compressed_tensors(found: Source, file: Path, out: Path, inputs: str | None) -> Held:
    config: Any = getattr(found.model, "config", None)
    described = None
    if config is not None:
        config.architectures = [type(found.model).__name__]
        config.quantization_config = None
        described = config.to_dict()
    held = exports.export_compressed_tensors(out, found.model, thetas(file), described)
    copy_beside(found, out)
    return held


def _gguf(found: Source, file: Path, out: Path, inputs: str | None) -> Held:
    if found.folder is None:
        raise ValueError("gguf is for language models in folders of Hugging Face")
    transformers = optional("transformers", "leco export --to gguf", "transformers", "trainers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(found.folder, local_files_only=True)
    return exports.export_gguf(out, found.model, thetas(file), tokenizer=tokenizer)


def _dense(found: Source, file: Path, out: Path, inputs: str | None) -> Held:
    """Write Delta(Theta) as an ordinary safetensors file or folder of Hugging Face."""
    if found.folder is not None:
        model: Any = found.model
        model.config.quantization_config = None
        model.save_pretrained(out)
        copy_beside(found, out)
    else:
        import safetensors.torch

        safetensors.torch.save_model(found.model, str(out))
    return dict.fromkeys((name for name, _ in found.model.named_parameters()), "dense")


WRITERS: dict[str, Callable[[Source, Path, Path, str | None], Held]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "gguf": _gguf,
    "compressed-tensors": _compressed_tensors,
    "dense": _dense,
}
