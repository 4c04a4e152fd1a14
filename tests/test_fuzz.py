"""Random compressions of random layers through random views, in every precision and memory layout.

Each is refused at construction, by an error that names the compression, or it is right.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from laws.case import Case, close, inputs, objective, same, tensors
from laws.cases import CASES
from torch import Tensor

import leco
from leco.coding.tensors import decode, encode
from leco.theta import THETAS
from leco.theta.tree import leaves, theta_from_state, theta_state, with_leaves
from leco.views import VIEWS

LAYERS = {
    "linear": (6, 8),
    "one output": (1, 12),
    "conv1d": (4, 6, 2),
    "conv2d": (4, 3, 2, 2),
    "embedding": (10, 4),
    "norm": (8,),
    "stacked": (2, 4, 6),
    "scalar": (),
}
VIEW = (
    leco.Vector(),
    leco.Rows(),
    leco.Groups(2),
    leco.Groups(8),
    leco.Kernel(),
    leco.Kernel((1, 0)),
    leco.Matrix(),
    leco.Matrix((0, 2)),
    leco.Subvectors(2),
    leco.Reshape((4, 12)),
    leco.Reshape((2, 3, 8)),
    leco.Blocks(),
)
DTYPES = (torch.float64, torch.float64, torch.float32, torch.bfloat16, torch.float16)
SAMPLES = 24  # of each case
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def values(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Ordinary numbers, ties, zeros, equal ones, very small and very large ones."""
    x = torch.randn(shape, dtype=torch.float64)
    kind = int(torch.randint(8, ()))
    if kind < 2:
        x = (2 * x).round()
    elif kind == 2:
        x = torch.zeros_like(x) if torch.rand(()) < 0.5 else torch.full_like(x, -0.7)
    elif kind == 3:
        x = x * 10.0 ** float(torch.randint(-4, 5, ()))
    elif kind == 4 and dtype != torch.float16:
        x = x * 10.0 ** float(torch.randint(-36, 37, ()))
    return x.to(dtype)


def laid_out(x: Tensor) -> Tensor:
    """The same numbers, in one of several memory layouts."""
    kind = int(torch.randint(6, ()))
    if kind == 0 and x.ndim > 1:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if kind == 1:
        return torch.stack([x, torch.full_like(x, torch.nan)], dim=-1)[..., 0]
    if kind == 2 and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if kind == 3 and x.ndim:
        return x[:1].expand(x.shape)
    return torch.nn.Parameter(x) if kind == 4 else x


def draw(case: Case) -> tuple[Any, list[Tensor]]:
    """A view, and the tensors of one or two layers."""
    view = VIEW[int(torch.randint(len(VIEW), ()))]
    name = list(LAYERS)[int(torch.randint(len(LAYERS), ()))]
    dtype = DTYPES[int(torch.randint(len(DTYPES), ()))]
    if "uneven" in case.name:  # scales beyond the range of half precision
        dtype = torch.float64
    count = 2 if torch.rand(()) < 0.2 else 1
    return view, [laid_out(values(LAYERS[name], dtype)) for _ in range(count)]


def refused(case: Case, view: Any, layers: list[Tensor]) -> bool:
    """Whether the layers are refused where a task is made of them."""
    message = ""
    try:
        shape = view.shape([layer.shape for layer in layers])
    except ValueError:
        return True
    try:
        case.compression.check(shape)
    except ValueError as error:
        message = str(error)
    named = re.findall(r"\w+(?=[=(])", repr(case.compression))  # it, or what it is made of
    assert not message or any(name in message for name in named)
    return bool(message)


def check_feasible(case: Case, theta: Any, dtype: torch.dtype) -> None:
    """Each problem of Delta(Theta), of the floats of Theta in float64, is in the set."""
    wide = (leaf.double() if leaf.is_floating_point() else leaf for leaf in leaves(theta))
    delta = with_leaves(theta, wide).decompress()
    if " ball " in case.name and dtype != torch.float64:  # rounding leaves a ball
        return
    if not case.batch and delta.ndim != len(case.shape):
        return
    for problem in delta.reshape(-1, *delta.shape[-len(case.shape) :]) if case.batch else [delta]:
        assert torch.isfinite(problem).all()
        assert case.member(problem)


def check_storage(theta: Any, compression: Any) -> None:
    """`leco.bits` counts what is written, and what is written or described comes back."""
    written = 0
    for field in tensors(theta).values():
        payload, coding = encode(field)
        assert torch.equal(decode(payload, coding, field.shape, field.dtype), field)
        written += payload.numel()
    assert leco.bits(theta) == 8 * written
    forms = (*THETAS, *getattr(compression, "forms", ()))
    views = (*VIEWS, *getattr(compression, "views", ()))
    assert same(theta_from_state(theta_state(theta), forms, torch.device("cpu"), views), theta)


def check_warm_start(case: Case, x: Tensor, dtype: torch.dtype) -> None:
    """From the Theta of another array, never worse than that."""
    wide = x.detach().double()
    noise = torch.randn(x.shape, dtype=torch.float64) * wide.std(correction=0)
    start = case.compress((wide + 0.3 * noise).to(dtype))
    before, after = (objective(case, wide, t) for t in (start, case.compress(x, start)))
    energy = float(wide.square().sum())
    assert after <= before * (1 + TOLERANCE[dtype]) + TOLERANCE[dtype] * 1e-3 * energy


def check(case: Case, view: Any, layers: list[Tensor]) -> None:
    x = view.forward(layers)
    dtype, kept = layers[0].dtype, [layer.detach().clone() for layer in layers]
    theta = case.compress(x)

    # the input is untouched; shape, dtype and device are kept
    assert all(torch.equal(a, b) for a, b in zip(layers, kept, strict=True))
    delta = theta.decompress()
    if not isinstance(x, Tensor):
        assert [d.shape for d in delta] == [layer.shape for layer in layers]
        assert all(torch.isfinite(d).all() and d.dtype == dtype for d in delta)
        return check_storage(theta, case.compression)
    assert (delta.shape, delta.dtype, delta.device) == (x.shape, dtype, x.device)
    assert not delta.requires_grad
    assert torch.isfinite(delta).all()
    parts = view.backward(delta, [layer.shape for layer in layers])
    assert [part.shape for part in parts] == [layer.shape for layer in layers]

    # in the set, its own compression, never worse than a warm start, written as it is
    check_feasible(case, theta, dtype)
    if case.idempotent and dtype == torch.float64 and case.shape == x.shape[-len(case.shape) :]:
        again = case.compress(case.lift(delta), None if case.cold else theta)
        assert close(again.decompress(), delta)
    if dtype in TOLERANCE:
        check_warm_start(case, x, dtype)
    return check_storage(theta, case.compression)


def samples(case: Case) -> Iterator[tuple[Any, list[Tensor]]]:
    torch.manual_seed(CASES.index(case))
    for _ in range(SAMPLES):
        yield draw(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_layer_is_refused_or_right(case):
    for n, (view, layers) in enumerate(samples(case)):
        if refused(case, view, layers):
            continue
        try:
            check(case, view, layers)
        except Exception as error:
            shapes = [tuple(layer.shape) for layer in layers]
            place = f"sample {n}: {case.compression}, {view}, {shapes}, {layers[0].dtype}"
            raise AssertionError(place) from error


def test_most_cases_meet_layers_that_they_take():
    taken = {c.name for c in CASES for view, layers in samples(c) if not refused(c, view, layers)}
    assert len(taken) > 0.85 * len(CASES)
    assert all(any(True for _ in inputs(case)) for case in CASES[:1])
