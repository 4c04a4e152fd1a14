"""Tutorial: invent a compression, test it by the laws of C steps, and compress a net by it.

python examples/tutorial_compression.py [--out FOLDER] [--smoke]

docs/tutorial-compression.md explains it step by step. Matrices of circulant blocks (CirCNN, arXiv
1708.08917): every diagonal of a b x b block, with its wrapped part, has one value, so a layer has
b times fewer numbers.
"""

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from torch import Tensor, nn
from tutorial_vision import TEST, epoch, error, judge, sgd

import leco

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SIZES = (2, 4, 8)


# --- the form: Theta and its Delta


class Circulant(NamedTuple):
    """W of b x b blocks, W[i, j] = first[(i - j) mod b] in each: `first` (rows / b, columns / b, b)
    has the first column of each block."""

    first: Tensor

    def decompress(self) -> Tensor:
        p, q, b = self.first.shape
        i = torch.arange(b, device=self.first.device)
        blocks = self.first[:, :, (i[:, None] - i) % b]
        return blocks.transpose(1, 2).reshape(p * b, q * b)

    def free(self) -> tuple[str, ...]:
        return ("first",)

    def scaled(self, c: float) -> "Circulant":
        return Circulant(c * self.first)


# --- the compression: options and the C step


@dataclass(frozen=True)
class CirculantBlocks(leco.Compression[Circulant]):
    """min sum mu_ij (x_ij - W_ij)^2 / 2 over W of circulant blocks of b x b.

    Each value is the mean of its diagonal, weighed by mu. Exact, O(n).
    """

    b: int
    forms = (Circulant,)  # without an annotation: an attribute of the class, not an option
    takes_metric = True

    def scaling(self) -> int:
        return 0  # the set is a linear space

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if len(shape) != 2 or self.b < 1 or shape[0] % self.b or shape[1] % self.b:
            raise ValueError(f"CirculantBlocks: b = {self.b} must divide the sides of {shape}")

    def diagonals(self, x: Tensor) -> Tensor:
        """(rows / b, columns / b, k, j): entry (j + k mod b, j) of each block."""
        p, q, b = x.shape[0] // self.b, x.shape[1] // self.b, self.b
        j = torch.arange(b, device=x.device)
        return x.view(p, b, q, b).transpose(1, 2)[:, :, (j + j[:, None]) % b, j]

    def c_step(self, x: Tensor, mu: Any, theta: Circulant | None = None) -> Circulant:
        values = self.diagonals(x)
        if not isinstance(mu, Tensor):
            return Circulant(values.mean(-1))
        weights = self.diagonals(mu.expand_as(x).contiguous())
        return Circulant((weights * values).sum(-1) / weights.sum(-1))


# --- the laws, in float64


def check_laws(compression: CirculantBlocks) -> None:
    """What `leco.LC` relies on, and an oracle that shares no code with the C step."""
    torch.manual_seed(0)
    x = torch.randn(8, 16, dtype=torch.float64)
    mu = torch.rand_like(x) + 0.1
    before, delta = x.clone(), compression.compress(x, mu).decompress()
    assert torch.equal(x, before), "the input is untouched"
    assert (delta.dtype, delta.shape) == (x.dtype, x.shape), "dtype and shape are kept"
    again = compression.compress(delta, mu).decompress()
    assert torch.allclose(again, delta), "a point of the set is its own compression"

    # in the set: a block does not change when its rows and columns move on by one
    blocks = delta.view(8 // compression.b, compression.b, 16 // compression.b, compression.b)
    assert torch.allclose(blocks.roll((1, 1), (1, 3)), blocks), "Delta(Theta) is feasible"

    # optimal: least squares on a basis of the set
    first = compression.compress(x, mu).first
    units = torch.eye(first.numel(), dtype=x.dtype).view(-1, *first.shape)
    basis = torch.stack([Circulant(unit).decompress().flatten() for unit in units], dim=1)
    root = mu.flatten().sqrt()
    wanted = torch.linalg.lstsq(root[:, None] * basis, root * x.flatten()).solution
    assert torch.allclose(first.flatten(), wanted), "the C step is optimal"

    # what can't be compressed is refused
    for bad in (torch.full_like(x, torch.nan), x[:7]):
        try:
            compression.compress(bad, 1.0)
        except ValueError:
            continue
        raise AssertionError("a bad array was compressed")


# --- a net compressed by it


def net() -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 256), nn.ReLU()),
        *(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def train(model: nn.Module, epochs: int) -> None:
    optimizer = sgd(model, 0.05)
    for k in range(epochs):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.97**k
        epoch(model, optimizer)


def compress(dense: nn.Module, b: int, steps: int, path: Path) -> tuple[float, float, int, leco.LC]:
    """Test errors of direct compression and of LC, the bytes of the file, and the LC."""
    model = copy.deepcopy(dense)
    weights = ["1.weight", "3.weight"]  # the last layer has 10 rows
    lc = leco.LC(model, leco.each(weights, leco.Matrix(), CirculantBlocks(b)))
    lc.mu = 1e-3
    with lc.compressed():
        direct = error(model)

    # L steps and C steps
    optimizer = sgd(model, 0.05)
    lc.attach(optimizer)

    def l_step(k: int) -> float:
        rate = 0.05 * (1 - k / (steps + 1))
        optimizer.param_groups[0]["lr"] = leco.stable_lr(rate, lc.mu, momentum=0.9, nesterov=True)
        return epoch(model, optimizer)

    leco.run(lc, l_step, leco.exponential(1e-3, 1.25, steps), progress=False)

    # the file knows the form by its name
    size = leco.save(path, lc)
    return direct, error(leco.load(path, net(), forms=[Circulant])), size, lc


def draw(dense: nn.Module, lc: leco.LC, path: Path) -> None:
    """A part of the first layer: as trained, directly compressed, and after LC."""
    name = "1.weight"
    weight = dense.get_parameter(name).detach()
    direct = lc.tasks[name].compression.compress(weight, 1.0).decompress()
    figure, axes = plt.subplots(1, 3, figsize=(5.4, 2.2), layout="constrained")
    titles = ("trained", "direct compression", "LC")
    for ax, title, w in zip(axes, titles, (weight, direct, lc.delta[name]), strict=True):
        ax.imshow(w[:24, 24:48].detach(), cmap="RdBu", vmin=-0.3, vmax=0.3)
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("tutorial-compression"))
    parser.add_argument("--smoke", action="store_true", help="a few short steps")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the net is so small that threads only wait for each other

    # the laws
    for b in SIZES:
        check_laws(CirculantBlocks(b))
    print("the laws hold")

    # the net
    torch.manual_seed(0)
    dense = net()
    train(dense, 2 if given.smoke else 40)
    print(f"dense net: error {judge(dense, TEST)[1]:.1f} %, {leco.dense_bytes(dense):,} bytes")
    for b in SIZES:
        path = given.out / f"blocks-{b}.safetensors"
        direct, after, size, lc = compress(dense, b, 2 if given.smoke else 30, path)
        print(f"blocks of {b}: error {direct:.1f} % direct, {after:.1f} % LC, {size:,} bytes")
        if b == 4:
            draw(dense, lc, given.out / "blocks.png")


if __name__ == "__main__":
    main()
