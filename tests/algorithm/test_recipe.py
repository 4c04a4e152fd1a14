"""The recommended recipe, with nothing but defaults: it ends with a small gap and no warning."""

import pytest
import torch
from torch import Tensor, nn

import leco


class SmallNet(nn.Module):
    """A convolution over time and a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.gru = nn.GRU(8, 10, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.gru(torch.relu(self.conv(x)).transpose(1, 2))
        return self.head(hidden[:, -1])


@pytest.mark.parametrize(
    "compression", [leco.Binary(), leco.Codebook(4), leco.TopK(0.2), leco.Ternary()], ids=str
)
def test_the_default_recipe_ends_with_a_small_gap(compression):
    # A trained net
    x = torch.randn(96, 4, 12)
    y = x.mean((1, 2)).mul(8).add(1.5).clamp(0, 2).long()
    model = SmallNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(x), y)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    train(100)

    # Its compression by the defaults of leco.automatic and leco.run
    weights = leco.match(model, lambda name, p: p.dim() > 1)
    lc = leco.LC(model, leco.each(weights, leco.Vector(), compression))
    mus = leco.automatic(lc.curvature(lambda: loss().backward()), 12)
    lc.attach(optimizer)

    def l_step(k: int) -> None:
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - k / 12)
        train(5)

    result = leco.run(lc, l_step, mus, rounds=2, progress=False)
    assert result.stopped == "schedule"
    assert result.records[-1].relative_gap < 0.05
    lc.restore_(result.best)
    assert loss().item() < 1.0


def test_a_rate_that_does_not_decay_is_said():
    model = nn.Linear(4, 2)
    lc = leco.LC(model, leco.each(["weight"], leco.Vector(), leco.Binary()))
    lc.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.5))

    def l_step(k: int) -> None:
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()

    with pytest.warns(UserWarning, match="let the learning rate of the last L steps go to 0"):
        leco.run(lc, l_step, [1e-3, 1e-3], progress=False)
