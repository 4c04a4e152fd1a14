"""Parts of an ONNX graph: integers in bytes, and the products with a weight."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor


def as_bytes(x: Tensor) -> np.ndarray:
    return x.cpu().numpy().astype(np.uint8)


def packed(integers: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (..., n) of `bits` bits as bytes (..., n bits / 8 rounded up), from the lowest bits of
    each byte."""
    each = 8 // bits
    padded = np.pad(integers, [(0, 0)] * (integers.ndim - 1) + [(0, -integers.shape[-1] % each)])
    cut = padded.reshape(*padded.shape[:-1], -1, each) << np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(cut, axis=-1).astype(np.uint8)


def products_of(weight: Any, transposed: bool) -> Iterator[tuple[Any, Any, Any]]:
    """(node, x, bias) for each x W' + bias, or with `transposed` for each x W + bias; nothing where
    the weight has another use."""
    found = []
    for node, index in weight.uses():
        if node.op_type == "Transpose" and len(weight.shape) == 2 and not transposed:
            found += [_matmul(user, at) for user, at in node.outputs[0].uses()]
        elif node.op_type == "MatMul" and transposed:
            found.append(_matmul(node, index))
        else:
            found.append(_gemm(node, index, transposed))
    if None not in found:
        yield from found


def _matmul(node: Any, index: int) -> tuple[Any, Any, Any] | None:
    fits = node.op_type == "MatMul" and index == 1
    return (node, node.inputs[0], None) if fits else None


def _gemm(node: Any, index: int, transposed: bool) -> tuple[Any, Any, Any] | None:
    """A Gemm that is one product and a sum, without factors."""
    if node.op_type != "Gemm" or index != 1:
        return None
    factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    sides = [node.attributes.get_int(name, 0) for name in ("transA", "transB")]
    if factors != [1.0, 1.0] or sides != [0, int(not transposed)]:
        return None
    return node, node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
