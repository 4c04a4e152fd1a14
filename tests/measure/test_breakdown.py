"""The breakdown of a file: every byte, entropies, and the command that prints it."""

import io
import json
import math
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import leco
import leco.measure.latency
from leco.command.cli import main


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.codes, self.sparse, self.pair, self.own = (
            nn.Linear(40, 50),
            nn.Linear(50, 60),
            nn.Linear(60, 40, bias=False),
            nn.Linear(40, 40),
        )
        self.tied = nn.Linear(40, 40)
        self.tied.weight = self.own.weight
        self.norm = nn.BatchNorm1d(40)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[leco.LC, Path]:
    tasks = {
        "codes": leco.Task("codes.weight", leco.Vector(), leco.Codebook(4)),
        "sum": leco.Task(
            "sparse.weight",
            leco.Matrix(),
            leco.Additive([(leco.Vector(), leco.TopK(0.05)), (leco.Matrix(), leco.LowRank(2))]),
        ),
        "pair": leco.Task("pair.weight", leco.Matrix(), leco.LowRank(3)),
    }
    lc = leco.LC(Net(), tasks)
    lc.mu = 1.0
    leco.save(tmp_path / "net.safetensors", lc)
    return lc, tmp_path / "net.safetensors"


def test_every_byte_of_a_file_is_accounted_for(saved: tuple[leco.LC, Path]):
    lc, path = saved
    found = leco.breakdown(path)
    assert found.bytes == path.stat().st_size == sum(row.bytes for row in found.tensors)
    assert found.dense_bytes == leco.dense_bytes(lc.model)
    assert found.ratio == found.dense_bytes / found.bytes
    assert {row.field for row in found.tensors if row.kind == "overhead"} == {
        "header",
        "description",
        "checksums",
    }
    assert {row.field for row in found.tensors if row.kind == "rest"} | {*found.tied} == set(
        lc.rest()
    )
    assert found.tied == {"tied.weight": "own.weight"}
    for name, theta in lc.thetas.items():
        assert found.tasks[name].bytes * 8 == leco.bits(theta)
        assert found.tasks[name].bytes == sum(
            row.bytes for row in found.tensors if row.task == name
        )
    assert [row.weights for row in found.tasks.values()] == [40 * 50, 50 * 60, 60 * 40]
    assert [row.form for row in found.tasks.values()] == [
        "Codes",
        "Sum(Sparse, Factors)",
        "Factors",
    ]
    assert found.tasks["pair"].params == {"pair.weight": (40, 60)}
    assert (found.tasks["codes"].view, found.tasks["codes"].compression) == (
        "Vector()",
        "Codebook(k=4)",
    )
    assert [row.field for row in found.tensors if row.task == "sum"] == [
        "terms.0.mask",
        "terms.0.values",
        "terms.1.u",
        "terms.1.v",
    ]


def test_entropy_of_the_integers_of_a_file(saved: tuple[leco.LC, Path]):
    lc, path = saved
    rows = {(row.task, row.field): row for row in leco.breakdown(path).tensors}
    indices = lc.thetas["codes"].indices
    p = torch.bincount(indices.int()) / indices.numel()
    row = rows["codes", "indices"]
    assert row.entropy == pytest.approx(-(p * p.log2()).sum().item())
    assert row.entries == 2000
    assert row.over == pytest.approx(row.bytes - row.entropy * 2000 / 8)
    assert 0 <= row.over < 20
    mask = rows["sum", "terms.0.mask"]
    assert mask.entropy == pytest.approx(-(0.05 * math.log2(0.05) + 0.95 * math.log2(0.95)))
    assert rows["codes", "codebook"].entropy is None
    assert rows["codes", "codebook"].over is None
    assert rows["", "norm.num_batches_tracked"].entropy == 0


class Doubled(NamedTuple):
    """A form of a user's own."""

    half: Tensor

    def decompress(self) -> Tensor:
        return 2 * self.half

    def free(self) -> tuple[str, ...]:
        return ("half",)


@dataclass(frozen=True)
class Double:
    def check(self, shape: torch.Size) -> None: ...

    def compress(self, x: Tensor, mu: float, theta: Doubled | None = None) -> Doubled:
        return Doubled(x / 2)


