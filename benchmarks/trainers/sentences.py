"""Sentences of WikiText-2 for all-MiniLM-L6-v2: batches, embeddings, and how near two nets are."""

import lzma
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import nets
from benchmarks.layerwise.smollm2 import plain

LONGEST = 64  # tokens of a sentence
END = re.compile(r'(?<=[.!?]) +(?=[A-Z"])')
Batch = dict[str, Tensor]


def tokens(data: Path, split: str) -> list[list[int]]:
    """The token numbers of the sentences of `valid` or `test`, without headings and short ones.

    Args:
        data: the folder that has wikitext-2/valid.txt.xz and test.txt.xz.
        split: "valid" or "test".
    """
    from transformers import AutoTokenizer

    with lzma.open(data / "wikitext-2" / f"{split}.txt.xz", "rt", encoding="utf-8") as file:
        lines = plain(file.read()).split("\n")
    text = [line for line in lines if not line.strip().startswith("=")]
    every = [part.strip() for line in text for part in END.split(line)]
    tokenizer: Any = AutoTokenizer.from_pretrained(nets.minilm_folder())
    long = [sentence for sentence in every if len(sentence) > 30]
    return tokenizer(long, truncation=True, max_length=LONGEST)["input_ids"]


def padded(rows: list[list[int]]) -> Batch:
    """Token numbers (B, T) and their mask; 0 is the padding token."""
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def batches(rows: list[list[int]], size: int) -> list[Batch]:
    """Batches of sentences of like length."""
    ordered = sorted(rows, key=len)
    return [padded(ordered[i : i + size]) for i in range(0, len(ordered), size)]


def embeddings(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of the tokens' states (B, T, D), of length 1: (B, D)."""
    weights = mask[:, :, None].to(states.dtype)
    return F.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


@torch.no_grad()
def embedded(net: nn.Module, rows: list[list[int]]) -> Tensor:
    """The embeddings (count, D) of sentences."""
    net.eval()
    found = [
        embeddings(net(**batch).last_hidden_state, batch["attention_mask"])
        for batch in (padded(rows[i : i + 50]) for i in range(0, len(rows), 50))
    ]
    return torch.cat(found)


def likeness(ours: Tensor, dense: Tensor) -> dict[str, float]:
    """How near embeddings (count, D) are to those of the dense net: the mean and the least cosine,
    and the share of sentences whose nearest other sentence is the same, in %."""
    cosines = (ours * dense).sum(1)
    nearest = [(e @ e.mT).fill_diagonal_(-1).argmax(1) for e in (ours, dense)]
    same = (nearest[0] == nearest[1]).double().mean()
    return {
        "cosine": float(cosines.mean()),
        "least_cosine": float(cosines.min()),
        "same_nearest": 100 * float(same),
    }
