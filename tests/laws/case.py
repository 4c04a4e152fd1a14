"""A case of the laws, the arrays that every law tries, and what laws compare."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from leco.compressions import codebooks, cp, quantization, train, tucker
from leco.compressions.protocol import check_metric

MU = 0.7


@dataclass(frozen=True)
class Case:
    """A compression, and what is known of it independently. All functions are of one problem, not
    of a batch."""

    name: str
    compression: Any
    near: Callable[[Tensor, Tensor], Tensor]  # near(x, Delta) is a random point of the set
    member: Callable[[Tensor], bool] = lambda delta: True
    cost: Callable[[Tensor], float] = lambda delta: 0.0  # alpha C as a function of Delta
    # an x whose C step must give Delta back: Delta + (gradient of alpha C)/mu
    lift: Callable[[Tensor], Tensor] = lambda delta: delta
    shape: tuple[int, ...] = (24,)
    batch: bool = True
    idempotent: bool = True
    cold: bool = True  # idempotent with no warm start
    descent: bool = False  # take the way of big arrays, which is not exact
    # how much higher than a random point of the set a descent step may end, as a share of ||x||^2
    slack: float = 0.0
    precision: float = 1e-9  # of the price
    in_metric: float = 0.0  # slack in a metric, where the C step is a descent step there only
    slow: bool = False  # laws try every other one of the arrays

    @property
    def metric_slack(self) -> float:
        return max(self.slack, self.in_metric)

    def compress(self, x: Tensor, theta: Any = None, mu: Any = MU) -> Any:
        with self.ways():
            return self.compression.compress(x, mu, theta)

    @contextmanager
    def ways(self) -> Iterator[None]:
        """Inside, C steps go the way of big arrays, and descend in a few sweeps."""
        exact_work = 0 if self.descent else quantization.EXACT_WORK
        with (
            mock.patch.object(codebooks, "EXACT_WORK", exact_work),
            mock.patch.object(quantization, "EXACT_WORK", exact_work),
            mock.patch.object(cp, "SWEEPS", 10),
            mock.patch.object(train, "SWEEPS", 10),
            mock.patch.object(tucker, "SWEEPS", 10),
        ):
            yield

    def takes_metric(self) -> bool:
        try:
            check_metric(self.compression, torch.Size(self.shape))
        except ValueError:
            return False
        return True

    def takes(self, shape: tuple[int, ...]) -> bool:
        try:
            self.compression.check(torch.Size(shape))
        except ValueError:
            return False
        return True


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * (1 + b.abs().max()))


def inputs(case: Case) -> Iterator[Tensor]:
    """The arrays that laws try; for slow cases every other one."""
    return every_other(case) if case.slow else arrays(case)


def every_other(case: Case) -> Iterator[Tensor]:
    """Every other one of the arrays, and each of another shape than the case's."""
    return (x for k, x in enumerate(arrays(case)) if k % 2 == 0 or x.shape != case.shape)


def arrays(case: Case) -> Iterator[Tensor]:
    x = torch.randn(case.shape, dtype=torch.float64)
    yield x
    yield from (1e-6 * x, 50 * x, -x.abs(), x + 3)
    yield (2 * x).round()  # ties
    yield x.sign()
    yield torch.ones_like(x)
    yield torch.zeros_like(x)
    yield torch.where(x.abs() < 1, 0.0, x)
    yield case.compress(x).decompress()  # in the set already
    yield case.compress(x).decompress() * 0.5
    ones = (1,) * len(case.shape)
    if case.takes(ones):
        yield from (x.reshape(-1)[:1].reshape(ones), torch.zeros(ones, dtype=x.dtype))


def objective(case: Case, x: Tensor, theta: Any) -> float:
    return MU / 2 * float((x - theta.decompress()).square().sum()) + case.compression.price(theta)


def tensors(field: Any, path: str = "theta") -> dict[str, Tensor]:
    """All tensors of a Theta, those of the Thetas in it included."""
    if isinstance(field, Tensor):
        return {path: field}
    members = (
        zip(field._fields, field, strict=True)
        if hasattr(field, "_fields")
        else enumerate(field)
        if isinstance(field, tuple)
        else ()
    )
    return {
        place: tensor
        for name, member in members
        for place, tensor in tensors(member, f"{path}.{name}").items()
    }


def same(one: Any, other: Any) -> bool:
    a, b = tensors(one), tensors(other)
    return (
        type(one) is type(other)
        and a.keys() == b.keys()
        and all(torch.equal(a[name], b[name]) for name in a)
    )


def raises(error: type[Exception], call: Callable[[], Any], *words: str) -> None:
    """`pytest.raises`, as an assertion that `broken.py` can be seen to fail."""
    try:
        call()
    except error as e:
        message = str(e)
    else:
        raise AssertionError(f"nothing raised {error.__name__}")
    assert all(word in message for word in words), f"{message!r} does not name {words}"


def strange_strides(x: Tensor) -> Iterator[Tensor]:
    """x with other strides: with gaps, with its dimensions in another order in memory."""
    yield torch.stack([x, torch.full_like(x, torch.nan)], dim=-1)[..., 0]
    yield torch.stack([x, x + 1], dim=-1)[..., 0].transpose(0, -1).contiguous().transpose(0, -1)
    order = list(reversed(range(x.ndim)))
    yield x.permute(order).contiguous().permute(order)
    if x.ndim == 4:
        yield x.contiguous(memory_format=torch.channels_last)
