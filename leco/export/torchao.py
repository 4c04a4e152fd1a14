"""torchao: a net whose weights on uniform grids are torchao's integer tensors, for its kernels and
for torch.export."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leco.algorithm.compressed import Compressed
from leco.algorithm.lc import LC
from leco.export.codes import Grid, at_delta, grid_of, quantized
from leco.layers.replace import users_of
from leco.modules import check_copyable
from leco.optional import optional

LAYERS = (nn.Linear, nn.Embedding, nn.Conv2d)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def export_torchao(
    model: nn.Module, compressed: LC | Mapping[str, Compressed]
) -> tuple[nn.Module, dict[str, str]]:
    """A copy of the net at w = Delta(Theta), with the weights that are on uniform grids as
    torchao's integers; and how each parameter is held.

    Made are torchao's `IntxUnpackedToInt8Tensor`s of 1 to 8 bits, from the integers, scales and
    zero points of Theta as they are: `Uniform`, `Binary`, `Ternary`, `PowersOfTwo` and given values
    that are small multiples of one step, per tensor, row, or run of a row that divides it. In
    memory and in a file a weight takes a byte, whatever its bits. The layers compute in floating
    point, from the weights that `dequantize()` gives: those are Delta(Theta) to the bit in float32,
    to a rounding in float16 and bfloat16. All other parameters are dense. So are the weights (in,
    out) of transformers' Conv1D, whose product torchao does not compute.

    Args:
        model: the net of `compressed`, or one with the same parameters; it is not changed. The copy
            is in evaluation mode.
        compressed: an `LC` that has its Thetas, or what `leco.thetas` gives.

    Raises:
        ImportError: torchao is not installed, or can't be imported.
        ValueError: a parameter that the model has not, or of another shape; a weight that
            weight_norm or pruning computes.

    >>> import leco, torch
    >>> model = torch.nn.Linear(64, 8)
    >>> lc = leco.LC(model, leco.each(["weight"], leco.Rows(), leco.Uniform(4)))
    >>> lc.mu = 1.0
    >>> net, held = leco.export_torchao(model, lc)
    >>> held, torch.equal(net.weight.dequantize(), lc.delta["weight"])
    ({'weight': 'int4'}, True)
    """
    torchao = optional("torchao.quantization", "export_torchao", "torchao", "torchao")
    check_copyable("export_torchao", model)
    net = at_delta("export_torchao", model, compressed)
    held: dict[str, str] = {}
    for name, found in quantized(compressed).items():
        weight = net.get_parameter(name)
        users = [module for module, _ in users_of(net, name)]
        grid = grid_of(found)
        block = grid.block(weight.shape) if isinstance(grid, Grid) else None
        if not isinstance(grid, Grid):
            held[name] = f"dense ({grid})"
        elif block is None:
            held[name] = "dense (scales of runs that cross the rows)"
        elif weight.dtype not in DTYPES or not all(
            type(module) in LAYERS and module.weight is weight for module in users
        ):
            kinds = ", ".join(type(module).__name__ for module in users)
            held[name] = f"dense ({weight.dtype} of {kinds})"
        else:
            integers = torchao.IntxUnpackedToInt8Tensor(**_fields(grid, weight, block))
            parameter = nn.Parameter(integers, requires_grad=False)
            for module in users:
                module.weight = parameter
            held[name] = f"int{grid.bits}"
    return net, held


def _fields(grid: Grid, weight: Tensor, block: tuple[int, ...]) -> dict[str, Any]:
    """What torchao's integer tensor is made of: signed levels, and a scale and zero point for each
    block."""
    middle = 2 ** (grid.bits - 1)
    sizes = [n // b for n, b in zip(weight.shape, block, strict=True)]
    return {
        "qdata": (grid.levels - middle).to(torch.int8).view(weight.shape),
        "scale": grid.scale.to(weight.dtype).reshape(sizes).clone(),
        "zero_point": (grid.zero_point - middle).to(torch.int8).view(sizes),
        "target_dtype": getattr(torch, f"int{grid.bits}"),
        "block_size": block,
        "dtype": weight.dtype,
        "activation_quantization": None,
    }
