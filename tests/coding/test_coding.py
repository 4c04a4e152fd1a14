"""Lossless coding: what is read is what was written, the size is the length, and damage is
noticed."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import leco
from leco.coding.contexts import PlaceLengths, position_bits, probabilities, row_classes
from leco.coding.matrices import encode_rows
from leco.coding.tensors import DTYPES, bits, decode, encode, size

quick = settings(max_examples=80, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def comes_back(x: Tensor) -> int:
    """The bytes it took, after all checks."""
    payload, coding = encode(x)
    assert payload.dtype == torch.uint8
    assert payload.dim() == 1
    assert size(x) == len(payload)
    back = decode(payload, coding, x.shape, x.dtype)
    assert back.dtype == x.dtype
    assert torch.equal(back, x)
    return len(payload)


def digits(base: int, shape, seed: int, dtype: torch.dtype) -> Tensor:
    """Random integers below `base`, with base - 1 among them."""
    x = torch.randint(base, shape, generator=torch.Generator().manual_seed(seed))
    if x.numel():
        x.view(-1)[seed % x.numel()] = base - 1
    return x.to(dtype)


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


def sparse_mask() -> Tensor:
    """100 True entries at equal distances, the last at 9999."""
    mask = torch.zeros(100_000, dtype=torch.bool)
    mask[99:10_000:100] = True
    return mask


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


# --- sparse matrices by rows and columns


def sparse(m: int, n: int, share: float, seed: int) -> Tensor:
    """Random rows and columns of a random matrix have entries, of 1 to 5."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.rand(k, generator=generator) for k in (m, n))
    return (
        torch.rand(m, n, generator=generator) < 4 * share * rows.square().unsqueeze(1) * columns
    ).int() * torch.randint(1, 6, (m, n), generator=generator)


@quick
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0, 1),
    st.sampled_from([torch.bool, torch.uint8, torch.int32]),
    seeds,
)
def test_sparse_matrices_come_back(m, n, share, dtype, seed):
    x = sparse(m, n, share**2, seed).to(dtype)
    coded = encode_rows(x)
    assert coded is None or 0 < 2 * int(x.count_nonzero()) <= x.numel()
    if coded is not None:
        assert torch.equal(decode(*coded, x.shape, x.dtype), x)
    comes_back(x)


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (300, 200), (200, 300)])
def test_structure_is_coded_in_few_bytes_either_way_round(shape):
    rows, columns = torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.uint8)
    rows[:: max(1, shape[0] // 3)], columns[:, :: max(1, shape[1] // 3)] = 3, 3
    for x in (rows, columns, rows * 0):
        assert comes_back(x) == comes_back(x.T)
        assert (
            comes_back(x) < 0.3 * comes_back(x.flatten())
            or comes_back(x) == comes_back(x.flatten())
            or min(shape) == 1
        )
    if min(shape) > 1:
        assert encode(rows).coding["name"] == "rows"
        assert {encode(rows).coding["transposed"], encode(rows.T).coding["transposed"]} == {0, 1}


def test_bytes_of_positions_are_the_bits_of_the_model():
    for seed in range(3):
        x = sparse(400, 300, 0.1, seed).bool()
        coded = encode_rows(x)
        model = min(float(position_bits(x)), float(position_bits(x.T)))
        # the classes' table
        assert 0.999 * model < 8 * len(coded.payload) < 1.01 * model + 64 + 8 * 32


@pytest.mark.parametrize(("m", "n"), [(1, 9), (9, 1), (7, 12), (30, 20)])
def test_position_bits_are_those_of_a_loop_over_the_entries(m, n):
    for seed in range(4):
        x = sparse(m, n, 0.2, seed) != 0
        classes = [sum(row).bit_length() for row in x.tolist()]
        expected = sum(math.log2(m / classes.count(b)) for b in classes)
        above = [0] * n
        for row, b in zip(x.tolist(), classes, strict=True):
            for j in range(n if b else 0):
                share = 1.5 * 2 ** (b - 1) - 0.5
                p = min(
                    max(
                        share * (5 * above[j] + 2) / sum(5 * count + 2 for count in above),
                        1 / 65536,
                    ),
                    61440 / 65536,
                )
                expected -= math.log2(p if row[j] else 1 - p)
            above = [count + entry for count, entry in zip(above, row, strict=True)]
        assert float(position_bits(x)) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_classes_and_probabilities_are_what_files_were_written_with():
    counts = torch.tensor([0, 1, 2, 3, 4, 7, 8, 15, 16, 255, 256, 2**20])
    assert row_classes(counts).tolist() == [0, 1, 2, 2, 3, 3, 4, 4, 5, 8, 9, 21]
    above = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 2, 0], [3, 2, 0]])
    p = probabilities(torch.tensor([1, 2, 3, 5]), above)
    assert p.dtype == torch.int64
    assert p.tolist() == [
        [21845, 21845, 21845],
        [61440, 29789, 29789],
        [61440, 61440, 34328],
        [61440, 61440, 61440],
    ]
    assert probabilities(torch.tensor([1]), torch.tensor([[10**6] * 10, [0, *[10**6] * 9]])[1:])[
        0
    ].tolist() == [1, *[7281] * 9]


