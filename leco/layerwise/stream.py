"""The hidden states of all batches, on their way through the blocks of a net."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from leco.layerwise.offload import Kept, Offload

Batches = Iterable[Any]
HIDDEN = "hidden_states"  # the first argument of a block, where the net gives it by name


class _Stop(Exception):  # noqa: N818
    """Leaves the net's forward pass after the last block."""


def call(model: nn.Module, batch: Any) -> Any:
    """model(batch), model(*batch) for a tuple, model(**batch) for a mapping."""
    if isinstance(batch, list):
        raise TypeError(
            "calibrate: batches must give inputs, not lists of inputs and targets; pass "
            "(x for x, y in loader), made anew for each pass"
        )
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def check_repeatable(function: str, batches: Batches) -> None:
    """Raise for batches that end after one pass."""
    if isinstance(batches, Iterator):
        raise ValueError(
            f"{function}: batches is a generator or iterator, which ends after one pass; give a "
            "list, a DataLoader or another collection that can be gone through several times"
        )


def tensors(returned: Any) -> Iterator[Tensor]:
    """All tensors in what a model returns, in order: a tensor, a sequence, a mapping, an
    object."""
    if isinstance(returned, Tensor):
        yield returned
        return
    named = returned if isinstance(returned, Mapping) else getattr(returned, "__dict__", {})
    for part in returned if isinstance(returned, (tuple, list)) else named.values():
        yield from tensors(part)


