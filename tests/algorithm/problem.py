"""A small classifier that the tests of runs share."""

import torch
from torch import nn

import leco

X = torch.randn(64, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
Y = (X[:, :3].sum(1) > 0).long()


class Problem:
    """A small classifier, its LC and its training."""

    def __init__(self, compression=None):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)
        ).double()
        weights = leco.match(self.model, nn.Linear)
        self.lc = leco.LC(
            self.model, leco.each(weights, leco.Vector(), compression or leco.Binary())
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.lc.attach(self.optimizer)
        self.calls: list[int] = []

    def train(self, k: int) -> float:
        self.calls.append(k)
        self.model.train()
        if self.lc.attached:
            self.optimizer.param_groups[0]["lr"] = leco.stable_lr(0.1, self.lc.mu, 0.9)
        loss = torch.zeros(())
        for chosen in torch.cat([torch.randperm(64) for _ in range(5)]).split(16):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(X[chosen]), Y[chosen])
            loss.backward()
            self.optimizer.step()
        return float(loss.detach())

    def evaluate(self) -> tuple[float, float]:
        self.model.eval()
        with torch.no_grad():
            logits = self.model(X)
        return float(nn.functional.cross_entropy(logits, Y)), 100 * float(
            (logits.argmax(1) != Y).double().mean()
        )

    def run(self, mus, **options) -> leco.Result:
        options = {
            "evaluate": self.evaluate,
            "batches": lambda: [X],
            "progress": False,
            "from_delta": False,
            "stateful": {"optimizer": self.optimizer},
            **options,
        }
        return leco.run(self.lc, self.train, mus, **options)


MUS = leco.exponential(0.3, 3.0, 8)
