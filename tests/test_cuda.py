"""On a GPU: each C step finds what it finds on the CPU, where it stays; a checkpoint goes on from
one to the other. Skipped where there is none."""

import pytest
import torch
from laws.case import MU
from laws.cases import CASES
from torch import nn

import leco

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    # the first use of it, in a thread of autograd
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_c_step_on_the_gpu_is_that_on_the_cpu(case):
    x = torch.randn(case.shape, dtype=torch.float64)
    here, there = case.compress(x), case.compress(x.cuda())
    delta = there.decompress()
    assert delta.device.type == "cuda"
    assert delta.dtype == x.dtype

    def objective(theta) -> float:
        return MU / 2 * float(
            (x - theta.decompress().cpu()).square().sum()
        ) + case.compression.price(theta)

    assert objective(there) == pytest.approx(objective(here), rel=1e-6, abs=1e-9)
    again = case.compress(x.cuda(), there)
    assert objective(again) <= objective(there) + 1e-9


@pytest.mark.filterwarnings("ignore:leco.run")
def test_a_run_on_the_gpu_goes_on_on_the_cpu(tmp_path):
    def run(device: str, steps: int) -> leco.Result:
        torch.manual_seed(0)
        model, inputs = (
            nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)).to(device),
            torch.randn(64, 6).to(device),
        )
        lc = leco.LC(model, leco.each(leco.match(model, nn.Linear), leco.Rows(), leco.Ternary()))
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        lc.attach(optimizer)

        def l_step(k: int) -> None:
            optimizer.param_groups[0]["lr"] = leco.stable_lr(0.1, lc.mu)
            for _ in range(5):
                optimizer.zero_grad()
                model(inputs).square().mean().backward()
                optimizer.step()

        mus = leco.exponential(3.0, 3.0, 6)
        return leco.run(
            lc,
            l_step,
            mus[:steps],
            checkpoint=tmp_path / "run",
            stateful={"optimizer": optimizer},
            tolerance=1e-12,
            progress=False,
        )

    first = run("cuda", 3)
    both = run("cpu", 6)
    assert [r.gap for r in both.records[:4]] == [r.gap for r in first.records]
    assert len(both.records) == 7
