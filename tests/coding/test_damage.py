"""Codings as a file may have them: any value in any place is refused or decoded."""

import math
from pathlib import Path

import pytest
import torch
from codings import PINNED, comes_back, damaged, digits, kernels, sparse, sparse_mask
from torch import Tensor

from leco.coding.matrices import encode_rows
from leco.coding.tensors import DTYPES, decode, encode


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
