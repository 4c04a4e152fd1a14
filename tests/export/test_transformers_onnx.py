"""Language models of transformers in onnxruntime: inputs by name, of any length."""

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import leco

LENGTHS = {"input_ids": {0: "batch", 1: "length"}, "use_cache": None}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=120, **sizes, **heads, tie_word_embeddings=True)
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("weights", ["codes", "nbits", "qdq"])
def test_a_language_model_of_any_length(weights, tmp_path):
    model = llama()
    names = [n for n, p in model.named_parameters() if p.ndim == 2]
    lc = leco.LC(model, leco.each(names, leco.Groups(32), leco.Uniform(4)))
    lc.mu = 1.0
    path, ids = tmp_path / "net.onnx", torch.randint(120, (2, 7))
    held = leco.export_onnx(
        path,
        model,
        lc,
        kwargs={"input_ids": ids, "use_cache": False},
        dynamic_shapes=LENGTHS,
        input_names=["input_ids"],
        output_names=["logits"],
        weights=weights,
    )
    assert all("4 bits" in how for how in held.values())
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(path, options)
    assert [i.name for i in session.get_inputs()] == ["input_ids"]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    assert session.get_inputs()[0].shape == ["batch", "length"]
    for batch, length in ((1, 1), (2, 7), (3, 19)):
        tokens = torch.randint(120, (batch, length))
        with lc.compressed(), torch.no_grad():
            wanted = model(tokens, use_cache=False).logits.numpy()
        (found,) = session.run(None, {"input_ids": tokens.numpy()})
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_the_batch_is_free_by_default(tmp_path):
    model = llama()
    kwargs = {"input_ids": torch.randint(120, (2, 7)), "use_cache": False}
    leco.export_onnx(tmp_path / "net.onnx", model, {}, kwargs=kwargs)
    (given,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").get_inputs()
    assert given.name == "input_ids"
    assert given.shape[1] == 7
    assert isinstance(given.shape[0], str)
    with pytest.raises(TypeError, match="does not take these inputs"):
        leco.export_onnx(tmp_path / "net.onnx", torch.nn.Linear(2, 2), {}, kwargs={"tokens": 1})
