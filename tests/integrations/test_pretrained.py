"""Folders of transformers: what from_pretrained loads is Delta(Theta), in every Auto class."""

import json
import warnings
from pathlib import Path

import pytest
import torch

import leco

transformers = pytest.importorskip("transformers")
from leco.integrations.pretrained import save_pretrained  # noqa: E402
from leco.layers.packed_layers import PackedLinear  # noqa: E402

IDS = torch.randint(48, (2, 9), generator=torch.Generator().manual_seed(0))


def llama(tied: bool = True, **more):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tied,
        **more,
    )
    return transformers.LlamaForCausalLM(config).eval()


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    return transformers.BertForSequenceClassification(config).eval()


def lc_of(model, *patterns: str) -> leco.LC:
    names = leco.match(model, *patterns)
    lc = leco.LC(model, leco.each(names, leco.Groups(32), leco.Uniform(3, zero_point=True)))
    lc.mu = 1.0
    return lc


def compressed_state(model, lc) -> dict[str, torch.Tensor]:
    with lc.compressed():
        return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(model, state: dict[str, torch.Tensor]) -> None:
    own = model.state_dict()
    assert own.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(own[name], value), name


@pytest.mark.parametrize("tied", [True, False])
def test_a_causal_model_is_loaded_to_the_bit(tied: bool, tmp_path: Path):
    model = llama(tied)
    lc = lc_of(model, "*_proj.weight", "model.embed_tokens.weight")
    size = save_pretrained(tmp_path, model, lc)
    assert size == (tmp_path / "model.safetensors").stat().st_size
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"] == {
        "quant_method": "leco",
        "packed": False,
    }
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not [w for w in noted if "leco" in w.filename or "initialized" in str(w.message)]
    assert type(loaded) is type(model)
    assert_same(loaded, compressed_state(model, lc))
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    with lc.compressed():
        one, other = (
            m.generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=0)
            for m in (model, loaded)
        )
    assert torch.equal(one, other)


def test_nothing_is_said_of_missing_names(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    model = llama()
    save_pretrained(tmp_path, model, lc_of(model, "*_proj.weight"))
    transformers.utils.logging.enable_propagation()
    try:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    finally:
        transformers.utils.logging.disable_propagation()
    assert "MISSING" not in caplog.text
    assert "UNEXPECTED" not in caplog.text
    assert "tied weights" not in caplog.text
    assert "_keys_to_ignore_on_load_missing" not in vars(loaded)


def test_other_auto_classes(tmp_path: Path):
    model = bert()
    lc = lc_of(model, "*.dense.weight", "*.query.weight")
    save_pretrained(tmp_path, model, lc)
    state = compressed_state(model, lc)
    kind = transformers.AutoModelForSequenceClassification
    assert_same(kind.from_pretrained(tmp_path), state)
    # the base model of a model with a head
    inner = transformers.AutoModel.from_pretrained(tmp_path).state_dict()
    assert len(inner) == len([name for name in state if name.startswith("bert.")])
    for name, value in inner.items():
        assert torch.equal(value, state[f"bert.{name}"]), name
    # another head, which the file does not have
    with pytest.warns(UserWarning, match="newly initialized: qa_outputs.weight, qa_outputs.bias"):
        other = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(other.state_dict()[name], state[name])


def test_dtype_and_packed(tmp_path: Path):
    model = llama()
    lc = lc_of(model, "*_proj.weight")
    save_pretrained(tmp_path / "dense", model, lc)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "dense", dtype=torch.bfloat16
    )
    state = {name: value.bfloat16() for name, value in compressed_state(model, lc).items()}
    assert_same(loaded, state)

    save_pretrained(tmp_path / "packed", model, lc, packed=True)
    packed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    layer = packed.model.layers[1].mlp.up_proj
    assert isinstance(layer, PackedLinear)
    assert torch.equal(layer.weight, lc.delta["model.layers.1.mlp.up_proj.weight"])
    with lc.compressed(), torch.no_grad():
        assert torch.allclose(packed(IDS).logits, model(IDS).logits, atol=1e-5)


def test_low_rank_layers_are_packed_as_pairs(tmp_path: Path):
    model = llama()
    lc = leco.LC(model, leco.each(leco.match(model, "*up_proj*"), leco.Matrix(), leco.LowRank(4)))
    lc.mu = 1.0
    save_pretrained(tmp_path, model, lc, packed=True)
    packed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(packed.model.layers[0].mlp.up_proj, torch.nn.Sequential)
    with lc.compressed(), torch.no_grad():
        assert torch.allclose(packed(IDS).logits, model(IDS).logits, atol=1e-5)


def test_saving_a_loaded_model_again(tmp_path: Path):
    model = llama()
    bits = torch.randint(-(2**31), 2**31, (48, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # floats that no coding shortens have an entry of their own
        model.model.embed_tokens.weight.copy_(bits.int().view(torch.float32).nan_to_num())
    lc = lc_of(model, "*_proj.weight")
    save_pretrained(tmp_path / "one", model, lc)
    auto = transformers.AutoModelForCausalLM
    loaded = auto.from_pretrained(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("one", "two")]
    assert abs(sizes[0] - sizes[1]) < 200  # metadata
    assert_same(auto.from_pretrained(tmp_path / "two"), compressed_state(model, lc))
    # in several files
    loaded.save_pretrained(tmp_path / "shards", max_shard_size=3000)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert_same(auto.from_pretrained(tmp_path / "shards"), compressed_state(model, lc))
    # a model that was trained is not that of its file
    with torch.no_grad():
        loaded.model.norm.weight.add_(1)
    with pytest.raises(ValueError, match="the weights have changed since they were loaded"):
        loaded.save_pretrained(tmp_path / "three")
    plain = loaded.dequantize()
    plain.save_pretrained(tmp_path / "three")
    assert_same(auto.from_pretrained(tmp_path / "three"), loaded.state_dict())


def test_a_pipeline(tmp_path: Path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    model = llama()
    lc = lc_of(model, "*_proj.weight")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({f"w{i}": i for i in range(48)}, unk_token="w0")),
        pad_token="w0",
    )
    save_pretrained(tmp_path, model, lc, tokenizer=tokenizer)
    generate = transformers.pipeline("text-generation", model=str(tmp_path), device="cpu")
    text = generate("w3", max_new_tokens=3, do_sample=False)[0]["generated_text"]
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids.numel() >= 1


def test_what_is_wrong(tmp_path: Path):
    model = llama()
    lc = lc_of(model, "*_proj.weight")
    with pytest.raises(TypeError, match="Linear is no model of transformers"):
        save_pretrained(tmp_path, torch.nn.Linear(2, 2), lc)
    with pytest.raises(ValueError, match="lc is of another model"):
        save_pretrained(tmp_path, llama(), lc)
    assert not list(tmp_path.iterdir())
    save_pretrained(tmp_path, model, lc)
    (tmp_path / "model.safetensors").write_bytes(b"no file")
    with pytest.raises(Exception, match=r"header|safetensors|Header"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
