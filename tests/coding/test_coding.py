"""Lossless coding of integers and masks: what is read is what was written, the size is the length,
and damage is noticed."""

import math

import pytest
import torch
from codings import comes_back, digits, quick, seeds, sparse_mask
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import leco
from leco.coding.tensors import bits, decode, encode, size


@pytest.mark.parametrize("base", range(1, 301))
def test_every_base_comes_back(base):
    for count in (1, 7, 8, 9, 61):
        for dtype in (
            (torch.uint8, torch.int32, torch.int64) if base <= 256 else (torch.int32, torch.int64)
        ):
            comes_back(digits(base, (count,), base + count, dtype))


@quick
@given(st.integers(1, 300), st.lists(st.integers(0, 6), max_size=3), seeds)
def test_every_shape_comes_back(base, shape, seed):
    comes_back(digits(base, shape, seed, torch.int32))


@pytest.mark.parametrize("base", [257, 1000, 65535, 65536, 65537, 2**20])
def test_wide_integers_come_back(base):
    x = digits(base, (1000,), 0, torch.int32)
    x[1] = 0
    assert comes_back(x) == (base - 1).bit_length() * 125


def test_a_number_without_dimensions_comes_back():
    assert comes_back(torch.tensor(128, dtype=torch.uint8)) == 0
    assert comes_back(torch.tensor(True)) == 1
    assert comes_back(torch.tensor(0, dtype=torch.uint8)) == 0


@pytest.mark.parametrize(
    ("base", "length"),
    [
        (1, 0),
        (2, 125),
        (3, 200),
        (4, 250),
        (5, 298),
        (6, 332),
        (7, 361),
        (16, 500),
        (17, 530),
        (256, 1000),
    ],
)
def test_bytes_of_1000_integers(base, length):
    """5 ternary digits to a byte (3^5 = 243), 3 of base 5 or 6, unless frequencies are shorter."""
    assert comes_back(digits(base, (1000,), 0, torch.uint8)) == length


@pytest.mark.parametrize("base", range(2, 257))
def test_no_base_takes_more_than_its_width_or_less_than_its_entropy(base):
    n = 800
    assert (
        n * math.log2(base) / 8 - 1e-6
        <= comes_back(digits(base, (n,), 0, torch.uint8))
        <= (base - 1).bit_length() * n // 8
    )