def test_place_lengths_are_the_log_odds_of_rows_times_columns():
    x = sparse(8, 6, 0.3, 0) != 0
    lengths = PlaceLengths(x)
    rows, columns = x.sum(1).double() + 0.5, x.sum(0).double() + 0.5
    p = (rows.unsqueeze(1) * columns / rows.sum()).clamp(1 / 65536, 0.5)
    found = lengths.at(torch.arange(48)).view(8, 6).double()
    assert torch.allclose(found, ((1 - p) / p).log2(), rtol=1e-5, atol=1e-5)
    assert lengths.least == pytest.approx(float(found.min()), abs=1e-5)


PINNED = [
    (
        torch.tensor(
            [[(i == 3 and j < 15) + 2 * (i in (20, 21)) for j in range(30)] for i in range(40)],
            dtype=torch.uint8,
        ),
        {
            "name": "rows",
            "transposed": 0,
            "parts": [
                [12, {"name": "entropy", "base": 6}],
                [12, {}],
                [10, {"name": "digits", "base": 2}],
            ],
        },
        "ff000000abbb34111369ff02" + "7ef6ffff0c11784037c3c8e6" + "0080ffffffffffffff07",
    ),
    (
        (torch.arange(400) ** 2 // 7 % 11 % 3 * (torch.arange(400) % 9 == 0)).to(torch.uint8),
        {"name": "entropy", "base": 3},
        "ffadb3" + "a6a2cd8da391020ddcfc562acfc65308a5ab755414e58e",
    ),
]


@pytest.mark.parametrize(("x", "coding", "payload"), PINNED, ids=["rows", "entropy"])
def test_files_stay_readable(x, coding, payload):
    stored = torch.tensor(list(bytes.fromhex(payload)), dtype=torch.uint8)
    assert torch.equal(decode(stored, coding, x.shape, x.dtype), x)
    assert encode(x).coding == coding
    assert torch.equal(encode(x).payload, stored)


def damaged(coding: dict, place: tuple, value) -> dict:
    """A copy with one entry changed."""
    copied = json.loads(json.dumps(coding))
    inner = copied
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copied


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("transposed",), 1),
        (("parts", 0, 0), 13),
        (("parts", 0, 0), -1),
        (("parts", 1, 0), 11),
        (("parts",), []),
        (("parts",), None),
        (("parts", 2), 5),
        (("parts", 2, 1), {}),
        (("parts", 0, 1, "base"), 7),
        (("parts", 0, 1, "base"), "6"),
        (("parts", 2, 1, "base"), None),
    ],
    ids=str,
)
def test_damaged_parts_of_a_sparse_matrix_raise(place, value):
    x, coding, _ = PINNED[0]
    payload = encode(x).payload
    with pytest.raises(ValueError, match=r"hold|unknown coding"):
        decode(payload, damaged(coding, place, value), x.shape, x.dtype)


def test_a_sparse_matrix_of_another_shape_raises():
    x, coding, _ = PINNED[0]
    payload = encode(x).payload
    for shape in ((40, 31), (39, 30), (2**40, 2**20), (0, 30), (40, 0)):
        with pytest.raises(ValueError, match="hold"):
            decode(payload, coding, torch.Size(shape), x.dtype)
    with pytest.raises(ValueError, match="unknown coding"):
        decode(payload, coding, torch.Size([40, 30, 1]), x.dtype)
    for cut in (payload[:-1], payload[:0], torch.cat([payload, payload[:1]])):
        with pytest.raises(ValueError, match="do not hold 3 parts"):
            decode(cut, coding, x.shape, x.dtype)


@pytest.mark.parametrize("number", range(2))
def test_damaged_bytes_give_another_tensor_or_raise(number):
    """Nothing but ValueError, whatever the bytes: a reader need not fear a panic of the coder."""
    x, coding, _ = PINNED[number]
    payload, refused = encode(x).payload, 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        wrong = payload.clone()
        places = torch.randint(len(wrong), (4,), generator=generator)
        wrong[places] = torch.randint(256, (4,), dtype=torch.uint8, generator=generator)
        try:
            assert decode(wrong, coding, x.shape, x.dtype).shape == x.shape
        except ValueError:
            refused += 1
    assert refused > 100


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


