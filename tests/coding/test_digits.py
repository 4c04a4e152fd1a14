"""Digits at a fixed width: with the compiled library as without it."""

import numpy as np
import pytest

from leco.coding import digits
from leco.coding.digits import pack_digits, unpack_digits


@pytest.mark.parametrize("base", [17, 33, 70, 100, 128])
def test_planes_with_and_without_a_compiler(base, monkeypatch):
    kind = np.dtype(np.uint8)
    for count in (16_384, 16_389):
        x = np.random.default_rng(base).integers(0, base, count, dtype=np.uint8)
        payload = pack_digits(x, base).numpy()
        assert np.array_equal(unpack_digits(payload, base, count, kind), x)
        with monkeypatch.context() as patch:
            patch.setattr(digits, "from_planes", lambda *_: None)
            assert np.array_equal(unpack_digits(payload, base, count, kind), x)
        # a bit behind the last number
        if count % 8:
            payload[-1] |= 128
            with pytest.raises(ValueError, match="there are more"):
                unpack_digits(payload, base, count, kind)


def test_a_number_that_is_no_digit():
    payload = pack_digits(np.full(16_384, 100, dtype=np.uint8), 128).numpy()
    with pytest.raises(ValueError, match="one of them is larger"):
        unpack_digits(payload, 100, 16_384, np.dtype(np.uint8))
