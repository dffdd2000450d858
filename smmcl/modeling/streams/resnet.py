"""ResNet (He et al., CVPR 2016), its stride in the 3x3 convolutions or, as by MSRA, in the 1x1.

Shape shorthand in this module:
    N: images in the batch     C: channels      H, W: feature height and width
"""

import re
from collections import OrderedDict
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.modeling.layers.init import init_encoder
from smmcl.modeling.streams.base import Stream, register_sizes
from smmcl.modeling.streams.names import Names, Publisher

BASIC, BOTTLENECK = (3, 3), (1, 3, 1)  # kernels of a block's convolutions
NARROW, WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)

SIZES: dict[str, dict[str, Any]] = {
    "resnet18": {"widths": NARROW, "depths": (2, 2, 2, 2), "kernels": BASIC},
    "resnet34": {"widths": NARROW, "depths": (3, 4, 6, 3), "kernels": BASIC},
    "resnet50": {"widths": WIDE, "depths": (3, 4, 6, 3), "kernels": BOTTLENECK},
    "resnet101": {"widths": WIDE, "depths": (3, 4, 23, 3), "kernels": BOTTLENECK},
    "resnet152": {"widths": WIDE, "depths": (3, 8, 36, 3), "kernels": BOTTLENECK},
}
SIZES |= {
    f"{name}_msra": {**SIZES[name], "stride_in_1x1": True} for name in ("resnet50", "resnet101")
}
STEM_WIDTH = 64

TORCHVISION = Names(
    ("conv1.", "stages.0.embed.0."),
    ("bn1.", "stages.0.embed.1."),
    ("layer{1}.{0}.conv{1}.", "stages.{}.blocks.{}.layers.{}.0."),
    ("layer{1}.{0}.bn{1}.", "stages.{}.blocks.{}.layers.{}.1."),
    ("layer{1}.{0}.downsample.", "stages.{}.blocks.{}.shortcut."),
)
DETECTRON2 = Names(
    ("stem.conv1.norm.", "stages.0.embed.1."),
    ("stem.conv1.", "stages.0.embed.0."),
    ("res{2}.{0}.conv{1}.norm.", "stages.{}.blocks.{}.layers.{}.1."),
    ("res{2}.{0}.conv{1}.", "stages.{}.blocks.{}.layers.{}.0."),
    ("res{2}.{0}.shortcut.norm.", "stages.{}.blocks.{}.shortcut.1."),
    ("res{2}.{0}.shortcut.", "stages.{}.blocks.{}.shortcut.0."),
)
# Where a stream made of Detectron2's own modules has them.
DETECTRON2_MODULES = Names(
    ("stem.", "stages.0.0."), ("res2.", "stages.0.1."), ("res{2}.", "stages.{}.")
)
# Caffe2's names, which MSRA's ResNets have, in Detectron2's words.
CAFFE2 = (
    (r"^(res_)?conv1_", "stem.conv1_"),
    (r"^(res\d)_(\d+)_branch1_", r"\1.\2.shortcut_"),
    *((rf"^(res\d)_(\d+)_branch2{abc}_", rf"\1.\2.conv{i}_") for i, abc in enumerate("abc", 1)),
    (r"_bn_", ".norm_"),
    (r"_(w|gamma)$", ".weight"),
    (r"_beta$", ".bias"),
    (r"_(running_(mean|var))$", r".\1"),
)

PIXEL_STD = (58.395, 57.12, 57.375)  # of ImageNet's pixels, RGB


def from_caffe2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet by MSRA in Detectron2's names, its first convolution for normalized RGB pixels."""
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in CAFFE2:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return for_normalized_rgb(renamed)


