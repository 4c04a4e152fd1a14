"""Processes that train one model together: the ranks of torch.distributed, and sharded tensors.

In one process every function here does nothing, or returns what it is given. A *sharded* tensor is
a DTensor, as `fully_shard` (FSDP2) and tensor parallelism make of a parameter: each rank holds its
part, and `shape` and `numel()` are of the whole. This is the only file that imports
torch.distributed. Its slow parts are imported where there is a sharded tensor already.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


# --- the ranks


def ranks() -> int:
    """How many processes there are; 1 without torch.distributed.

    >>> from leco.distributed import ranks
    >>> ranks()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if ranks() > 1 else 0


def wait() -> None:
    """Return once every rank is here."""
    if ranks() > 1:
        dist.barrier()


def gathered(value: T) -> list[T]:
    """The values of all ranks, in their order, on every rank. They are pickled: keep them small."""
    if ranks() == 1:
        return [value]
    found: list[Any] = [None] * ranks()
    dist.all_gather_object(found, value)
    return found


def together(work: Callable[[], T]) -> T:
    """What `work` returns. Where it raises on any rank, every rank raises, so that none waits for
    the others."""
    if ranks() == 1:
        return work()
    result, error = None, None
    try:
        result = work()
    except Exception as raised:
        error = raised
    errors = gathered(error)
    if error is not None:
        raise error
    for other in errors:
        if other is not None:
            raise other
    return result  # pyright: ignore


def mean(values: Iterable[float]) -> list[float]:
    """The means over the ranks; NaN where one has NaN."""
    every = gathered([float(value) for value in values])
    return [sum(same) / len(every) for same in zip(*every, strict=True)]


@torch.no_grad()
def sum_(tensor: Tensor) -> Tensor:
    """Replace the tensor of each rank by the sum over the ranks."""
    if ranks() > 1:
        dist.all_reduce(tensor)
    return tensor


@torch.no_grad()
def mean_(tensor: Tensor) -> Tensor:
    """Replace the tensor of each rank by the mean over the ranks; a sharded one is left as it
    is, as it is one tensor already."""
    if ranks() > 1 and not is_sharded(tensor):
        sum_(tensor).div_(ranks())
    return tensor


def broadcast_(tensors: Sequence[Tensor], source: int) -> None:
    """Fill the tensors of the other ranks with those of the rank `source`, byte by byte."""
    flat = torch.cat([tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in tensors])
    dist.broadcast(flat, source)
    start = 0
    for tensor in tensors:
        part = flat[start : start + tensor.nbytes].clone()  # aligned for its type
        tensor.copy_(part.view(tensor.dtype).reshape(tensor.shape))
        start += tensor.nbytes


# --- sharded tensors


def is_sharded(tensor: Tensor) -> bool:
    """Whether each rank may hold a part only."""
    module = sys.modules.get("torch.distributed.tensor")  # there, where there is a DTensor
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's part, detached and without a copy; a tensor that is not sharded as it is."""
    with torch.no_grad():
        tensor = tensor.detach()
        return tensor.to_local() if is_sharded(tensor) else tensor  # pyright: ignore


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, detached. All ranks must call it where it is sharded."""
    with torch.no_grad():
        tensor = tensor.detach()
        return tensor.full_tensor() if is_sharded(tensor) else tensor  # pyright: ignore


def part(value: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor the part that this rank holds of `like`."""
    if not is_sharded(like):
        return value
    return local(sharded_like(value, like))


@torch.no_grad()
def fill_(target: Tensor, value: Tensor) -> None:
    """target <- value, a whole tensor or one that is sharded like `target`."""
    local(target).copy_(local(value) if is_sharded(value) else part(value, target))


def sharded_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which broadcasts to the shape of `like`, placed as `like` is."""
    if not is_sharded(like) or is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # pyright: ignore
    value = value.detach().expand(like.shape).to(like.device).contiguous()
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def with_part(value: Tensor, like: Tensor) -> Tensor:
    """The tensor placed as `like` of which this rank holds `value`."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import DTensor

    mesh, placements = like.device_mesh, like.placements  # pyright: ignore
    shape, stride = like.shape, like.stride()
    return DTensor.from_local(value, mesh, placements, run_check=False, shape=shape, stride=stride)


def total(sums: Mapping[str, float], tensors: Mapping[str, Tensor]) -> float:
    """The sum of numbers that belong to tensors, each of this rank's part.

    Args:
        sums: by name, a sum over this rank's part of the tensor.
        tensors: those tensors, which say what the other ranks hold.
    """
    found, sharded = 0.0, dict[Any, float]()
    for name, value in sums.items():
        tensor = tensors[name]
        if is_sharded(tensor):
            key = tensor.device_mesh, tensor.placements  # pyright: ignore
            sharded[key] = sharded.get(key, 0.0) + value
        else:
            found += value
    return found + sum(_total(value, *key) for key, value in sharded.items())


def _total(value: float, mesh: Any, placements: Any) -> float:
    """The sum over the ranks that hold different parts."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    held = [Partial() if place.is_shard() else Replicate() for place in placements]
    own = torch.tensor([value], dtype=torch.float64, device=mesh.device_type)
    return float(DTensor.from_local(own, mesh, held, run_check=False).full_tensor())


def reshard_(model: nn.Module) -> None:
    """Let every parameter of a `fully_shard`ed model be its shard again: after an evaluation, torch
    leaves some of them whole."""
    module = sys.modules.get("torch.distributed.fsdp")
    if module is not None and ranks() > 1:
        for own in model.modules():
            if isinstance(own, module.FSDPModule):
                cast(Any, own).reshard()
