"""An FPN-style head (Kirillov et al., CVPR 2019), used with ResNets: a pyramid summed at stride 4.

Shape shorthand in this module:
    N: images in the batch     C: channels     K: classes     h, w: of the finest feature read
"""

from torch import Tensor, nn

from smmcl.d2 import SEM_SEG_HEADS_REGISTRY
from smmcl.modeling.head.base import SemSegHead
from smmcl.modeling.layers.cpu import PointConv
from smmcl.modeling.layers.resize import resize


@SEM_SEG_HEADS_REGISTRY.register()
class FPNHead(SemSegHead):
    """Passes coarse features down to finer ones, refines each level, sums them, and classifies."""

    def build(self, in_channels: list[int], channels: int) -> None:
        self.laterals = nn.ModuleList(PointConv(width, channels) for width in in_channels)
        self.refinements = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.GroupNorm(32, channels),
                nn.ReLU(),
            )
            for _ in in_channels
        )

    def layers(self, features: list[Tensor]) -> Tensor:
        """Maps features (N, C, ., .), finest first, to logits (N, K, h, w)."""
        size = features[0].shape[-2:]
        level, total = None, 0.0
        for index in reversed(range(len(features))):
            lateral = self.laterals[index](features[index])  # (N, channels, ., .)
            level = lateral if level is None else lateral + resize(level, lateral.shape[-2:])
            total = total + resize(self.refinements[index](level), size)  # (N, channels, h, w)
        return self.classifier(total)  # (N, K, h, w)
