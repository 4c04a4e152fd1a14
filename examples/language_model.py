"""A pretrained language model to a small file, without training: 3 bits a weight.

python examples/language_model.py --model FOLDER --text calibration.txt --test test.txt
python examples/language_model.py --smoke        # a tiny random model

Needs transformers. Prints the error of each layer, and the perplexity before and after.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import leco


def tiny() -> tuple[Any, Tensor, Tensor]:
    """A random model of two blocks, with random tokens to calibrate and to judge."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    model = LlamaForCausalLM(config)
    return model.eval(), torch.randint(128, (4, 64)), torch.randint(128, (2, 64))


def pretrained(folder: str, text: str, test: str, length: int) -> tuple[Any, Tensor, Tensor]:
    """A model from a folder, and two texts as sequences of tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokens(path: str) -> Tensor:
        ids = torch.tensor(tokenizer(Path(path).read_text())["input_ids"])
        return ids[: len(ids) // length * length].view(-1, length)[:32]

    return AutoModelForCausalLM.from_pretrained(folder).eval(), tokens(text), tokens(test)


@torch.no_grad()
def perplexity(model: Any, sequences: Tensor) -> float:
    losses = [model(ids[None], labels=ids[None]).loss for ids in sequences]
    return math.exp(torch.stack(losses).mean().item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--text")
    parser.add_argument("--test")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--polish", type=int, default=0)
    parser.add_argument("--out", default="model.safetensors")
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    paths = given.model, given.text, given.test
    model, calibration, test = tiny() if given.smoke else pretrained(*paths, given.length)
    before = perplexity(model, test)

    # compress
    names = leco.match(model, "*_proj.weight")
    grid = leco.Uniform(3, zero_point=True)
    lc = leco.LC(model, leco.each(names, leco.Groups(64), grid))
    print(leco.calibrate(lc, list(calibration.split(1)), polish=given.polish))
    size = leco.save(given.out, lc)

    # judge what the file holds
    fresh = type(model)(model.config)
    leco.load(given.out, fresh)
    print(f"perplexity {before:.2f} before, {perplexity(fresh.eval(), test):.2f} after")
    print(f"{size:,} bytes in {given.out}, {leco.dense_bytes(model):,} before")


if __name__ == "__main__":
    main()
