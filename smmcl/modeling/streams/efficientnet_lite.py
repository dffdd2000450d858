"""EfficientNet-Lite (Tan and Le, ICML 2019, as released for edge devices): small and quick on CPUs.

Inverted residuals with ReLU6 and without squeeze-and-excitation. The published weights expect RGB
pixels (x - 127) / 128, so PIXEL_MEAN is 127 and PIXEL_STD 128 for them.

Shape shorthand in this module:
    N: images in the batch     C: channels      H, W: feature height and width
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.modeling.layers.cpu import DepthwiseConv, PointConv
from smmcl.modeling.layers.drop_path import DropPath, drop_path_rates
from smmcl.modeling.layers.init import init_encoder
from smmcl.modeling.streams.base import Stream, register_sizes
from smmcl.modeling.streams.names import CLASSIFIER, Names, Publisher

# Of the seven groups of equal blocks.
SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "efficientnet_lite0": {
        "widths": (16, 24, 40, 80, 112, 192, 320),
        "repeats": (1, 2, 2, 3, 3, 4, 1),
    },
    "efficientnet_lite1": {
        "widths": (16, 24, 40, 80, 112, 192, 320),
        "repeats": (1, 3, 3, 4, 4, 5, 1),
    },
    "efficientnet_lite2": {
        "widths": (16, 24, 48, 88, 120, 208, 352),
        "repeats": (1, 3, 3, 4, 4, 5, 1),
    },
}
GROUPS_OF_STAGES = ((0, 1), (2,), (3, 4), (5, 6))
KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)  # hidden width of a block, in widths of its input
STEM_WIDTH = 32
NORM = {"eps": 1e-3, "momentum": 0.01}


def _depths(repeats: tuple[int, ...]) -> tuple[int, ...]:
    """Blocks of the four stages."""
    return tuple(sum(repeats[group] for group in groups) for groups in GROUPS_OF_STAGES)


def publisher(repeats: tuple[int, ...]) -> Publisher:
    """Whose files fit so many blocks: they count them over all stages, from 0."""
    places = [(m, i) for m, depth in enumerate(_depths(repeats)) for i in range(depth)]
    rules = [("_conv_stem.", "stages.0.embed.0."), ("_bn0.", "stages.0.embed.1.")]
    for block, (m, i) in enumerate(places):
        for j, part in enumerate(("expand", "depthwise", "project")):
            rules += [
                (f"_blocks.{block}._{part}_conv.", f"stages.{m}.blocks.{i}.{part}.0."),
                (f"_blocks.{block}._bn{j}.", f"stages.{m}.blocks.{i}.{part}.1."),
            ]
    mark = f"_blocks.{len(places) - 1}._project_conv.weight"  # of the last one
    title = f"EfficientNet-Lite of {len(places)} blocks"
    return Publisher(
        title, Names(*rules), mark, classifier=rf"(_conv_head|_bn1|_fc)\..*|{CLASSIFIER}"
    )


@register_sizes(SIZES)
class EfficientNetLite(Stream):
    """The four stages of an EfficientNet-Lite; `SIZES` lists the sizes."""

    # The first whose mark a file has is whose it is, so the deepest comes first.
    publishers = tuple(publisher(size["repeats"]) for size in reversed(SIZES.values()))

    def __init__(
        self,
        *,
        widths: tuple[int, ...],
        repeats: tuple[int, ...],
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
    ) -> None:
        """
        Args:
            widths: channels of the seven groups of blocks.
            repeats: blocks of the groups.
            in_channels: channels of the image.
            drop_path_rate: rate of the last block, rising linearly from 0 at the first.
        """
        rates = drop_path_rates(_depths(repeats), last=drop_path_rate)
        stages, width = [], STEM_WIDTH
        for groups, stage_rates in zip(GROUPS_OF_STAGES, rates, strict=True):
            blocks, stage_rates = [], iter(stage_rates)
            for group in groups:
                for i in range(repeats[group]):
                    block = InvertedResidual(
                        width,
                        widths[group],
                        kernel=KERNELS[group],
                        stride=STRIDES[group] if i == 0 else 1,
                        expansion=EXPANSIONS[group],
                        drop_path_rate=next(stage_rates),
                    )
                    blocks.append(block)
                    width = widths[group]
            stages.append(OrderedDict(blocks=nn.Sequential(*blocks)))
        stem = nn.Conv2d(in_channels, STEM_WIDTH, 3, stride=2, bias=False)
        stages[0] = OrderedDict(pad=SamePad(3), embed=_activated(stem), **stages[0])
        stage_widths = tuple(widths[groups[-1]] for groups in GROUPS_OF_STAGES)
        super().__init__(map(nn.Sequential, stages), widths=stage_widths)
        self.publishers = (publisher(repeats),)
        init_encoder(self)


class InvertedResidual(nn.Module):
    """Widens the map, convolves each channel by itself, and narrows it again without activation."""

    def __init__(
        self,
        in_width: int,
        width: int,
        *,
        kernel: int,
        stride: int,
        expansion: int,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        hidden = in_width * expansion
        self.expand = nn.Identity()
        if expansion > 1:
            self.expand = _activated(PointConv(in_width, hidden, bias=False))
        self.pad = SamePad(kernel) if stride == 2 else nn.Identity()
        depthwise = DepthwiseConv(hidden, (kernel, kernel), stride=stride, bias=False)
        self.depthwise = _activated(depthwise)
        project = PointConv(hidden, width, bias=False)
        self.project = nn.Sequential(project, nn.BatchNorm2d(width, **NORM))
        self.has_shortcut = in_width == width and stride == 1
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, feature: Tensor) -> Tensor:
        hidden = self.depthwise(self.pad(self.expand(feature)))
        update = self.project(hidden)  # (N, width, H / stride, W / stride), sizes rounded up
        if not self.has_shortcut:
            return update
        return feature + self.drop_path(update)


class SamePad(nn.Module):
    """TensorFlow's "SAME" zeros before a convolution of stride 2: at even sizes one less in front.

    Convolutions that pad alike on both sides would read an even map one pixel further up and left.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, feature: Tensor) -> Tensor:
        padding = []
        for size in reversed(feature.shape[2:]):
            # Written such that sizes stay short expressions where they are symbols, in export.
            missing = 2 * ((size + 1) // 2) - 2 + self.kernel - size
            padding += [missing // 2, missing - missing // 2]
        return F.pad(feature, padding)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}"


def _activated(conv: nn.Conv2d) -> nn.Sequential:
    # Nobody else reads what the norm gives, so that ReLU6 may write over it.
    norm = nn.BatchNorm2d(conv.out_channels, **NORM)
    return nn.Sequential(conv, norm, nn.ReLU6(inplace=True))
