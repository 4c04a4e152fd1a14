"""`leco compress`: the folder, its numbers, the plan, going on after an interruption."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import leco
from leco.command import compress as compress_module
from leco.command import work
from leco.command.cli import main

FILES = {"model.safetensors", "recipe.yaml", "report.html", "report.md", "result.json", "log.txt"}
CALIBRATED = ("compress", "nets:net", "--calibrate", "nets:data", "--steps", "3")


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_calibration_makes_a_whole_folder(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*CALIBRATED, "--to", "3bit", "--evaluate", "nets:error", "--out", "small"]) == 0
    out = capsys.readouterr().out
    assert {path.name for path in (here / "small").iterdir()} == FILES
    assert not (here / "small.part").exists()
    found, size = result(here / "small"), (here / "small" / "model.safetensors").stat().st_size
    assert found["bytes"] == {"before": 17616, "after": size}
    assert f"{size:,}" in out
    assert sum(part["bytes"] for part in found["parts"]) == size
    layers = {row["name"]: row for row in found["layers"]}
    assert layers["0.weight"]["error"] < layers["0.weight"]["direct"]
    assert "Groups(size=40)" in layers["2.weight"]["how"]  # 64 does not divide 40
    assert (layers["4.weight"]["word"], layers["4.weight"]["why"]) == ("", "only 160 weights")

    # the number that is reported is that of the file
    import nets

    model = leco.load("small/model.safetensors", nets.net())
    assert found["measured"]["after"] == nets.error(model)
    assert found["measured"]["before"] == 0


def test_the_recipe_makes_the_same_file_again(here: Path):
    assert main([*CALIBRATED, "--to", "*.weight=2bit:8", "--out", "one"]) == 0
    assert main(["compress", "--recipe", "one/recipe.yaml", "--out", "two"]) == 0
    files = [(here / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("word", "form"),
    {
        "1bit": "Binary(scale=True) of Rows(dim=0)",
        "ternary": "Ternary(scale=True) of Rows(dim=0)",
        "2:4": "NM(n=2, m=4) of Rows(dim=0)",
        "30%": "TopK(kappa=0.3, gamma=0.0) of Vector()",
        "rank:5": "LowRank(rank=5) of Matrix(rows=[0])",
        "int3": "Uniform(bits=3, zero_point=False) of Groups(size=40)",
        "8bit:20": "Uniform(bits=8, zero_point=True) of Groups(size=20)",
    }.items(),
)
def test_words(word: str, form: str, here: Path):
    to = f"2.weight={word}"
    assert main(["compress", "nets:net", "--to", to, "--out", "small"]) == 0
    layers = {row["name"]: row for row in result(here / "small")["layers"]}
    assert layers["2.weight"]["how"] == form
    assert layers["0.weight"]["why"] == "no pattern names it"


def test_estimates_are_near_the_file(here: Path, capsys: pytest.CaptureFixture[str]):
    for word in ("3bit", "1bit", "ternary", "2:4", "30%", "rank:5"):
        command = ["compress", "nets:net", "--to", word, "--json"]
        assert main([*command, "--dry-run"]) == 0
        planned = json.loads(capsys.readouterr().out)
        assert not (here / "small").exists()
        assert main([*command, "--out", word.replace(":", "-")]) == 0
        made = json.loads(capsys.readouterr().out)
        assert planned["bytes"]["before"] == made["bytes"]["before"]
        described = next(p["bytes"] for p in made["parts"] if "description" in p["part"])
        size = made["bytes"]["after"] - described
        assert planned["bytes"]["after"] == pytest.approx(size, rel=0.12), word


def test_a_budget_holds(here: Path):
    for limit in (3000, 5000):
        out = f"of-{limit}"
        assert main([*CALIBRATED, "--to", f"budget:{limit}B", "--out", out]) == 0
        assert 0.75 * limit < result(here / out)["bytes"]["after"] <= limit
    assert main([*CALIBRATED, "--to", "auto", "--out", "auto"]) == 0
    assert main([*CALIBRATED, "--to", "3bit", "--out", "plain"]) == 0
    sizes = [result(here / name)["bytes"]["after"] for name in ("auto", "plain")]
    assert sizes[0] < 1.1 * sizes[1]


def test_training_joins_the_share_and_keeps_the_best_net(here: Path):
    command = ("compress", "nets:net", "--to", "20%", "--train", "nets:train", "--steps", "5")
    assert main([*command, "--evaluate", "nets:error", "--out", "small"]) == 0
    found = result(here / "small")
    assert len(found["records"]) == 6
    import nets

    model = leco.load("small/model.safetensors", nets.net())
    kept = [int(model[i].weight.count_nonzero()) for i in (0, 2)]
    assert sum(kept) == round(0.2 * (64 * 40 + 40 * 40))
    assert kept[0] != round(0.2 * 64 * 40)  # one share for both, not one for each
    assert main(["compress", "nets:net", "--to", "20%", "--out", "direct"]) == 0
    assert found["measured"]["after"] < nets.error(
        leco.load("direct/model.safetensors", nets.net())
    )


def test_a_folder_goes_on(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["compress", "nets:net", "--to", "8bit", "--out", "first"]) == 0
    for given in ("first", "first/model.safetensors"):
        out = f"from-{Path(given).name}"
        assert main(["compress", given, "--to", "2bit", "--out", out]) == 0
        import nets

        model = leco.load("first/model.safetensors", nets.net())
        again = leco.load(f"{out}/model.safetensors", nets.net())
        assert torch.equal(model[4].weight, again[4].weight)
        assert len(again[0].weight[0].unique()) <= 4
    lone = here / "lone" / "net.safetensors"
    lone.parent.mkdir()
    lone.write_bytes((here / "first" / "model.safetensors").read_bytes())
    capsys.readouterr()
    assert main(["compress", str(lone), "--to", "2bit", "--out", "no"]) == 1
    assert "does not hold the architecture" in capsys.readouterr().err


def test_an_interrupted_job_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    command = [*CALIBRATED, "--to", "3bit", "--out", "small"]
    whole = [*CALIBRATED, "--to", "3bit", "--out", "whole"]
    assert main(whole) == 0

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(compress_module, "save", stopped)
    assert main(command) == 130
    out, err = capsys.readouterr()
    assert out.endswith("stopped; the same command goes on from small.part\n")
    assert err == "leco: interrupted\n"
    assert not (here / "small").exists()
    assert "KeyboardInterrupt" in (here / "small.part" / "log.txt").read_text()
    # another recipe does not take its place
    assert main([*CALIBRATED, "--to", "2bit", "--out", "small"]) == 1
    assert "with another recipe" in capsys.readouterr().err
    # the same one does not solve the layers again
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr("leco.layerwise.solver.solve", stopped)
    assert main(command) == 0
    assert not (here / "small.part").exists()
    files = [(here / name / "model.safetensors").read_bytes() for name in ("small", "whole")]
    assert files[0] == files[1]


def test_an_interrupted_training_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch):
    command = ["compress", "nets:net", "--to", "2bit", "--train", "nets:train", "--steps", "4"]
    assert main([*command, "--out", "whole"]) == 0
    import nets

    plain = nets.train

    def cut(model, lc):
        found = plain(model, lc)
        inner = found["l_step"]

        def l_step(k):
            if k == 2:
                raise KeyboardInterrupt
            return inner(k)

        return {**found, "l_step": l_step}

    monkeypatch.setattr(nets, "train", cut)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([*command, "--out", "small"]) == 130
    done = []

    def counted(model, lc):
        found = plain(model, lc)
        inner = found["l_step"]
        return {**found, "l_step": lambda k: (done.append(k), inner(k))[1]}

    monkeypatch.setattr(nets, "train", counted)
    assert main([*command, "--out", "small"]) == 0
    assert done == [2, 3]
    files = [(here / name / "model.safetensors").read_bytes() for name in ("small", "whole")]
    assert files[0] == files[1]


def test_a_full_disk_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    assert main(["compress", "nets:net", "--to", "3bit", "--out", "small"]) == 1
    assert "the disk has 0 MB free" in capsys.readouterr().err
    assert list(here.glob("small*")) == []
    monkeypatch.undo()
    monkeypatch.chdir(here)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compress_module, "save", full)
    assert main(["compress", "nets:net", "--to", "3bit", "--out", "small"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not (here / "small").exists()


def test_a_yaml_recipe_and_options_that_overrule_it(here: Path):
    recipe = {
        "model": "nets:net",
        "to": {"0.weight": "2bit", "others": "4bit"},
        "calibrate": {"data": "nets:data", "steps": 50},
    }
    (here / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = ["compress", "--recipe", "recipe.yaml", "--steps", "2", "--seed", "3"]
    assert main([*command, "--out", "small"]) == 0
    found = result(here / "small")
    assert found["recipe"]["calibrate"]["steps"] == 2
    assert found["recipe"]["seed"] == 3
    words = {row["name"]: row["word"] for row in found["layers"] if row["word"]}
    assert words == {"0.weight": "2bit", "2.weight": "4bit"}


def test_the_work_is_where_the_tests_look():
    assert work.calibrate is leco.calibrate


BRANCHES = """
import torch
from torch import nn

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.faint, self.loud = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        return self.loud(x) + 0.01 * self.faint(x)

def net():
    torch.manual_seed(0)
    return Branches()

def data():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(128, 64, generator=generator) for _ in range(3)]
"""


def test_a_budget_spends_its_bytes_where_the_output_needs_them(here: Path):
    (here / "branches.py").write_text(BRANCHES)
    command = ("compress", "branches:net", "--calibrate", "branches:data", "--steps", "3")
    assert main([*command, "--to", "budget:5kB", "--out", "small"]) == 0
    text = (here / "small" / "log.txt").read_text()
    assert "the effect of each on the output for 384 samples" in text
    words = {row["name"]: row["word"] for row in result(here / "small")["layers"]}
    bits = {name: int(word.partition("bit")[0]) for name, word in words.items() if word}
    assert bits["loud.weight"] >= bits["faint.weight"] + 2


@pytest.mark.parametrize(
    ("sizes", "expected"), [((100,) * 6, 4), ((200,) * 6, 2), ((600, 1), 1), ((512, 1), 1)]
)
def test_few_samples_measure_effects(sizes: tuple[int, ...], expected: int):
    assert work.effects_from([torch.zeros(n, 3) for n in sizes]) == expected
