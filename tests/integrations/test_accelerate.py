"""accelerate: its optimizers are attached, its checkpoints hold the LC, its loop equals a plain
one to the bit."""

import copy

import pytest
import torch
from integrations.tiny import LENGTH, MUS, RATE, STEPS, assert_equal, batches, lc_of, state, tiny

import leco

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def fresh_state():
    """accelerate keeps its precision for the life of the process."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def plain(precision: str = "no") -> leco.LC:
    """The loop without accelerate, by torch alone."""
    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    lc = lc_of(model)
    lc.attach(optimizer)
    torch.manual_seed(1)
    for k, batch in enumerate(batches()):
        if k % LENGTH == 0:
            lc.mu = MUS[k // LENGTH]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (k + 1) % LENGTH == 0:
            lc.step()
    return lc


class Loop:
    """The same loop by accelerate, which can be left and entered again."""

    def __init__(self, precision: str = "no"):
        self.accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
        model = tiny()
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.lc = lc_of(self.model)
        self.lc.attach(self.optimizer)
        self.accelerator.register_for_checkpointing(self.lc)

    def go(self, start: int, end: int) -> None:
        for k, batch in list(enumerate(batches()))[start:end]:
            if k % LENGTH == 0:
                self.lc.mu = MUS[k // LENGTH]
            self.accelerator.backward(self.model(**batch)["loss"])
            self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if (k + 1) % LENGTH == 0:
                self.lc.step()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_loop_equals_a_plain_one(precision):
    expected = state(plain(precision))
    loop = Loop(precision)
    torch.manual_seed(1)
    loop.go(0, STEPS)
    assert_equal(state(loop.lc), expected)


@pytest.mark.parametrize("stop", [LENGTH * 2, LENGTH * 2 + 1])
def test_a_run_resumes_exactly_from_an_accelerate_checkpoint(stop, tmp_path):
    """Between two L steps, and in the middle of one."""
    loop = Loop()
    torch.manual_seed(1)
    loop.go(0, stop)
    loop.accelerator.save_state(str(tmp_path))
    loop.go(stop, STEPS)
    expected = copy.deepcopy(state(loop.lc))

    again = Loop()
    again.accelerator.load_state(str(tmp_path))
    again.go(stop, STEPS)
    assert again.lc.mu == MUS[-1]
    assert_equal(state(again.lc), expected)
    again.lc.check_saved()  # no warning: the weights belong to Theta
