"""Nodes of an ONNX graph that make a weight of its codes, in the place of its initializer."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leco.export.codes import Grid, Quantized, Vectors

PREFIX = "decode/"
"""Of the nodes' names: no optimizer may compute them before they are written."""


class Decoder:
    """Computes one weight in a graph, in the place of its initializer. `ir` is the module
    onnx_ir."""

    def __init__(self, ir: Any, graph: Any, name: str, weight: Any, shape: tuple[int, ...]):
        self.ir, self.graph, self.name, self.weight, self.shape = ir, graph, name, weight, shape
        # half a float is not computed with everywhere
        self.kind = weight.dtype if weight.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
        self.nodes: list[Any] = []
        self.bytes = 0

    def replace(self, found: Quantized, weights: str, accuracy_level: int = 1) -> str:
        """Returns what was done."""
        grid = (found if isinstance(found, Grid) else found.grid()) if weights != "codes" else None
        if grid is not None and weights == "nbits" and (how := self.matmul(grid, accuracy_level)):
            return how
        how, value = (
            self.dequantize(grid) if grid is not None and weights == "qdq" else None
        ) or self.decode(found)
        if self.kind != self.weight.dtype:
            value = self.node("Cast", value, to=self.weight.dtype)
        if self.bytes >= self.weight.const_value.nbytes:
            for node in self.nodes:
                for constant in node.inputs:
                    self.graph.initializers.pop(constant.name, None)
            return "dense (codes are not smaller)"
        self.graph.insert_before(self.graph[0], self.nodes)
        value.shape, value.type = self.weight.shape, self.weight.type
        self.weight.replace_all_uses_with(value)
        del self.graph.initializers[self.weight.name]
        return how

    def decode(self, found: Quantized) -> tuple[str, Any]:
        """Packed integers, shifts and masks, then a codebook or a scale and zero point."""
        integers = found.levels if isinstance(found, Grid) else found.indices
        values = (
            2**found.bits
            if isinstance(found, Grid)
            else found.codebook.shape[0 if isinstance(found, Vectors) else 1]
        )
        width = max(1, (values - 1).bit_length())
        width = next(w for w in (1, 2, 4, 8, 16) if w >= width)
        integers = integers.cpu().numpy().astype(np.uint16 if width == 16 else np.uint8)
        codes = self.unpack(integers, width)
        if isinstance(found, Grid):
            how, like = "Cast, Mul", found.scale
            x = self.node("Cast", codes, to=self.kind)
            x = self.node(
                "Sub", x, self.constant("zero_point", found.zero_point.unsqueeze(-1).to(like))
            )
            x = self.node("Mul", x, self.constant("scale", like.unsqueeze(-1)))
        else:
            x = self.node("Cast", codes, to=self.ir.DataType.INT32)
            if isinstance(found, Vectors):
                how, x = "Gather", self.node("Gather", self.constant("codebook", found.codebook), x)
            elif len(found.codebook) == 1:
                how, x = (
                    "Gather",
                    self.node("Gather", self.constant("codebook", found.codebook[0]), x),
                )
            else:
                how, x = (
                    "GatherElements",
                    self.node(
                        "GatherElements", self.constant("codebook", found.codebook), x, axis=1
                    ),
                )
            if not isinstance(found, Vectors) and found.scale is not None:
                x = self.node("Mul", x, self.constant("scale", found.scale.unsqueeze(-1)))
        return f"{how}, {width} bits", self.node(
            "Reshape", x, self.constant("shape", np.array(self.shape, dtype=np.int64))
        )

    def unpack(self, integers: np.ndarray, width: int) -> Any:
        """Integers (...) of `width` bits, packed from the lowest bits of each byte; padded at the
        end of all."""
        if width >= 8:
            return self.constant("codes", integers)
        shifts = np.arange(0, 8, width, dtype=np.uint8)
        packed = self.constant("codes", _packed(integers.ravel(), width)[:, None])
        x = self.node("BitShift", packed, self.constant("shifts", shifts[None]), direction="RIGHT")
        x = self.node(
            "BitwiseAnd", x, self.constant("mask", np.array([[2**width - 1]], dtype=np.uint8))
        )
        if integers.size * width % 8 == 0:
            return self.node(
                "Reshape", x, self.constant("runs", np.array(integers.shape, dtype=np.int64))
            )
        x = self.node("Reshape", x, self.constant("all", np.array([-1], dtype=np.int64)))
        first, last = (
            self.constant(role, np.array([n], dtype=np.int64))
            for role, n in (("first", 0), ("last", integers.size))
        )
        return self.node(
            "Reshape",
            self.node("Slice", x, first, last),
            self.constant("runs", np.array(integers.shape, dtype=np.int64)),
        )

    def dequantize(self, grid: Grid) -> tuple[str, Any] | None:
        """DequantizeLinear of the tensor, of its rows, or of blocks of its last dimension; None
        where the runs are none of these."""
        grid = grid.widened(4 if grid.bits <= 4 else 8)
        block, attributes, size = grid.block(self.shape), {}, ()
        if self.kind == self.ir.DataType.DOUBLE:
            return None
        if block == self.shape:
            repeats = 1
        elif block is not None and block[1:] == self.shape[1:]:
            repeats, size, attributes = block[0], (self.shape[0],), {"axis": 0}
        elif block is not None and set(block[:-1]) == {1}:
            repeats, size = 1, (*self.shape[:-1], self.shape[-1] // block[-1])
            attributes: dict[str, Any] = {"axis": len(self.shape) - 1, "block_size": block[-1]}
        else:
            return None
        kind = self.ir.DataType.UINT4 if grid.bits == 4 else self.ir.DataType.UINT8
        scale, zero = (
            x.repeat_interleave(repeats).reshape(size) for x in (grid.scale, grid.zero_point)
        )
        levels = self.constant("levels", grid.levels.view(self.shape).to(torch.uint8), kind)
        inputs = (
            levels,
            self.constant("scale", scale),
            self.constant("zero_point", zero.to(torch.uint8), kind),
        )
        return f"DequantizeLinear, {grid.bits} bits", self.node(
            "DequantizeLinear", *inputs, **attributes
        )

    def matmul(self, grid: Grid, accuracy_level: int) -> str:
        """MatMulNBits in the place of all products with the weight, or "" where it has other uses
        or its rows are no multiples of 16."""
        if len(self.shape) != 2 or self.weight.dtype != self.ir.DataType.FLOAT:
            return ""
        rows, columns = self.shape
        length, part = grid.levels.shape[1], grid.block(self.shape)
        block = next(
            (b for b in (256, 128, 64, 32, 16) if part is not None and part[1] % b == 0), 0
        )
        products = list(_products(self.weight))
        if not block or not products:
            return ""
        grid = grid.widened(next(b for b in (2, 4, 8) if b >= grid.bits))
        blocks = columns // block
        scale, zero = (
            x.repeat_interleave(length // block).view(rows, blocks)
            for x in (grid.scale, grid.zero_point)
        )
        packed = self.constant(
            "levels", _packed(_bytes(grid.levels.view(rows, blocks, block)), grid.bits)
        )
        inputs = [packed, self.constant("scale", scale.reshape(-1))]
        zeros = (
            None
            if grid.symmetric
            else self.constant("zero_points", _packed(_bytes(zero), grid.bits).reshape(-1))
        )
        sizes: dict[str, Any] = {
            "K": columns,
            "N": rows,
            "bits": grid.bits,
            "block_size": block,
            "accuracy_level": accuracy_level,
        }
        for old, x, bias in products:
            product = self.node(
                "MatMulNBits", x, *inputs, zeros, None, bias, domain="com.microsoft", **sizes
            )
            product.shape, product.type = old.outputs[0].shape, old.outputs[0].type
            self.graph.insert_before(old, self.nodes.pop())
            old.outputs[0].replace_all_uses_with(product, replace_graph_outputs=True)
        self.graph.opset_imports["com.microsoft"] = 1
        return f"MatMulNBits, {grid.bits} bits"

    def constant(self, role: str, x: np.ndarray | Tensor, dtype: Any = None) -> Any:
        name = f"{self.name}.{role}"
        if isinstance(x, Tensor):
            dtype = dtype or (self.kind if x.is_floating_point() else None)
            # numpy has no bfloat16
            x = (x.detach().double() if x.is_floating_point() else x.detach()).cpu().numpy()
        tensor = self.ir.tensor(
            np.ascontiguousarray(x if dtype is None else x.astype(dtype.numpy())), name=name
        )
        value = self.ir.Value(
            name=name, const_value=tensor, shape=tensor.shape, type=self.ir.TensorType(tensor.dtype)
        )
        self.graph.register_initializer(value)
        self.bytes += tensor.nbytes
        return value

    def node(self, op: str, *inputs: Any, domain: str = "", **attributes: Any) -> Any:
        name = f"{PREFIX}{self.name}/{op}{len(self.nodes)}"
        self.nodes.append(self.ir.node(op, inputs, attributes, domain=domain, name=name))
        self.nodes[-1].outputs[0].name = name
        return self.nodes[-1].outputs[0]


def _bytes(x: Tensor) -> np.ndarray:
    return x.cpu().numpy().astype(np.uint8)


def _packed(integers: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (..., n) of `bits` bits as bytes (..., n bits / 8 rounded up), from the lowest bits of
    each byte."""
    each = 8 // bits
    padded = np.pad(integers, [(0, 0)] * (integers.ndim - 1) + [(0, -integers.shape[-1] % each)])
    cut = padded.reshape(*padded.shape[:-1], -1, each) << np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(cut, axis=-1).astype(np.uint8)


def _products(weight: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(node, x, bias) for each x W' + bias; nothing where the weight has another use."""
    found = []
    for node, index in weight.uses():
        if node.op_type == "Transpose" and len(weight.shape) == 2:
            found += [
                (user, user.inputs[0], None) if user.op_type == "MatMul" and at == 1 else None
                for user, at in node.outputs[0].uses()
            ]
        else:
            plain = (
                node.op_type == "Gemm"
                and index == 1
                and [node.attributes.get_float(a, 1.0) for a in ("alpha", "beta")] == [1.0, 1.0]
            )
            plain = plain and (
                node.attributes.get_int("transA", 0),
                node.attributes.get_int("transB", 0),
            ) == (0, 1)
            found.append(
                (node, node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None)
                if plain
                else None
            )
    if None not in found:
        yield from found
