"""The laws of a C step: each is a function of a case.

A set is checked by its membership, a cost by its formula, an optimum by points of the set that must
not beat it.
"""

import math
from collections.abc import Callable

import torch

import leco
from laws.case import (
    MU,
    Case,
    arrays,
    close,
    every_other,
    inputs,
    objective,
    raises,
    same,
    strange_strides,
    tensors,
)
from leco.coding.tensors import decode, encode


def law_input_untouched(case: Case) -> None:
    for x in every_other(case):
        before, theta = x.clone(), case.compress(x)
        assert torch.equal(x, before)
        kept = {name: field.clone() for name, field in tensors(theta).items()}
        case.compress(x + 0.1 * torch.randn_like(x), theta)
        assert all(torch.equal(field, kept[name]) for name, field in tensors(theta).items()), (
            "the warm start was changed"
        )


def law_own_memory(case: Case) -> None:
    for x in inputs(case):
        for name, field in tensors(case.compress(x)).items():
            assert (
                not field.numel()
                or field.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
            ), name


def law_dtype_kept(case: Case) -> None:
    for x in every_other(case):
        exact = objective(case, x, case.compress(x))
        for dtype in (torch.float32, torch.float64):
            theta = case.compress(x.to(dtype))
            assert theta.decompress().dtype == dtype
            assert all(
                field.dtype in (dtype, torch.bool, torch.uint8, torch.int32)
                for field in tensors(theta).values()
            )
            assert case.compress(x.to(dtype), theta).decompress().dtype == dtype
            assert objective(case, x, theta) <= exact * 1.001 + (1e-6 + case.slack) * float(
                x.square().sum()
            )


def law_device_kept(case: Case) -> None:
    for x in inputs(case):
        theta = case.compress(x.cuda())
        assert theta.decompress().is_cuda
        assert all(field.is_cuda for field in tensors(theta).values())
        reached = objective(case, x.cuda(), theta)
        assert reached <= objective(case, x, case.compress(x)) + (1e-9 + case.slack) * float(
            x.square().sum()
        )
        assert objective(case, x.cuda(), case.compress(x.cuda(), theta)) <= reached * (
            1 + 1e-9
        ) + 1e-12 * float(x.square().sum())


def law_deterministic(case: Case) -> None:
    for x in every_other(case):
        state = torch.get_rng_state()
        theta = case.compress(x)
        assert torch.equal(torch.get_rng_state(), state), "random numbers were drawn"
        assert same(theta, case.compress(x))
        assert same(case.compress(x, theta), case.compress(x, theta))


def law_strides_do_not_matter(case: Case) -> None:
    for x in every_other(case):
        delta = case.compress(x).decompress()
        for strange in strange_strides(x):
            assert close(case.compress(strange).decompress(), delta)
    if case.batch:  # ties, in an array of three dimensions or more
        ties = torch.randn(2, 3, *case.shape, dtype=torch.float64).round()
        delta = case.compress(ties).decompress()
        for strange in strange_strides(ties):
            assert close(case.compress(strange).decompress(), delta)


def law_half_precision_and_parameters(case: Case) -> None:
    for x in every_other(case):
        for dtype in (torch.bfloat16, torch.float16):
            theta = case.compress(torch.nn.Parameter(x.to(dtype)))
            for field in tensors(theta).values():
                assert not field.requires_grad
                assert field.dtype == dtype or not field.is_floating_point()
            assert theta.decompress().dtype == dtype
            assert case.compress(x.to(dtype), theta).decompress().dtype == dtype
        # what float32 gives, rounded
        full = case.compress(x.bfloat16().float())
        half = tensors(case.compress(x.bfloat16()))
        assert all(torch.equal(half[k], f.to(half[k].dtype)) for k, f in tensors(full).items())


