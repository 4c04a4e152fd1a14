"""Measured time on this machine: of nets, and of their layers as they run in the net.

What is compared runs in turns, A B B A, so that other load on the machine meets all of it alike.
Ratios are of neighbours in time. The clock is that of torch.utils.benchmark, which waits for an
accelerator.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.benchmark import timer

from leco.layers.flops import evaluating
from leco.layers.inputs import Given, call

SAMPLE = 1e-3  # seconds that a sample takes at least: as many calls as that needs
MARGIN = 1.1  # two copies of one layer differ by up to 8 %: by where they lie in memory
T = TypeVar("T")


class Speed(NamedTuple):
    """Seconds `before` and `after` (medians), and how many times faster: `ratio`, the median of
    before / after over all rounds, between `low` and `high` (of order statistics: 99 % for 10
    rounds and more)."""

    before: float
    after: float
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Faster or slower if the ratio is 10 % off 1 and the whole interval says so, unclear if
        only the ratio does, else the same.

        >>> import leco
        >>> leco.measure.latency.Speed(3.0, 1.0, 3.0, 2.8, 3.1).verdict
        'faster 3.00x'
        >>> leco.measure.latency.Speed(1.0, 1.2, 0.8, 0.7, 1.2).verdict
        'unclear'
        """
        if 1 / MARGIN <= self.ratio <= MARGIN:
            return "the same"
        if self.low <= 1 <= self.high:
            return "unclear"
        return f"{'faster' if self.ratio > 1 else 'slower'} {self.ratio:.2f}x"


def speed(before: Sequence[float], after: Sequence[float]) -> Speed:
    """The `Speed` of samples that were taken in turns.

    >>> import leco
    >>> leco.measure.latency.speed([2.0, 4.0, 2.0], [1.0, 2.0, 1.0])
    Speed(before=2.0, after=1.0, ratio=2.0, low=2.0, high=2.0)
    """
    ratios = np.sort(np.divide(before, after))
    # the number of ratios below their true median is 3 standard deviations off at most
    half = math.ceil(1.5 * math.sqrt(len(ratios)))
    low, high = max(len(ratios) // 2 - half, 0), min((len(ratios) - 1) // 2 + half, len(ratios) - 1)
    return Speed(
        float(np.median(before)),
        float(np.median(after)),
        float(np.median(ratios)),
        float(ratios[low]),
        float(ratios[high]),
    )


def seconds(call: Callable[[], object]) -> float:
    start = timer()
    call()
    return timer() - start


def calls_for_a_sample(call: Callable[[], object]) -> int:
    """Return how many calls last `SAMPLE` seconds, after two calls to warm up."""
    for _ in range(2):
        call()
    return max(1, math.ceil(SAMPLE / max(seconds(call), SAMPLE / 1000)))


def sampler(call: Callable[[], object]) -> Callable[[], float]:
    """Samples of the seconds of a call: the median of as many calls as last `SAMPLE`, so that an
    interruption does not show."""
    number = calls_for_a_sample(call)
    return lambda: float(np.median([seconds(call) for _ in range(number)]))


def in_turns(measures: Sequence[Callable[[], T]], repeats: int) -> list[list[T]]:
    """What each of the measures gives, `repeats` times each, in turns: A B B A A B ..., so that
    none always comes first."""
    samples: list[list[T]] = [[] for _ in measures]
    for turn in range(repeats):
        for own, measure in list(zip(samples, measures, strict=True))[:: -1 if turn % 2 else 1]:
            own.append(measure())
    return samples


@contextmanager
def clocked(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, float]]:
    """Inside, the seconds of all calls of each layer add up in the dict; by forward hooks, which
    are gone afterwards."""
    total, started = dict[str, float](), dict[str, float]()

    def watch(name: str, layer: nn.Module) -> None:
        def enter(module: nn.Module, args: object) -> None:
            started[name] = timer()

        def leave(module: nn.Module, args: object, output: object) -> None:
            total[name] = total.get(name, 0.0) + timer() - started[name]

        # the layer's own hooks belong to its time: they may make its weight
        stack.callback(layer.register_forward_pre_hook(enter, prepend=True).remove)
        stack.callback(layer.register_forward_hook(leave).remove)

    with ExitStack() as stack:
        for name, layer in layers.items():
            watch(name, layer)
        yield total


def net_speed(before: nn.Module, after: nn.Module, inputs: Given, repeats: int) -> Speed:
    """Return the speed of two nets, in evaluation mode, on the same inputs."""
    with evaluating(before, after), torch.inference_mode():
        return speed(
            *in_turns(
                [sampler(lambda net=net: call(net, inputs)) for net in (before, after)], repeats
            )
        )


def layer_speeds(
    before: nn.Module,
    after: nn.Module,
    names: Sequence[str],
    inputs: Given,
    repeats: int,
) -> dict[str, Speed]:
    """Of those of the named layers that both nets call, as they run in their nets on the inputs
    that reach them there."""
    with ExitStack() as stack:
        stack.enter_context(evaluating(before, after))
        stack.enter_context(torch.inference_mode())
        clocks = [
            stack.enter_context(clocked({name: net.get_submodule(name) for name in names}))
            for net in (before, after)
        ]
        measures = [
            _layer_sampler(lambda net=net: call(net, inputs), clock)
            for net, clock in zip((before, after), clocks, strict=True)
        ]
        samples = in_turns(measures, repeats)
    called = [name for name in names if all(name in own[0] for own in samples)]
    return {name: speed(*([sample[name] for sample in own] for own in samples)) for name in called}


def _layer_sampler(
    call: Callable[[], object], clock: dict[str, float]
) -> Callable[[], dict[str, float]]:
    number = calls_for_a_sample(call)

    def sample() -> dict[str, float]:
        runs = []
        for _ in range(number):
            clock.clear()
            call()
            runs.append(dict(clock))
        return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}

    return sample
