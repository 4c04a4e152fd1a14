"""A net whose weights stay packed in memory, and are decoded to compute; and which parameters of a
net can be packed.

What a Theta takes in memory and how it is decoded is in `leco.layers.memory`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from leco.algorithm.compressed import Compressed, compressed_tasks
from leco.algorithm.lc import LC
from leco.layers.factorize import factored
from leco.layers.memory import UnpackableError, content
from leco.layers.packed_layers import KINDS, packed_kind, packed_layer
from leco.layers.packed_layers import PackedEmbedding as PackedEmbedding
from leco.layers.packed_layers import PackedLinear as PackedLinear
from leco.layers.packed_many import MANY, packed_among
from leco.layers.packed_weight import Cache, PackedWeight
from leco.layers.replace import Users, rebuilt, users
from leco.modules import check_copyable


def pack(
    model: nn.Module, compressed: LC | Mapping[str, Compressed], cache: Cache = "none"
) -> nn.Module:
    """A copy of `model` at w = Delta(Theta) whose compressed weights stay packed in memory, and are
    decoded to compute.

    Packed are the weights of nn.Linear, Conv1d to 3d, ConvTranspose1d to 3d, Embedding,
    EmbeddingBag, LSTM, GRU, RNN, MultiheadAttention and transformers' Conv1D, and of subclasses of
    these (but the recurrent ones and attention) without a forward of their own. Low-rank and tensor
    Thetas become smaller layers, as by `factorize`. The others stay dense, at Delta(Theta):
    `unpacked` says which and why. A weight that several layers share is packed once. The packed
    layers are of torch's classes and keep the hooks and attributes
    of the layers that they replace; `weight` is decoded where it is read, and an Embedding decodes
    the rows that it is asked for. All numbers are buffers: the net computes and gives gradients of
    its inputs and dense parameters, but does not train Theta.

    Args:
        model: the net of `compressed`, or one with the same parameters; it is not changed, and
            dense weights that are replaced are not copied.
        compressed: an `LC` that has its Thetas, or the tasks of a file (`leco.thetas`).
        cache: "none" decodes at each forward pass, and frees what it decoded. "keep" decodes at the
            first one in evaluation mode and keeps the dense weight, until `train()`, `to(...)` or
            `load_state_dict`: the memory and speed of the dense net from then on. Compiled and
            exported nets always decode.

    Raises:
        ValueError: a `cache` of another name; a weight that weight_norm or pruning computes.

    >>> import leco, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(784, 300), torch.nn.ReLU())
    >>> lc = leco.LC(model, leco.each(["0.weight"], leco.Vector(), leco.Codebook(2)))
    >>> lc.mu = 1.0
    >>> packed = leco.pack(model, lc)[0]
    >>> print(type(packed).__name__, packed.packed.extra_repr())
    PackedLinear Codes, 1.00 bits a weight, cache=none
    """
    if cache not in ("none", "keep"):
        raise ValueError(f"pack: cache = {cache!r} must be 'none' or 'keep'")
    check_copyable("pack", model)
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


def _plan(
    model: nn.Module, tasks: dict[str, Compressed], cache: Cache
) -> tuple[dict[Any, nn.Module], dict[str, Tensor], dict[str, str]]:
    """The modules that are replaced, each with the new one; Delta of the parameters that stay
    dense; and why they do."""
    replaced: dict[Any, nn.Module] = {}
    weights: dict[str, Tensor] = {}
    reasons: dict[str, str] = {}
    found = users(model)
    for task in tasks.values():
        layers = factored(model, task)
        if not isinstance(layers, str):
            replaced |= layers
            continue
        dense = {}
        for which, name in enumerate(task.shapes):
            try:
                replaced |= _packed(model, task, which, cache, replaced, found)
            except UnpackableError as reason:
                dense[name] = str(reason)
        if dense:
            weights |= {name: delta for name, delta in task.deltas().items() if name in dense}
        reasons |= dense
    return replaced, weights, reasons


def _packed(
    model: nn.Module,
    task: Compressed,
    which: int,
    cache: Cache,
    known: dict[Any, nn.Module],
    found: Users,
) -> dict[Any, nn.Module]:
    """The layers that have the parameter number `which` of a task, each with a packed one. They
    share the packed weight."""
    weight = model.get_parameter(list(task.shapes)[which])
    layers = found[id(weight)]
    for module, own in layers:
        _check(module, own)
    shapes = list(task.shapes.values())
    by_rows = any(isinstance(module, nn.Embedding | nn.Linear) for module, _ in layers)
    decoder = content(task.theta, task.view, shapes, which, weight.shape[1] if by_rows else 0)
    packed = PackedWeight(decoder, weight.detach(), type(task.theta).__name__, cache)
    if packed.bits() >= 8 * weight.itemsize:
        raise UnpackableError(
            f"takes {packed.bits():.1f} bits a weight as {packed.form}, no less than dense"
        )
    return {
        module: packed_among(module, own, packed, known.get(module))
        if type(module) in MANY
        else packed_layer(module, packed)
        for module, own in layers
    }


def _check(module: nn.Module, own: str) -> None:
    """Raise UnpackableError where the parameter `own` of a module can't be packed."""
    if type(module) in MANY and own.startswith(("weight", "in_proj_weight")):
        return
    if packed_kind(module) is None or own != "weight":
        parent = next((kind for kind in KINDS if isinstance(module, kind)), None)
        name = parent.__name__ if parent is not None and own == "weight" else ""
        why = f", a subclass of {name} with a forward of its own" if name else ""
        raise UnpackableError(f"is the {own} of a {type(module).__name__}{why}")
    if getattr(module, "max_norm", None) is not None:
        raise UnpackableError("is of an Embedding with max_norm, which writes to its weight")
