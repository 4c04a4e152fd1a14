"""GGUF files: read back to the bit, run by llama.cpp, and refused where they can't be right."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from benchmarks.serving import llama_cpp
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import leco
from leco.export import gguf as exporter
from leco.export.gguf_blocks import NUMBERS, fields_of, pack

KINDS = tuple(NUMBERS)
SIZES = {"num_hidden_layers": 2, "vocab_size": 96, "max_position_embeddings": 64}
GROUPED = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2}


def llama(**options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {**GROUPED, "hidden_size": 64, "intermediate_size": 96, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, "initializer_range": 0.2, **options})).eval()


def qwen2(**options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {**GROUPED, "hidden_size": 64, "intermediate_size": 96, "tie_word_embeddings": False}
    net: Any = Qwen2ForCausalLM(Qwen2Config(**{**sizes, "initializer_range": 0.2, **options}))
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p)
    return net.eval()


def gpt2(**options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 96, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**{**sizes, "initializer_range": 0.2, **options})).eval()


MODELS = {"llama": llama, "qwen2": qwen2, "gpt2": gpt2}


def matrices(net: nn.Module) -> list[str]:
    return [n for n, p in net.named_parameters() if p.dim() == 2 and "wpe" not in n]


def compressed(net: nn.Module, kind: str) -> leco.LC:
    """All matrices on the grid of a type."""
    conv1d = [n for n in matrices(net) if type(net.get_submodule(n[:-7])).__name__ == "Conv1D"]
    plain = [n for n in matrices(net) if n not in conv1d]
    tasks = leco.each(plain, *leco.gguf_grid(kind))
    lc = leco.LC(net, {**tasks, **leco.each(conv1d, *leco.gguf_grid(kind, transposed=True))})
    lc.mu = 1.0
    return lc


def at_delta(net: nn.Module, lc: leco.LC) -> Any:
    with torch.no_grad():
        for name, delta in lc.delta.items():
            net.get_parameter(name).copy_(delta)
    return net


def words() -> Any:
    """A byte-level BPE tokenizer of 96 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = "abcdefghijklmnopqrstuvwxyz .,ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<|end|>"], show_progress=False)
    texts = [letters, "the net is small and the file is small", "the law of the code"]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_ggml_decodes_the_weights_of_theta(kind):
    torch.manual_seed(0)
    w = torch.randn(3, 512)
    view, compression = leco.gguf_grid(kind)
    theta = compression.compress(view.forward([w]), 1.0)
    delta = view.backward(theta.decompress(), [w.shape])[0]
    found = fields_of(theta, view, {"w": w.shape})
    assert found is not None
    packed = pack(found["w"], kind, gguf)
    assert not isinstance(packed, str), packed
    assert torch.equal(llama_cpp.decoded(packed.data, kind, 512), delta)


@pytest.mark.parametrize("kind", KINDS)
def test_no_grid_is_worse_than_ggmls_own_quantizer(kind):
    torch.manual_seed(0)
    w = torch.randn(8, 512) * 0.03
    view, compression = leco.gguf_grid(kind)
    theta = compression.compress(view.forward([w]), 1.0)
    delta = view.backward(theta.decompress(), [w.shape])[0]
    theirs = llama_cpp.decoded(llama_cpp.quantized(w, NUMBERS[kind]), kind, 512)
    # a row of its own quantizer is a point of the set
    ours, own = ((w - found).view(-1, 256).square().sum(-1) for found in (delta, theirs))
    assert ours.sum() <= own.sum() * (1 + 1e-6)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("name", MODELS)
