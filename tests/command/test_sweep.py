"""`leco sweep`: a folder for each word, a curve, several processes, going on where it was."""

import json
from pathlib import Path

import pytest

from leco.command import jobs
from leco.command.cli import main

SWEEP = ("sweep", "nets:net", "--evaluate", "nets:error", "--to", "2bit:8", "--to", "30%")


def test_a_point_for_each_word(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*SWEEP, "--out", "s"]) == 0
    out = capsys.readouterr().out
    assert "s: report.html, report.md, and a folder for each" in out
    assert {path.name for path in (here / "s").iterdir()} == {
        *("2bit-8", "30percent", "report.html", "report.md")
    }
    import nets

    import leco

    for name in ("2bit-8", "30percent"):
        found = json.loads((here / "s" / name / "result.json").read_text())
        model = leco.load(here / "s" / name / "model.safetensors", nets.net())
        assert f"{found['bytes']['after']:,}" in out
        assert f"{nets.error(model):.4g}" in out


def test_what_is_done_is_not_done_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert main([*SWEEP, "--out", "s"]) == 0
    done, plain = [], jobs.compress
    monkeypatch.setattr(jobs, "compress", lambda *a: (done.append(a[1].name), plain(*a))[1])
    assert main([*SWEEP, "--to", "1bit", "--out", "s"]) == 0
    assert done == ["1bit"]
    capsys.readouterr()
    assert main([*SWEEP, "--seed", "1", "--out", "s"]) == 1
    assert "2bit-8 is of another recipe; remove it" in capsys.readouterr().err
    assert main([*SWEEP, "--to", "2bit:8", "--out", "s"]) == 1
    assert "a word is given twice" in capsys.readouterr().err
    (here / "s" / "1bit" / "result.json").write_text("{")
    assert main([*SWEEP, "--to", "1bit", "--out", "s"]) == 1
    assert "result.json: damaged" in capsys.readouterr().err


def test_processes(here: Path, capsys: pytest.CaptureFixture[str]):
    """Two processes make the files of one; the error of one is a line, and the other stays."""
    assert main([*SWEEP[:-2], "--out", "one", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    command = [*SWEEP[:-2], "--jobs", "2", "--out", "two", "--json"]
    assert main([*command, "--to", "rank:64"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "done: --to 2bit:8" in err
    last = err.splitlines()[-1]
    assert last.startswith("leco: rank-64: to: 'rank:64' compresses nothing")
    assert {path.name for path in (here / "two").iterdir()} == {"2bit-8"}
    files = [here / f / "2bit-8" / "model.safetensors" for f in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert main(command) == 0  # nothing is left to do
    assert json.loads(capsys.readouterr().out) == one


def test_comparing_two_folders(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*SWEEP, "--out", "s"]) == 0
    capsys.readouterr()
    assert main(["compare", "s/2bit-8", "s/30percent", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["s/2bit-8", "s/30percent"]
    assert main(["compare", "s/2bit-8", "s/30percent"]) == 0
    text = capsys.readouterr().out
    for result in found.values():
        assert f"{result['bytes']['after']:,}" in text
        assert f"{result['measured']['after']:.4g}" in text
    assert "0.weight" in text
    assert "4.weight" not in text  # as it was in both
    assert main(["compare", "s/2bit-8", "s/2bit-8"]) == 0
    assert "0.weight" not in capsys.readouterr().out  # the same
