"""What the benchmarks are made of: nets, CIFAR-10 and its augmentation, the yardsticks of a
file."""

import lzma
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("zstandard")

from benchmarks import cifar, data, nets, timing
from benchmarks.file import lengths


def test_nets_have_the_published_sizes():
    sizes = {
        "resnet20": 269_722,
        "resnet56": 853_018,
        "resnet110": 1_727_962,
        "lenet300": 266_610,
        "lenet5": 431_080,
    }
    assert {name: sum(p.numel() for p in nets.NETS[name]().parameters()) for name in sizes} == sizes


def test_a_shortcut_halves_the_pixels_and_adds_zero_channels():
    block = nets.Block(4, 6, 2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8)
    y = block(x)
    assert torch.equal(y[:, :4], x[:, :, ::2, ::2].relu())
    assert y.shape == (2, 6, 4, 4)
    assert not y[:, 4:].any()


def images(n: int) -> np.ndarray:
    """Smooth, so that JPEG keeps them."""
    ramp = (
        np.linspace(0, 200, 32)[:, None, None] + np.linspace(0, 50, 32)[None, :, None] + np.zeros(3)
    )
    return (ramp[None] * np.linspace(0.5, 1, n)[:, None, None, None]).astype(np.uint8)


def check(data: Any, x: np.ndarray, y: np.ndarray, tolerance: int) -> None:
    """All training images, in two parts that share none."""
    assert [len(split[0]) for split in (data.train, data.validation, data.test)] == [
        len(x) - 3,
        3,
        4,
    ]
    labels = torch.cat([data.train[1], data.validation[1]])
    assert sorted(labels.tolist()) == sorted(y.tolist())
    found = torch.cat([data.train[0], data.validation[0]])[labels.argsort()].int()
    assert (found - torch.from_numpy(x).int()).abs().max() <= tolerance


def test_cifar_from_the_standard_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data, "HELD_OUT", 3)
    folder, x, y = tmp_path / "cifar-10-batches-py", images(10), np.arange(10)
    folder.mkdir()
    for number in range(1, 6):
        own = slice(2 * number - 2, 2 * number)
        flat = x[own].transpose(0, 3, 1, 2).reshape(2, -1)
        (folder / f"data_batch_{number}").write_bytes(
            pickle.dumps({b"data": flat, b"labels": y[own].tolist()})
        )
    (folder / "test_batch").write_bytes(
        pickle.dumps({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 3]})
    )
    found = data.load("resnet20", tmp_path, torch.device("cpu"))
    assert found.name == "CIFAR-10"
    check(found, x, y, 0)


def test_cifar_from_jpeg_files_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data, "HELD_OUT", 3)
    monkeypatch.setattr(cifar, "CACHE", tmp_path / "cache")
    arrays, x, y = dict[str, np.ndarray](), images(10), np.arange(10)
    for split, part, labels in (("train", x, y), ("test", x[:4], y[:4])):
        files = []
        for image in part:
            path = tmp_path / "image.jpg"
            cifar.Image.fromarray(image).save(path, quality=95)
            files.append(path.read_bytes())
        arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, files)]).astype(np.uint32)
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    with lzma.open(tmp_path / "cifar10-jpeg.npz.xz", "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    for _ in range(2):
        found = data.load("resnet20", tmp_path, torch.device("cpu"))
        assert found.name == "CIFAR-10 (JPEG)"
        check(found, x, y, 8)
        monkeypatch.setattr(cifar, "lzma", None)


def test_augmented_images_are_crops_or_flipped_crops():
    x = torch.randint(1, 256, (40, 32, 32, 3), dtype=torch.uint8)
    padded = torch.nn.functional.pad(x, (0, 0, 4, 4, 4, 4))
    seen = set()
    for image, own in zip(cifar.augmented(x), padded, strict=True):
        crops = {
            (i, j, f): own[i : i + 32, j : j + 32].flip(1) if f else own[i : i + 32, j : j + 32]
            for i in range(9)
            for j in range(9)
            for f in (0, 1)
        }
        places = [place for place, crop in crops.items() if torch.equal(crop, image)]
        assert len(places) == 1
        seen.add(places[0])
    assert all(len({place[k] for place in seen}) > 1 for k in range(3))
    assert cifar.floats(x).is_contiguous(memory_format=torch.channels_last)


def test_yardsticks_of_a_file():
    symbols = torch.arange(1000) % 4
    assert lengths.entropy_bytes(symbols) == pytest.approx(250)
    assert lengths.fixed_width(torch.tensor([1, 2, 3, 0], dtype=torch.uint8)) == bytes([0b01101100])
    assert len(lengths.fixed_width(torch.arange(2**20 + 8) % 8)) == 3 * (2**20 + 8) // 8
    assert lengths.fixed_width(torch.zeros(9, dtype=torch.bool)) == b""


def test_memory_that_earlier_work_freed_counts_again():
    kept = list[bytearray]()

    def work() -> None:
        parts = [bytearray(b"x" * 100_000) for _ in range(500)]
        kept.append(bytearray(50_000))  # above them, so that the heap does not shrink by itself
        del parts

    first, second = (timing.peak_bytes(work) for _ in range(2))
    assert min(first, second) > 40e6
