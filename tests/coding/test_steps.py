"""Streams of symbols side by side: what each gives does not depend on the others."""

import numpy as np
import pytest
import torch

from leco.coding import frequencies, symbols
from leco.coding.steps import finished, side_by_side
from leco.coding.tensors import decode, decoding, encode
from leco.native import build

native = pytest.mark.skipif(build.library() is None, reason="there is no C compiler")
KIND = np.dtype(np.uint16)


def stream(base: int, count: int, steepness: float) -> tuple[np.ndarray, np.ndarray]:
    """Digits below `base` and the bytes that hold them."""
    generator = np.random.default_rng(base + count)
    digits = np.minimum(generator.geometric(steepness, count) - 1, base - 1).astype(KIND)
    digits[:2] = 0, base - 1
    return digits, frequencies.encode_entropy(digits, base, 10**9).numpy()


STREAMS = [
    stream(*of)
    for of in (
        (16, 21_000, 0.2),
        (4096, 3_000, 0.01),
        (2, 5_000, 0.9),
        (2, 2, 0.5),
        (257, 700, 0.02),
        (16, 513, 0.3),
        (3, 40_001, 0.999),
        (4096, 20_000, 0.0005),
        (200, 100, 0.1),
        (300, 19_000, 0.01),
    )
]


def every(streams=STREAMS):
    return side_by_side(
        frequencies.entropy_steps(payload, int(digits.max()) + 1, len(digits), KIND)
        for digits, payload in streams
    )


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=native), False])
def test_streams_side_by_side_are_those_one_by_one(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(symbols, "streams", lambda _: None)
    for order in (STREAMS, STREAMS[::-1], STREAMS[:1], STREAMS[2:5]):
        for (digits, _), found in zip(order, finished(every(order)), strict=True):
            assert np.array_equal(found, digits)


@native
@pytest.mark.parametrize("threads", [2, 5])
def test_streams_in_several_threads(threads, monkeypatch):
    monkeypatch.setattr("leco.native.symbols.SHARE", 1000)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = finished(every())
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(f, digits) for f, (digits, _) in zip(found, STREAMS, strict=True))


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=native), False])
def test_a_damaged_stream_leaves_the_others_right(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(symbols, "streams", lambda _: None)
    payloads = [payload.copy() for _, payload in STREAMS]
    payloads[1][-5] ^= 64
    found: dict[int, np.ndarray] = {}
    for place, payload in enumerate(payloads):
        digits = STREAMS[place][0]
        steps = frequencies.entropy_steps(payload, int(digits.max()) + 1, len(digits), KIND)
        beside = frequencies.entropy_steps(STREAMS[0][1], 16, len(STREAMS[0][0]), KIND)
        if place == 1:
            with pytest.raises(ValueError, match="more or fewer than 3000 symbols"):
                finished(side_by_side([beside, steps]))
        else:
            first, found[place] = finished(side_by_side([beside, steps]))
            assert np.array_equal(first, STREAMS[0][0])
            assert np.array_equal(found[place], digits)


def test_the_streams_of_several_tensors_are_decoded_in_one_call(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    sparse = torch.randint(0, 5, (60, 40), generator=generator)
    sparse[torch.rand(60, 40, generator=generator) < 0.9] = 0
    sparse[::2] = 0
    tensors = [
        sparse,
        torch.randn(3000, generator=generator),
        torch.arange(5),
        (3 * torch.rand(30_001, generator=generator) ** 2).to(torch.uint8),
        torch.randn(2, generator=generator),
    ]
    coded = [encode(x) for x in tensors]
    assert coded[0].coding["name"] == "rows"
    asked: list[int] = []
    known = symbols.streams
    monkeypatch.setattr(symbols, "streams", lambda e: (asked.append(len(e)), known(e))[1])
    steps = [decoding(*c, x.shape, x.dtype) for c, x in zip(coded, tensors, strict=True)]
    for found, x in zip(finished(side_by_side(steps)), tensors, strict=True):
        assert torch.equal(found, x)
    assert asked == [2]
    for own, x in zip(coded, tensors, strict=True):
        assert torch.equal(decode(*own, x.shape, x.dtype), x)


def test_no_memory_is_a_value_error(monkeypatch):
    def full(_):
        raise MemoryError("full")

    monkeypatch.setattr(symbols, "streams", full)
    with pytest.raises(ValueError, match="there is no memory for 21000 symbols: full"):
        finished(every(STREAMS[:1]))
