"""Training on tensors, on CPU or GPU: data with images held out, minibatches, soft targets, a
learning rate by iteration, evaluation."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import cifar
import common  # noqa: F401  # so that the examples are found
import mnist
import nets
import torch
from mnist import compare
from torch import Tensor, nn
from torch.nn import functional as F

from leco.atomic import atomically

HELD_OUT = 5000
Split = tuple[Tensor, Tensor]
"""Images as they are stored, and classes."""


class Data(NamedTuple):
    """Images to train on, to choose with and to report; what a net takes of stored images; how they
    are augmented for training."""

    name: str
    train: Split
    validation: Split
    test: Split
    prepare: Callable[[Tensor], Tensor]
    augment: Callable[[Tensor], Tensor]
    mirror: bool
    """Whether an image's mirror image is of its class."""


def load(net: str, folder: Path, device: torch.device) -> Data:
    """MNIST (in `folder`, or its folder mnist) for LeNets, CIFAR-10 for the others; 5,000 training
    images held out, the same in every run."""
    if net not in nets.LENETS:
        images = cifar.load(folder)
        splits = images.train, images.validation, images.test
        name, prepare, augment = images.name, cifar.floats, cifar.augmented
    else:
        whole = mnist.load(folder / "mnist" if (folder / "mnist").is_dir() else folder)
        order = torch.randperm(len(whole.train[0]), generator=torch.Generator().manual_seed(0))
        held, rest = order[:HELD_OUT], order[HELD_OUT:]
        splits = (
            (whole.train[0][rest], whole.train[1][rest]),
            (whole.train[0][held], whole.train[1][held]),
            whole.test,
        )
        name, prepare, augment = "MNIST", _same, _same
    train, validation, test = ((x.to(device), y.to(device)) for x, y in splits)
    return Data(name, train, validation, test, prepare, augment, net not in nets.LENETS)


def _same(images: Tensor) -> Tensor:
    return images


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has instructions for it: a processor without them is faster in float32."""
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {"gpu": True}
    return any(
        features.get(name, False) for name in ("gpu", "avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
    )


def logits(
    model: nn.Module, data: Data, images: Tensor, bfloat16: bool = False, batch: int = 500
) -> Tensor:
    """Of stored images, in evaluation mode; in bfloat16 only where the device multiplies it."""
    model.eval()
    with (
        torch.no_grad(),
        torch.autocast(
            images.device.type,
            torch.bfloat16,
            enabled=bfloat16 and multiplies_bfloat16(images.device),
        ),
    ):
        return torch.cat([model(data.prepare(part)).float() for part in images.split(batch)])


def evaluate(
    model: nn.Module, data: Data, split: Split, bfloat16: bool = False
) -> tuple[float, float]:
    """Mean loss, and error in %."""
    found = logits(model, data, split[0], bfloat16)
    return float(F.cross_entropy(found, split[1])), 100 * float(
        (found.argmax(1) != split[1]).double().mean()
    )


def soft_targets(model: nn.Module, data: Data) -> Tensor:
    """The model's probabilities for the training images, at compare.TEMPERATURE, the mean over an
    image and its mirror image: found once."""
    views = [data.train[0], data.train[0].flip(2)] if data.mirror else [data.train[0]]
    return torch.stack(
        [F.softmax(logits(model, data, view, True) / compare.TEMPERATURE, 1) for view in views]
    ).mean(0)


def calibration(data: Data, images: int = 5000, batch: int = 500) -> Iterator[Tensor]:
    """Inputs to recalibrate batch-norm statistics with: augmented, as those that the net was
    trained on; the same in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chosen = data.augment(data.train[0][:images])
    return (data.prepare(part) for part in chosen.split(batch))


def cosine(share: float) -> float:
    """From 1 down to 0."""
    return 0.5 + 0.5 * math.cos(math.pi * min(share, 1.0))


def one_cycle(share: float) -> float:
    """Up to 1 in the first fifth, then down to 0 by a cosine."""
    return share / 0.2 if share < 0.2 else cosine((share - 0.2) / 0.8)


