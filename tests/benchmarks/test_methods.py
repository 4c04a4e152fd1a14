"""LC and its pieces, as the benchmarks run them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from points import cell

import benchmarks.proof.__main__ as proof
import leco
from benchmarks.proof import compressions, methods
from benchmarks.proof.trainer import Trainer


@pytest.mark.filterwarnings("ignore:leco.run")  # a short one
def test_a_budget_that_tightens_falls_geometrically_to_its_limit(tmp_path: Path):
    found = cell(tmp_path, leco.TopK(0.5), tighten=0.5, loose=4.0, epochs=4)
    names, parts = (
        found.tasks["all"].params,
        leco.each_part(leco.Vector(), leco.L0Penalty(0), range(2), 1.0),
    )
    found.tasks = {"all": leco.Task(names, leco.Blocks(), leco.Budget(parts, 16))}
    limits = []
    set_compressions = leco.LC.set_compressions

    def spy(lc: leco.LC, compressions: dict) -> None:
        limits.append(compressions["all"].limit)
        set_compressions(lc, compressions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leco.LC, "set_compressions", spy)
        lc = methods.learning_compression(found)
    assert limits == pytest.approx(
        [16 * 4 ** (3 / 4)] + [16 * 4 ** max(0, 1 - (k + 1) / 4) for k in range(8)]
    )
    assert sum(int(value.count_nonzero()) for value in lc.delta.values()) == 16
    with pytest.raises(ValueError, match="Binary"):
        methods.loosen(leco.Binary(), 2.0)


def test_the_cost_of_lc_is_read_from_its_file(tmp_path: Path):
    found = cell(tmp_path, leco.RankSelection(1e-3, leco.storage), leco.Matrix())
    lc = leco.LC(found.model, found.tasks)
    lc.mu = 1.0
    leco.save(tmp_path / "lc.safetensors", lc)
    thetas: Any = lc.thetas.values()
    expected = sum(map(leco.RankSelection(1e-3, leco.storage).usage, thetas))
    assert proof.lc_cost(tmp_path / "lc.safetensors", found.tasks) == expected > 0
    assert proof.lc_cost(tmp_path / "none.safetensors", found.tasks) is None


def test_the_proximal_step_is_the_minimum_of_penalty_and_distance(tmp_path: Path):
    found = cell(tmp_path, leco.Binary())
    lc = methods.direct(found)
    lc.mu = 2.0
    lc.multipliers_step()
    w = {name: p.detach().clone().requires_grad_() for name, p in lc.params.items()}
    before = {name: p.detach().clone() for name, p in lc.params.items()}
    methods.proximal_(lc, 0.3)
    for name, p in lc.params.items():
        w[name] = p.detach().clone().requires_grad_()
        gap = w[name] - lc.delta[name]
        objective = (w[name] - before[name]).square().sum() / (2 * 0.3) + (
            gap.square() * lc.mu / 2 - lc.multipliers[name] * gap
        ).sum()
        (gradient,) = torch.autograd.grad(objective, w[name])
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-5, rtol=0)


def test_settings_are_changed_by_name():
    settings = proof.changed(proof.RESNET, ["epochs=8", "start=0.5", "soft=0", "optimizer=adamw"])
    assert (settings.epochs, settings.start, settings.soft, settings.optimizer) == (
        8.0,
        0.5,
        False,
        "adamw",
    )
    with pytest.raises(ValueError, match="--set nonsense=1: 'nonsense' is none of epochs"):
        proof.changed(settings, ["nonsense=1"])


@pytest.mark.parametrize("net", ["lenet300", "resnet20"])
def test_every_row_of_a_table_makes_tasks_for_its_net(net: str):
    model = proof.nets.NETS[net]()
    table = compressions.LENETS if net == "lenet300" else compressions.RESNETS
    weights = sum(
        p.numel() for name, p in model.named_parameters() if name in compressions.weights(model)
    )
    for name in table:
        covered = sum(
            p.numel() for p in leco.LC(model, compressions.tasks(net, model, name)).params.values()
        )
        assert (
            covered == weights - 30_000
            if name == "2 values, layers 1 and 3"
            else covered > 0.99 * weights
        )


@pytest.mark.filterwarnings("ignore:leco.run")
def test_l_steps_from_delta_start_there_and_c_steps_stand_between_the_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = cell(tmp_path, leco.Binary(), from_delta=True, rounds=2, retrain=0.0)
    starts, steps = [], []
    run, compress = Trainer.run, leco.Binary.compress

    def counting(*arguments, **options):
        steps.append(len(starts))
        return compress(*arguments, **options)

    monkeypatch.setattr(leco.Binary, "compress", counting)

    def looking(trainer, model, *rest, **options):
        starts.append([len(p.abs().unique()) for p in model.parameters() if p.ndim > 1])
        return run(trainer, model, *rest, **options)

    monkeypatch.setattr(Trainer, "run", looking)
    methods.METHODS["LC"](found)
    assert starts == [[1, 1]] * 16  # one absolute value in each layer
    assert steps[-32:] == [n for n in range(1, 17) for _ in range(2)]  # two layers a C step
