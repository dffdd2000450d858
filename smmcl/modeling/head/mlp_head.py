"""The all-MLP head of SegFormer (Xie et al., NeurIPS 2021): one projection per stage, one mix.

Shape shorthand in this module:
    N: images in the batch     C: channels     K: classes     h, w: of the finest feature read
"""

import torch
from torch import Tensor, nn

from smmcl.d2 import SEM_SEG_HEADS_REGISTRY, CfgNode, ShapeSpec, configurable
from smmcl.modeling.head.base import SemSegHead, classifier, resize
from smmcl.modeling.init import init_decoder


@SEM_SEG_HEADS_REGISTRY.register()
class MLPHead(SemSegHead):
    """Brings every feature to the same channels and size, mixes them, and classifies."""

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        in_channels: list[int],
        channels: int,
        num_classes: int,
        dropout: float,
        ignore_value: int,
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            in_features, in_channels: names of the features read, from fine to coarse, and their C.
            channels: of every projection and of the mix.
            num_classes: K.
            dropout: probability of dropping a channel before the classifier.
            ignore_value, loss_weight: see `SemSegHead`.
        """
        super().__init__(
            in_features=in_features, ignore_value=ignore_value, loss_weight=loss_weight
        )
        self.projections = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.mix = nn.Sequential(
            nn.Conv2d(channels * len(in_channels), channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        init_decoder(self)
        self.classifier = classifier(channels, num_classes, dropout)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        return cls.base_config(cfg, input_shape)

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