def test_a_file_is_read_back_to_the_bit(name, kind, tmp_path):
    net = MODELS[name]()
    lc = compressed(net, kind)
    held = leco.export_gguf(tmp_path / "net.gguf", net, lc)
    assert held == dict.fromkeys(lc.delta, kind)
    wanted = at_delta(net, lc).state_dict()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[name.upper()], 2)
    places = {names.get_name(n, (".weight", ".bias")): n for n in wanted}
    read = gguf.GGUFReader(tmp_path / "net.gguf").tensors
    assert len(read) == len(list(net.parameters()))
    for tensor in read:
        w = wanted[places[tensor.name]]
        found = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        if places[tensor.name].endswith("weight") and found.shape != w.shape:
            w = w.mT
        elif "c_proj" in places[tensor.name] and w.dim() == 2:
            w = w.mT
        if name == "llama" and tensor.name.split(".")[-2] in ("attn_q", "attn_k"):
            w = w.unflatten(0, (-1, 2, 8)).transpose(1, 2).flatten(0, 2)
        assert torch.equal(found, w), tensor.name


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("llama", "Q4_0", {}),
        ("llama", "Q2_0", {"tie_word_embeddings": False, "head_dim": 32}),
        ("llama", "TQ2_0", {"hidden_size": 256, "intermediate_size": 256}),
        ("llama", "Q1_0", {"hidden_size": 128, "intermediate_size": 256}),
        ("qwen2", "Q4_1", {}),
        ("gpt2", "Q8_0", {}),
    ],
)
def test_llama_cpp_computes_the_logits_of_the_net(name, kind, options, tmp_path):
    net = MODELS[name](**options)
    lc = compressed(net, kind)
    leco.export_gguf(tmp_path / "net.gguf", net, lc)
    net, ids = at_delta(net, lc), torch.randint(96, (1, 24))
    wanted = net(ids).logits[0].detach()
    with llama_cpp.Runtime(tmp_path / "net.gguf") as runtime:
        logits = runtime.decode(ids[0].tolist())
        greedy = runtime.greedy(ids[0].tolist(), 8)
    # llama.cpp rounds the inputs of quantized products to 8 bits, in runs of 32 or 256
    assert distance(logits, wanted) <= (0.05 if kind == "TQ2_0" else 0.03)
    assert greedy[0] == int(logits[-1].argmax())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"head_dim": 32, "rms_norm_eps": 0.1, "tie_word_embeddings": False}),
        ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
        ("gpt2", {"n_inner": 96, "layer_norm_epsilon": 0.1}),
    ],
)
def test_dense_weights_give_the_logits_of_the_net(name, options, tmp_path):
    net = MODELS[name](**options)
    for p_name, p in net.named_parameters():
        if p_name.endswith("bias"):
            nn.init.normal_(p)
    ids = torch.randint(96, (1, 24))
    leco.export_gguf(tmp_path / "net.gguf", net, {})
    with llama_cpp.Runtime(tmp_path / "net.gguf") as runtime:
        logits = runtime.decode(ids[0].tolist())
    # keys and values are kept in half precision
    assert distance(logits, net(ids).logits[0].detach()) <= 2e-3


def test_the_text_is_that_of_the_net(tmp_path):
    net, tokenizer = llama(), words()
    lc = compressed(net, "Q8_0")
    leco.export_gguf(tmp_path / "net.gguf", net, lc, tokenizer)
    net, text = at_delta(net, lc), "the law of small nets, and the code."
    ids = tokenizer(text)["input_ids"]
    wanted = net.generate(
        torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, len(ids) :]
    with llama_cpp.Runtime(tmp_path / "net.gguf") as runtime:
        assert runtime.tokenize(text) == ids
        assert runtime.greedy(ids, 12) == wanted.tolist()
        assert runtime.tokens == 96
    fields = gguf.GGUFReader(tmp_path / "net.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id
    assert fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q8_0


def test_half_precision_is_for_matrices_in_no_task(tmp_path):
    net = llama()
    lc = leco.LC(net, leco.each(["model.layers.0.mlp.up_proj.weight"], *leco.gguf_grid("Q8_0")))
    lc.mu = 1.0
    leco.export_gguf(tmp_path / "net.gguf", net, lc, half=True)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "net.gguf").tensors}
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"
    assert kinds["blk.1.ffn_up.weight"] == "F16"
    assert kinds["blk.0.ffn_norm.weight"] == "F32"


UP = "model.layers.0.mlp.up_proj.weight"


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