# --- negative and wide integers


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


# --- floats

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


# --- whatever a file says


def examples() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, generator=generator)
    return [
        torch.randint(-5, 5, (50,), generator=generator),
        torch.randint(300, (50,), generator=generator),
        (torch.arange(3000) % 50 == 0).to(torch.int8) - 3,
        sparse_mask()[:10_000],
        PINNED[0][0],
        noise,
        noise.half().double().view(3, 100),
        torch.tensor([2**63 - 1, -(2**63)]),
        kernels(3, 300),
    ]


def kernels(base: int, count: int) -> Tensor:
    """3 x 3 kernels whose rows are mostly of one value each, as those of trained nets almost
    are."""
    generator = torch.Generator().manual_seed(base)
    rows = torch.randint(base, (count, 3, 1), generator=generator).expand(-1, -1, 3)
    noise = torch.rand(count, 3, 3, generator=generator) < 0.05
    return torch.where(noise, torch.randint(base, rows.shape, generator=generator), rows).to(
        torch.uint8
    )


@pytest.mark.parametrize("base", [2, 3, 4, 16])
def test_neighbours_that_are_alike_take_less_than_their_entropy(base):
    x = kernels(base, 3000)
    assert comes_back(x) < 0.76 * x.numel() * math.log2(base) / 8
    assert encode(x).coding["group"] > 1
    for cut in range(1, 10):  # digits behind the last
        comes_back(x.view(-1)[:-cut])


def test_one_symbol_of_several_digits_is_the_first_digit_lowest_and_no_others_follow():
    x = kernels(2, 300).view(-1)
    payload, coding = encode(x)
    group = coding["group"]
    joined = (x.view(-1, group).long() * 2 ** torch.arange(group)).sum(1).to(torch.int32)
    assert torch.equal(
        decode(payload, {"name": "entropy", "base": 2**group}, joined.shape, joined.dtype), joined
    )
    with pytest.raises(ValueError, match="more than 4096 symbols"):
        decode(payload, coding | {"base": 100}, x.shape, torch.int32)
    ones = torch.ones(3000, dtype=torch.uint8).index_fill(0, torch.arange(0, 3000, 30), 0)
    ones[-1] = 1
    payload, coding = encode(ones)
    assert coding["group"] > 1
    with pytest.raises(ValueError, match="there are more"):
        decode(payload, coding, torch.Size([2999]), torch.uint8)


JUNK = (
    True,
    None,
    -1,
    0,
    1,
    2,
    7,
    255,
    4097,
    2**31,
    2**63,
    2**64,
    10**400,
    0.5,
    math.nan,
    "2",
    "rows",
    "gaps",
    "planes",
    [],
    {},
    [[]],
    [1, {}],
)


def places(node, at: tuple = ()) -> list[tuple]:
    inner = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else []
    )
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


@pytest.mark.parametrize("number", range(9))
def test_any_value_at_any_place_of_a_description_raises_value_error(number):
    """But for other integers that the bytes agree with."""
    x = examples()[number]
    payload, coding = encode(x)
    for place in places(coding):
        for value in JUNK:
            wrong = damaged(coding, place, value) if place else value
            if type(value) is int and place[-1:] in [("least",), ("base",), ("width",), ("group",)]:
                try:
                    assert decode(payload, wrong, x.shape, x.dtype).shape == x.shape
                except ValueError:
                    continue
            elif wrong != coding or type(value) is bool:
                with pytest.raises(ValueError, match=r"\w"):
                    decode(payload, wrong, x.shape, x.dtype)


