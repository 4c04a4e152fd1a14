"""compressed-tensors: a folder as servers of language models read it, with packed integers for the
Linear layers on uniform grids."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from leco.algorithm.compressed import Compressed
from leco.algorithm.lc import LC
from leco.atomic import atomically
from leco.export.codes import Grid, at_delta, grid_of, quantized
from leco.modules import check_copyable
from leco.optional import optional

FUNCTION = "export_compressed_tensors"
PACKING = "compressed_tensors.compressors.pack_quantized.helpers"
QUANTIZATION = "compressed_tensors.quantization"


def export_compressed_tensors(
    folder: str | os.PathLike[str],
    model: nn.Module,
    compressed: LC | Mapping[str, Compressed],
    config: Mapping[str, Any] | None = None,
    *,
    widths: Sequence[int] = (4, 8),
) -> dict[str, str]:
    """Write `model.safetensors` and `config.json` of the net at w = Delta(Theta), format
    "pack-quantized"; return how each parameter is held.

    The weights of Linear layers on uniform grids (`Uniform`, `Binary`, `Ternary`, `PowersOfTwo`,
    ...) become signed integers in int32 words, of the first of `widths` that holds them, with a
    scale for each row ("channel") or for runs of a row ("group"), and a zero point where the grid
    is not symmetric. Nothing is quantized again: the integers, scales and zero points are those of
    Theta. All other parameters stay dense: convolutions, embeddings, transformers' Conv1D (the
    format has weights (out, in) only), codebooks that are no grid, grids wider than all `widths`,
    sparse and factored forms.

    Args:
        folder: made if it is not there; each file is replaced at once.
        model: the net of `compressed`, or one with the same parameters; it is not changed.
        compressed: an `LC` that has its Thetas, or what `leco.thetas` gives.
        config: the other entries of config.json, such as `model.config.to_dict()` of a model of
            transformers.
        widths: bits that your reader takes, 1 to 8 in increasing order. The format has them all;
            vLLM's documentation describes 4 and 8.

    Raises:
        ImportError: compressed-tensors is not installed, or can't be imported.
        ValueError: a parameter that the model has not, or of another shape; no parameter can be
            packed; widths below 1 or above 8; a weight that weight_norm or pruning computes.

    >>> import leco, os, tempfile, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 8))
    >>> lc = leco.LC(model, {"all": leco.Task("0.weight", leco.Groups(32), leco.Uniform(4))})
    >>> lc.mu = 1.0
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     leco.export_compressed_tensors(folder, model, lc)
    {'0.weight': 'int4, group of 32'}
    """
    helpers = optional(PACKING, FUNCTION, "compressed-tensors", "compressed-tensors")
    quantization = optional(QUANTIZATION, FUNCTION, "compressed-tensors", "compressed-tensors")
    check_copyable(FUNCTION, model)
    _check_widths(widths)
    net = at_delta(FUNCTION, model, compressed)
    tensors = _tensors(net)
    held: dict[str, str] = {}
    schemes: dict[Scheme, list[str]] = {}
    for name, found in quantized(compressed).items():
        weight = net.get_parameter(name)
        users = _users(net, weight)
        grid = grid_of(found)
        block = grid.block(weight.shape) if isinstance(grid, Grid) else None
        if not isinstance(grid, Grid):
            held[name] = f"dense ({grid})"
        elif len(users) > 1 or not isinstance(net.get_submodule(users[0]), nn.Linear):
            held[name] = f"dense ({', '.join(type(net.get_submodule(m)).__name__ for m in users)})"
        elif block is None:
            held[name] = "dense (scales of runs that cross the rows)"
        elif grid.bits > widths[-1]:
            held[name] = f"dense ({grid.bits} bits, above {widths[-1]})"
        else:
            grid = grid.widened(min(bits for bits in widths if bits >= grid.bits))
            del tensors[name]
            tensors |= _packed(name, weight, grid, block, helpers.pack_to_int32)
            scheme = Scheme(grid.bits, grid.symmetric, _group(weight, block))
            schemes.setdefault(scheme, []).append(users[0])
            held[name] = str(scheme)
    if not schemes:
        raise ValueError(f"{FUNCTION}: no parameter is a Linear's weight on a uniform grid: {held}")
    described = quantization.QuantizationConfig.model_validate(_config(net, schemes))
    entries = {**(config or {}), "quantization_config": described.model_dump(mode="json")}
    _write(Path(folder), tensors, json.dumps(entries, indent=2))
    return held


def _check_widths(widths: Sequence[int]) -> None:
    """Raise ValueError for widths out of order or out of bounds."""
    if not widths or list(widths) != sorted(widths) or not 1 <= widths[0] <= widths[-1] <= 8:
        raise ValueError(f"{FUNCTION}: widths = {widths} must be 1 to 8, in increasing order")


def _users(net: nn.Module, weight: Tensor) -> list[str]:
    """The modules that have a parameter, by name."""
    return [
        name
        for name, module in net.named_modules()
        if any(p is weight for p in module.parameters(recurse=False))
    ]


class Scheme(NamedTuple):
    """How weights are held: bits, whether their zero points are 0, and the length of the runs that
    have a scale, None for a row."""

    bits: int
    symmetric: bool
    group: int | None

    def __str__(self) -> str:
        runs = f"group of {self.group}" if self.group else "channel"
        return f"int{self.bits}, {runs}{'' if self.symmetric else ', zero point'}"


def _group(weight: Tensor, block: tuple[int, ...]) -> int | None:
    return block[1] if weight.shape[1] > block[1] else None


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    """The net's tensors by name; a tied weight stands once, under its first name."""
    tensors, seen = {}, set()
    for name, x in net.state_dict(keep_vars=True).items():
        if id(x) not in seen:
            tensors[name] = x.detach().contiguous()
            seen.add(id(x))
    return tensors


