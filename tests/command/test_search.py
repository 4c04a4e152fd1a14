"""`leco sweep --optimize`: a search over words by trials, which goes on where it was."""

import json
from pathlib import Path

import pytest
import yaml

from command.nets_of_search import Wide
from leco.command import jobs
from leco.command.cli import main
from leco.command.ranges import ranged
from leco.command.recipe import checked
from leco.command.space import groups_of

pytest.importorskip("optuna")
SWEEP = ("sweep", "nets:net", "--optimize", "--evaluate", "nets:error")
WORDS = ("--to", "2bit:8", "--to", "4bit:8", "--to", "keep")


def points(capsys: pytest.CaptureFixture[str], *command: str) -> list[dict]:
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_front_of_choices_that_recipes_make_again(here: Path, capsys):
    found = points(capsys, *SWEEP, *WORDS, "--trials", "7", "--out", "s")
    assert [p["folder"] for p in found] == [f"trial-{k}" for k in range(1, 8)]
    assert [p["choice"] for p in found[:2]] == ["2bit:8 for all", "4bit:8 for all"]
    assert len({p["choice"] for p in found}) == 7  # no choice twice
    assert any("2bit" in p["choice"] and "4bit" in p["choice"] for p in found)
    assert any("keep" in p["choice"] for p in found)
    # the best ones are those that no other one beats
    for p in found:
        beaten = [
            q for q in found if q["bytes"] <= p["bytes"] and q["value"] <= p["value"] and q is not p
        ]
        assert p["best"] == (not beaten)
    # the report, and a point again
    text = (here / "s" / "report.md").read_text()
    assert text.count("best at its size") == sum(p["best"] for p in found)
    assert "polyline" in (here / "s" / "report.html").read_text()
    best = min(found, key=lambda p: p["value"])["folder"]
    assert main(["compress", "--recipe", f"s/{best}/recipe.yaml", "--out", "again"]) == 0
    files = [here / name / "model.safetensors" for name in (f"s/{best}", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_interrupted_search_goes_on_to_the_same_trials(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    command = (*SWEEP, *WORDS, "--trials", "6")
    whole = points(capsys, *command, "--out", "whole")
    done, plain = list[str](), jobs.compress

    def stopped(job, folder, *more):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(folder.name)
        return plain(job, folder, *more)

    monkeypatch.setattr(jobs, "compress", stopped)
    assert main([*command, "--out", "parts"]) == 130
    monkeypatch.setattr(jobs, "compress", lambda *a: (done.append(a[1].name), plain(*a))[1])
    assert points(capsys, *command, "--out", "parts") == whole
    assert done == [f"trial-{k}" for k in range(1, 7)]  # each once
    # more trials follow; another search does not
    more = points(capsys, *SWEEP, *WORDS, "--trials", "7", "--out", "parts")
    assert more[:6] == [{**p, "best": q["best"]} for p, q in zip(whole, more, strict=False)]
    assert main([*SWEEP, "--to", "2bit:8", "--to", "keep", "--out", "parts"]) == 1
    assert "parts is of another search" in capsys.readouterr().err


def test_it_ends_where_all_choices_are_tried(here: Path, capsys: pytest.CaptureFixture[str]):
    command = (
        *SWEEP,
        "--to",
        "0.weight=2bit:8",
        "--to",
        "0.weight=3bit:8",
        "--to",
        "2.weight=4bit:8",
    )
    found = points(capsys, *command, "--out", "s")
    assert [p["choice"] for p in found] == [
        "2bit:8: 0; 4bit:8: 2",
        "3bit:8: 0; 4bit:8: 2",
    ]
    assert main([*command, "--out", "s"]) == 0
    assert "2 trials; the search finds no other choice" in capsys.readouterr().out


def test_ranges_and_prices(here: Path, capsys: pytest.CaptureFixture[str]):
    recipe = {
        "model": "nets:net",
        "evaluate": "nets:error",
        "calibrate": {"data": "nets:data", "steps": 2},
        "optimize": {
            "words": {"0.weight": ["l0:1e-6..1e-2", "rank:2..20"], "2.weight": ["20..60%"]},
            "trials": 5,
        },
    }
    (here / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    found = points(capsys, "sweep", "--recipe", "recipe.yaml", "--out", "s")
    made = [yaml.safe_load((here / "s" / p["folder"] / "recipe.yaml").read_text()) for p in found]
    for own in made:
        kind, _, number = own["to"]["0.weight"].partition(":")
        low, high = {"l0": (1e-6, 1e-2), "rank": (2, 20)}[kind]
        assert low <= float(number) <= high
        assert 20 <= float(own["to"]["2.weight"].removesuffix("%")) <= 60
    assert {own["to"]["0.weight"].partition(":")[0] for own in made} == {"l0", "rank"}
    assert main(["compress", "--recipe", "recipe.yaml"]) == 1
    assert "leco sweep does it" in capsys.readouterr().err


def test_a_price_of_ranks_chooses_the_ranks(here: Path):
    for price in ("1e-3", "1e-1"):
        command = ["compress", "nets:net", "--to", f"ranks:{price}", "--out", price]
        assert main(command) == 0
    layers = [
        {row["name"]: row for row in json.loads((here / f / "result.json").read_text())["layers"]}
        for f in ("1e-3", "1e-1")
    ]
    assert layers[0]["0.weight"]["how"].startswith("RankSelection(alpha=0.001")
    assert layers[1]["0.weight"]["after"] < 0.5 * layers[0]["0.weight"]["after"]


def test_groups_are_layers_or_kinds_of_layers(here: Path):
    import nets

    base = {"model": "nets:net", "evaluate": "nets:error"}
    recipe = checked({**base, "optimize": {"words": ["2bit", "keep"]}}, "here")
    assert [g.patterns for g in groups_of(nets.net(), recipe)] == [("0.weight",), ("2.weight",)]
    kinds = {g.name: g.patterns for g in groups_of(Wide(), recipe)}
    assert kinds["blocks.*.up.weight"] == ("blocks.*.up.weight",)
    assert kinds["blocks.*.down.weight"] == ("blocks.*.down.weight",)
    # the pattern of this kind matches other layers too
    assert kinds["blocks.*.weight"] == ("blocks.7.weight",)
    assert len(kinds) == 3


WRONG = {
    "no words": (["--optimize"], "give the words to choose from"),
    "no judge": (["--optimize", "--to", "2bit", "--to", "3bit"], "--optimize needs --evaluate"),
    "trials alone": (["--trials", "3"], "--trials belongs to a search"),
    "a search in a search": (["--optimize", "--to", "auto"], "'auto' is a search of its own"),
    "a range of groups": (["--optimize", "--to", "3bit:8..64"], "give each size of groups"),
    "a range that goes down": (["--optimize", "--to", "rank:8..4"], "the range must go up"),
    "an end that is no word": (["--optimize", "--to", "1..90bit"], "bits must be 1 to 8"),
    "a word twice": (["--optimize", "--to", "2bit", "--to", "2bit"], "each word once"),
    "a mixture": (["--optimize", "--to", "2bit", "--to", "0.*=3bit"], "give PATTERN=WORD"),
    "an unknown pattern": (
        ["--optimize", "--to", "9.*=3bit", "--to", "9.*=2bit", "--evaluate", "nets:error"],
        "'9.*' matches none",
    ),
}


@pytest.mark.parametrize(("options", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong(options, said, here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["sweep", "nets:net", *options]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (here / "sweep").exists()


def test_ranges():
    assert ranged("3bit") is None
    span = ranged("rank:8..512")
    assert span is not None
    assert (span.log, span.whole, span.at(511.6)) == (True, True, "rank:512")
    assert not ranged("10..60%").log
