"""A Trainer with the callback, on one process or under torchrun; writes what it found.

torchrun --nproc-per-node 2 tests/integrations/two_ranks.py FOLDER
"""

import os
import sys
from pathlib import Path

import torch
import transformers
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import leco
from leco.integrations.transformers import LCCallback


class Rows(Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(64, 6, dtype=torch.float64, generator=generator)
        self.labels = (self.inputs[:, 0] > 0).long()

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)).double()

    def forward(self, inputs, labels=None):
        logits = self.layers(inputs)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class InOrder(transformers.Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return None


def lc_of(net: nn.Module) -> leco.LC:
    weights = leco.match(net, nn.Linear)
    return leco.LC(net, leco.each(weights, leco.Vector(), leco.Codebook(3)))


def main(folder: Path) -> None:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(1)
    callback = LCCallback(lc_of, leco.exponential(0.02, 1.7, 6), file=folder / "net")
    args = transformers.TrainingArguments(
        str(folder),
        max_steps=24,
        per_device_train_batch_size=8 // ranks,
        learning_rate=3e-2,
        optim="adamw_torch",
        lr_scheduler_type="constant",
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=4,
        load_best_model_at_end=True,
        logging_strategy="no",
        use_cpu=True,
        ddp_backend="gloo" if ranks > 1 else None,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = InOrder(Net(), args, train_dataset=Rows(), eval_dataset=Rows(), callbacks=[callback])
    trainer.train()
    if trainer.is_world_process_zero():
        lc = callback.lc
        found = {f"w {name}": value for name, value in trainer.model.state_dict().items()}
        found |= {f"lambda {name}": value for name, value in lc.multipliers.items()}
        losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
        gaps = [record.gap for record in callback.run.records]
        torch.save({**found, "numbers": torch.tensor([*losses, *gaps])}, folder / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