def _packed(
    name: str, weight: Tensor, grid: Grid, block: tuple[int, ...], pack: Any
) -> dict[str, Tensor]:
    """A weight's tensors in the format: `pack` puts integers in int32 words."""
    columns, middle = weight.shape[1] // block[1], 2 ** (grid.bits - 1)
    scale, zero = (
        x.repeat_interleave(block[0]).view(-1, columns)
        for x in (grid.scale, grid.zero_point - middle)
    )
    levels = (grid.levels - middle).to(torch.int8).view(weight.shape)
    tensors = {
        f"{name}_packed": pack(levels, grid.bits),
        f"{name}_scale": scale.to(weight.dtype).contiguous(),
        f"{name}_shape": torch.tensor(weight.shape),
    }
    if not grid.symmetric:
        words = pack(zero.to(torch.int8), grid.bits, packed_dim=0)
        tensors[f"{name}_zero_point"] = words.contiguous()
    return tensors


def _config(net: nn.Module, schemes: Mapping[Scheme, list[str]]) -> dict[str, Any]:
    """The description of the schemes; Linear layers of none are to be ignored."""
    groups = {}
    for i, (scheme, targets) in enumerate(schemes.items()):
        weights = {
            "num_bits": scheme.bits,
            "type": "int",
            "symmetric": scheme.symmetric,
            "strategy": "group" if scheme.group else "channel",
            "group_size": scheme.group,
        }
        groups[f"group_{i}"] = {"targets": targets, "weights": weights, "format": "pack-quantized"}
    packed = {module for targets in schemes.values() for module in targets}
    linear = (name for name, module in net.named_modules() if isinstance(module, nn.Linear))
    return {
        "config_groups": groups,
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": [name for name in linear if name not in packed],
    }


def _write(folder: Path, tensors: dict[str, Tensor], config: str) -> None:
    """Write the two files, each at once."""
    folder.mkdir(parents=True, exist_ok=True)

    def weights(path: str) -> None:
        save_file(tensors, path, metadata={"format": "pt"})

    def text(path: str) -> None:
        Path(path).write_text(config, encoding="utf-8")

    atomically(folder / "model.safetensors", weights)
    atomically(folder / "config.json", text)
