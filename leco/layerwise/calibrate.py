"""`calibrate`: LC without training, layer by layer, on calibration inputs."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

import leco.distributed as distributed
from leco.algorithm.lc import LC
from leco.layerwise.checkpoint import Checkpoint, identity_of
from leco.layerwise.offload import Offload
from leco.layerwise.record import Calibration
from leco.layerwise.solve import Schedule
from leco.layerwise.solver import Solver
from leco.layerwise.stream import Stream, find_blocks
from leco.layerwise.units import Units


def calibrate(
    lc: LC,
    batches: Iterable[Any],
    *,
    blocks: Sequence[nn.Module | str] | None = None,
    steps: int = 40,
    mu: tuple[float, float] = (0.1, 10.0),
    damping: float = 0.01,
    polish: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    offload: str | Path | None = None,
) -> Calibration:
    """Compress without training: the LC algorithm on the reconstruction error of each layer,

        L(W) = 1/2 tr((W - W0) H (W - W0)'),    H = X X'/n + damping,

    with X the layer's inputs in the net compressed so far. No labels and no backward pass: the L
    step has a closed form, the C step is the task's, in the metric diag(H).

    Blocks, a transformer's layers, are done in order. What is held beside the net is Theta, the
    hidden states of all batches, the second moments of one block and the solve of one task.
    Under torchrun each rank gives batches of its own; the ranks add up their moments and share out
    the solves.
    Afterwards `lc` holds the Thetas, the model is w = Delta(Theta), and the multipliers are 0: save
    it, or train it further with `leco.run`. Where anything fails, model and `lc` are as before.

    Args:
        lc: the problem. A task over several blocks is solved first, on the moments of the dense
            net, with each layer's error relative to its output.
        batches: inputs of the model, gone through two times and more: each a tensor, a tuple of
            arguments, or a dict of named ones. Some ten thousand samples (tokens, patches).
        blocks: modules or their names, each of which takes the output of the one before; found
            where the net has one list of them; () for none, one pass over the whole net.
        steps: LC steps of each task, about: the schedule spends them where Theta's choices change
            (`leco.layerwise.solve.Schedule`), and ends when they do not. Fewer take less time and
            give somewhat larger errors.
        mu: its first and last value, in units of the mean eigenvalue of H with a unit diagonal.
        damping: what is added to H, as a share of its mean diagonal.
        polish: epochs of training what Theta leaves free in a block, its norms and biases, towards
            the dense block's output.
        progress: show a bar.
        checkpoint: a folder for a file after each block; a later call goes on from there.
        offload: where hidden states wait between blocks: a device such as "cpu", "disk" for the
            system's temporary files, or a `Path` of a folder; None for the net's device.

    Returns:
        The error of each task, and which tasks are left at direct compression, with the reason.

    Raises:
        ValueError: no batches; NaN in a layer's inputs; blocks that do not follow each other;
            a checkpoint of another calibration; options out of bounds; ranks with different nets
            or sharded ones, or with different numbers of batches to polish with; polish without
            blocks.
        RuntimeError: inside `with lc.compressed()`.

    Reference:
        For pruning, Boza, arXiv 2401.02938, and ALPS, arXiv 2406.07831; for quantization, ADMM-Q,
        arXiv 2605.11222; for a low rank and a sparse part, 3BASiL, arXiv 2603.01376.

    >>> import leco, torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> lc = leco.LC(net, leco.each(leco.match(net, "*.weight"), leco.Rows(), leco.Binary()))
    >>> result = leco.calibrate(lc, [torch.randn(64, 8)], progress=False)
    >>> [record.error < record.direct for record in result.records]
    [True, True]
    >>> len(net[0].weight[0].abs().unique())
    1
    """
    _check(lc, steps, mu, damping, polish)
    start = time.perf_counter()
    with quiet(lc.model):
        stream = Stream(lc.model, blocks_of(lc, blocks), batches, Offload(offload))
        if polish and not stream.blocks:
            raise ValueError(
                f"calibrate: polish = {polish} trains blocks, and the net has none or none was "
                'found; name them, such as blocks=["layer1", "layer2"], or give polish = 0'
            )
        names = [stream.name(i) for i in range(len(stream.blocks))]
        identity = identity_of(lc.tasks, lc.params, (steps, mu, damping, polish, names))
        if any(other != identity for other in distributed.gathered(identity)):
            raise ValueError("calibrate: the ranks have different weights, tasks or options")
        kept = Checkpoint(checkpoint, identity)
        result = Calibration()
        solver = Solver(lc.tasks, owned(lc), Schedule(steps, *mu), damping, result)
        units = Units(lc, stream, solver, polish, kept, progress)
        units.all()
        units.finish()
    result.seconds = time.perf_counter() - start
    return result


def blocks_of(lc: LC, given: Sequence[nn.Module | str] | None) -> list[nn.Module]:
    """The blocks of an LC's net: the given ones, or those that are found."""
    if given is None:
        return find_blocks(lc.model, lc.params.values())
    return [lc.model.get_submodule(b) if isinstance(b, str) else b for b in given]


def owned(lc: LC) -> dict[str, dict[str, nn.Parameter]]:
    """The parameters of each task by name."""
    return {task: {n: lc.params[n] for n in names} for task, names in lc.names.items()}


def check_whole(function: str, lc: LC) -> None:
    """Raise where a rank has a part only of some weight."""
    sharded = [name for name, p in lc.params.items() if distributed.is_sharded(p)]
    if sharded:
        raise ValueError(
            f"{function}: {sharded[0]!r} is sharded; {function} whole weights on each rank, and "
            "shard the net afterwards"
        )


def _check(lc: LC, steps: int, mu: tuple[float, float], damping: float, polish: int) -> None:
    if lc.inside:
        raise RuntimeError("calibrate: inside `with lc.compressed()`")
    lc.check_current()
    check_whole("calibrate", lc)
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"calibrate: steps = {steps} must be an integer, at least 1")
    if not 0 < mu[0] <= mu[1] < float("inf"):
        raise ValueError(f"calibrate: mu = {mu} must be positive, finite and not decreasing")
    if not 0 < damping < float("inf"):
        raise ValueError(f"calibrate: damping = {damping} must be positive and finite")
    if not isinstance(polish, int) or polish < 0:
        raise ValueError(f"calibrate: polish = {polish} must be an integer, at least 0")


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and transformers without a cache of keys and values."""
    modes = {module: module.training for module in model.modules()}
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    cached = [c for c in configs.values() if getattr(c, "use_cache", None) is True]
    try:
        model.eval()
        for config in cached:
            config.use_cache = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for config in cached:
            config.use_cache = True
