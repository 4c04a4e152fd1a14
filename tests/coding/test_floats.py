"""Lossless coding of floats, to the bit."""

import math

import pytest
import torch
from codings import quick, seeds
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from leco.coding import floats
from leco.coding.tensors import bits, decode, encode, size

FLOATS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def comes_back_to_the_bit(x: Tensor) -> int:
    payload, coding = encode(x)
    assert payload.dtype == torch.uint8
    assert 8 * len(payload) == bits(x) == 8 * size(x)
    assert len(payload) <= x.nbytes
    back = decode(payload, coding, x.shape, x.dtype)
    assert (back.dtype, back.shape, back.is_contiguous()) == (x.dtype, x.shape, True)
    assert torch.equal(back.view(FLOATS[x.dtype]), x.contiguous().view(FLOATS[x.dtype]))
    return len(payload)


@quick
@given(
    st.sampled_from(list(FLOATS)),
    st.lists(st.integers(0, 40), max_size=3),
    st.integers(0, 64),
    seeds,
)
def test_any_bits_of_floats_come_back(dtype, shape, zeros, seed):
    """Every pattern, NaN payloads among them; with the lower bits 0, as those of numbers that a
    shorter type holds."""
    generator = torch.Generator().manual_seed(seed)
    kind = FLOATS[dtype]
    x = torch.randint(
        torch.iinfo(kind).min, torch.iinfo(kind).max, shape, dtype=kind, generator=generator
    )
    comes_back_to_the_bit(
        (x >> zeros % (8 * dtype.itemsize) << zeros % (8 * dtype.itemsize)).view(dtype)
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_all_upper_bits_come_back_with_and_without_a_compiler(dtype, monkeypatch):
    upper = torch.cat([torch.arange(-(2**15), 2**15), torch.zeros(2**16, dtype=torch.int64)])
    x = (upper << 8 * dtype.itemsize - 16).to(FLOATS[dtype]).view(dtype)
    assert encode(x)[1]["name"] == "planes"
    comes_back_to_the_bit(x)
    monkeypatch.setattr(floats, "interleaved", lambda *_: None)
    comes_back_to_the_bit(x)


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_that_are_special_come_back(dtype):
    tiny = torch.finfo(dtype).smallest_normal
    special = torch.tensor(
        [math.nan, math.inf, -math.inf, -0.0, 0.0, tiny, -tiny / 2, torch.finfo(dtype).max, 1.0],
        dtype=torch.float64,
    ).to(dtype)
    assert comes_back_to_the_bit(special) == special.nbytes
    assert comes_back_to_the_bit(special.repeat(100)) < 520 * dtype.itemsize
    assert comes_back_to_the_bit(special[4]) == dtype.itemsize
    assert comes_back_to_the_bit(special[:0].view(0, 3)) == 0
    assert comes_back_to_the_bit(special.repeat(100).view(30, 30).T) < 520 * dtype.itemsize
    assert comes_back_to_the_bit(torch.full((100,), -0.3, dtype=dtype)) == 0


@pytest.mark.parametrize(
    ("dtype", "most"),
    [(torch.float16, 0.87), (torch.bfloat16, 0.67), (torch.float32, 0.84), (torch.float64, 0.90)],
)
def test_the_exponents_of_normal_numbers_are_coded(dtype, most):
    x = 0.05 * torch.randn(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.to(dtype)
    assert comes_back_to_the_bit(x) < most * x.nbytes
    assert [part[1]["name"] for part in encode(x).coding["parts"][-1:]] == ["entropy"]
    shorter = x.bfloat16().to(dtype)
    if dtype != torch.float16:
        assert comes_back_to_the_bit(shorter) < 1.12 * comes_back_to_the_bit(x.bfloat16())


def test_mantissas_are_left_as_they_are():
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    assert encode(x).coding["parts"][:3] == [[20_000, {"name": "digits", "base": 256}]] * 3
    noise = torch.randint(
        -(2**31), 2**31 - 1, (5000,), dtype=torch.int32, generator=torch.Generator().manual_seed(0)
    ).view(torch.float32)
    assert encode(noise).coding == {"name": "raw"}
    assert torch.equal(encode(noise).payload, noise.view(torch.uint8))


def test_floats_stay_readable():
    """Exponent, sign, mantissa: -1.5 is 127, 1, 1000000 in bfloat16; the lowest byte is the first
    plane."""
    coding = {
        "name": "planes",
        "parts": [
            [1, {"name": "digits", "base": 2, "least": 192}],
            [0, {"name": "digits", "base": 1, "least": 127}],
        ],
    }
    for dtype, low in (
        (torch.bfloat16, []),
        (torch.float32, [[0, {"name": "digits", "base": 1}]] * 2),
    ):
        planes = coding | {"parts": [*low, *coding["parts"]]}
        x = decode(torch.tensor([0b1010], dtype=torch.uint8), planes, torch.Size([4]), dtype)
        assert x.tolist() == [-1.5, -1.5078125, -1.5, -1.5078125]
    for dtype, values in (
        (torch.float16, [0, 0b01111110]),
        (torch.float64, [0, 0, 0, 0, 0, 0, 0b11111000, 0b01111111]),
    ):
        planes = coding | {
            "parts": [[0, {"name": "digits", "base": 1, "least": value}] for value in values]
        }
        assert decode(
            torch.zeros(0, dtype=torch.uint8), planes, torch.Size([2]), dtype
        ).tolist() == [-1.5, -1.5]