def find_blocks(model: nn.Module, compressed: Iterable[nn.Parameter]) -> list[nn.Module]:
    """The members of the list of modules that holds most of the compressed weights; none where no
    list of two or more holds half of them. Embeddings, large as they are, do not count."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    wanted = {id(p): p.numel() for p in compressed if id(p) not in embeddings}
    best, most = list[nn.Module](), sum(wanted.values()) / 2
    for module in model.modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(module) < 2:
            continue
        inside = sum(wanted.get(id(p), 0) for p in module.parameters())
        holding = [m for m in module if any(id(p) in wanted for p in m.parameters())]
        if inside > most and len(holding) > 1:
            best, most = list(module), inside
    return best


class Stream:
    """The blocks of a net with the inputs of the next one, for all batches.

    Args:
        model: the net, in eval mode.
        blocks: modules that follow each other: each takes what the one before returns, a tensor,
            or the first of a tuple.
        batches: inputs of the net; each pass takes them anew.
        offload: where the hidden states wait.

    Raises:
        ValueError: no batches; blocks that are not called once each, in order, each with the output
            of the one before; batches that end early in a later pass.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[nn.Module],
        batches: Batches,
        offload: Offload | None = None,
    ):
        check_repeatable("calibrate", batches)
        self.model, self.blocks, self._batches = model, list(blocks), batches
        self._names = {id(m): name for name, m in model.named_modules()}
        self._offload = offload or Offload(None)
        self.hidden: list[Kept] = []
        self._rest: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = []
        self._outputs: list[Callable[[Tensor], Any]] = []  # of hidden states, as blocks return them

    def name(self, block: int) -> str:
        return self._names.get(id(self.blocks[block]), f"block {block}")

    def fork(self) -> "Stream":
        """Another stream that is at the same place."""
        other = Stream(self.model, self.blocks, self._batches, self._offload)
        other.hidden, other._rest = list(self.hidden), self._rest
        other._outputs = self._outputs
        return other

    # --- passes over the batches

    @torch.no_grad()
    def whole(self) -> int:
        """Run the net over all batches. Returns how many there were."""
        count = 0
        for batch in self._batches:
            call(self.model, batch)
            count += 1
        self._require(count)
        return count

    @torch.no_grad()
    def before(self) -> None:
        """Run what comes before the blocks, and keep the inputs of all blocks but for their hidden
        states, which are kept of the first."""
        self.hidden, self._rest = [], []
        for batch in self._batches:
            with (
                self._skipped(lambda i, given: self._outputs[i](given)) as calls,
                suppress(_Stop),
            ):
                call(self.model, batch)
            self._check_order([i for i, *_ in calls])
            self.hidden.append(self._offload.away(calls[0][1]))
            self._rest.append([(args, kwargs) for _, _, args, kwargs in calls])
        self._require(len(self.hidden))

    def after(self) -> None:
        """Run what comes after the blocks, on the last hidden states."""
        for _ in self.outputs():
            pass

    @torch.no_grad()
    def outputs(self) -> Iterator[Any]:
        """What the net returns for each batch, of the last hidden states."""
        count = len(self.blocks)
        for number, batch in enumerate(self._batches):
            if number == len(self.hidden):
                break
            final = self.hidden[number]()

            def output(i: int, given: Tensor, final: Tensor = final) -> Any:
                return self._outputs[i](final if i == count - 1 else given)

            with self._skipped(output, stop=False):
                returned = call(self.model, batch)
            yield returned

    def run(self, module: Callable[..., Any], block: int, number: int) -> Tensor:
        """The output of a block for a batch."""
        args, kwargs = self._rest[number][block]
        found = module(self.hidden[number](), *args, **kwargs)
        return found[0] if isinstance(found, tuple) else found

    @torch.no_grad()
    def advance(self, block: int) -> None:
        """Pass all hidden states through a block."""
        for number in range(len(self.hidden)):
            output = self.run(self.blocks[block], block, number)
            self.hidden[number] = self._offload.away(output)

    # --- private

    def _require(self, count: int) -> None:
        if not count:
            raise ValueError(
                "calibrate: batches is empty in some pass; give at least one batch of inputs"
            )
        if self.hidden and count < len(self.hidden):
            raise ValueError(
                f"calibrate: batches gave {count} in this pass, {len(self.hidden)} before"
            )

    @torch.no_grad()
    def check(self) -> None:
        """Run the net on one batch, and check that each block takes the output of the one
        before."""
        batch = next(iter(self._batches), None)
        self._require(batch is not None)
        taken: list[tuple[int, Tensor]] = []
        given: list[Any] = []
        with ExitStack() as stack:
            for i, block in enumerate(self.blocks):

                def entered(_: nn.Module, args: Any, kwargs: Any, i: int = i) -> None:
                    taken.append((i, self._first(i, args, kwargs)))

                def left(_: nn.Module, args: Any, output: Any) -> None:
                    given.append(output)

                stack.callback(block.register_forward_pre_hook(entered, with_kwargs=True).remove)
                stack.callback(block.register_forward_hook(left).remove)
            call(self.model, batch)
        self._check_order([i for i, _ in taken])
        firsts = [output[0] if isinstance(output, tuple) else output for output in given]
        for i, (before, (_, after)) in enumerate(zip(firsts, taken[1:], strict=False)):
            same = isinstance(before, Tensor) and before.shape == after.shape
            if not same or not bool(torch.isclose(before, after, 0, 0, equal_nan=True).all()):
                raise ValueError(
                    f"calibrate: block {self.name(i + 1)!r} does not take the output of "
                    f"{self.name(i)!r}; give blocks that follow each other, or blocks=() for one "
                    "pass over the whole net"
                )
        self._outputs = [_like(output) for output in given]

    @contextmanager
    def _skipped(
        self, output: Callable[[int, Tensor], Any], stop: bool = True
    ) -> Iterator[list[tuple[int, Tensor, tuple[Any, ...], dict[str, Any]]]]:
        """Inside, the blocks compute nothing: what they are called with is listed."""
        calls: list[tuple[int, Tensor, tuple[Any, ...], dict[str, Any]]] = []
        forwards = [vars(block).get("forward") for block in self.blocks]
        try:
            for i, block in enumerate(self.blocks):

                def forward(*args: Any, i: int = i, **kwargs: Any) -> Any:
                    given = self._first(i, args, kwargs)
                    rest = {k: v for k, v in kwargs.items() if args or k != HIDDEN}
                    calls.append((i, given, args[1:], rest))
                    if stop and i == len(self.blocks) - 1:
                        raise _Stop
                    return output(i, given)

                block.forward = forward
            yield calls
        finally:
            for block, own in zip(self.blocks, forwards, strict=True):
                del block.forward
                if own is not None:
                    block.forward = own

    def _first(self, i: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        given = args[0] if args else kwargs.get(HIDDEN)
        if not isinstance(given, Tensor):
            raise ValueError(
                f"calibrate: block {self.name(i)!r} takes no tensor as its first argument"
            )
        return given

    def _check_order(self, order: Sequence[int]) -> None:
        if list(order) != list(range(len(self.blocks))):
            called = ", ".join(self.name(i) for i in order[:8])
            raise ValueError(
                f"calibrate: {len(self.blocks)} blocks must be called once each, in order; the net "
                f"calls {len(order)}: {called}"
            )


def _like(output: Any) -> Callable[[Tensor], Any]:
    """What makes an output of hidden states: themselves, or the first of a tuple."""
    if isinstance(output, tuple):
        return lambda hidden: (hidden, *output[1:])
    return lambda hidden: hidden