def from_zoo(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As `from_caffe2`, of a ResNet that is the bottom of a pyramid."""
    return for_normalized_rgb({k.removeprefix("bottom_up."): v for k, v in state.items()})


def for_normalized_rgb(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turns the first convolution, which reads BGR pixels that nothing divides."""
    stem = state["stem.conv1.weight"]  # (64, 3, 7, 7)
    return {**state, "stem.conv1.weight": stem.flip(1) * torch.tensor(PIXEL_STD).view(3, 1, 1)}


BY_TORCHVISION = Publisher("torchvision's ResNet", TORCHVISION, mark="layer1.0.conv1.weight")
BY_DETECTRON2 = Publisher(
    "Detectron2's ResNet", DETECTRON2, mark="res2.0.conv1.weight", author="torchvision"
)
BY_MSRA = Publisher(
    "MSRA's ResNet (stride in the 1x1 convolutions)",
    DETECTRON2,
    mark="res2_0_branch2a_w",
    prepare=from_caffe2,
)
BY_ZOO = Publisher(
    "Detectron2's model zoo (a ResNet below an FPN)",
    DETECTRON2,
    mark="bottom_up.stem.conv1.weight",
    prepare=from_zoo,
    author="Detectron2 Model Zoo",
)


def fitting_publishers(*, stride_in_1x1: bool) -> tuple[Publisher, ...]:
    """Where a network halves its maps does not show in the shapes of its weights."""
    return (BY_MSRA, BY_ZOO) if stride_in_1x1 else (BY_TORCHVISION, BY_DETECTRON2)


@register_sizes(SIZES)
class ResNet(Stream):
    """The four stages of a ResNet, the stem part of the first; `SIZES` lists the sizes."""

    publishers = (BY_TORCHVISION, BY_DETECTRON2, BY_MSRA, BY_ZOO)

    def __init__(
        self,
        *,
        widths: tuple[int, int, int, int],
        depths: tuple[int, int, int, int],
        kernels: tuple[int, ...],
        stride_in_1x1: bool = False,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
    ) -> None:
        """
        Args:
            widths: channels of the four stages.
            depths: blocks of the four stages.
            kernels: `BASIC` or `BOTTLENECK`.
            stride_in_1x1: halve the map in the first 1x1 convolution, as MSRA's networks do, and
                not in the 3x3, as torchvision's do; the weights of one do not fit the other.
            in_channels: channels of the image.
            drop_path_rate: part of the streams' interface; a ResNet is trained without.
        """
        if drop_path_rate != 0:
            raise ValueError(
                f"ResNets have no drop path, but the rate is {drop_path_rate}. Set it to 0."
            )
        residual = partial(Residual, kernels=kernels, stride_in_1x1=stride_in_1x1)
        before = (STEM_WIDTH, *widths[:3])
        stages = []
        for m in range(4):
            embed = _stem(in_channels) if m == 0 else nn.Identity()
            stride = 1 if m == 0 else 2
            blocks = [residual(before[m], widths[m], stride=stride)]
            for _ in range(depths[m] - 1):
                blocks.append(residual(widths[m], widths[m], stride=1))
            blocks = nn.Sequential(*blocks)
            stages.append(nn.Sequential(OrderedDict(embed=embed, blocks=blocks)))
        super().__init__(stages, widths=widths)
        self.publishers = fitting_publishers(stride_in_1x1=stride_in_1x1)
        init_encoder(self)


class Residual(nn.Module):
    """Two or three normalized convolutions around which the map is added."""

    def __init__(
        self,
        in_width: int,
        width: int,
        *,
        kernels: tuple[int, ...],
        stride: int,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        hidden_width = width // 4 if kernels == BOTTLENECK else width
        chain = pairwise((in_width, *[hidden_width] * (len(kernels) - 1), width))
        strided = kernels.index(1 if stride_in_1x1 else 3)
        self.layers = nn.ModuleList(
            _conv_norm(*widths, kernel=kernel, stride=stride if i == strided else 1)
            for i, (widths, kernel) in enumerate(zip(chain, kernels, strict=True))
        )
        is_same = in_width == width and stride == 1
        self.shortcut = (
            nn.Identity() if is_same else _conv_norm(in_width, width, kernel=1, stride=stride)
        )

    def forward(self, feature: Tensor) -> Tensor:
        residual = feature
        for layer in self.layers[:-1]:
            residual = F.relu(layer(residual))
        return F.relu(self.layers[-1](residual) + self.shortcut(feature))


def _stem(in_channels: int) -> nn.Sequential:
    """From the image to a quarter of its size."""
    return nn.Sequential(
        *_conv_norm(in_channels, STEM_WIDTH, kernel=7, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def _conv_norm(in_width: int, width: int, *, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_width, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))
