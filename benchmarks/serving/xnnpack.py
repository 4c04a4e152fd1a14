"""Layers on integer grids in ExecuTorch on XNNPACK, beside torch at the same weights.

    pip install executorch
    python -m benchmarks.serving.xnnpack [--record]

The tensors are those of `leco.export_torchao`, set to round the inputs of each row to 8 bits, as
XNNPACK's kernels do. An error is the largest one by the largest output, for normal inputs.
"""

import argparse
import warnings
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # pyright: ignore[reportMissingImports]
    XnnpackPartitioner,
)
from executorch.exir import (  # pyright: ignore[reportMissingImports]
    to_edge_transform_and_lower,
)
from executorch.runtime import Runtime  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn
from torchao.quantization import IntxUnpackedToInt8Tensor

import leco
from benchmarks import records

INPUTS = 256
BY_ROWS, IN_GROUPS = (leco.Rows(), leco.Uniform(8)), (leco.Groups(32), leco.Uniform(4))
NETS: dict[str, tuple[list[int], list[Any]]] = {
    "a layer, 8 bits by rows": ([64], [BY_ROWS]),
    "a layer, 4 bits in groups of 32": ([64], [IN_GROUPS]),
    "two layers, 8 bits by rows and 4 bits in groups": ([512, 64], [BY_ROWS, IN_GROUPS]),
}


def net_of(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in zip([INPUTS, *widths], widths, strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def exported(net: nn.Module, x: Tensor) -> Any:
    """The net in ExecuTorch's runtime: its method, and the bytes of its program."""
    program = torch.export.export(net, (x,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    buffer = lowered.to_executorch().buffer
    return Runtime.get().load_program(buffer).load_method("forward"), len(buffer)


@torch.no_grad()
def row(name: str) -> dict[str, Any]:
    """Errors against torch at Delta(Theta), and against torch with inputs of 8 bits."""
    widths, grids = NETS[name]
    model, x = net_of(widths), torch.randn(3, INPUTS)
    tasks = {f"{2 * k}": leco.Task(f"{2 * k}.weight", *grid) for k, grid in enumerate(grids)}
    lc = leco.LC(model, tasks)
    lc.mu = 1.0
    net, _ = leco.export_torchao(model, lc)
    wanted = net(x)
    for weight in net.parameters():
        if isinstance(weight, IntxUnpackedToInt8Tensor):
            weight.activation_quantization = "int8_asym_per_token"  # pyright: ignore[reportAttributeAccessIssue]
    method, size = exported(net, x)
    found = method.execute([x])[0].clone()
    return {
        "net": name,
        "bytes": size,
        "error": largest(found, wanted),
        "error with rounded inputs": largest(found, net(x)),
    }


def largest(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="add a line to results/serving.jsonl")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [row(name) for name in NETS]
    records.show("ExecuTorch on XNNPACK", rows)
    if args.record:
        records.append("serving", "xnnpack", rows=rows)


if __name__ == "__main__":
    main()
