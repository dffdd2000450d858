"""The all-MLP head of SegFormer (Xie et al., NeurIPS 2021): one projection per stage, one mix.

Shape shorthand in this module:
    N: images in the batch     C: channels     K: classes     h, w: of the finest feature read
"""

from torch import Tensor, nn

from smmcl.d2 import SEM_SEG_HEADS_REGISTRY
from smmcl.modeling.head.base import SemSegHead
from smmcl.modeling.layers.cpu import MixConv, PointConv


@SEM_SEG_HEADS_REGISTRY.register()
class MLPHead(SemSegHead):
    """Brings every feature to the same channels and size, mixes them, and classifies."""

    def build(self, in_channels: list[int], channels: int) -> None:
        self.projections = nn.ModuleList(PointConv(width, channels) for width in in_channels)
        self.mix = nn.Sequential(
            MixConv(channels * len(in_channels), channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )

    def layers(self, features: list[Tensor]) -> Tensor:
        """Maps features (N, C, ., .), finest first, to logits (N, K, h, w)."""
        # SegFormer concatenates from coarse to fine; its weights expect that order.
        maps = list(zip(features, self.projections, strict=True))[::-1]
        return self.classifier(self.mix(maps))  # (N, K, h, w)