def law_scale(case: Case) -> None:
    e = case.compression.scaling()
    for x in every_other(case):
        if e is None or not x.any():
            continue
        x = x.float() / 2.0 ** math.frexp(float(x.abs().max()))[1]  # below 1
        energy = float(x.double().square().sum())
        start = case.compress(x + 0.1 * x.std(correction=0) * torch.randn_like(x))
        for c in (2.0**-124, 2.0**124):  # as far as all floats of Theta are normal numbers
            for last in (None, start):
                here = case.compress(x, last)
                if not all(leaf.isfinite().all() for leaf in tensors(here.scaled(c)).values()):
                    continue
                there = case.compress(c * x, None if last is None else last.scaled(c), MU / c**e)
                delta = there.decompress().double() / c
                reached = objective(case, x.double(), here)
                found = MU / 2 * float((x - delta).square().sum()) + case.compression.price(there)
                allowed = 1e-3 * reached + (1e-5 + case.slack) * energy
                assert abs(found - reached) <= allowed, (c, found, reached)


def law_member(case: Case) -> None:
    for x in inputs(case):
        delta = case.compress(x).decompress()
        assert delta.shape == x.shape
        assert torch.isfinite(delta).all()
        assert case.member(delta)


def law_idempotent(case: Case) -> None:
    for x in inputs(case):
        theta = case.compress(x)
        delta = theta.decompress()
        again = case.compress(case.lift(delta), None if case.cold else theta).decompress()
        assert close(again, delta), (again - delta).abs().max()


def law_optimal(case: Case) -> None:
    for x in inputs(case):
        theta = case.compress(x)
        delta, reached = theta.decompress(), objective(case, x, theta)
        for _ in range(30):
            other = case.near(x, delta)
            least = MU / 2 * float((x - other).square().sum()) + case.cost(other)
            assert reached <= least * (1 + 1e-9) + (1e-12 + case.slack) * float(x.square().sum())


def law_price_is_the_cost(case: Case) -> None:
    for x in inputs(case):
        theta = case.compress(x)
        cost = case.cost(theta.decompress())
        assert abs(case.compression.price(theta) - cost) <= case.precision * (1 + cost)


def law_warm_start_is_never_worse(case: Case) -> None:
    for x in inputs(case):
        for noise in (0.01, 0.1, 1.0):
            start = case.compress(x + noise * x.std(correction=0) * torch.randn_like(x))
            assert objective(case, x, case.compress(x, start)) <= objective(case, x, start) * (
                1 + 1e-9
            ) + 1e-12 * float(x.square().sum())


def law_leading_dimensions_are_a_batch(case: Case) -> None:
    problems = [x for x in arrays(case) if x.shape == case.shape]
    rows = torch.stack(problems[:10]).unflatten(0, (2, 5))
    together = case.compress(rows).decompress()
    for row, delta in zip(rows.flatten(0, 1), together.flatten(0, 1), strict=True):
        alone = case.compress(row).decompress()
        assert close(delta, alone)


def law_nan_and_infinity_raise(case: Case) -> None:
    for value in (math.nan, math.inf, -math.inf):
        x = torch.randn(case.shape, dtype=torch.float64)
        x.view(-1)[len(x) // 2] = value
        raises(ValueError, lambda x=x: case.compress(x), "NaN or infinite")


def law_bits_are_the_bytes_written(case: Case) -> None:
    for x in inputs(case):
        theta = case.compress(x)
        written = 0
        for name, field in tensors(theta).items():
            try:
                payload, coding = encode(field)
            except ValueError as e:
                raise AssertionError(f"{name} can't be written") from e
            assert torch.equal(decode(payload, coding, field.shape, field.dtype), field)
            written += payload.numel()
        assert leco.bits(theta) == 8 * written


LAWS: dict[str, Callable[[Case], None]] = {
    name.removeprefix("law_"): law
    for name, law in list(globals().items())
    if name.startswith("law_")
}
if not torch.cuda.is_available():
    del LAWS["device_kept"]
