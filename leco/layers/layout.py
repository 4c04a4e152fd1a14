"""Where a parameter stands in the array that a view makes of several."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leco.views import Shapes, View


@dataclass(frozen=True)
class Through:
    """The view `inner` of the one array, of shape `shape_`, that the view `outer` makes of the
    tensors."""

    inner: View
    shape_: torch.Size
    outer: View

    def shape(self, shapes: Shapes) -> Any:
        return self.inner.shape([self.shape_])

    def forward(self, tensors: Any) -> Any:
        return self.inner.forward([self.outer.forward(tensors)])

    def backward(self, x: Any, shapes: Shapes) -> list[Tensor]:
        return self.outer.backward(self.inner.backward(x, [self.shape_])[0], shapes)


def entries(view: View, shapes: Shapes, which: int, device: torch.device) -> Tensor:
    """Where the entries of tensor `which` are in the view's array, flattened; of the tensor's
    shape."""
    shape = view.shape(shapes)
    return view.backward(torch.arange(math.prod(shape), device=device).view(shape), shapes)[which]


def keeps_order(view: View, shape: torch.Size) -> bool:
    """Whether the array that a view makes of one tensor has its entries in row-major order; False
    also where that shows only by looking at the entries."""
    inner = view.shape([shape])
    if not isinstance(inner, torch.Size):
        return False
    array = torch.empty(inner, device="meta")
    tensor = view.backward(array, [shape])[0]
    same = tensor.untyped_storage()._cdata == array.untyped_storage()._cdata
    return same and tensor.is_contiguous() and tensor.numel() == array.numel()
