"""Layers of torch's classes whose weight is packed."""

from typing import Any

import torch
from torch import Tensor, nn

from leco.layers.integers import Levels, Lookup
from leco.layers.packed_weight import PackedWeight
from leco.layers.products import groups_of
from leco.modules import is_conv1d

INT8_ROWS = 16
"""Up to so many rows of input torch's int8 kernel is faster than decoding first: its time grows
with the rows, that of decoding does not."""


class PackedLayer(nn.Module):
    """A layer of torch whose `weight` is decoded from `packed` where it is read."""

    packed: PackedWeight

    def _decoded(self) -> Tensor:
        return self.packed()

    weight: Any = property(_decoded)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.packed.extra_repr()}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class PackedLinear(PackedLayer, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        # a traced net must not compare the number of rows: it would be fixed
        if self._recorded(input):
            return super().forward(input)
        found = self.packed.product(input, self.bias)
        if found is not None:
            return found
        return self._from_levels(input) if self._few(input) else super().forward(input)

    def _few(self, input: Tensor) -> bool:
        rows = input.numel() // max(self.in_features, 1)
        return self.int8 and 0 < rows <= INT8_ROWS and input.dtype == self.packed.dtype

    def _from_levels(self, input: Tensor) -> Tensor:
        """torch's int8 kernel."""
        grid: Any = self.packed.content
        scale = grid.affine.scale.expand(self.out_features, 1).to(input.dtype)
        levels = grid.codes.view(self.out_features, -1)
        x = input.reshape(-1, self.in_features).contiguous()
        y = torch._weight_int8pack_mm(x, levels, scale.contiguous().view(-1))
        y = y.view(*input.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    @property
    def int8(self) -> bool:
        """Whether torch has a kernel that computes from the levels: of a symmetric grid, with a
        scale a row, in half precision on a CPU."""
        grid: Any = self.packed.content
        half = (
            isinstance(self.packed.content, Levels)
            and grid.affine.shift is None
            and self.packed.dtype in (torch.bfloat16, torch.float16)
        )
        return (
            half
            and self.packed.cache == "none"
            and grid.codes.device.type == "cpu"
            and len(grid.affine.scale) in (1, self.out_features)
        )

    def _recorded(self, input: Tensor) -> bool:
        """The kernel has no gradient, and its choice by rows must not be written into a graph."""
        return torch.compiler.is_compiling() or (
            torch.is_grad_enabled()
            and (input.requires_grad or (self.bias is not None and self.bias.requires_grad))
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", int8 kernel up to {INT8_ROWS} rows" if self.int8 else "")


class PackedConv1d(PackedLayer, nn.Conv1d): ...


class PackedConv2d(PackedLayer, nn.Conv2d): ...


class PackedConv3d(PackedLayer, nn.Conv3d): ...


class PackedConvTranspose1d(PackedLayer, nn.ConvTranspose1d): ...


class PackedConvTranspose2d(PackedLayer, nn.ConvTranspose2d): ...


class PackedConvTranspose3d(PackedLayer, nn.ConvTranspose3d): ...


class PackedEmbedding(PackedLayer, nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        decoder = self.packed.content
        if not isinstance(decoder, Lookup | Levels):
            return super().forward(input)
        tokens = input.reshape(-1)
        if decoder.by_rows:
            rows = decoder(tokens)
        elif groups := groups_of(decoder, self.packed.shape):
            rows = decoder.of_groups(tokens, self.num_embeddings, groups)
        else:
            return super().forward(input)
        return rows.to(self.packed.dtype).view(*input.shape, self.embedding_dim)


class PackedEmbeddingBag(PackedLayer, nn.EmbeddingBag): ...


class PackedConv1D(PackedLayer):
    """transformers' Conv1D, y = x W + b, with a packed W (in, out)."""

    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        weight = self.packed()
        rows = x.view(-1, x.size(-1))
        return torch.addmm(self.bias, rows, weight).view(*x.shape[:-1], weight.shape[1])


KINDS: dict[type, type] = {
    nn.Linear: PackedLinear,
    nn.Conv1d: PackedConv1d,
    nn.Conv2d: PackedConv2d,
    nn.Conv3d: PackedConv3d,
    nn.ConvTranspose1d: PackedConvTranspose1d,
    nn.ConvTranspose2d: PackedConvTranspose2d,
    nn.ConvTranspose3d: PackedConvTranspose3d,
    nn.Embedding: PackedEmbedding,
    nn.EmbeddingBag: PackedEmbeddingBag,
}


def packed_kind(layer: nn.Module) -> Any:
    """The packed kind of a layer, also of a subclass that computes as its parent does; None where
    there is none."""
    if is_conv1d(type(layer)):
        return PackedConv1D
    return next((KINDS[kind] for kind in KINDS if computes_as(layer, kind)), None)


def computes_as(layer: nn.Module, kind: type) -> bool:
    """Whether a layer is of a class, or of a subclass without a `forward` and `__call__` of its
    own."""
    own, parent = type(layer), kind
    return isinstance(layer, parent) and all(
        getattr(own, name) is getattr(parent, name) for name in ("forward", "__call__")
    )


def packed_layer(layer: Any, weight: PackedWeight) -> Any:
    """`layer`, with its options, but with a packed weight, and its bias to come."""
    kind = packed_kind(layer)
    made = kind.__new__(kind)
    made.__dict__ |= {
        name: value.copy() if isinstance(value, dict) else value
        for name, value in vars(layer).items()
    }
    del made._parameters["weight"]
    made.packed = weight
    return made