@pytest.mark.parametrize("number", range(9))
def test_another_shape_type_or_length_raises_value_error(number):
    x = examples()[number]
    payload, coding = encode(x)
    shapes = [(0,), (1,), (), (-1, x.numel()), (2**40, 2**20), (2**62,), (2**62,) * 20]
    # a mask may end in as many False entries
    for shape in shapes if coding["name"] != "gaps" else shapes[:4]:
        with pytest.raises(ValueError, match=r"\w"):
            decode(payload, coding, torch.Size(shape), x.dtype)
    with pytest.raises(ValueError, match="can have been coded"):
        decode(payload, coding, torch.Size((-1, -x.numel())), x.dtype)
    with pytest.raises(ValueError, match=r"\w"):
        decode(payload, coding | {"more": 1}, x.shape, x.dtype)
    for wrong in (
        payload[:-1],
        payload[:0],
        torch.cat([payload, payload[:1]]),
        torch.cat([payload, payload.new_zeros(1)]),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            decode(wrong, coding, x.shape, x.dtype)
    for dtype in DTYPES if coding["name"] != "raw" else []:
        if dtype.is_floating_point != x.is_floating_point() or (
            dtype.itemsize != x.dtype.itemsize and x.is_floating_point()
        ):
            with pytest.raises(ValueError, match=r"\w"):
                decode(payload, coding, x.shape, dtype)


@pytest.mark.parametrize(
    ("base", "count", "last"),
    [(3, 10, 243), (5, 6, 125), (3, 11, 3), (16, 3, 16), (2, 11, 0b1000), (7, 8, 255), (7, 7, 128)],
)
def test_digits_beyond_the_base_or_the_end_raise(base, count, last):
    payload, coding = encode(digits(base, (count,), 0, torch.uint8))
    payload[-1] = last
    if base == 7:
        payload[:-1] = last
    with pytest.raises(ValueError, match=f"do not hold {count} integers below {base}: (one|there)"):
        decode(payload, coding, torch.Size([count]), torch.uint8)


def test_bytes_are_no_bools():
    with pytest.raises(ValueError, match="unknown coding"):
        decode(torch.tensor([2], dtype=torch.uint8), {"name": "raw"}, torch.Size([1]), torch.bool)


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="resident memory is read as Linux tells it"
)
def test_memory_of_decoding_is_about_twice_the_tensor():
    def resident(key: str) -> int:
        return 1024 * int(
            next(
                line
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith(key + ":")
            ).split()[1]
        )

    n, generator = 2**24, torch.Generator().manual_seed(0)
    skewed = (torch.rand(n, generator=generator) < 0.1).to(torch.uint8)
    for x in (skewed, torch.randn(n // 4, generator=generator)):
        coded = encode(x)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = resident("VmRSS")
        decode(*coded, x.shape, x.dtype)
        assert resident("VmHWM") - before < 2.3 * x.nbytes + 2**22


def test_a_mask_that_ends_within_a_gap_raises():
    """Width 1: 0 is a True entry, 1 an escape past a False one."""
    coding = {"name": "gaps", "width": 1, "symbols": 3}
    assert decode(
        torch.tensor([0b010], dtype=torch.uint8), coding, torch.Size([4]), torch.bool
    ).tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match="ends within a gap"):
        decode(torch.tensor([0b110], dtype=torch.uint8), coding, torch.Size([4]), torch.bool)


def test_a_sparse_matrix_of_values_that_its_type_does_not_hold_raises():
    x = sparse(40, 30, 0.05, 0) * 100
    coded = encode_rows(x)
    assert coded is not None
    for dtype in (torch.bool, torch.int8, torch.uint8):
        with pytest.raises(ValueError, match="a value is out of its range"):
            decode(*coded, x.shape, dtype)
    assert torch.equal(decode(*coded, x.shape, torch.int16), x.short())


def test_positions_of_other_words_raise():
    x, coding, _ = PINNED[0]
    payload = encode(x).payload
    first, middle, last = payload.split([length for length, _ in coding["parts"]])
    for word in ([0, 0, 0, 0], [1, 2, 3, 4]):
        longer = torch.cat([first, middle, torch.tensor(word * 2, dtype=torch.uint8), last])
        with pytest.raises(ValueError, match=r"more than 40 x 30 positions"):
            decode(longer, damaged(coding, ("parts", 1, 0), len(middle) + 8), x.shape, x.dtype)
    rows = {
        "name": "rows",
        "transposed": 0,
        "parts": [[0, {"name": "digits", "base": 1}], [0, {}], [0, {"name": "digits", "base": 1}]],
    }
    assert not decode(payload[:0], rows, torch.Size([2**15, 2]), torch.bool).any()
    for m, n in ((2**16, 2), (2**12 + 1, 2**11)):
        with pytest.raises(ValueError, match=f"do not hold a matrix of {m} x {n}"):
            decode(payload[:0], rows, torch.Size([m, n]), torch.bool)
    rows["parts"][0][1]["least"] = 3
    with pytest.raises(ValueError, match="a row has more entries"):
        decode(payload[:0], rows, torch.Size([5, 3]), torch.bool)


def test_matrices_that_are_none_by_rows():
    x = sparse(400, 300, 0.1, 0)
    assert encode_rows(x) is not None
    assert (
        encode_rows(torch.rand(400, 300, generator=torch.Generator().manual_seed(0)) < 0.1) is None
    )
    for wide in (x.long() << 40, -x):
        assert encode_rows(wide) is None
        comes_back(wide)
