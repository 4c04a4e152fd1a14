"""GGUF files: read back to the bit, and run by llama.cpp."""

import gguf
import pytest
import torch
from export.language_models import MODELS, UP, at_delta, compressed, conv1d, llama, words
from torch import nn

import leco
from benchmarks.serving import llama_cpp
from leco.export.gguf_blocks import NUMBERS, fields_of, pack

KINDS = tuple(NUMBERS)


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
        place = places[tensor.name]
        w = wanted[place].mT if place in conv1d(net) else wanted[place]
        found = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
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
    lc = leco.LC(net, leco.each([UP], *leco.gguf_grid("Q8_0")))
    lc.mu = 1.0
    leco.export_gguf(tmp_path / "net.gguf", net, lc, half=True)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "net.gguf").tensors}
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"
    assert kinds["blk.1.ffn_up.weight"] == "F16"
    assert kinds["blk.0.ffn_norm.weight"] == "F32"
