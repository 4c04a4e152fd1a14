"""Every recipe that comes with leco, done on a tiny model; and data of images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from PIL import Image
from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification

from leco.command import recipes
from leco.command.cli import main

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 2}
FAST = ("--samples", "2", "--steps", "2")
TEXT = (*FAST, "--length", "16")


@pytest.fixture
def place(here: Path, language_model: Path) -> Path:
    """A folder with what the recipes name: models of three tasks, texts and images."""
    shutil.copytree(language_model / "model", here / "llama")
    for name, other in (("calibration", "texts"), ("test", "test")):
        shutil.copy(language_model / f"{other}.txt", here / f"{name}.txt")
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=64, **SMALL)).save_pretrained(here / "bert")
    for path in (here / "llama").glob("tokenizer*"):
        shutil.copy(path, here / "bert")
    sizes = {"image_size": 16, "patch_size": 8, "num_labels": 3}
    ViTForImageClassification(ViTConfig(**sizes, **SMALL)).save_pretrained(here / "vit")
    size = {"height": 16, "width": 16}
    transformers.ViTImageProcessor(size=size).save_pretrained(here / "vit")
    (here / "images" / "more").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(here / "images" / ("more" if i > 2 else "") / f"{i}.png")
    (here / "my_training.py").write_text((here / "nets.py").read_text())
    return here


DONE = {
    "encoder-4bit": ("bert", TEXT, "4bit"),
    "language-model-2bit-polished": ("llama", TEXT, "2bit:32"),
    "language-model-3bit": ("llama", TEXT, "3bit"),
    "language-model-mixed": ("llama", TEXT, None),
    "train-1bit": ("nets:net", ("--steps", "2"), "1bit"),
    "vision-2-4": ("vit", FAST, "2:4"),
}


@pytest.mark.parametrize("name", recipes.every())
def test_a_recipe_is_done(name: str, place: Path, capsys: pytest.CaptureFixture[str]):
    model, options, word = DONE[name]
    assert main(["recipes", name]) == 0
    (place / "recipe.yaml").write_text(capsys.readouterr().out)
    command = ["compress", model, "--recipe", "recipe.yaml", *options]
    assert main([*command, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # what the recipe says is what was done
    given = yaml.safe_load((place / "recipe.yaml").read_text())
    assert found["recipe"]["to"] == given["to"]
    done = {row["name"]: row for row in found["layers"] if row["word"]}
    assert set(done) == {row["name"] for row in plan["parameters"] if row["word"]}
    assert word in {row["word"] for row in done.values()} or word is None
    assert len(done) >= 2
    assert bool(found["measured"]) == ("evaluate" in given)
    assert found["bytes"]["after"] < found["bytes"]["before"]
    for row in done.values():
        errors = [row["direct"], row["error"]]
        assert "train" in given or errors[1] <= errors[0] + 1e-9 or "polish" in str(given)


def test_images_are_those_of_the_processor(place: Path, monkeypatch: pytest.MonkeyPatch):
    from leco.command import compress as job

    seen = []
    plain = job.batches
    monkeypatch.setattr(job, "batches", lambda *a: (seen.extend(plain(*a)), seen)[1])
    command = ["compress", "vit", "--to", "4bit:16", "--calibrate", "images", "--steps", "2"]
    assert main([*command, "--samples", "4", "--batch", "3", "--dry-run"]) == 0
    process = transformers.AutoImageProcessor.from_pretrained(place / "vit", use_fast=False)
    files = sorted((place / "images").rglob("*.png"))[:4]
    wanted = process([Image.open(f).convert("RGB") for f in files], return_tensors="pt")
    assert [len(batch["pixel_values"]) for batch in seen] == [3, 1]
    found = torch.cat([batch["pixel_values"] for batch in seen])
    assert torch.equal(found, wanted["pixel_values"])


def test_a_text_can_not_judge_an_encoder(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "bert", "test.txt", "--length", "16"]) == 1
    assert "BertModel does not give logits of the next token" in capsys.readouterr().err


def test_images_that_are_none(place: Path, capsys: pytest.CaptureFixture[str]):
    command = ["compress", "--to", "4bit:16", "--calibrate", "images"]
    (place / "images" / "a.png").write_text("no image")
    assert main([*command, "vit"]) == 1
    assert "images: the images can't be prepared (cannot identify" in capsys.readouterr().err
    assert main([*command, "nets:net"]) == 1
    assert "images need the image processor of a Hugging Face folder" in capsys.readouterr().err
    assert not list(place.glob("small*"))
