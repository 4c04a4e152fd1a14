"""Nodes of an ONNX graph that make a weight of its codes, in the place of its initializer."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leco.export.codes import Coded, Grid, Quantized, Vectors
from leco.export.nodes import as_bytes, packed, products_of

PREFIX = "decode/"
"""Of the nodes' names: no optimizer may compute them before they are written."""


class Decoder:
    """Computes one weight in a graph, in the place of its initializer.

    Args:
        ir: the module onnx_ir.
        weight: the initializer.
        shape: the shape in which the codes stand.
        transposed: the weight is the transpose of what the codes stand for.
    """

    def __init__(
        self,
        ir: Any,
        graph: Any,
        name: str,
        weight: Any,
        shape: tuple[int, ...],
        transposed: bool = False,
    ):
        self.ir, self.graph, self.name, self.weight, self.shape = ir, graph, name, weight, shape
        self.transposed = transposed
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
        if self.transposed:
            value = self.node("Transpose", value, perm=[1, 0])
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
        needed = max(1, (_count(found) - 1).bit_length())
        width = next(w for w in (1, 2, 4, 8, 16) if w >= needed)
        kind = np.uint16 if width == 16 else np.uint8
        codes = self.unpack(integers.cpu().numpy().astype(kind), width)
        if isinstance(found, Grid):
            how, x = "Cast, Mul", self.scaled(codes, found)
        else:
            how, x = self.looked_up(codes, found)
        shape = self.constant("shape", np.array(self.shape, dtype=np.int64))
        return f"{how}, {width} bits", self.node("Reshape", x, shape)

    def scaled(self, codes: Any, grid: Grid) -> Any:
        """scale (level - zero_point)."""
        zero = grid.zero_point.unsqueeze(-1).to(grid.scale)
        x = self.node("Cast", codes, to=self.kind)
        x = self.node("Sub", x, self.constant("zero_point", zero))
        return self.node("Mul", x, self.constant("scale", grid.scale.unsqueeze(-1)))

    def looked_up(self, codes: Any, found: Coded | Vectors) -> tuple[str, Any]:
        """codebook[index], times a scale if there is one."""
        x = self.node("Cast", codes, to=self.ir.DataType.INT32)
        if isinstance(found, Vectors):
            return "Gather", self.node("Gather", self.constant("codebook", found.codebook), x)
        if len(found.codebook) == 1:
            how = "Gather"
            x = self.node("Gather", self.constant("codebook", found.codebook[0]), x)
        else:
            how = "GatherElements"
            x = self.node(how, self.constant("codebook", found.codebook), x, axis=1)
        if found.scale is not None:
            x = self.node("Mul", x, self.constant("scale", found.scale.unsqueeze(-1)))
        return how, x

    def unpack(self, integers: np.ndarray, width: int) -> Any:
        """Integers (...) of `width` bits, packed from the lowest bits of each byte; padded at the
        end of all."""
        if width >= 8:
            return self.constant("codes", integers)
        shifts = np.arange(0, 8, width, dtype=np.uint8)
        held = self.constant("codes", packed(integers.ravel(), width)[:, None])
        mask = self.constant("mask", np.array([[2**width - 1]], dtype=np.uint8))
        x = self.node("BitShift", held, self.constant("shifts", shifts[None]), direction="RIGHT")
        x = self.node("BitwiseAnd", x, mask)
        runs = self.constant("runs", np.array(integers.shape, dtype=np.int64))
        if integers.size * width % 8:  # without what fills the last byte
            x = self.node("Reshape", x, self.constant("all", np.array([-1], dtype=np.int64)))
            ends = (("first", 0), ("last", integers.size))
            x = self.node("Slice", x, *(self.constant(k, np.array([n])) for k, n in ends))
        return self.node("Reshape", x, runs)

    def dequantize(self, grid: Grid) -> tuple[str, Any] | None:
        """DequantizeLinear of the tensor, of its rows, or of blocks of the last dimension, after
        which a kernel gets its shape back; None where the runs are none of these."""
        if self.kind == self.ir.DataType.DOUBLE:
            return None
        grid = grid.widened(4 if grid.bits <= 4 else 8)
        part, length = grid.block(self.shape), grid.levels.shape[1]
        shape, repeats, size = self.shape, 1, ()
        attributes: dict[str, Any] = {}
        if part is not None and part[1:] == self.shape[1:] and part != self.shape:
            repeats, size, attributes = part[0], (self.shape[0],), {"axis": 0}
        elif part != self.shape:
            # runs of a row, which may go over several dimensions
            columns = math.prod(self.shape[1:])
            if columns % length:
                return None
            shape = self.shape if self.shape[-1] % length == 0 else (self.shape[0], columns)
            size = (*shape[:-1], shape[-1] // length)
            attributes = {"axis": len(shape) - 1, "block_size": length}
        # the node and its inputs
        kind = self.ir.DataType.UINT4 if grid.bits == 4 else self.ir.DataType.UINT8
        fields = (x.repeat_interleave(repeats).reshape(size) for x in (grid.scale, grid.zero_point))
        scale, zero = fields
        inputs = (
            self.constant("levels", grid.levels.view(shape).to(torch.uint8), kind),
            self.constant("scale", scale),
            self.constant("zero_point", zero.to(torch.uint8), kind),
        )
        value = self.node("DequantizeLinear", *inputs, **attributes)
        if shape != self.shape:
            own = self.constant("shape", np.array(self.shape, dtype=np.int64))
            value = self.node("Reshape", value, own)
        return f"DequantizeLinear, {grid.bits} bits", value

    def matmul(self, grid: Grid, accuracy_level: int) -> str:
        """MatMulNBits in the place of all products with the weight, or "" where it has other uses
        or its rows are no multiples of 16."""
        if len(self.shape) != 2 or self.weight.dtype != self.ir.DataType.FLOAT:
            return ""
        part = grid.block(self.shape)
        sizes = (b for b in (256, 128, 64, 32, 16) if part is not None and part[1] % b == 0)
        block, products = next(sizes, 0), list(products_of(self.weight, self.transposed))
        if not block or not products:
            return ""
        grid = grid.widened(next(b for b in (2, 4, 8) if b >= grid.bits))
        inputs = self.packed_blocks(grid, block)
        options: dict[str, Any] = {
            "K": self.shape[1],
            "N": self.shape[0],
            "bits": grid.bits,
            "block_size": block,
            "accuracy_level": accuracy_level,
        }
        for old, x, bias in products:
            product = self.node(
                "MatMulNBits", x, *inputs, None, bias, domain="com.microsoft", **options
            )
            product.shape, product.type = old.outputs[0].shape, old.outputs[0].type
            self.graph.insert_before(old, self.nodes.pop())
            old.outputs[0].replace_all_uses_with(product, replace_graph_outputs=True)
        self.graph.opset_imports["com.microsoft"] = 1
        return f"MatMulNBits, {grid.bits} bits"

    def packed_blocks(self, grid: Grid, block: int) -> list[Any]:
        """The weight's inputs of MatMulNBits: levels, scales, and zero points or None."""
        rows, blocks = self.shape[0], self.shape[1] // block
        scale, zero = (
            x.repeat_interleave(grid.levels.shape[1] // block).view(rows, blocks)
            for x in (grid.scale, grid.zero_point)
        )
        levels = packed(as_bytes(grid.levels.view(rows, blocks, block)), grid.bits)
        found = [self.constant("levels", levels), self.constant("scale", scale.reshape(-1))]
        if grid.symmetric:
            return [*found, None]
        zeros = packed(as_bytes(zero), grid.bits).reshape(-1)
        return [*found, self.constant("zero_points", zeros)]

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


def _count(found: Quantized) -> int:
    """How many values an integer of the codes may have."""
    if isinstance(found, Grid):
        return 2**found.bits
    return found.codebook.shape[0 if isinstance(found, Vectors) else 1]
