"""The file: Thetas, their description and all other weights, in one safetensors file. Its reported
size is its length.

Nothing in a file is executed: `load` looks up forms and views in fixed lists, and checks sizes
before it takes memory; every tensor has a checksum. `leco.files.container` defines the bytes,
`leco.files.contents` has the checks, `leco.measure.breakdown` makes tables for people.

The description has, for each task, its parameters and their shapes, the view, the compression (for
people) and the Theta; then the other tensors; then which names share a tensor. Its nodes are:

    a Theta              {form: [fields]}
    a tensor             {"t": [dtype, shape, bytes, coding]}
    a tensor as it is    {"t": [dtype, shape, entry]}
    several, as one      {"p": [tensor, {name: shape}]}
    a view               {"v": [name, options]}
    a tuple              a list
"""

import os
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from leco.algorithm.lc import LC
from leco.algorithm.record import Snapshot
from leco.distributed import gathered, is_sharded, rank, together
from leco.files.arguments import check_path
from leco.files.container import write
from leco.files.differences import listed
from leco.files.written import check_net, present, rest_of, written
from leco.names import named_state, plain, unwrapped
from leco.theta import Theta
from leco.theta.tree import leaves

CALL = "save(path, lc)"


def save(
    path: str | os.PathLike[str],
    lc: LC,
    snapshot: Snapshot | None = None,
    dtype: torch.dtype | None = None,
) -> int:
    """Write the compressed net to a safetensors file and return its length in bytes. The file is
    written beside `path` and renamed: `path` is the old file or the new one, never a part of one.

    A warning names what the file holds but no net should have: NaN anywhere, infinity in a
    parameter, +infinity in a buffer (attention masks hold -infinity). It also names a module's
    `get_extra_state()` that is no tensor, which the file leaves out.

    Args:
        path: where to write.
        lc: whose Thetas are written, with the other weights and buffers of its model as they are
            (inside `lc.compressed(batches)`: with recalibrated batch-norm statistics). Of a model
            that is sharded among ranks, every rank must call `save`; the first one writes.
        snapshot: write this one instead, such as `leco.run(...).best`.
        dtype: round the wider floats in no task (biases, norms, statistics, layers left out) to
            torch.float16 or torch.bfloat16.

    Raises:
        ValueError: no Theta yet; another dtype; a value that `dtype` can't hold; a tensor that a
            file can't hold. Nothing is written then.
        TypeError: arguments in another order.

    >>> import leco, tempfile, torch
    >>> model = torch.nn.Linear(784, 300)
    >>> lc = leco.LC(model, {"fc": leco.Task("weight", leco.Vector(), leco.Binary())})
    >>> lc.mu = 1.0
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = leco.save(f"{folder}/model.safetensors", lc)
    ...     same = leco.load(f"{folder}/model.safetensors", torch.nn.Linear(784, 300))
    >>> size < model.weight.numel() * 4 / 25, bool((same.weight == lc.delta["weight"]).all())
    (True, True)
    """
    check_path(CALL, path)
    check_net(CALL, lc, snapshot, dtype)
    net = present(CALL, lc, snapshot)
    if snapshot is None:
        lc.check_saved()
    rest = rest_of(lc.model, net.rest)
    notes = [*rest.left_out, *_not_finite(lc.model, net.thetas, rest.tensors)]
    description, payloads = written(lc, net, rest.rounded(dtype))
    if notes:
        warnings.warn(f"leco.save: {'; '.join(notes)}", stacklevel=2)
    if not any(is_sharded(value) for value in named_state(lc.model).values()):
        return write(path, description, payloads)
    size = together(lambda: write(path, description, payloads) if rank() == 0 else 0)
    return gathered(size)[0]


def _not_finite(
    model: nn.Module, thetas: dict[str, Theta], rest: dict[str, Tensor]
) -> Iterator[str]:
    """What to say of the tensors with NaN or infinite entries."""
    every = unwrapped(model).named_buffers(remove_duplicate=False)
    buffers = {plain(name) for name, _ in every}
    bad = [
        name
        for name, value in rest.items()
        if (value.isnan() | (value == torch.inf) if name in buffers else ~value.isfinite()).any()
    ]
    if bad:
        yield f"{listed(bad)} have NaN or infinite entries"
    tasks = [
        name
        for name, theta in thetas.items()
        if not all(bool(leaf.isfinite().all()) for leaf in leaves(theta))
    ]
    if tasks:
        yield f"the Thetas of {listed(tasks)} have NaN or infinite entries"


def dense_bytes(model: nn.Module) -> int:
    """Bytes of the model's distinct parameters and buffers as they are. Compression ratios are
    relative to this number."""
    distinct = {
        id(value): value
        for value in model.state_dict(keep_vars=True).values()
        if isinstance(value, Tensor)
    }
    return sum(value.nbytes for value in distinct.values())
