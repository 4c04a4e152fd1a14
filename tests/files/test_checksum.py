"""The checksum of a file is that of zlib."""

import zlib

import pytest
import torch

from leco.files.container import checksum
from leco.native import checksum as native
from leco.native.build import library


def test_the_checksum_is_that_of_zlib(monkeypatch):
    monkeypatch.setattr(native, "LEAST", 0)
    torch.manual_seed(0)
    data = torch.randint(0, 256, (5000,), dtype=torch.uint8)
    for start in (0, 1, 7):
        for length in (0, 1, 15, 63, 64, 65, 80, 127, 128, 192, 1000, 4096, 4111, 4990):
            part = data[start : start + length]
            assert checksum(part) == zlib.crc32(part.numpy().tobytes())
    # any type, any strides
    for x in (torch.randn(40, 30), torch.randn(40, 30).T, torch.randn(2000)[::2] > 0):
        assert checksum(x) == zlib.crc32(x.contiguous().numpy().tobytes())


@pytest.mark.skipif(library() is None, reason="there is no C compiler")
def test_the_checksum_without_a_compiler(monkeypatch):
    x = torch.arange(10_000, dtype=torch.int16)
    found = checksum(x)
    monkeypatch.setattr(native, "library", lambda: None)
    assert checksum(x) == found
