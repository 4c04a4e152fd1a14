"""all-MiniLM-L6-v2 compressed in transformers' Trainer, with its dense self as the teacher.

    python -m benchmarks.trainers.minilm --data FOLDER --rows "1 bit" "2:4" \\
        --methods DC calibrate LC [--record]

FOLDER has wikitext-2/valid.txt.xz, whose sentences calibrate and train without labels, and
test.txt.xz, whose sentences judge: the cosine between the embeddings of the compressed and of the
dense net. Each net is judged from its file. DC is direct compression. "calibrate, polished, LC" is
LC from the calibrated net on. LC resumes from the Trainer's last checkpoint in the folder --out.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers.trainer_utils import get_last_checkpoint

import leco
from benchmarks import nets, records
from benchmarks.trainers import sentences
from leco.integrations.transformers import LCCallback

WORDS = "embeddings.word_embeddings.weight"
CALIBRATION = 1000  # sentences
JUDGED = 500
CALIBRATED = "calibrate, polished, LC"
Tasks = dict[str, leco.Task]


def one_bit(net: nn.Module) -> Tasks:
    """Signs and a scale for each row, of all matrices and of the words' embeddings."""
    return leco.each([WORDS, *matrices(net)], leco.Rows(), leco.Binary())


def two_of_four(net: nn.Module) -> Tasks:
    """Two of four weights of all matrices; the words' embeddings in 8 bits, a grid a row."""
    words = leco.each([WORDS], leco.Rows(), leco.Uniform(8))
    return {**words, **leco.each(matrices(net), leco.Rows(), leco.NM(2, 4))}


ROWS: dict[str, Callable[[nn.Module], Tasks]] = {"1 bit": one_bit, "2:4": two_of_four}


def matrices(net: nn.Module) -> list[str]:
    """The weights of the six blocks."""
    return list(leco.match(net, nn.Linear, exclude=["pooler*"]))


def distance(ours: Tensor, dense: Tensor, mask: Tensor) -> Tensor:
    """1 - cosine of the sentences' embeddings, and the relative squared error of the tokens'
    states, both means over the batch."""
    cosines = (sentences.embeddings(ours, mask) * sentences.embeddings(dense, mask)).sum(1)
    weights = mask[:, :, None].to(ours.dtype)
    error = ((ours - dense).square() * weights).sum() / (dense.square() * weights).sum()
    return (1 - cosines).mean() + error


class Distilled(transformers.Trainer):
    """A Trainer whose loss is the distance from a teacher."""

    teacher: nn.Module

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        ours = model(**inputs)
        with torch.no_grad():
            dense = self.teacher(**inputs).last_hidden_state
        loss = distance(ours.last_hidden_state, dense, inputs["attention_mask"])
        return (loss, ours) if return_outputs else loss


def mus_of(lc: leco.LC, batch: sentences.Batch, teacher: nn.Module, count: int) -> list[float]:
    """A schedule from the curvature of the loss."""
    with torch.no_grad():
        dense = teacher(**batch).last_hidden_state

    def backward() -> None:
        states = lc.model(**batch).last_hidden_state
        distance(states, dense, batch["attention_mask"]).backward()

    return leco.automatic(lc.curvature(backward), count)


def calibrated(lc: leco.LC, train: list[list[int]], polish: bool) -> leco.LC:
    """The LC after a calibration without training."""
    some = sentences.batches(train[:CALIBRATION], 20)
    leco.calibrate(lc, some, polish=4 * polish, progress=False)
    return lc


def trained(
    args: argparse.Namespace, row: str, method: str, train: list[list[int]], path: Path
) -> None:
    """LC under the Trainer; the file is at `path`."""
    transformers.set_seed(args.seed)
    student = nets.minilm(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    teacher = nets.minilm()
    batch = sentences.padded(train[:32])
    start = leco.LC(student, ROWS[row](student))
    mus = mus_of(start, batch, teacher, args.mus)
    if method == CALIBRATED:
        calibrated(start, train, polish=True)
    callback = LCCallback(
        lambda _: start,
        mus,
        rounds=args.rounds,
        file=path,
        from_delta=True,
    )
    folder = args.out / f"minilm-{row.replace(':', '-')}-{method}"
    settings = transformers.TrainingArguments(
        str(folder),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        learning_rate=args.rate,
        warmup_steps=args.steps // 20,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        save_steps=max(1, args.steps // 10),
        save_total_limit=1,
        save_only_model=False,
        train_sampling_strategy="group_by_length",
        use_cpu=True,
        seed=args.seed,
        report_to="none",
        logging_steps=max(1, args.steps // 100),
        remove_unused_columns=False,
    )
    trainer = Distilled(
        cast(Any, student),
        settings,
        train_dataset=cast(Any, [{"input_ids": row} for row in train]),
        data_collator=lambda rows: sentences.padded([row["input_ids"] for row in rows]),
        callbacks=[callback],
    )
    trainer.teacher = teacher
    last = get_last_checkpoint(str(folder)) if folder.exists() else None
    trainer.train(resume_from_checkpoint=last)


def compressed(args: argparse.Namespace, row: str, method: str, train: list[list[int]]) -> Path:
    """The file of a method."""
    path = args.out / f"minilm, {row}, {method}.safetensors"
    if method in ("LC", CALIBRATED):
        trained(args, row, method, train, path)
        return path
    net = nets.minilm()
    lc = leco.LC(net, ROWS[row](net))
    if method == "DC":
        lc.mu = 1.0
        lc.project_()
    else:
        calibrated(lc, train, method == "calibrate, polished")
    leco.save(path, lc)
    return path


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    train = sentences.tokens(args.data, "valid")
    test = sentences.tokens(args.data, "test")[:JUDGED]
    dense = sentences.embedded(nets.minilm(), test)
    for row in args.rows:
        for method in args.methods:
            start = time.process_time()
            path = compressed(args, row, method, train)
            seconds = time.process_time() - start
            net = leco.load(path, nets.minilm())
            found = {"bytes": path.stat().st_size, "cpu_seconds": seconds}
            found |= sentences.likeness(sentences.embedded(net, test), dense)
            records.show(f"MiniLM, {row}, {method}", [found])
            if args.record:
                cell = {"model": "all-MiniLM-L6-v2", "row": row, "method": method}
                if method in ("LC", CALIBRATED):
                    names = ("steps", "batch", "rate", "mus", "rounds", "seed")
                    cell |= {name: getattr(args, name) for name in names}
                records.append("trainers", "minilm", **cell, **found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the folder that has wikitext-2")
    add("--rows", nargs="+", choices=ROWS, default=[*ROWS], metavar="ROW")
    add("--methods", nargs="+", default=["DC", "calibrate", "calibrate, polished", "LC"])
    add("--steps", type=int, default=1200, help="optimizer steps of LC")
    add("--batch", type=int, default=16, help="sentences")
    add("--rate", type=float, default=3e-4)
    add("--mus", type=int, default=40, help="values of mu")
    add("--rounds", type=int, default=3, help="L steps at each mu")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--out", type=Path, required=True, help="a folder for files and checkpoints")
    add("--record", action="store_true", help="add lines to results/trainers.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