@quick
@given(st.integers(0, 3000), st.floats(0, 1), seeds)
def test_masks_of_every_density_come_back(count, density, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(count, generator=generator) < density**4  # sparse ones often
    assert comes_back(mask) <= -(-count // 8)
    assert comes_back(~mask) <= -(-count // 8)


@quick
@given(st.lists(st.booleans(), max_size=40))
def test_short_masks_come_back(values):
    comes_back(torch.tensor(values, dtype=torch.bool))


@pytest.mark.parametrize(
    "positions",
    [[], [0], [99_999], [0, 99_999], [3, 4, 5], [50_000], list(range(0, 100_000, 1000))],
)
def test_sparse_masks_come_back_from_few_bytes(positions):
    mask = torch.zeros(100_000, dtype=torch.bool)
    mask[positions] = True
    assert comes_back(mask) <= (16 + 2 * len(positions)) * bool(positions)
    assert comes_back(mask.view(100, 1000)) <= comes_back(mask)


def test_masks_of_one_percent_take_near_their_entropy():
    n, p = 200_000, 0.01
    length = comes_back(torch.rand(n) < p)
    entropy = -n * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8
    assert entropy * 0.95 < length < entropy * 1.15


@pytest.mark.parametrize("width", range(1, 8))
def test_gaps_that_need_escapes_come_back(width):
    """Gaps of 2^w - 2, one symbol, and of 2^w - 1, an escape and a 0, for the w that most of them
    choose."""
    gaps = torch.tensor(
        [2**width - 2] * 40
        + [2**width - 1, 2 * (2**width - 1), 2 * (2**width - 1) + 1, 0] * 2
        + [5 * 2**width]
    )
    mask = torch.zeros(int(gaps.sum()) + len(gaps) + 3000, dtype=torch.bool)
    mask[gaps.cumsum(0) + torch.arange(len(gaps))] = True
    assert mask.sum() == len(gaps)
    assert encode(mask).coding["name"] == "gaps"
    comes_back(mask)


ENCODED = [
    *(digits(base, (37,), 0, torch.int32) for base in (1, 2, 3, 4, 6, 11, 200, 300)),
    torch.rand(50, generator=torch.Generator().manual_seed(0)) < 0.5,
    sparse_mask(),
]


@pytest.mark.parametrize("x", ENCODED, ids=lambda x: f"{x.dtype} below {int(x.max()) + 1}")
def test_a_payload_of_another_length_raises(x):
    payload, coding = encode(x)
    longer = torch.cat([payload, payload.new_zeros(1)])
    for damaged in [longer, *([payload[:-1], payload[:0]] if len(payload) else [])]:
        with pytest.raises(ValueError, match=f"^{len(damaged)} bytes do not hold"):
            decode(damaged, coding, x.shape, x.dtype)


def test_another_shape_raises():
    payload, coding = encode(digits(3, (100,), 0, torch.uint8))
    with pytest.raises(ValueError, match="20 bytes do not hold 101 integers below 3"):
        decode(payload, coding, torch.Size([101]), torch.uint8)


@pytest.mark.parametrize("base", [0, -3])
def test_a_base_below_1_raises(base):
    with pytest.raises(ValueError, match="do not hold"):
        decode(
            torch.zeros(0, dtype=torch.uint8),
            {"name": "digits", "base": base},
            torch.Size([0]),
            torch.uint8,
        )


def test_a_position_beyond_the_end_raises():
    payload, coding = encode(sparse_mask())
    assert decode(payload, coding, torch.Size([100_001]), torch.bool).sum() == 100
    with pytest.raises(ValueError, match="of 9999: gap-coded, it names position 9999"):
        decode(payload, coding, torch.Size([9999]), torch.bool)


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        ({"name": "zip"}, torch.bool),
        ({"width": 0}, torch.bool),
        ({"width": 17}, torch.bool),
        ({"more": 1}, torch.bool),
        ({}, torch.uint8),
    ],
    ids=str,
)
def test_an_unknown_coding_raises(change, dtype):
    payload, coding = encode(sparse_mask())
    with pytest.raises(ValueError, match=r"unknown coding|whole number from"):
        decode(payload, coding | change, torch.Size([100_000]), dtype)


def test_bits_of_a_theta():
    """10 ternary digits in 2 bytes, 3 values and a scale of 8 bytes each; a mask of 16 in 2 bytes,
    its kept values of 4; ints are free."""
    assert bits(leco.Ternary().compress(torch.arange(10, dtype=torch.float64), 1.0)) == 8 * (
        2 + 3 * 8 + 8
    )
    assert bits(leco.TopK(8).compress(torch.arange(16.0) % 2, 1.0)) == 8 * (2 + 8 * 4)
    kernel = torch.zeros(6, 5, 3, 3)
    assert bits(leco.ConvRankSelection(1.0).compress(kernel, 1.0)) == 0
    assert bits(leco.LowRank(2).compress(torch.randn(7, 5), 1.0)) == 32 * 2 * (7 + 5)
    assert size(torch.zeros(3, 4, dtype=torch.float16)) == 24


@pytest.mark.parametrize("count", [10_001, 300_000])
@pytest.mark.parametrize(
    "odds",
    [(1, 1), (9, 1), (99, 1), (9999, 1), (500, 3, 2, 1), tuple(range(1, 17)), (100000, *[1] * 15)],
)
def test_long_streams_take_their_entropy_and_a_table(odds, count):
    """Less than 0.1 %, a byte for each symbol of the alphabet, and 6: within 1 % from some 2 kB
    on."""
    share = torch.tensor(odds, dtype=torch.float64) / sum(odds)
    x = torch.multinomial(
        share, count, replacement=True, generator=torch.Generator().manual_seed(0)
    ).to(torch.uint8)
    found = torch.bincount(x.long()).double() / len(x)
    entropy = -float(torch.xlogy(found, found).sum()) / math.log(2) * len(x) / 8
    length = comes_back(x)
    assert entropy - 1 <= length <= 1.001 * entropy + len(odds) + 6
    assert length <= 1.01 * entropy or entropy < 2200


def coded_stream() -> tuple[Tensor, Tensor, dict]:
    x = (torch.arange(5000) % 50 == 0).to(torch.uint8)
    payload, coding = encode(x)
    assert coding == {"name": "entropy", "base": 2}
    return x, payload, coding


def test_a_damaged_table_or_length_of_a_range_coder_raises():
    x, payload, coding = coded_stream()
    for damaged in (
        payload[:2],
        payload[:1],
        payload[:0],
        torch.cat([payload, payload.new_zeros(2)]),
        payload * 0,
    ):
        with pytest.raises(ValueError, match="do not hold a table"):
            decode(damaged, coding, x.shape, x.dtype)
    for base in (0, -2, 2**40, True, 2.0, "2", None, [2]):
        with pytest.raises(ValueError, match=r"base is to be a whole number from 1 to 256"):
            decode(payload, coding | {"base": base}, x.shape, x.dtype)
    for base in (1, 3, 4, 100, 256):
        with pytest.raises(ValueError, match="hold"):
            decode(payload, coding | {"base": base}, x.shape, x.dtype)
    for least in (-1, 255, 2**70, 1.0, True, None):
        with pytest.raises(ValueError, match="least is to be a whole number from 0 to 254"):
            decode(payload, coding | {"least": least}, x.shape, x.dtype)
    for place in range(len(payload)):
        wrong = payload.clone()
        wrong[place] ^= 1
        with pytest.raises(ValueError, match="hold"):
            decode(wrong, coding, x.shape, x.dtype)


def test_words_left_over_raise():
    x, payload, coding = coded_stream()
    for count in (0, 1, 1000, 4999, 5001):
        with pytest.raises(ValueError, match="more or fewer than"):
            decode(payload, coding, torch.Size([count]), x.dtype)


def test_the_widest_integers_come_back():
    x = torch.tensor([0, 2**31, 2**40 + 3], dtype=torch.int64)
    coded = encode(x)
    assert torch.equal(decode(coded.payload, coded.coding, x.shape, x.dtype), x)


def test_a_negative_number_of_symbols_is_refused():
    empty = torch.zeros(0, dtype=torch.uint8)
    with pytest.raises(ValueError, match="symbols is to be"):
        decode(empty, {"name": "gaps", "width": 1, "symbols": -1}, torch.Size([4]), torch.bool)


@quick
@given(
    st.sampled_from([torch.int8, torch.int16, torch.int32, torch.int64]),
    st.integers(0, 63),
    st.integers(0, 400),
    seeds,
)
def test_integers_of_any_sign_and_size_come_back(dtype, width, count, seed):
    info, generator = torch.iinfo(dtype), torch.Generator().manual_seed(seed)
    x = torch.randint(-(2 ** min(width, 62)), 2 ** min(width, 62), (count,), generator=generator)
    if width == 63 and count:
        x[0], x[-1] = -(2**63), 2**63 - 1
    x = x.clamp(info.min, info.max).to(dtype)
    assert comes_back(x) <= x.nbytes


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]
)
def test_integers_that_are_all_the_same_take_nothing(dtype):
    for value in {0, 1, 100, -128, 127, torch.iinfo(dtype).max} if dtype != torch.bool else {0, 1}:
        if dtype == torch.bool or torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max:
            assert comes_back(torch.full((2, 1000), value, dtype=dtype)) == 0


