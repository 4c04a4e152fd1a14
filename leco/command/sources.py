"""The MODEL of a command: a Hugging Face folder, a function of Python, or a leco file."""

import importlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leco.command import recipe as recipes
from leco.files.load import load
from leco.optional import optional

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

BESIDE = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"),
    *("vocab.txt", "merges.txt", "tokenizer.model", "added_tokens.json", "chat_template.jinja"),
    *("generation_config.json", "preprocessor_config.json", "processor_config.json"),
)
"""The files of a Hugging Face folder beside the weights and config.json."""


@dataclass(frozen=True)
class Source:
    """A model and its origin.

    Args:
        model: in evaluation mode.
        reference: the folder or `module:function` that makes the architecture.
        folder: of Hugging Face, or None.
        dtype: the float type in which the source keeps its weights.
    """

    model: nn.Module
    reference: str
    folder: Path | None
    dtype: torch.dtype


def source(given: str, device: str = "cpu") -> Source:
    """Load the model that MODEL names.

    Raises:
        ValueError: nothing of this name, or a model that can't be loaded.
    """
    path = Path(given)
    if path.is_dir():
        found = _packed_folder(path, device) or _folder(path)
    elif path.is_file():
        found = _file(path, device)
    elif ":" in given:
        found = _function(given)
    else:
        raise ValueError(
            f"{given!r} is not a folder with a config.json, a file of leco, or "
            "package.module:function"
        )
    found.model.eval().to(device)
    return found


def copy_beside(found: Source, out: Path) -> None:
    """Copy the tokenizer, or image processor, of a model's folder into another one."""
    if found.folder is None:
        return
    for name in BESIDE:
        if (found.folder / name).is_file():
            shutil.copy(found.folder / name, out / name)


def function(name: str) -> Callable[..., Any]:
    """Return the function of `package.module:function`. Modules of the present folder count.

    Raises:
        ValueError: no such module or function, or a module that fails.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{name!r} must be package.module:function")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(
            f"{name!r}: module {module!r} can't be imported ({kind}: {error})"
        ) from error
    if not callable(getattr(found, attribute, None)):
        raise ValueError(f"{name!r}: module {module!r} has no function {attribute!r}")
    return getattr(found, attribute)


def called(name: str, *arguments: Any) -> Any:
    """Call a function. Its errors become a ValueError that names it."""
    call = function(name)
    try:
        return call(*arguments)
    except Exception as error:
        raise ValueError(f"{name} failed ({type(error).__name__}: {error})") from error


def _function(name: str) -> Source:
    model = called(name)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{name} returned a {type(model).__name__}; it must return a torch.nn.Module"
        )
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return Source(model, name, None, dtype)


def _folder(path: Path) -> Source:
    """Load the model of a Hugging Face folder, in float32."""
    if not (path / "config.json").exists():
        raise ValueError(
            f"{path}: the folder has no config.json, so it is not the folder of a model"
        )
    try:
        with _quietly():
            kind, dtype = _kind(path)
            model, info = kind.from_pretrained(
                path, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: the model can't be loaded ({_first_line(error)})") from error
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise ValueError(
            f"{path}: its files lack {len(names)} weights of a {kind.__name__}: {shown}"
        )
    return Source(model, str(path), path, dtype)


@contextmanager
def _quietly() -> Iterator[None]:
    """Inside, transformers shows no progress bars, and packages that it imports say nothing of
    kernels that this machine lacks."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    bars = optional("transformers.utils.logging", "leco", "transformers", "trainers")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown:
            bars.enable_progress_bar()


def _packed_folder(path: Path, device: str) -> Source | None:
    """Load the net of a folder that `leco compress` or `save_pretrained` wrote, or return None."""
    file, config = path / "model.safetensors", path / "config.json"
    ours = (path / "recipe.yaml").is_file()
    if not ours and config.is_file():
        described = json.loads(config.read_text(encoding="utf-8"))
        ours = (described.get("quantization_config") or {}).get("quant_method") == "leco"
    return _file(file, device) if ours and file.is_file() else None


def _file(path: Path, device: str) -> Source:
    """Load the compressed net of a file. Its architecture stands beside it: a config.json, or the
    model that a recipe.yaml names."""
    beside = path.parent / "recipe.yaml"
    if (path.parent / "config.json").exists():
        found = _architecture(path.parent)
    elif beside.exists():
        found = source(str(recipes.read(beside).get("model", "")), device)
    else:
        raise ValueError(
            f"{path}: a file of leco does not hold the architecture, and no recipe.yaml beside it "
            "names the model; give the folder that leco compress wrote"
        )
    load(path, found.model)
    return found


def _architecture(path: Path) -> Source:
    """Make the net of a config.json, with random weights in float32."""
    kind, dtype = _kind(path)
    transformers = optional("transformers", "leco: a model's folder", "transformers", "trainers")
    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    config.quantization_config = None
    config.dtype = torch.float32
    return Source(kind(config), str(path), path, dtype)


def _kind(path: Path) -> tuple[Any, torch.dtype]:
    """Return the class of a folder's model, and the float type of its weights."""
    transformers = optional("transformers", "leco: a model's folder", "transformers", "trainers")
    described = json.loads((path / "config.json").read_text(encoding="utf-8"))
    name = (described.get("architectures") or ["AutoModel"])[0]
    text = described.get("dtype") or described.get("torch_dtype") or "float32"
    return getattr(transformers, name), FLOATS.get(text, torch.float32)


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