def decayed(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer: weight decay for weights, none for biases and batch
    norms."""
    weights, others = (
        [p for p in model.parameters() if p.ndim > 1],
        [p for p in model.parameters() if p.ndim < 2],
    )
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def sgd(groups: Iterable[Any], lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True)


class Trainer:
    """Iterations over shuffled minibatches, each epoch in an order that its seed and number fix:
    `state_dict` is one number.

    Args:
        epochs: after which the rate has gone through its shape; iterations beyond have the last
            rate.
        lr: the peak; times shape(share of the iterations done).
        bfloat16: the forward and backward pass in it, where the device multiplies it.
        soft: probabilities of a teacher for each training image, as `soft_targets` gives.
    """

    def __init__(
        self,
        data: Data,
        *,
        batch: int,
        epochs: float,
        lr: float,
        seed: int,
        bfloat16: bool = True,
        soft: Tensor | None = None,
        shape: Callable[[float], float] = cosine,
    ):
        self.data, self.batch, self.lr, self.seed, self.soft, self.shape = (
            data,
            batch,
            lr,
            seed,
            soft,
            shape,
        )
        self.bfloat16 = bfloat16 and multiplies_bfloat16(data.train[0].device)
        self.per_epoch = len(data.train[0]) // batch
        self.total = round(epochs * self.per_epoch)
        self.done = 0
        self._order, self._of = torch.empty(0), -1
        self._replay: tuple[nn.Module, Callable[[Tensor], Tensor]] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["done"]

    def _chosen(self) -> Tensor:
        epoch, place = divmod(self.done, self.per_epoch)
        if epoch != self._of:
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
            self._order, self._of = (
                torch.randperm(len(self.data.train[0]), generator=generator).to(
                    self.data.train[0].device
                ),
                epoch,
            )
        return self._order[place * self.batch : (place + 1) * self.batch]

    @property
    def left(self) -> int:
        """Iterations of the present epoch that are left."""
        return min(self.per_epoch - self.done % self.per_epoch, self.total - self.done)

    @property
    def rate(self) -> float:
        return self.lr * self.shape(self.done / self.total)

    def run(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        iterations: int,
        *,
        limit: Callable[[float], float] | None = None,
        at: Callable[[], AbstractContextManager[Any]] = nullcontext,
        term: Callable[[], Tensor] | None = None,
        capture: bool = True,
    ) -> float:
        """The mean loss of so many iterations.

        Args:
            limit: what the rate may be at most, of the rate.
            at: entered for each forward and backward pass: the weights at which the gradient is
                taken.
            term: is added to the loss.
            capture: on a GPU, replay the passes as one graph: some hundred small kernels take
                longer to launch than to run. Not for a `term`, nor where hooks take the gradients
                away during the backward pass.
        """
        model.train()
        device = self.data.train[0].device
        total = torch.zeros((), device=device)
        replay = (
            self._captured(model) if capture and term is None and device.type == "cuda" else None
        )
        for _ in range(iterations):
            rate = self.rate if limit is None else limit(self.rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with at():
                if replay is None:
                    optimizer.zero_grad()
                    loss = self._loss(model, self._chosen())
                    (loss if term is None else loss + term()).backward()
                else:
                    loss = replay(self._chosen())
            optimizer.step()
            self.done += 1
            total += loss.detach()
        return float(total) / max(1, iterations)

    def _loss(self, model: nn.Module, chosen: Tensor) -> Tensor:
        images, labels = self.data.train
        x = self.data.prepare(self.data.augment(images[chosen]))
        # around each forward pass: it keeps the weights that it has cast
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            outputs = model(x)
        return compare.objective(
            outputs.float(), labels[chosen], None if self.soft is None else self.soft[chosen]
        )

    def _captured(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """A function of the chosen images that leaves the gradients in `.grad`, whose tensors stay
        the same ones, and gives the loss."""
        if self._replay is not None and self._replay[0] is model:
            return self._replay[1]
        chosen = torch.arange(self.batch, device=self.data.train[0].device)
        buffers = [buffer.clone() for buffer in model.buffers()]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                model.zero_grad()
                self._loss(model, chosen).backward()
        torch.cuda.current_stream().wait_stream(stream)
        model.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._loss(model, chosen)
            loss.backward()
        with torch.no_grad():  # the statistics of batch norms
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)

        def replay(now: Tensor) -> Tensor:
            chosen.copy_(now)
            graph.replay()
            return loss

        self._replay = model, replay
        return replay


def epochs(
    checkpoint: Path, trainer: Trainer, stateful: dict[str, Any], curve: list[dict[str, Any]]
) -> Iterator[int]:
    """The numbers of the epochs that are left: goes on from the checkpoint where there is one, and
    writes it after each."""
    everything = {"trainer": trainer, **stateful}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for name, part in everything.items():
            part.load_state_dict(state["stateful"][name])
        torch.set_rng_state(state["random"])
        if torch.cuda.is_initialized():
            torch.cuda.set_rng_state(state["random_gpu"])
        curve[:] = state["curve"]
    for epoch in range(
        trainer.done // trainer.per_epoch, math.ceil(trainer.total / trainer.per_epoch)
    ):
        start = time.perf_counter()
        yield epoch
        if curve:
            curve[-1].setdefault("seconds", time.perf_counter() - start)
        state = {
            "stateful": {n: part.state_dict() for n, part in everything.items()},
            "random": torch.get_rng_state(),
            "curve": curve,
        }
        if torch.cuda.is_initialized():
            state["random_gpu"] = torch.cuda.get_rng_state()
        atomically(checkpoint, lambda temporary, state=state: torch.save(state, temporary))
