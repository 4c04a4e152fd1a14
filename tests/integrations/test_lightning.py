"""The callback of Lightning's Trainer against a plain loop: equal to the bit, resumed too."""

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

lightning = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.loggers import CSVLogger  # noqa: E402

from leco.integrations.lightning import LCCallback  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:leco.run. mu ended"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]
DATA, HELD_OUT = Sentences(), Sentences(seed=1)
EPOCHS = STEPS // 8  # of 8 batches


def inputs() -> list[torch.Tensor]:
    """What batch-norm statistics are measured with."""
    return list(DATA.tokens.split(16))


def lc_inside(module) -> leco.LC:
    return lc_of(module.net)


def plain(precision: str = "32-true", accumulate: int = 1):
    """The loop without a trainer, by torch alone: the LC, and each L step's validation loss."""
    model, losses = tiny(dropout=0.0), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    lc = lc_of(model)
    lc.attach(optimizer)
    given = [batch for _ in range(EPOCHS) for batch in DataLoader(DATA, 8 // accumulate)]
    for k, mu in enumerate(MUS):
        lc.mu = mu
        lc.project_()
        for i in range(LENGTH * accumulate):
            batch = given[k * LENGTH * accumulate + i]
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                loss = model(**batch)["loss"]
            (loss / accumulate).backward()
            if (i + 1) % accumulate == 0:
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


class Module(lightning.LightningModule):
    def __init__(self, dropout: float = 0.0, target: float = 0.0):
        super().__init__()
        self.net, self.target, self.losses = tiny(dropout), target, list[float]()

    def training_step(self, batch, index):
        return self.net(**batch)["loss"]

    def validation_step(self, batch, index):
        loss = self.net(**batch)["loss"]
        if not self.trainer.sanity_checking:
            self.losses.append(float(loss))
        self.log("apart", (loss - self.target).abs())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=RATE)


class Stopped(lightning.Callback):
    """The machine is switched off."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == self.step + 1:
            raise RuntimeError("off")


def fit(folder: Path, module: Module, *callbacks, path=None, accumulate=1, **options):
    options = {"val_check_interval": LENGTH * accumulate, **options}
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        gradient_clip_val=1.0,
        accumulate_grad_batches=accumulate,
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=CSVLogger(folder, name="log"),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, Kept) for c in callbacks),
        **options,
    )
    loader, held_out = DataLoader(DATA, 8 // accumulate), DataLoader(HELD_OUT, 64)
    trainer.fit(module, loader, held_out, ckpt_path=path)
    return trainer


Kept = lightning.callbacks.ModelCheckpoint


@pytest.mark.parametrize(
    ("precision", "accumulate"), [("32-true", 1), ("bf16-mixed", 1), ("32-true", 2)]
)
def test_the_trainer_equals_a_plain_loop(tmp_path, precision, accumulate):
    lc, losses = plain(precision, accumulate)
    callback = LCCallback(lc_inside, MUS, batches=inputs, file=tmp_path / "net")
    module = Module()
    fit(tmp_path, module, callback, precision=precision, accumulate=accumulate)
    assert_equal(state(callback.lc), state(lc))
    if precision == "32-true":
        assert module.losses == pytest.approx(losses, rel=1e-6)  # of the compressed net
    loaded = leco.load(tmp_path / "net", tiny())
    assert_equal(dict(loaded.state_dict()), dict(lc.model.state_dict()))


@pytest.mark.parametrize("length", [LENGTH, 6])
def test_an_interrupted_run_goes_on_exactly(tmp_path, length):
    """After an epoch, where Lightning's loaders can go on: between L steps, and inside one."""
    stop = STEPS // EPOCHS

    def callbacks(name):
        kept = Kept(tmp_path / name, every_n_train_steps=stop, save_top_k=-1)
        mus = MUS[: STEPS // length]
        return LCCallback(lc_inside, mus, batches=inputs, steps=length), kept

    expected, kept = callbacks("whole")
    whole = Module()
    fit(tmp_path, whole, expected, kept)
    cut, kept = callbacks("cut")
    with pytest.raises(RuntimeError, match="off"):
        fit(tmp_path, Module(), cut, kept, Stopped(stop))
    assert not cut.lc.inside

    (path,) = (tmp_path / "cut").glob("*step=8.ckpt")
    callback, other = callbacks("cut")
    module = Module()
    fit(tmp_path, module, callback, other, path=path)
    assert_equal(state(callback.lc), state(expected.lc))
    assert len(callback.run.records) == STEPS // length + 1
    assert module.losses[-2:] == whole.losses[-2:]


def test_the_best_checkpoint_is_that_of_the_compressed_net(tmp_path):
    """The metric is best in the middle of the run."""
    _, losses = plain()
    callback = LCCallback(lc_inside, MUS, batches=inputs)
    kept = Kept(tmp_path / "best", monitor="apart", save_top_k=1)
    module = Module(target=losses[2])
    fit(tmp_path, module, callback, kept)

    other = Module()
    other.load_state_dict(torch.load(kept.best_model_path, weights_only=False)["state_dict"])
    callback.restore_(kept.best_model_path)
    for net in (other.net, module.net):
        net.eval()
        with torch.no_grad():
            loss = float(net(HELD_OUT.tokens, HELD_OUT.labels)["loss"])
        assert loss == pytest.approx(losses[2], rel=1e-6)
    for name, p in callback.lc.params.items():
        assert torch.equal(p, callback.lc.delta[name])


class Watched(lightning.Callback):
    """Compares what validation sees with Delta(Theta) of the last C step, and fails at a step."""

    def __init__(self, lc_callback, fail_at=None):
        self.lc_callback, self.fail_at, self.seen = lc_callback, fail_at, []

    def on_validation_start(self, trainer, module):
        if not trainer.sanity_checking:
            lc = self.lc_callback.lc
            theta = lc.thetas["head"]
            self.seen.append(torch.equal(module.net.head.weight, theta.decompress()))
            self.w = {name: w.clone() for name, w in lc.weights.items()}
            if trainer.global_step == self.fail_at:
                raise RuntimeError("off")


def test_validation_inside_an_l_step_sees_the_compressed_net(tmp_path):
    callback = LCCallback(lc_inside, MUS)
    watched = Watched(callback, fail_at=LENGTH + 2)
    module = Module()
    with pytest.raises(RuntimeError, match="off"):
        fit(tmp_path, module, callback, watched, val_check_interval=2)
    assert watched.seen == [True] * 3
    for name, w in watched.w.items():  # the model has w again
        assert torch.equal(callback.lc.params[name], w)
        assert not torch.equal(callback.lc.delta[name], w)


def test_a_checkpoint_after_an_l_step_holds_the_compressed_net(tmp_path):
    callback = LCCallback(lc_inside, MUS)
    kept = Kept(tmp_path / "kept", every_n_train_steps=LENGTH, save_top_k=-1)
    fit(tmp_path, Module(), callback, kept, val_check_interval=8)
    (path,) = (tmp_path / "kept").glob(f"*step={LENGTH}.ckpt")
    saved = torch.load(path, weights_only=False)["state_dict"]
    assert all(len(saved[f"net.{name}"].unique()) == 4 for name in callback.lc.names["layer"])


def test_records_go_to_the_loggers(tmp_path):
    callback = LCCallback(lc_inside, lambda lc: MUS, epochs=0.5)
    trainer = fit(tmp_path, Module(), callback)
    rows = [row for row in trainer.logger.experiment.metrics if "lc_mu" in row]
    text = (Path(trainer.logger.log_dir) / "metrics.csv").read_text()
    assert rows == []  # written
    assert "lc_mu" in text
    assert text.count(f"{MUS[3]}") == 1
    assert "lc_bytes" in text


def test_a_training_that_is_too_short_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"need 30; the training has 24"):
        fit(tmp_path, Module(), LCCallback(lc_inside, MUS, steps=LENGTH + 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 2, "epochs": 1.0}, "give one of them"),
        ({"steps": 0}, "steps = 0 must be positive"),
        ({"epochs": -1.0}, "epochs = -1.0 must be positive"),
        ({"rounds": 0}, "rounds = 0 must be at least 1"),
    ],
)
def test_lengths_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LCCallback(lc_inside, MUS, **options)
