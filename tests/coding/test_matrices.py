"""Lossless coding of sparse matrices by rows and columns."""

import math

import pytest
import torch
from codings import PINNED, comes_back, damaged, quick, seeds, sparse
from hypothesis import given
from hypothesis import strategies as st

from leco.coding.contexts import PlaceLengths, position_bits, probabilities, row_classes
from leco.coding.matrices import encode_rows
from leco.coding.tensors import decode, encode


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


@pytest.mark.parametrize(("x", "coding", "payload"), PINNED, ids=["rows", "entropy"])
def test_files_stay_readable(x, coding, payload):
    stored = torch.tensor(list(bytes.fromhex(payload)), dtype=torch.uint8)
    assert torch.equal(decode(stored, coding, x.shape, x.dtype), x)
    assert encode(x).coding == coding
    assert torch.equal(encode(x).payload, stored)


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