def test_large_values_far_from_zero_take_the_bytes_of_their_differences():
    x = digits(4, (1000,), 0, torch.int64)
    for shift in (-(2**63), -1, 10**6, 2**63 - 4):
        assert comes_back(x + shift) == comes_back(x) == 250
    assert comes_back(torch.tensor([-(2**63), 2**63 - 1] * 8)) == 128


def test_types_that_are_not_coded_are_refused():
    for dtype in (torch.complex64, torch.uint16, torch.float8_e4m3fn):
        with pytest.raises(ValueError, match="can't be coded"):
            encode(torch.zeros(3).to(dtype))
        with pytest.raises(ValueError, match="can have been coded"):
            decode(
                torch.zeros(0, dtype=torch.uint8),
                {"name": "digits", "base": 1},
                torch.Size([3]),
                dtype,
            )


def test_more_symbols_than_the_bytes_can_hold_take_no_memory():
    x, payload, coding = coded_stream()
    for count in (2**62, 2**40, 10**6):
        with pytest.raises(ValueError, match=f"do not hold {count} symbols"):
            decode(payload, coding, torch.Size([count]), x.dtype)


@pytest.mark.parametrize("value", [1, 3, 200])
def test_streams_of_almost_one_value_come_back(value):
    x = torch.full((10**6,), value, dtype=torch.uint8)
    for others in (0, 1, 5):
        x[:others] = 0
        assert comes_back(x) < 1000
