"""Training what all Thetas leave free, with the norms and biases, towards the outputs of the dense
net."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TextColumn
from torch import Tensor, nn
from torch.nn import functional

import leco.distributed as distributed
from leco.algorithm.lc import LC
from leco.algorithm.retrain import Retraining
from leco.compressions.checks import full_dtype
from leco.layerwise.calibrate import check_whole, owned, quiet
from leco.layerwise.checkpoint import Checkpoint, identity_of
from leco.layerwise.polish import error_of
from leco.layerwise.stream import call, check_repeatable, tensors

EVERY = 16  # steps from one checkpoint to the next
Loss = Callable[[Any, Any], Tensor]


def distill(
    lc: LC,
    teacher: nn.Module,
    batches: Iterable[Any],
    *,
    epochs: int = 1,
    rate: float = 0.003,
    loss: Loss | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> list[float]:
    """Train the floats of all Thetas (scales, codebook values, kept weights, factors) and the
    uncompressed norms and biases, so that the net's outputs come near those of the teacher:

        min over Theta's floats and the rest of the mean over batches of loss(net(x), teacher(x)),

    with codes, masks and ranks as they are. It follows `calibrate`, which sees one layer or block
    at a time. Adam (betas 0.9 and 0.95) takes a step for each batch, with a rate that falls to 0
    linearly. Matrices that no task compresses do not move. The net is in eval mode.

    Afterwards the model is w = Delta(Theta). Where anything fails, model and `lc` are as before.
    Under torchrun each rank has batches of its own, and as many; gradients are their means.

    Args:
        lc: a problem that has its Theta.
        teacher: the dense net, such as `copy.deepcopy(net)` before the calibration.
        batches: inputs of both nets, as in `calibrate`.
        epochs: passes over the batches. With few batches more than one overfits.
        rate: the first rate of Adam, as a share of the root mean square of each tensor; one that
            is 0 does not move.
        loss: of what the net and the teacher return. None: for outputs with `logits`, as those of
            transformers, the divergence KL(teacher || net) of the probabilities, in nats a token;
            for others the squared error of the first tensor relative to the teacher's, for hidden
            states of each token.
        progress: show a bar.
        checkpoint: a folder for a file after each 16 steps; a later call goes on from there.

    Returns:
        The loss of each step, before the step.

    Raises:
        ValueError: no Theta yet; `lc` is attached; the teacher is the net itself; no batches, or a
            generator; options out of bounds; NaN in the loss; a checkpoint of another run; ranks
            with different numbers of batches.

    Reference:
        Hinton, Vinyals and Dean, arXiv 1503.02531.

    >>> import copy, leco, torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> dense, batches = copy.deepcopy(net), [torch.randn(64, 8)]
    >>> lc = leco.LC(net, leco.each(leco.match(net, "*.weight"), leco.Rows(), leco.Binary()))
    >>> result = leco.calibrate(lc, batches, progress=False)
    >>> losses = leco.distill(lc, dense, batches, epochs=50, progress=False)
    >>> losses[-1] < losses[0]
    True
    >>> len(net[0].weight[0].abs().unique())  # still binary
    1
    """
    _check(lc, teacher, epochs, rate)
    check_repeatable("distill", batches)
    options = epochs, rate, str(loss and getattr(loss, "__qualname__", type(loss)))
    kept = Checkpoint(checkpoint, identity_of(lc.tasks, lc.params, options), "distill")
    with ExitStack() as stack:
        stack.enter_context(quiet(lc.model))
        stack.enter_context(quiet(teacher))
        rest = stack.enter_context(_as_before(lc))
        training = _Training(lc, rest, rate, kept)
        stack.callback(training.retraining.detach)
        steps = epochs * _count(batches)
        bar = stack.enter_context(
            Progress(
                *Progress.get_default_columns(),
                TextColumn("{task.fields[loss]}"),
                disable=not progress or distributed.rank() > 0,
            )
        )
        line = bar.add_task("distill", total=steps, loss="")
        k = 0
        for _ in range(epochs):
            for batch in batches:
                if k >= len(training.losses):  # not done before the checkpoint
                    training.step(batch, teacher, loss or distance, 1 - k / steps)
                    if len(training.losses) % EVERY == 0 or k + 1 == steps:
                        training.save()
                k += 1
                bar.update(line, completed=k, loss=f"loss {training.losses[k - 1]:.3g}")
        return training.losses


def distance(ours: Any, theirs: Any) -> Tensor:
    """The divergence of the probabilities of outputs that have `logits`, else `error_of` the first
    tensors.

    >>> import torch
    >>> float(distance(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0])))  # 1 / (1 + 4)
    0.2...
    """
    ours_, theirs_ = (getattr(output, "logits", None) for output in (ours, theirs))
    if isinstance(ours_, Tensor) and isinstance(theirs_, Tensor):
        dtype = full_dtype(theirs_.dtype)
        a, b = (functional.log_softmax(logits, -1, dtype=dtype) for logits in (ours_, theirs_))
        divergence = functional.kl_div(a, b, reduction="sum", log_target=True)
        return divergence / (a.numel() // a.shape[-1])
    first, target = (next(tensors(output), None) for output in (ours, theirs))
    if first is None or target is None:
        raise ValueError(
            f"distill: there is no tensor in the {type(ours).__name__} that the net returns; give "
            "loss, a function of the two outputs"
        )
    return error_of(first, target)


class _Training:
    """The variables, their optimizer and the losses so far."""

    def __init__(self, lc: LC, rest: dict[str, nn.Parameter], rate: float, kept: Checkpoint):
        self._lc, self._rest, self._kept = lc, rest, kept
        self.losses: list[float] = []
        found = kept.load("distill", lc.tasks, owned(lc))
        if found is not None:
            thetas, values, _ = found
            lc.adopt(thetas)
            with torch.no_grad():
                for n, value in values.items():
                    rest[n].copy_(value)

        # the optimizer of what moves
        self.retraining = Retraining(lc)
        of_model = {id(p) for p in lc.model.parameters()}
        moving = {id(p) for p in rest.values()}
        self._leaves = [
            p for p in self.retraining.parameters() if id(p) not in of_model or id(p) in moving
        ]
        groups = [{"params": [p], "lr": 0.0, "first": rate * _size(p)} for p in self._leaves]
        self._optimizer = torch.optim.Adam(groups or [torch.zeros(0)], betas=(0.9, 0.95))
        if found is not None:
            self.losses = list(found[2]["losses"])
            self._optimizer.load_state_dict(found[2]["optimizer"])
        self.retraining.attach(self._optimizer)
        self._optimizer.register_step_pre_hook(lambda *_: self._average())

    def step(self, batch: Any, teacher: nn.Module, loss: Loss, share: float) -> None:
        """A step of Adam with this share of the first rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = share * group["first"]
        with torch.no_grad():
            target = call(teacher, batch)
        with torch.enable_grad():
            value = loss(call(self._lc.model, batch), target)
        number = distributed.mean([float(value.detach())])[0]
        if number != number:
            raise ValueError(
                f"distill: the loss is NaN at step {len(self.losses)}; the net is as before"
            )
        if value.requires_grad:
            value.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.losses.append(number)

    def save(self) -> None:
        values = {n: p.detach() for n, p in self._rest.items()}
        state = {"losses": self.losses, "optimizer": self._optimizer.state_dict()}
        self._kept.save("distill", self._lc.thetas, values, state)

    def _average(self) -> None:
        """The means of the ranks' gradients."""
        for p in self._leaves if distributed.ranks() > 1 else ():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            distributed.mean_(p.grad)


