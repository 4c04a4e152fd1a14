"""What `export_gguf` refuses: before it writes anything, with the reason."""

from pathlib import Path
from typing import Any

import pytest
from export.language_models import UP, compressed, llama, words
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

import leco
from leco.export import gguf as exporter


@pytest.mark.parametrize(
    ("view", "compression", "words"),
    [
        (leco.Groups(32), leco.Uniform(4), ["half precision", "gguf_grid('Q4_0')"]),
        (leco.Groups(16), leco.Uniform(4, False, "float16"), ["shorter than 32", "'Q4_0'"]),
        (leco.Rows(), leco.Codebook(4), ["Codes", "gguf_grid"]),
        (leco.Vector(), leco.TopK(0.1), ["Sparse", "gguf_grid"]),
        (leco.Groups(32), leco.Uniform(8, True, "float16"), ["Affine", "gguf_grid"]),
        (leco.Groups(64), leco.UniformShift(5, "float16"), ["levels from 0 to 31", "'Q8_0'"]),
    ],
)
def test_what_no_type_holds_is_refused_with_the_nearest_grid(view, compression, words, tmp_path):
    net = llama()
    lc = leco.LC(net, {"up": leco.Task(UP, view, compression)})
    lc.mu = 1.0
    with pytest.raises(ValueError, match="task 'up'") as error:
        leco.export_gguf(tmp_path / "net.gguf", net, lc)
    assert all(word in str(error.value) for word in [*words, UP]), str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_coarser_scale_fits_a_type_of_shorter_runs(tmp_path):
    net = llama()
    lc = leco.LC(net, {"up": leco.Task(UP, leco.Rows(), leco.Ternary(True, "float16"))})
    lc.mu = 1.0
    assert leco.export_gguf(tmp_path / "net.gguf", net, lc) == {UP: "Q2_0"}
    assert leco.export_gguf(tmp_path / "net.gguf", net, lc, types=["Q4_0"]) == {UP: "Q4_0"}
    lc = leco.LC(net, {"up": leco.Task(UP, leco.Vector(), leco.Ternary(False))})
    lc.mu = 1.0
    assert leco.export_gguf(tmp_path / "net.gguf", net, lc) == {UP: "Q2_0"}


def refused(message: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        leco.export_gguf(*arguments, **options)


def test_what_llama_cpp_does_not_know_is_refused(tmp_path):
    path, net = tmp_path / "net.gguf", nn.Linear(32, 32)
    lc = leco.LC(net, leco.each(["weight"], *leco.gguf_grid("Q4_0")))
    lc.mu = 1.0
    refused("is a Linear; known are llama, qwen2, gpt2", path, net, lc)
    for options, message in (
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rotary"),
    ):
        model = llama(**options)
        refused(message, path, model, compressed(model, "Q8_0"))
    model = llama()
    lc, tokenizer = compressed(model, "Q8_0"), words()
    refused("types has \\['Q3'\\]", path, model, lc, types=["Q3"])
    refused("has no backend_tokenizer", path, model, lc, "gpt2")
    tokenizer.add_tokens([f"<{i}>" for i in range(20)])
    refused("the embedding 96 rows", path, model, lc, tokenizer)
    tokenizer = words()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    refused("Whitespace has no known name", path, model, lc, tokenizer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))
    refused("the model WordLevel", path, model, lc, tokenizer)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    net, path = llama(), Path(tmp_path / "net.gguf")
    lc = compressed(net, "Q8_0")
    leco.export_gguf(path, net, lc)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(exporter, "_write_vocabulary", fail)
    with pytest.raises(OSError, match="no space left"):
        leco.export_gguf(path, net, lc)
    assert [p.name for p in tmp_path.iterdir()] == ["net.gguf"]
    assert path.read_bytes() == before
