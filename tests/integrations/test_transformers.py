"""The callback of transformers' Trainer against a plain loop: equal to the bit, resumed too."""

import copy
from pathlib import Path

import pytest
import torch
from integrations.tiny import (
    LENGTH,
    MUS,
    RATE,
    STEPS,
    Sentences,
    assert_equal,
    lc_of,
    state,
    tiny,
)
from torch.utils.data import DataLoader

import leco

transformers = pytest.importorskip("transformers")
from leco.integrations.transformers import FILE, LCCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:leco.run. mu ended")
DATA, HELD_OUT = Sentences(), Sentences(seed=1)


def batches(size: int):
    """The batches of a Trainer, whose sampler does not shuffle here."""
    while True:
        yield from DataLoader(DATA, size)


def inputs() -> list[torch.Tensor]:
    """What batch-norm statistics are measured with."""
    return list(DATA.tokens.split(16))


def plain(precision: str = "no", accumulate: int = 1, rounds: int = 1, from_delta: bool = True):
    """The loop without a trainer, by torch alone: the LC, and each step's validation loss."""
    model, losses = tiny(dropout=0.0), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    lc = lc_of(model)
    lc.attach(optimizer)
    lc.mu = MUS[0]
    given = batches(8 // accumulate)
    for mu in MUS[: len(MUS) // rounds]:
        lc.mu = mu
        for _ in range(rounds):
            if from_delta:
                lc.project_()
            for _ in range(LENGTH):
                for _ in range(accumulate):
                    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                        loss = model(**next(given))["loss"]
                    (loss / accumulate).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            lc.step()
        with lc.compressed(inputs()), torch.no_grad():
            model.eval()
            losses.append(float(model(HELD_OUT.tokens, HELD_OUT.labels)["loss"]))
            model.train()
    lc.project_()
    return lc, losses


class Stopped(transformers.TrainerCallback):
    """The machine is switched off."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step + 1:
            raise KeyboardInterrupt


class Plain(transformers.Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return None  # in order


def trainer(
    folder: Path, *others, callback=None, dropout=0.0, **options
) -> tuple[transformers.Trainer, LCCallback]:
    callback = callback or LCCallback(lc_of, MUS, batches=inputs)
    defaults = {
        "learning_rate": RATE,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 64,
        "max_steps": STEPS,
        "lr_scheduler_type": "constant",
        "eval_strategy": "steps",
        "eval_steps": LENGTH,
        "save_strategy": "no",
        "optim": "adamw_torch",
        "logging_strategy": "no",
    }
    fixed = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    args = transformers.TrainingArguments(str(folder), **{**defaults, **fixed, **options})
    made = Plain(
        tiny(dropout),
        args,
        train_dataset=DATA,
        eval_dataset=HELD_OUT,
        callbacks=[callback, *others],
    )
    return made, callback


def eval_losses(made: transformers.Trainer) -> list[float]:
    return [row["eval_loss"] for row in made.state.log_history if "eval_loss" in row]


@pytest.mark.parametrize(
    ("precision", "accumulate", "rounds", "from_delta"),
    [("no", 1, 1, True), ("bf16", 1, 1, True), ("no", 2, 1, False), ("no", 1, 2, True)],
)
def test_the_trainer_equals_a_plain_loop(tmp_path, precision, accumulate, rounds, from_delta):
    lc, losses = plain(precision, accumulate, rounds, from_delta)
    options = {
        "rounds": rounds,
        "from_delta": from_delta,
        "batches": inputs,
        "file": tmp_path / "net",
    }
    callback = LCCallback(lc_of, MUS[: len(MUS) // rounds], **options)
    made, _ = trainer(
        tmp_path,
        callback=callback,
        bf16=precision == "bf16",
        per_device_train_batch_size=8 // accumulate,
        gradient_accumulation_steps=accumulate,
        eval_steps=LENGTH * rounds,
    )
    made.train()
    assert_equal(state(callback.lc), state(lc))
    if precision == "no":
        assert eval_losses(made) == pytest.approx(losses, rel=1e-6)  # of the compressed net
    loaded = leco.load(tmp_path / "net", tiny())
    assert_equal(dict(loaded.state_dict()), dict(lc.model.state_dict()))


@pytest.mark.parametrize("stop", [LENGTH * 3, LENGTH * 3 + 2])
def test_an_interrupted_run_goes_on_exactly(tmp_path, stop):
    options = {"save_strategy": "steps", "save_steps": stop, "dropout": 0.2}
    whole, expected = trainer(tmp_path / "whole", **options)
    whole.train()
    made, _ = trainer(tmp_path, Stopped(stop), **options)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    made, callback = trainer(tmp_path, **options)
    made.train(resume_from_checkpoint=True)
    assert_equal(state(callback.lc), state(expected.lc))
    assert len(callback.run.records) == len(MUS) + 1
    assert eval_losses(made) == eval_losses(whole)


def test_the_best_net_comes_back_with_its_thetas(tmp_path):
    """The metric is best in the middle of the run."""
    _, losses = plain()
    target = losses[2]
    options = {"save_strategy": "steps", "save_steps": LENGTH, "load_best_model_at_end": True}
    callback = LCCallback(lc_of, MUS, batches=inputs, file=tmp_path / "net")
    made, _ = trainer(
        tmp_path,
        callback=callback,
        metric_for_best_model="eval_apart",
        greater_is_better=False,
        **options,
    )
    made.compute_loss_func = None
    made.compute_metrics = lambda p: {
        "apart": abs(
            float(
                torch.nn.functional.cross_entropy(
                    torch.tensor(p.predictions), torch.tensor(p.label_ids)
                )
            )
            - target
        )
    }
    made.train()
    assert made.state.best_global_step == 3 * LENGTH
    lc, model = callback.lc, made.model
    model.eval()
    with torch.no_grad():
        assert float(model(HELD_OUT.tokens, HELD_OUT.labels)["loss"]) == pytest.approx(target)
    for name, p in lc.params.items():
        assert torch.equal(p, lc.delta[name])
    loaded = leco.load(tmp_path / "net", tiny())
    assert_equal(dict(loaded.state_dict()), dict(model.state_dict()))


def test_a_checkpoint_holds_the_weights_of_the_compressed_net(tmp_path):
    made, callback = trainer(tmp_path, save_strategy="steps", save_steps=2 * LENGTH)
    made.train()
    from safetensors.torch import load_file

    folder = tmp_path / f"checkpoint-{STEPS}"
    saved = load_file(folder / "model.safetensors")
    for name, delta in callback.lc.delta.items():
        assert torch.equal(saved[name], delta)
    assert (folder / FILE).exists()


def test_records_are_in_the_log(tmp_path):
    made, callback = trainer(
        tmp_path, callback=LCCallback(lc_of, lambda lc: MUS, steps=LENGTH, every=3)
    )
    seen = copy.deepcopy(made.state.log_history)
    made.train()
    rows = [row for row in made.state.log_history if "lc_mu" in row]
    assert seen == []
    assert [row["lc_mu"] for row in rows] == MUS
    assert [row["step"] for row in rows] == [LENGTH * (k + 1) for k in range(len(MUS))]
    assert [row["lc_relative_gap"] for row in rows] == [
        record.relative_gap for record in callback.run.records[1:]
    ]
    assert ["lc_bytes" in row for row in rows] == [False, False, True] * 2


def test_a_training_that_is_too_short_is_refused(tmp_path):
    made, _ = trainer(tmp_path, callback=LCCallback(lc_of, MUS, steps=LENGTH + 1))
    with pytest.raises(ValueError, match=r"need 30; the training has 24"):
        made.train()


def test_a_checkpoint_without_the_runs_state_is_refused(tmp_path):
    made, _ = trainer(tmp_path, save_strategy="steps", save_steps=LENGTH)
    made.train()
    for file in tmp_path.glob(f"*/{FILE}"):
        file.unlink()
    with pytest.raises(ValueError, match=r"goes on at step 24.*lc.pt is not there"):
        trainer(tmp_path)[0].train(resume_from_checkpoint=True)


@pytest.mark.filterwarnings("ignore:leco.run. 0.00% of the indices")
@pytest.mark.parametrize("stable", [True, False])
def test_rates_of_sgd_stay_stable_beside_the_trainers_schedule(stable, tmp_path):
    """mu grows until the Trainer's rates would diverge; its schedule does not see the bound."""
    mus = [1.0, 10.0, 1000.0]
    callback = LCCallback(lc_of, mus, stable=stable)
    made, _ = trainer(
        tmp_path,
        callback=callback,
        optim="sgd",
        optim_args="momentum=0.9",
        lr_scheduler_type="linear",
        logging_strategy="steps",
        logging_steps=1,
        eval_strategy="no",
    )
    if not stable:
        with pytest.warns(UserWarning, match="diverges"):
            made.train()
        return
    made.train()
    logged = [row["learning_rate"] for row in made.state.log_history if "learning_rate" in row]

    # The same by hand
    model = tiny(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    lc, given, rates = lc_of(model), batches(8), []
    lc.attach(optimizer)
    for k, mu in enumerate(mus):
        lc.mu = mu
        lc.project_()
        for i in range(STEPS // 3):
            rates.append(RATE * (1 - (8 * k + i) / STEPS))
            optimizer.param_groups[0]["lr"] = leco.stable_lr(rates[-1], mu, momentum=0.9)
            model(**next(given))["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        lc.step()
    lc.project_()
    assert_equal(state(callback.lc), state(lc))
    assert logged == pytest.approx(rates)