@contextmanager
def _as_before(lc: LC) -> Iterator[dict[str, nn.Parameter]]:
    """Inside, what moves takes gradients and nothing else does; gives the uncompressed norms and
    biases. After an error all of it is as before."""
    compressed = {id(p) for p in lc.params.values()}
    rest = {
        n: p
        for n, p in lc.model.named_parameters()
        if id(p) not in compressed and p.dim() < 2 and p.is_floating_point()
    }
    thetas, values = dict(lc.thetas), {n: p.detach().clone() for n, p in rest.items()}
    weights = {n: p.detach().clone() for n, p in lc.params.items() if not lc.delta[n].equal(p)}
    flags = {p: p.requires_grad for p in lc.model.parameters()}
    gradients = {p: p.grad for p in lc.model.parameters() if p.grad is not None}
    moving = compressed | {id(p) for p in rest.values()}
    try:
        for p in flags:
            p.requires_grad_(id(p) in moving)
            p.grad = None
        yield rest
    except BaseException:
        lc.set_thetas(thetas)
        lc.project_()
        with torch.no_grad():
            for n, p in rest.items():
                p.copy_(values[n])
            for n, w in weights.items():
                lc.params[n].copy_(w)
        raise
    finally:
        for p, flag in flags.items():
            p.requires_grad_(flag)
            p.grad = gradients.get(p)


def _size(p: Tensor) -> float:
    """The root mean square."""
    return float(p.detach().square().mean().sqrt()) if p.numel() else 0.0


def _count(batches: Iterable[Any]) -> int:
    """How many batches, as many on each rank."""
    counts = distributed.gathered(sum(1 for _ in batches))
    if not counts[0] or len(set(counts)) > 1:
        raise ValueError(
            f"distill: the ranks have {counts} batches; give at least one, and as many on each"
        )
    return counts[0]


def _check(lc: LC, teacher: nn.Module, epochs: int, rate: float) -> None:
    if lc.inside:
        raise RuntimeError("distill: inside `with lc.compressed()`")
    if lc.attached:
        raise ValueError("distill: lc is attached to an optimizer; call lc.detach() first")
    check_whole("distill", lc)
    if teacher is lc.model:
        raise ValueError(
            "distill: the teacher is the net that is compressed; give a copy of the dense net, as "
            "copy.deepcopy(net) makes before the calibration"
        )
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"distill: epochs = {epochs} must be an integer, at least 1")
    if not 0 < rate < float("inf"):
        raise ValueError(f"distill: rate = {rate} must be positive and finite")
