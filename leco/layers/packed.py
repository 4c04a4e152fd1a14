"""Layers that keep their weight packed in memory, and decode it to compute; and which parameters of
a net become one.

What a Theta takes in memory and how it is decoded is in `leco.layers.memory`.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leco.algorithm.compressed import Compressed, compressed_tasks
from leco.algorithm.lc import LC
from leco.layers.factorize import factored, rebuilt, users_of
from leco.layers.integers import Levels, Lookup
from leco.layers.memory import UnpackableError, content

Cache = Literal["none", "keep"]
INT8_ROWS = 16
"""Up to so many rows of input torch's int8 kernel is faster than decoding first: its time grows
with the rows, that of decoding does not."""


def pack(
    model: nn.Module, compressed: LC | Mapping[str, Compressed], cache: Cache = "none"
) -> nn.Module:
    """A copy of `model` at w = Delta(Theta) whose compressed weights stay packed in memory, and are
    decoded to compute.

    Packed are the weights of nn.Linear, Conv1d to 3d, ConvTranspose1d to 3d and Embedding; low-rank
    and tensor Thetas become smaller layers, as by `factorize`. The others stay dense, at
    Delta(Theta): `unpacked` says which and why. A weight that several layers share is packed once.
    The packed layers are of torch's classes, with `weight` decoded where it is read; an Embedding
    decodes the rows that it is asked for. All numbers are buffers: the net computes and gives
    gradients of its inputs and dense parameters, but does not train Theta.

    Args:
        model: the net of `compressed`, or one with the same parameters; it is not changed, and
            dense weights that are replaced are not copied.
        compressed: an `LC` that has its Thetas, or the tasks of a file (`leco.thetas`).
        cache: "none" decodes at each forward pass, and frees what it decoded. "keep" decodes at the
            first one in evaluation mode and keeps the dense weight, until `train()`, `to(...)` or
            `load_state_dict`: the memory and speed of the dense net from then on. Compiled and
            exported nets always decode.

    >>> import leco, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(784, 300), torch.nn.ReLU(), torch.nn.Linear(300, 10))
    >>> lc = leco.LC(model, leco.each(["0.weight", "2.weight"], leco.Vector(), leco.Codebook(2)))
    >>> lc.mu = 1.0
    >>> leco.pack(model, lc)[0]
    PackedLinear(in_features=784, out_features=300, bias=True, Codes, 1.00 bits a weight, cache=none)
    """
    if cache not in ("none", "keep"):
        raise ValueError(f"pack: cache = {cache!r} must be 'none' or 'keep'")
    replaced, weights, _ = _plan(model, compressed_tasks(compressed), cache)
    return rebuilt(model, replaced, weights)


def unpacked(model: nn.Module, compressed: LC | Mapping[str, Compressed]) -> dict[str, str]:
    """The compressed parameters that `pack` leaves dense, each with the reason.

    >>> import leco, torch
    >>> model = torch.nn.Linear(4, 2)
    >>> lc = leco.LC(model, leco.each(["weight", "bias"], leco.Vector(), leco.Binary()))
    >>> lc.mu = 1.0
    >>> leco.layers.packed.unpacked(model, lc)
    {'bias': 'is the bias of a Linear'}
    """
    return _plan(model, compressed_tasks(compressed), "none")[2]


class PackedWeight(nn.Module):
    """One parameter, packed: `forward()` decodes it."""

    like: Tensor

    def __init__(self, content: nn.Module, weight: Tensor, form: str, cache: Cache):
        super().__init__()
        self.content, self.shape, self.form, self.cache = (
            content.to(weight.device),
            weight.shape,
            form,
            cache,
        )
        # the weight's type, which `to` converts
        self.register_buffer("like", weight.new_empty(0), persistent=False)
        self._kept: Tensor | None = None
        decoded = content()
        # Theta has float32 for a net of half precision: no need for it where no arithmetic follows
        if decoded.dtype != weight.dtype:
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

    def _decoded(self) -> Tensor:
        return self.content().to(self.like.dtype).view(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    def bits(self) -> float:
        """Bits a weight."""
        return (
            8
            * sum(value.nbytes for value in self.state_dict().values())
            / max(math.prod(self.shape), 1)
        )

    def train(self, mode: bool = True) -> "PackedWeight":
        self._kept = None if mode else self._kept
        return super().train(mode)

    def _apply(self, *args: Any, **options: Any) -> "PackedWeight":
        self._kept = None
        return super()._apply(*args, **options)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self._kept = None
        super()._load_from_state_dict(*args, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def extra_repr(self) -> str:
        return f"{self.form}, {self.bits():.2f} bits a weight, cache={self.cache}"


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
        rows = input.numel() // max(self.in_features, 1)
        if (
            self.int8
            and 0 < rows <= INT8_ROWS
            and input.dtype == self.packed.dtype
            and not self._recorded(input)
        ):
            grid: Any = self.packed.content
            scale = (
                grid.affine.scale.expand(self.out_features, 1).to(input.dtype).contiguous().view(-1)
            )
            y = torch._weight_int8pack_mm(
                input.reshape(rows, -1).contiguous(), grid.codes.view(self.out_features, -1), scale
            )
            y = y.view(*input.shape[:-1], -1)
            return y if self.bias is None else y + self.bias
        return super().forward(input)

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
        if isinstance(decoder, Lookup | Levels) and decoder.by_rows:
            return (
                decoder(input.reshape(-1))
                .to(self.packed.dtype)
                .view(*input.shape, self.embedding_dim)
            )
        return super().forward(input)


KINDS: dict[type, type] = {kind.__mro__[2]: kind for kind in PackedLayer.__subclasses__()}
"""The packed kind of each layer of torch."""


def _packed_layer(layer: Any, weight: PackedWeight) -> Any:
    """`layer`, with its options and hooks, but with a packed weight, and its bias to come."""
    kind: Any = KINDS[type(layer)]
    made = kind.__new__(kind)
    made.__dict__ |= {
        name: copy.copy(value) if isinstance(value, dict) else value
        for name, value in vars(layer).items()
    }
    del made._parameters["weight"]
    made.packed = weight
    return made


def _plan(
    model: nn.Module, tasks: dict[str, Compressed], cache: Cache
) -> tuple[dict[Any, nn.Module], dict[str, Tensor], dict[str, str]]:
    """The modules that are replaced, each with the new one; Delta of the parameters that stay
    dense; and why they do."""
    replaced: dict[Any, nn.Module] = {}
    weights: dict[str, Tensor] = {}
    reasons: dict[str, str] = {}
    for task in tasks.values():
        layers = dict(factored(model, task))
        replaced |= layers
        if layers:
            continue
        dense = {}
        for which, name in enumerate(task.shapes):
            try:
                replaced |= _packed(model, task, which, name, cache)
            except UnpackableError as reason:
                dense[name] = str(reason)
        if dense:
            weights |= {name: delta for name, delta in task.deltas().items() if name in dense}
        reasons |= dense
    return replaced, weights, reasons


def _packed(
    model: nn.Module, task: Compressed, which: int, name: str, cache: Cache
) -> dict[Any, nn.Module]:
    """The layers that have the parameter `name`, each with a packed one. They share the packed
    weight."""
    weight, users = model.get_parameter(name), users_of(model, name)
    for module, own in users:
        if type(module) not in KINDS or own != "weight":
            raise UnpackableError(f"is the {own} of a {type(module).__name__}")
        if getattr(module, "max_norm", None) is not None:
            raise UnpackableError("is of an Embedding with max_norm, which writes to its weight")
    shapes = list(task.shapes.values())
    embeds = any(isinstance(module, nn.Embedding) for module, _ in users)
    decoder = content(task.theta, task.view, shapes, which, weight.shape[1] if embeds else 0)
    packed = PackedWeight(decoder, weight.detach(), type(task.theta).__name__, cache)
    if packed.bits() >= 8 * weight.itemsize:
        raise UnpackableError(
            f"takes {packed.bits():.1f} bits a weight as {packed.form}, no less than dense"
        )
    return {module: _packed_layer(module, packed) for module, _ in users}
