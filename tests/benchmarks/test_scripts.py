"""Every script runs, made small, and records a line."""

import gzip
import importlib
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("zstandard")
pytest.importorskip("sklearn")

from benchmarks import data, nets, records

SMALL = {
    "csteps.lstep": ("--steps", "1", "--batch", "2"),
    "csteps.many": ("--weights", "2000", "--repeats", "1"),
    "csteps.scaling": ("--largest", "4", "--threads", "1"),
    "csteps.speed": (
        "--weights",
        "8000",
        "--side",
        "8",
        "--channels",
        "8",
        "--only",
        "Bin",
        "Rank",
    ),
    "ranks.cost": (
        *("--processes", "1", "--width", "16", "--depth", "1", "--batch", "1", "--length", "4"),
        *("--steps", "1", "--c-steps", "1"),
    ),
    "file.coding": ("--symbols", "2000", "--repeats", "1", "--epochs", "1"),
    "file.fuzz": ("--seconds", "0.01"),
    "serving.latency": (
        *("--untrained", "--nets", "lenet300", "--compressions", "1 bit"),
        *("--repeats", "1", "--side", "0"),
    ),
}
SCRIPTS = (
    *SMALL,
    "csteps.step",
    "layerwise.__main__",
    "layerwise.minilm",
    "layerwise.resnet",
    "serving.gguf",
    "serving.gguf_layers",
    "serving.loading",
    "proof.reference",
    "proof.__main__",
    "tables",
)


def run(script: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"benchmarks.{script}")
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    try:
        module.main()
    except SystemExit as stop:
        if stop.code:
            raise


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run(script, ("--help",), monkeypatch)
    assert "usage" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # of other libraries
@pytest.mark.parametrize("script", SMALL)
def test_script_records_a_line(script: str, results: Path, monkeypatch: pytest.MonkeyPatch):
    if script == "csteps.scaling":
        pytest.importorskip("kmeans1d")
    if script == "serving.latency":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("torch_pruning")
    monkeypatch.setenv("XDG_CACHE_HOME", str(results))
    monkeypatch.setattr(nets, "minilm_folder", absent)
    run(script, (*SMALL[script], "--record"), monkeypatch)
    (path,) = results.glob("*.jsonl")
    for line in path.read_text().splitlines():
        assert json.loads(line)["rows"][0]


def absent() -> Path:
    """Large nets take minutes."""
    raise ImportError("not in tests")


def idx(folder: Path, name: str, images: int) -> None:
    """Files of MNIST's format."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 28, 28), dtype=np.uint8)
    labels = np.arange(images, dtype=np.uint8) % 10
    for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        head = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
        (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))


@pytest.mark.filterwarnings("ignore:leco.run")  # a short one
def test_a_reference_is_trained_and_compressed_and_no_cell_is_run_twice(
    results: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(data, "HELD_OUT", 20)
    folder = results.parent / "mnist"
    folder.mkdir()
    idx(folder, "train", 120)
    idx(folder, "t10k", 30)
    where = ("--data", str(folder), "--out", "nets", "--threads", "1", "--device", "cpu")
    train = ("--net", "lenet300", "--epochs", "1", "--batch", "20", "--record")
    run("proof.reference", (*where, *train), monkeypatch)
    compress = ("--net", "lenet300", "--compression", "binary", "--method", "DC", "LC")
    settings = ("--set", "epochs=1", "batch=20", "steps=2", "scale=0.1")
    for _ in range(2):
        run("proof.__main__", (*where, *compress, "--record", *settings), monkeypatch)
    cells = records.read("proof", "proof")
    assert [cell["method"] for cell in cells] == ["DC", "LC"]
    assert cells[1]["trace"]["steps"] == 2
    assert [len(records.read("references", "reference"))] == [1]
