"""Small language models of transformers, on the grids of GGUF files, and a tokenizer."""

from typing import Any

import torch
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


def conv1d(net: nn.Module) -> list[str]:
    """The weights (in, out)."""
    return [n for n in matrices(net) if type(net.get_submodule(n[:-7])).__name__ == "Conv1D"]


def compressed(net: nn.Module, kind: str) -> leco.LC:
    """All matrices on the grid of a type."""
    plain = [n for n in matrices(net) if n not in conv1d(net)]
    tasks = leco.each(plain, *leco.gguf_grid(kind))
    lc = leco.LC(net, {**tasks, **leco.each(conv1d(net), *leco.gguf_grid(kind, transposed=True))})
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


UP = "model.layers.0.mlp.up_proj.weight"
