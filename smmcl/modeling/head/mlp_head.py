"""The all-MLP head of SegFormer (Xie et al., NeurIPS 2021): one projection per stage, one mix.

Shape shorthand in this module:
    N: images in the batch     C: channels     K: classes     h, w: of the finest feature read
"""

import torch
from torch import Tensor, nn

from smmcl.d2 import SEM_SEG_HEADS_REGISTRY
from smmcl.modeling.head.base import SemSegHead, resize
from smmcl.modeling.layers.cpu import PointConv


@SEM_SEG_HEADS_REGISTRY.register()
class MLPHead(SemSegHead):
    """Brings every feature to the same channels and size, mixes them, and classifies."""

    def build(self, in_channels: list[int], channels: int) -> None:
        self.projections = nn.ModuleList(PointConv(width, channels) for width in in_channels)
        self.mix = nn.Sequential(
            PointConv(channels * len(in_channels), channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )

    def layers(self, features: list[Tensor]) -> Tensor:
        """Maps features (N, C, ., .), finest first, to logits (N, K, h, w)."""
        size = features[0].shape[-2:]
        projected = [
            resize(projection(feature), size)
            for projection, feature in zip(self.projections, features, strict=True)
        ]
        # SegFormer concatenates from coarse to fine; its weights expect that order.
        mixed = self.mix(torch.cat(projected[::-1], dim=1))  # (N, channels, h, w)
        return self.classifier(mixed)  # (N, K, h, w)
