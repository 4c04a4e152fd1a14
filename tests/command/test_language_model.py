"""The commands on a folder of transformers: texts, perplexity, the folder that comes of it."""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers

import leco
from leco.command.cli import main
from leco.integrations.pretrained import LecoQuantizer, save_pretrained


@pytest.fixture(scope="module")
def small(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in 4 bits, and its embedding in 8."""
    out = tmp_path_factory.mktemp("out") / "small"
    texts = [str(language_model / f"{name}.txt") for name in ("texts", "test")]
    command = ["compress", str(language_model / "model"), "--to", "*embed*=8bit:32", "--to"]
    command += ["others=4bit:32", "--calibrate", texts[0], "--evaluate", texts[1]]
    command += [
        "--samples",
        "4",
        "--length",
        "16",
        "--steps",
        "3",
        "--polish",
        "1",
        "--distill",
        "2",
    ]
    assert main([*command, "--out", str(out)]) == 0
    return out


def test_the_folder_is_loaded_by_transformers(small: Path, language_model: Path):
    auto = transformers.AutoModelForCausalLM
    loaded = auto.from_pretrained(small)
    assert isinstance(loaded.hf_quantizer, LecoQuantizer)
    plain = auto.from_pretrained(language_model / "model")
    leco.load(small / "model.safetensors", plain)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert len(loaded.model.layers[0].mlp.up_proj.weight[0].unique()) <= 16
    assert transformers.AutoTokenizer.from_pretrained(small)("w3 w5")["input_ids"] == [3, 5]


def test_perplexity_is_that_of_the_text(
    small: Path, language_model: Path, capsys: pytest.CaptureFixture[str]
):
    found = json.loads((small / "result.json").read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(small)
    words = (language_model / "test.txt").read_text().split()[: 200 // 16 * 16]
    ids = torch.tensor([int(w[1:]) for w in words]).view(-1, 16)
    with torch.no_grad():
        losses = [model(row[None], labels=row[None]).loss.item() for row in ids]
    expected = math.exp(sum(losses) / len(losses))
    assert found["measured"]["name"] == "perplexity of test.txt"
    assert found["measured"]["after"] == pytest.approx(expected, rel=1e-5)
    command = ["evaluate", str(small), str(language_model / "test.txt"), "--length", "16"]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["value"] == pytest.approx(expected, rel=1e-5)


def test_what_is_left_and_why(small: Path):
    layers = {row["name"]: row for row in json.loads((small / "result.json").read_text())["layers"]}
    assert layers["model.embed_tokens.weight"]["word"] == "8bit:32"
    assert layers["model.norm.weight"]["why"] == "a norm or bias"
    assert {row["word"] for name, row in layers.items() if "_proj" in name} == {"4bit:32"}
    assert "lm_head.weight" not in layers  # tied
    notes = json.loads((small / "result.json").read_text())["notes"]
    assert any(note.startswith("distilled: loss ") for note in notes)


def test_the_head_and_the_embedding_are_left(
    language_model: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["compress", str(language_model / "model"), "--to", "3bit", "--dry-run", "--json"]
    assert main(command) == 0
    plan = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in plan["parameters"]}
    assert rows["model.embed_tokens.weight"]["why"].startswith("an embedding")
    assert plan["bytes"]["after"] < plan["bytes"]["before"]
    assert plan["memory"] > 0


def test_exports(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", str(small), "--to", "dense", "--out", str(tmp_path / "dense")]) == 0
    dense = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    packed = transformers.AutoModelForCausalLM.from_pretrained(small)
    for name, value in packed.state_dict().items():
        assert torch.equal(value, dense.state_dict()[name]), name
    command = ["export", str(small), "--to", "dense", "--out", str(tmp_path / "dense")]
    capsys.readouterr()
    assert main(command) == 1
    assert "is there already" in capsys.readouterr().err


def test_a_folder_of_save_pretrained(
    language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = transformers.AutoModelForCausalLM.from_pretrained(language_model / "model")
    names = leco.match(model, "*_proj.weight")
    lc = leco.LC(model, leco.each(names, leco.Rows(), leco.Binary()))
    lc.mu = 1.0
    tokenizer = transformers.AutoTokenizer.from_pretrained(language_model / "model")
    save_pretrained(tmp_path / "saved", model, lc, tokenizer=tokenizer)
    text = str(language_model / "test.txt")
    assert main(["evaluate", str(tmp_path / "saved"), text, "--length", "16"]) == 0
    assert "perplexity of test.txt: " in capsys.readouterr().out


def test_a_folder_goes_on_without_its_source(small: Path, tmp_path: Path):
    command = ["compress", str(small), "--to", "2bit:32", "--out", str(tmp_path / "again")]
    assert main(command) == 0
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert len(again.model.layers[0].mlp.up_proj.weight[0].unique()) <= 4


def test_a_folder_in_half_precision(
    language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Bytes are counted, and the rest is kept, in the type of the folder."""
    auto = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(language_model / "model", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    command = ["compress", str(tmp_path / "half"), "--to", "4bit:32", "--json"]
    assert main([*command, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main([*command, "--out", str(tmp_path / "small")]) == 0
    made = json.loads(capsys.readouterr().out)
    numbers = sum(p.numel() for p in model.parameters())
    assert made["bytes"]["before"] == plan["bytes"]["before"]
    assert 0 <= plan["bytes"]["before"] - 2 * numbers < 200  # buffers
    written = sum(p["bytes"] for p in made["parts"] if "description" not in p["part"])
    assert plan["bytes"]["after"] == pytest.approx(written, rel=0.06)
    loaded = auto.from_pretrained(tmp_path / "small")
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.model.embed_tokens.weight, model.model.embed_tokens.weight)
