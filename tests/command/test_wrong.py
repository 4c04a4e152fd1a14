"""What is wrong with a command is said in one line that says what to do; nothing is written."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from leco.command import compress as job
from leco.command import recipe as recipes
from leco.command import recipes as tested
from leco.command.cli import main

DIRECT = ("compress", "nets:net")
RECIPES = {
    "modell: nets:net": "unknown key 'modell'; did you mean 'model'?",
    "model: nets:net\ncalibrate: {data: nets:data, sample: 3}": "'calibrate.sample'; did you mean"
    " 'samples'?",
    "model: nets:net\ncalibrate: {steps: 3}": "calibrate.data: field required",
    "model: nets:net\nto: 3bits!": "'3bits!' is not a compression; the words are 2bit",
    "model: nets:net\nto: {}": "to: is empty",
    "model: nets:net\nto: {0.weight: 2bit, 9.weight: 3bit}": "'9.weight' matches none",
    "model: nets:net\nto: {0.*: 2bit, '*.weight': 3bit}": "'0.weight' matches '0.*' and '*.weight'",
    "model: nets:net\nto: {'*.bias': 2bit}": "'*.bias' matches only norms and biases",
    "model: nets:net\nto: 3bit\nto: 2bit": "the key 'to' stands twice",
    "model: [nets": "not a YAML file",
    "model: nets:net\noptimize: {words: [2bit], trial: 3}": "did you mean 'trials'?",
    "model: nets:net\noptimize: {words: []}": "optimize.words: give at least one word",
    "3bit": "a recipe has keys and values",
    "model: nets:net\nrest: float8": "rest: input should be 'auto', 'float32'",
    "model: nets:net\ncalibrate: {data: nets:data, samples: 0}": "calibrate.samples",
}
COMMANDS = {
    "no model": (["compress"], "give a MODEL"),
    "no such model": (["compress", "nothing"], "'nothing' is not a folder with a config.json"),
    "an empty folder": (["compress", "empty"], "no config.json"),
    "no such module": (["compress", "absent:net"], "module 'absent' can't be imported"),
    "no such function": (["compress", "nets:absent"], "has no function 'absent'"),
    "no module": (["compress", "nets:text"], "returned a str; it must return a torch.nn.Module"),
    "a function that fails": (["compress", "nets:broken"], "nets:broken failed (KeyError"),
    "no such data": ([*DIRECT, "--calibrate", "no.txt"], "'no.txt' is not a text file"),
    "a text without tokenizer": ([*DIRECT, "--calibrate", "a.txt"], "needs the tokenizer"),
    "no images": ([*DIRECT, "--calibrate", "empty"], "the folder has no images"),
    "an unknown word": ([*DIRECT, "--to", "9bit"], "bits must be 1 to 8"),
    "a pattern twice": ([*DIRECT, "--to", "a=2bit", "--to", "a=3bit"], "is given twice"),
    "two words": ([*DIRECT, "--to", "2bit", "--to", "3bit"], "give one word for all"),
    "too large a rank": ([*DIRECT, "--to", "rank:64"], "takes no fewer numbers than 40 x 64"),
    "a budget without data": ([*DIRECT, "--to", "budget:5kB"], "give --calibrate"),
    "a budget without size": ([*DIRECT, "--to", "budget:"], "needs a size"),
    "a size that is none": ([*DIRECT, "--to", "budget:5 bananas"], "is not a size"),
    "a budget too small": (
        [*DIRECT, "--to", "budget:1kB", "--calibrate", "nets:data"],
        "is too small; the smallest choice takes about",
    ),
    "a bad share": ([*DIRECT, "--to", "130%"], "at most 100 %"),
    "no L step": ([*DIRECT, "--train", "nets:text2"], "must return the L step"),
    "a text for a net without logits": (
        ["evaluate", "nets:net", "a.txt"],
        "a text needs the tokenizer",
    ),
    "optimize in compress": (
        ["compress", "--recipe", "search.yaml"],
        "the recipe has a search (optimize); leco sweep does it",
    ),
    "no number": ([*DIRECT, "--evaluate", "nets:text2"], "must return a number"),
    "a full folder": ([*DIRECT, "--out", "full"], "full is not empty; remove it"),
    "a file for a folder": ([*DIRECT, "--out", "a.txt"], "a.txt is a file"),
    "an unknown recipe": (["recipes", "vision"], "did you mean 'vision-2-4'?"),
    "no result": (["compare", "empty", "empty"], "no result.json in it"),
    "an unknown runtime": (["export", "nets:net", "--to", "tvm", "--out", "x"], "must be one of"),
}


@pytest.fixture
def place(here: Path) -> Path:
    for folder in ("empty", "full"):
        (here / folder).mkdir()
    (here / "full" / "a").write_text("a")
    (here / "a.txt").write_text("some text")
    search = "model: nets:net\nevaluate: nets:error\noptimize: {words: [2bit, 3bit]}"
    (here / "search.yaml").write_text(search)
    with (here / "nets.py").open("a") as file:
        file.write('\ndef text2(model, lc=None):\n    return "none"\n')
    return here


def line_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, after the lines of a job that has begun."""
    err = capsys.readouterr().err
    assert err.startswith("leco: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(("recipe", "said"), RECIPES.items(), ids=RECIPES.values())
def test_a_wrong_recipe(recipe, said, place: Path, capsys: pytest.CaptureFixture[str]):
    (place / "recipe.yaml").write_text(recipe)
    before = sorted(place.rglob("*.safetensors"))
    assert main(["compress", "--recipe", "recipe.yaml"]) == 1
    assert said in line_of(capsys)
    assert sorted(place.rglob("*.safetensors")) == before
    assert not (place / "small").exists()


@pytest.mark.parametrize(("command", "said"), COMMANDS.values(), ids=COMMANDS)
def test_a_wrong_command(command, said, place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(command) == 1
    assert said in line_of(capsys)
    assert not (place / "small").exists()


def test_unknown_options_and_commands_give_2(capsys: pytest.CaptureFixture[str]):
    for command in (["compress", "a:b", "--too", "3bit"], ["squeeze"], ["inspect"]):
        assert main(command) == 2
        assert line_of(capsys)
    assert main([]) == 0
    assert "compress" in capsys.readouterr().out


def test_the_recipes_that_come_with_it_are_right(capsys: pytest.CaptureFixture[str]):
    for name, about in tested.every().items():
        values = yaml.safe_load(tested.text(name))
        assert recipes.checked({"model": "a:b", **values}, name)
        assert about
        assert "\n" not in about
    assert main(["recipes", "--schema"]) == 0
    assert set(json.loads(capsys.readouterr().out)["properties"]) >= {"model", "to", "calibrate"}


def test_a_text_shorter_than_a_sequence(
    here: Path, language_model: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["compress", str(language_model / "model"), "--calibrate"]
    assert main([*command, str(language_model / "texts.txt"), "--length", "201"]) == 1
    assert "200 tokens, fewer than one sequence of 201" in line_of(capsys)
    assert list(here.glob("small*")) == []


def test_a_damaged_model(here: Path, language_model: Path, capsys: pytest.CaptureFixture[str]):
    folder = here / "damaged"
    folder.mkdir()
    for path in (language_model / "model").iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[: 900 if "safe" in path.name else None])
    assert main(["compress", "damaged"]) == 1
    assert "damaged: the model can't be loaded" in line_of(capsys)


def test_a_model_that_lacks_weights(
    here: Path, language_model: Path, capsys: pytest.CaptureFixture[str]
):
    from safetensors.torch import load_file, save_file

    shutil.copytree(language_model / "model", here / "part")
    file = here / "part" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    assert main(["compress", "part"]) == 1
    said = "part: its files lack 1 weights of a LlamaForCausalLM: model.layers.1.mlp.up_proj.weight"
    assert said in line_of(capsys)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("shapes\ndiffer"), "leco: RuntimeError: shapes differ\n"),
        (KeyError("x"), "leco: KeyError: 'x'\n"),
        (ValueError("too\n small"), "leco: too small\n"),
        (MemoryError(), "leco: MemoryError: MemoryError\n"),
        (OSError(28, "No space left on device", "a/b"), "No space left on device: 'a/b'\n"),
    ],
)
def test_any_error_is_one_line(
    error, said, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(job, "layers_of", failing)  # after the file is written
    assert main([*DIRECT, "--out", "small"]) == 1
    assert capsys.readouterr().err.endswith(said)
    assert not (place / "small").exists()
    assert type(error).__name__ in (place / "small.part" / "log.txt").read_text()


def test_a_disk_that_fills_at_any_write(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Wherever the disk is full, there is one line and no folder; the same command goes on."""
    command = ["compress", "nets:net", "--calibrate", "nets:data", "--steps", "2"]
    count, limit, plain = 0, 1, Path.write_text

    def write_text(path, *given, **more):
        nonlocal count
        count += 1
        if count == limit:
            raise OSError(28, "No space left on device")
        return plain(path, *given, **more)

    monkeypatch.setattr(Path, "write_text", write_text)
    while main(command) == 1:
        assert "No space left on device" in line_of(capsys)
        assert not (place / "small").exists()
        count, limit = 0, limit + 1
    assert limit >= 5  # recipe, recipe of the result, numbers, two reports
    assert {path.name for path in place.glob("small*")} == {"small"}
