"""compressed-tensors: a folder as servers of language models read it, with packed integers for the
Linear layers on uniform grids."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leco.algorithm.compressed import Compressed
from leco.algorithm.lc import LC
from leco.atomic import atomically
from leco.export.codes import Grid, at_delta, grid_of, quantized


def export_compressed_tensors(
    folder: str | os.PathLike[str],
    model: nn.Module,
    compressed: LC | Mapping[str, Compressed],
    config: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Write `model.safetensors` and `config.json` of the net at w = Delta(Theta), format
    "pack-quantized"; return how each parameter is held.

    The weights of Linear layers on uniform grids (`Uniform`, `Binary`, `Ternary`, `PowersOfTwo`,
    ...) become signed integers of 4 or 8 bits in int32 words, with a scale for each row ("channel")
    or for runs of a row ("group"), and a zero point where the grid is not symmetric. Nothing is
    quantized again: the integers, scales and zero points are those of Theta. All else stays dense:
    convolutions, embeddings, codebooks that are no grid, sparse and factored forms.

    Args:
        folder: made if it is not there; each file is replaced at once.
        model: the net of `compressed`, or one with the same parameters; it is not changed.
        compressed: an `LC` that has its Thetas, or what `leco.thetas` gives.
        config: the other entries of config.json, such as `model.config.to_dict()` of a model of
            transformers.

    Raises:
        ImportError: compressed-tensors is not installed.
        ValueError: a parameter that the model has not, or of another shape; no parameter can be
            packed.

    >>> import leco, os, tempfile, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 8))
    >>> lc = leco.LC(model, {"all": leco.Task("0.weight", leco.Groups(32), leco.Uniform(4))})
    >>> lc.mu = 1.0
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     leco.export_compressed_tensors(folder, model, lc)
    {'0.weight': 'int4, group of 32'}
    """
    try:
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
        from compressed_tensors.quantization import QuantizationConfig
        from safetensors.torch import save_file
    except ImportError as error:
        raise ImportError(
            "export_compressed_tensors needs compressed-tensors: pip install leco[compressed-tensors]"
        ) from error

    net = at_delta("export_compressed_tensors", model, compressed)
    tensors, seen = {}, set()
    for name, x in net.state_dict(keep_vars=True).items():
        if id(x) not in seen:  # a tied weight stands once, under its first name
            tensors[name] = x.detach().contiguous()
            seen.add(id(x))
    held, schemes = {}, {}
    for name, found in quantized(compressed).items():
        weight = net.get_parameter(name)
        users = [
            module
            for module, m in net.named_modules()
            if any(p is weight for p in m.parameters(recurse=False))
        ]
        grid = grid_of(found)
        block = grid.block(weight.shape) if isinstance(grid, Grid) else None
        if not isinstance(grid, Grid):
            held[name] = f"dense ({grid})"
        elif len(users) > 1 or not isinstance(net.get_submodule(users[0]), nn.Linear):
            held[name] = (
                f"dense ({', '.join(type(net.get_submodule(module)).__name__ for module in users)})"
            )
        elif block is None:
            held[name] = "dense (scales of runs that cross the rows)"
        else:
            grid = grid.widened(4 if grid.bits <= 4 else 8)
            columns = weight.shape[1] // block[1]
            scale, zero = (
                x.repeat_interleave(block[0]).view(-1, columns)
                for x in (grid.scale, grid.zero_point - 2 ** (grid.bits - 1))
            )
            levels = (grid.levels - 2 ** (grid.bits - 1)).to(torch.int8).view(weight.shape)
            del tensors[name]
            tensors |= {
                f"{name}_packed": pack_to_int32(levels, grid.bits),
                f"{name}_scale": scale.to(weight.dtype).contiguous(),
                f"{name}_shape": torch.tensor(weight.shape),
            }
            if not grid.symmetric:
                tensors[f"{name}_zero_point"] = pack_to_int32(
                    zero.to(torch.int8), grid.bits, packed_dim=0
                ).contiguous()
            key = (grid.bits, grid.symmetric, block[1] if columns > 1 else None)
            schemes.setdefault(key, []).append(users[0])
            held[name] = (
                f"int{grid.bits}, {'channel' if columns == 1 else f'group of {block[1]}'}{'' if grid.symmetric else ', zero point'}"
            )
    if not schemes:
        raise ValueError(
            f"export_compressed_tensors: no parameter is a Linear's weight on a uniform grid: {held}"
        )
    groups = {}
    for i, ((bits, symmetric, size), targets) in enumerate(schemes.items()):
        weights = {
            "num_bits": bits,
            "type": "int",
            "symmetric": symmetric,
            "strategy": "group" if size else "channel",
            "group_size": size,
        }
        groups[f"group_{i}"] = {"targets": targets, "weights": weights, "format": "pack-quantized"}
    packed = {module for targets in schemes.values() for module in targets}
    rest = [
        name
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear) and name not in packed
    ]
    entries = {
        "config_groups": groups,
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": rest,
    }
    described = QuantizationConfig.model_validate(entries)
    text = json.dumps(
        {**(config or {}), "quantization_config": described.model_dump(mode="json")}, indent=2
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    atomically(
        folder / "model.safetensors",
        lambda path: save_file(tensors, path, metadata={"format": "pt"}),
    )

    def write(path: str) -> None:
        Path(path).write_text(text, encoding="utf-8")

    atomically(folder / "config.json", write)
    return held
