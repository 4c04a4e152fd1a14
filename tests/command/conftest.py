"""Small nets for the commands: a language model in a folder of Hugging Face, and modules of
functions in the present folder."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = 64
NETS = """
import torch
from torch import nn
import leco

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(),
                         nn.Linear(40, 4))

def data():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 64, generator=generator) for _ in range(3)]

def error(model):
    x = torch.cat(data())
    with torch.no_grad():
        return float((model(x) - net()(x)).square().mean())

def train(model, lc):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    lc.attach(optimizer)
    x = torch.cat(data())
    y = net()(x).detach()
    def l_step(k):
        for _ in range(3):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()
    return {"l_step": l_step, "stateful": {"optimizer": optimizer}}

def text():
    return "no net"

def broken():
    raise KeyError("weights")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The present folder, with the module `nets`."""
    sys.modules.pop("nets", None)  # another test's
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    yield tmp_path
    sys.modules.pop("nets", None)


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two blocks, its tokenizer, and two texts beside it."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    vocabulary = {f"w{i}": i for i in range(WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder / "model")
    for name, seed in (("texts", 1), ("test", 2)):
        numbers = torch.randint(WORDS, (200,), generator=torch.Generator().manual_seed(seed))
        (folder / f"{name}.txt").write_text(" ".join(f"w{i}" for i in numbers.tolist()))
    assert json.loads((folder / "model" / "config.json").read_text())["architectures"]
    return folder
