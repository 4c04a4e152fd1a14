"""Reading a safetensors file: the same tensors as the library's own reader, and no file that it
refuses."""

import json
import random
import struct

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tampering import mutated

from leco.files.entries import TYPES, Entries

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b": torch.arange(5, dtype=torch.uint8),
    "c": torch.ones(3, dtype=torch.float64),
    "d": torch.ones(0, 4, dtype=torch.bfloat16),
    "e": torch.tensor(2.0, dtype=torch.float16),
}


@pytest.fixture
def path(tmp_path):
    save_file(TENSORS, tmp_path / "m", metadata={"made": "here"})
    return tmp_path / "m"


def read(path) -> dict[str, torch.Tensor]:
    with open(path, "rb") as file:
        entries = Entries(file)
        return {name: entries.tensor(name).clone() for name in entries.entries}


def header_and_data(path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path, header, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_entries_are_those_of_the_library(path):
    found = read(path)
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_tensor_outlives_the_file_and_a_change_of_it_stays_private(path):
    with open(path, "rb") as file:
        tensor = Entries(file).tensor("a")
    before = path.read_bytes()
    tensor.zero_()
    assert path.read_bytes() == before
    assert torch.equal(read(path)["a"], TENSORS["a"])


def test_data_at_any_place_are_read(path):
    header, data = header_and_data(path)
    for spaces in range(9):
        text = json.dumps(header).encode() + b" " * spaces
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        assert all(torch.equal(value, TENSORS[name]) for name, value in read(path).items())


def shifted(header, name: str, first: int, last: int) -> None:
    start, stop = header[name]["data_offsets"]
    header[name]["data_offsets"] = [start + first, stop + last]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: shifted(h, "a", 1, 1), "is not where the one before it ends"),
        (lambda h: shifted(h, "a", -1, -1), "is not where the one before it ends"),
        (lambda h: shifted(h, "a", 0, 4), "of shape .2, 3. does not have 28 bytes"),
        (lambda h: h.update(f=h["a"]), "is not where the one before it ends"),
        (lambda h: h.pop("a"), "is not where the one before it ends"),
        (lambda h: h.pop("b"), r"its entries end at \d+, the file at \d+ bytes"),
        (lambda h: h["a"].update(more=1), "needs dtype, shape and data_offsets"),
        (lambda h: h["a"].pop("dtype"), "needs dtype, shape and data_offsets"),
        (lambda h: h["a"].update(dtype=3), "its entry 'a' is damaged"),
        (lambda h: h["a"].update(data_offsets=[0, 1.5]), "its entry 'a' is damaged"),
        (lambda h: h["a"].update(data_offsets=[0]), "its entry 'a' is damaged"),
        (lambda h: h["a"].update(shape=[-2, -3]), "a shape must be a list of counts"),
    ],
)
def test_entries_fill_the_file_one_behind_the_other(path, change, message):
    header, data = header_and_data(path)
    change(header)
    write(path, header, data)
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize("header", [[], 3, None, "text"])
def test_a_header_is_a_dict(path, header):
    write(path, header, b"")
    with pytest.raises(ValueError, match="its header is no list of entries"):
        read(path)


@pytest.mark.parametrize("length", [0, 10**7, 2**63])
def test_a_header_is_in_the_file(path, length):
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    with pytest.raises(ValueError, match=f"its header claims {length} of its"):
        read(path)
    path.write_bytes(path.read_bytes()[:7])
    with pytest.raises(ValueError, match="it has 7 bytes, and no header"):
        read(path)


def test_what_is_read_the_library_reads_too(path):
    header, data = header_and_data(path)
    accepted = 0
    for number in range(3000):
        changed = mutated(json.loads(json.dumps(header)), random.Random(number))
        write(path, changed, data)
        try:
            found = read(path)
        except (ValueError, KeyError):  # KeyError: a type that only the library knows
            continue
        accepted += 1
        with safe_open(path, framework="pt") as file:
            assert set(file.keys()) == set(found)
            assert all(torch.equal(file.get_tensor(name), found[name]) for name in found)
    assert accepted > 20
    assert set(TYPES) == {"U8", "F16", "BF16", "F32", "F64"}


def test_what_the_library_refuses_is_refused(path):
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.unlink()
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            with safe_open(path, framework="pt") as file:
                set(file.keys())
        except SafetensorError:
            with pytest.raises((ValueError, KeyError)):
                read(path)
