"""A Trainer, a loop with accelerate and Lightning's Trainer, on one process or under torchrun;
writes what each found.

torchrun --nproc-per-node 2 tests/integrations/two_ranks.py FOLDER
"""

import os
import sys
from pathlib import Path

import accelerate
import lightning.pytorch as lightning
import torch
import transformers
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

import leco
from leco.integrations import lightning as in_lightning
from leco.integrations.transformers import LCCallback

MUS = leco.exponential(0.02, 1.7, 6)
STEPS, RATE = 24, 3e-2
RANKS = int(os.environ.get("WORLD_SIZE", "1"))
Found = dict[str, torch.Tensor]


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


def found(lc: leco.LC, numbers: list[float]) -> Found:
    weights = {f"w {name}": value for name, value in lc.model.state_dict().items()}
    lambdas = {f"lambda {name}": value for name, value in lc.multipliers.items()}
    return {**weights, **lambdas, "numbers": torch.tensor(numbers)}


def in_trainer(folder: Path) -> Found:
    """The best net, multipliers, losses and gaps."""
    callback = LCCallback(lc_of, MUS, file=folder / "net")
    args = transformers.TrainingArguments(
        str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=8 // RANKS,
        learning_rate=RATE,
        optim="adamw_torch",
        lr_scheduler_type="constant",
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=4,
        load_best_model_at_end=True,
        logging_strategy="no",
        use_cpu=True,
        ddp_backend="gloo" if RANKS > 1 else None,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = InOrder(Net(), args, train_dataset=Rows(), eval_dataset=Rows(), callbacks=[callback])
    trainer.train()
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    return found(callback.lc, losses + [record.gap for record in callback.run.records])


def in_accelerate(folder: Path) -> Found:
    """A plain loop, interrupted by a checkpoint after half of the steps."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True)
    net = Net()
    net, optimizer, loader = accelerator.prepare(
        net, torch.optim.AdamW(net.parameters(), lr=RATE), DataLoader(Rows(), 8 // RANKS)
    )
    lc = lc_of(net)
    lc.attach(optimizer)
    accelerator.register_for_checkpointing(lc)
    for k, mu in enumerate(MUS):
        lc.mu = mu
        for batch in list(loader)[:4]:
            optimizer.zero_grad()
            accelerator.backward(net(**batch)["loss"])
            optimizer.step()
        lc.step()
        if k == 2:
            accelerator.save_state(str(folder / "state"))
    last = found(lc, [lc.record().gap])
    accelerator.load_state(str(folder / "state"))
    half = {f"half {name}": value for name, value in found(lc, [lc.mu]).items()}
    return {**last, **half}


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def training_step(self, batch, index):
        return self.net(**batch)["loss"]

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=RATE)

    def train_dataloader(self):
        data = Rows()  # in order: Lightning's own sampler shuffles
        sampler = DistributedSampler(data, shuffle=False) if RANKS > 1 else None
        return DataLoader(data, 8 // RANKS, sampler=sampler)


def in_lightnings_trainer(folder: Path) -> Found:
    callback = in_lightning.LCCallback(lambda module: lc_of(module.net), MUS, file=folder / "pl")
    lightning.Trainer(
        accelerator="cpu",
        devices=RANKS,
        strategy="ddp" if RANKS > 1 else "auto",
        max_epochs=STEPS // 8,
        use_distributed_sampler=False,
        callbacks=[callback],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(Module())
    return found(callback.lc, [record.gap for record in callback.run.records])


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    every: Found = {}
    for run in (in_trainer, in_accelerate, in_lightnings_trainer):
        own = {name: value.clone() for name, value in run(folder).items()}
        every |= {f"{run.__name__} {name}": value for name, value in own.items()}
    if os.environ.get("RANK", "0") == "0":
        torch.save(every, folder / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
