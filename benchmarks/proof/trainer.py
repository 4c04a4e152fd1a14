"""Training on tensors: shuffled minibatches, a rate by iteration, checkpoints."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.data import Data
from benchmarks.proof.training import cosine, multiplies_bfloat16, objective
from leco.atomic import atomically

Curve = list[dict[str, Any]]


class Trainer:
    """Iterations over shuffled minibatches; the seed and the epoch's number fix the order.

    Args:
        epochs: after which the rate has gone through its shape. Later iterations have the last
            rate.
        lr: the peak of the rate, which is lr times shape(share of the iterations done).
        bfloat16: of the forward and backward pass, where the device multiplies it.
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
        self.data, self.batch, self.lr, self.seed = data, batch, lr, seed
        self.soft, self.shape, self.device = soft, shape, data.train[0].device
        self.bfloat16 = bfloat16 and multiplies_bfloat16(self.device)
        self.per_epoch = len(data.train[0]) // batch
        self.total, self.done = round(epochs * self.per_epoch), 0
        self._order, self._of = torch.empty(0), -1
        self._replay: tuple[nn.Module, Callable[[Tensor], Tensor]] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["done"]

    def chosen(self) -> Tensor:
        """Indices of the present minibatch."""
        epoch, place = divmod(self.done, self.per_epoch)
        if epoch != self._of:
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
            order = torch.randperm(len(self.data.train[0]), generator=generator)
            self._order, self._of = order.to(self.device), epoch
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
            capture: on a GPU, replay the passes as one graph, as some hundred small kernels take
                longer to launch than to run. Not for a `term`, nor where hooks take the gradients
                away during the backward pass.
        """
        model.train()
        total, cuda = torch.zeros((), device=self.device), self.device.type == "cuda"
        replay = self._captured(model) if capture and term is None and cuda else None
        for _ in range(iterations):
            rate = self.rate if limit is None else limit(self.rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with at():
                if replay is None:
                    optimizer.zero_grad()
                    loss = self._loss(model, self.chosen())
                    (loss if term is None else loss + term()).backward()
                else:
                    loss = replay(self.chosen())
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
        soft = None if self.soft is None else self.soft[chosen]
        return objective(outputs.float(), labels[chosen], soft)

    def _captured(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """A function of the chosen images that leaves the gradients in `.grad` and gives the loss.

        The tensors of the gradients stay the same ones.
        """
        if self._replay is not None and self._replay[0] is model:
            return self._replay[1]
        chosen = torch.arange(self.batch, device=self.device)
        buffers = [buffer.clone() for buffer in model.buffers()]

        # some passes first, as CUDA graphs ask
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                model.zero_grad()
                self._loss(model, chosen).backward()
        torch.cuda.current_stream().wait_stream(stream)

        # the graph, and the statistics of batch norms as they were
        model.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._loss(model, chosen)
            loss.backward()
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)

        def replay(now: Tensor) -> Tensor:
            chosen.copy_(now)
            graph.replay()
            return loss

        self._replay = model, replay
        return replay


def epochs(
    checkpoint: Path, trainer: Trainer, stateful: dict[str, Any], curve: Curve
) -> Iterator[int]:
    """The numbers of the epochs that are left.

    Goes on from the checkpoint where there is one, and writes it after each epoch.
    """
    everything = {"trainer": trainer, **stateful}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for name, part in everything.items():
            part.load_state_dict(state["stateful"][name])
        torch.set_rng_state(state["random"])
        if torch.cuda.is_initialized():
            torch.cuda.set_rng_state(state["random_gpu"])
        curve[:] = state["curve"]
    last = math.ceil(trainer.total / trainer.per_epoch)
    for epoch in range(trainer.done // trainer.per_epoch, last):
        start = time.perf_counter()
        yield epoch
        if curve:
            curve[-1].setdefault("seconds", time.perf_counter() - start)
        states = {name: part.state_dict() for name, part in everything.items()}
        state = {"stateful": states, "random": torch.get_rng_state(), "curve": curve}
        if torch.cuda.is_initialized():
            state["random_gpu"] = torch.cuda.get_rng_state()
        atomically(checkpoint, lambda temporary, state=state: torch.save(state, temporary))
