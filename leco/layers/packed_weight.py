"""One parameter in packed memory, decoded where it is read."""

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leco.layers.products import matrix_of
from leco.native.matrix import Matrix

Cache = Literal["none", "keep"]


class PackedWeight(nn.Module):
    """One parameter, packed: `forward()` decodes it."""

    like: Tensor

    def __init__(self, content: nn.Module, weight: Tensor, form: str, cache: Cache):
        super().__init__()
        device = torch.device("cpu") if weight.is_meta else weight.device
        held = list(content.buffers())
        elsewhere = any(buffer.device != device for buffer in held)
        self.content = content.to(device) if elsewhere else content
        self.shape, self.form, self.cache = weight.shape, form, cache
        # the weight's type, which `to` converts
        self.register_buffer("like", weight.new_empty(0, device=device), persistent=False)
        self._kept: Tensor | None = None
        self._made: tuple[Matrix | None] | None = None
        """The weight for the compiled library, where it was looked for."""
        # Theta has float32 for a net of half precision: no need for it where no arithmetic follows
        if any(b.is_floating_point() and b.dtype != weight.dtype for b in held):
            decoded = content()
            rounded = copy.deepcopy(content).to(weight.dtype)
            self.content = rounded if torch.equal(rounded(), decoded.to(weight.dtype)) else content

    def forward(self) -> Tensor:
        if self._kept is not None and not torch.compiler.is_compiling():
            return self._kept
        if self.cache == "none" or self.training or torch.compiler.is_compiling():
            return self._decoded()
        with torch.inference_mode(False):  # what is kept serves autograd too
            self._kept = kept = self._decoded()
        return kept

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        """x W^T + bias by compiled loops, for x (..., columns), without gradients; None where the
        weight is decoded first."""
        plain = x.dtype == torch.float32 and x.device.type == "cpu" and x.shape[-1] == self.shape[1]
        if bias is not None and not (bias.dtype == torch.float32 and bias.is_contiguous()):
            return None
        if self.cache != "none" or not plain or not x.numel() or torch.is_autocast_enabled("cpu"):
            return None
        matrix = self.matrix()
        return None if matrix is None else matrix.product(x, bias)

    def matrix(self) -> Matrix | None:
        """The weight for the compiled library, kept until the buffers change; None where torch
        decodes it."""
        if self._made is None:
            plain = self.dtype == torch.float32
            self._made = (matrix_of(self.content, self.shape) if plain else None,)
        return self._made[0]

    def _decoded(self) -> Tensor:
        if not torch.compiler.is_compiling() and (matrix := self.matrix()) is not None:
            return matrix.dense().view(self.shape)
        return self.content().to(self.like.dtype).view(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    def bits(self) -> float:
        """Bits a weight."""
        held = sum(buffer.nbytes for buffer in self.buffers())
        return 8 * held / max(math.prod(self.shape), 1)

    def train(self, mode: bool = True) -> "PackedWeight":
        self._kept = None if mode else self._kept
        return super().train(mode)

    def _apply(self, *args: Any, **options: Any) -> "PackedWeight":
        self._kept = self._made = None
        return super()._apply(*args, **options)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self._kept = self._made = None
        super()._load_from_state_dict(*args, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None, "_made": None}

    def extra_repr(self) -> str:
        return f"{self.form}, {self.bits():.2f} bits a weight, cache={self.cache}"