def test_forms_of_a_users_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lc = leco.LC(nn.Linear(3, 2), leco.each(["weight"], leco.Vector(), Double()))
    lc.mu = 1.0
    leco.save(tmp_path / "net", lc)
    found = leco.breakdown(tmp_path / "net", forms=[Doubled])
    assert (found.tasks["weight"].form, found.tasks["weight"].compression) == (
        "Doubled",
        "Double()",
    )
    assert main(["inspect", str(tmp_path / "net")]) == 1
    assert "unknown form of Theta 'Doubled'" in capsys.readouterr().err


def test_the_command_prints_tables(
    saved: tuple[leco.LC, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    printed = {}
    for columns in (40, 100, 160, 300):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["inspect", str(saved[1])]) == 0
        printed[columns] = out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= max(100, min(columns, 160))
        total = next(line for line in out.splitlines() if line.startswith("| the file"))
        assert f" {saved[1].stat().st_size:,} " in total
        for part in (
            "Tasks",
            "Their tensors",
            "Not compressed",
            "Codebook(k=4)",
            "own.weight",
            "is own.weight",
            "terms.1.u",
            "checksums",
        ):
            assert part in out
        assert all(line.isascii() for line in out.splitlines())
    assert printed[40] == printed[100] != printed[160] == printed[300]


def test_the_command_prints_json(saved: tuple[leco.LC, Path], capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", "--json", str(saved[1])]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["bytes"] == sum(row["bytes"] for row in found["tensors"]) == saved[1].stat().st_size
    )
    assert found["tasks"]["pair"]["params"] == {"pair.weight": [40, 60]}
    assert found["tied"] == {"tied.weight": "own.weight"}
    row = next(row for row in found["tensors"] if row["field"] == "indices")
    assert (row["kind"], row["task"], row["dtype"], row["shape"]) == (
        "theta",
        "codes",
        "uint8",
        [2000],
    )
    assert 1 < row["entropy"] <= 2
    assert row["over_entropy"] == pytest.approx(row["bytes"] - row["entropy"] * 250)


def damaged(path: Path, at: int) -> str:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    (path.parent / "damaged").write_bytes(data)
    return str(path.parent / "damaged")


def test_the_command_says_in_one_line_what_is_wrong(
    saved: tuple[leco.LC, Path], capsys: pytest.CaptureFixture[str]
):
    path = saved[1]
    other = path.parent / "other.safetensors"
    save_file({"a": torch.ones(2)}, other)
    (path.parent / "cut").write_bytes(path.read_bytes()[:-1])
    cases = {
        str(path.parent / "none"): "none",
        str(path.parent): "",
        str(path.parent / "cut"): "damaged",
        str(other): "not one of leco",
        # of a tensor that is in no task, or an entry of its own
        damaged(path, path.stat().st_size - 1): "checksum",
        damaged(path, path.stat().st_size // 2): "checksum",
    }
    for file, said in cases.items():
        for arguments in (["inspect", file], ["inspect", file, "--json"]):
            assert main(arguments) == 1
            out, err = capsys.readouterr()
            assert (out, err.count("\n")) == ("", 1)
            assert err.startswith("leco: ")
            assert said in err


def test_names_in_a_file_are_printed_and_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = nn.Module()
    for name in ("[bold]a[/]", "[/]b", ":smile:c", "\x1b[2Jd\n", "\ud800e", "\u00e9f"):
        model.register_parameter(name, nn.Parameter(torch.ones(2)))
    lc = leco.LC(model, {"[/t]": leco.Task("[bold]a[/]", leco.Vector(), leco.Binary())})
    lc.mu = 1.0
    leco.save(tmp_path / "net", lc)
    for encoding, last in (("utf-8", "\u00e9f"), ("ascii", r"\xe9f")):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
        assert main(["inspect", str(tmp_path / "net")]) == 0
        sys.stdout.flush()
        out = sys.stdout.buffer.getvalue().decode(encoding)
        assert "\x1b" not in out
        for name in ("[bold]a[/]", "[/t]", "[/]b", ":smile:c", r"\x1b[2Jd\n", r"\ud800e", last):
            assert f"| {name} " in out


def test_the_command_is_installed(saved: tuple[leco.LC, Path]):
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "scripts"
    ]
    assert scripts == {"leco": "leco.command.cli:main"}
    file = damaged(saved[1], 100)
    run = subprocess.run(
        [sys.executable, "-m", "leco", "inspect", file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert run.stderr.startswith(f"leco: {file}")
