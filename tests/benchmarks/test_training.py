"""The training that all methods share."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from points import cell

import leco
from benchmarks.baselines import latent
from benchmarks.proof import training


def test_a_trainer_takes_each_example_once_an_epoch_and_goes_on_from_its_state(tmp_path: Path):
    found = cell(tmp_path, leco.Binary())
    trainer = found.trainer()
    seen = []
    for _ in range(2):
        order = []
        for _ in range(trainer.per_epoch):
            order.append(trainer.chosen())
            trainer.done += 1
        seen.append(torch.cat(order))
    assert all(sorted(order.tolist()) == list(range(256)) for order in seen)
    assert not torch.equal(*seen)
    other = found.trainer()
    other.load_state_dict({"done": trainer.per_epoch})
    assert torch.equal(other.chosen(), seen[1][:64])
    assert other.rate == pytest.approx(0.05 * (0.5 + 0.5 * math.cos(math.pi / 8)))
    assert training.one_cycle(0.1) == 0.5
    assert training.one_cycle(0.6) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("features", "fast"),
    [({}, False), ({"avx512_f": True, "avx512_bf16": False}, False), ({"avx512_bf16": True}, True)],
)
def test_bfloat16_is_left_to_processors_that_multiply_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features, fast
):
    found = cell(tmp_path, leco.Binary())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    seen = []
    found.model.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.dtype))
    found.trainer().run(found.model, found.optimizer(), 1)
    found.validate()
    # of the net that is reported: always float32
    training.evaluate(found.model, found.data, found.data.test)
    chosen = torch.bfloat16 if fast else torch.float32
    assert seen == [chosen, chosen, torch.float32]


def test_batch_norm_is_recalibrated_with_augmented_images_the_same_ones_each_time(tmp_path: Path):
    data = cell(tmp_path, leco.Binary()).data._replace(
        augment=lambda images: images + 10 + torch.rand(len(images), 1)
    )
    first = torch.cat(list(training.calibration(data, images=100, batch=30)))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(torch.cat(list(training.calibration(data, images=100, batch=30))), first)
    # training goes on as if nothing had been asked
    assert torch.equal(torch.get_rng_state(), state)
    shift = first - data.train[0][:100]
    assert first.shape == (100, 2)
    assert 9.9 < shift.min() < shift.max() < 11.1


def test_a_cut_off_cell_goes_on(tmp_path: Path):
    whole = cell(tmp_path / "a", leco.Binary())
    (tmp_path / "a").mkdir()
    torch.manual_seed(1)
    latent.straight_through(whole)
    part = cell(tmp_path, leco.Binary())
    evaluate, calls = part.compressed_error, itertools.count()

    def interrupted(lc: leco.LC) -> float:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(lc)

    part.compressed_error = interrupted
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        latent.straight_through(part)
    rest = cell(tmp_path, leco.Binary())
    latent.straight_through(rest)
    assert len(rest.curve) == 8
    for p, q in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(p, q)
