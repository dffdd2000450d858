"""An FPN-style head (Kirillov et al., CVPR 2019), used with ResNets: a pyramid summed at stride 4.

Shape shorthand in this module:
    N: images in the batch     C: channels     K: classes     h, w: of the finest feature read
"""

from torch import Tensor, nn

from smmcl.d2 import SEM_SEG_HEADS_REGISTRY, CfgNode, ShapeSpec, configurable
from smmcl.modeling.head.base import SemSegHead, classifier, resize
from smmcl.modeling.init import init_decoder


@SEM_SEG_HEADS_REGISTRY.register()
class FPNHead(SemSegHead):
    """Passes coarse features down to finer ones, refines each level, sums them, and classifies."""

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
            channels: of the pyramid's levels.
            num_classes: K.
            dropout: probability of dropping a channel before the classifier.
            ignore_value, loss_weight: see `SemSegHead`.
        """
        super().__init__(
            in_features=in_features, ignore_value=ignore_value, loss_weight=loss_weight
        )
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.refinements = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.GroupNorm(32, channels),
                nn.ReLU(),
            )
            for _ in in_channels
        )
        init_decoder(self)
        self.classifier = classifier(channels, num_classes, dropout)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        return cls.base_config(cfg, input_shape)

    def layers(self, features: list[Tensor]) -> Tensor:
        """Maps features (N, C, ., .), finest first, to logits (N, K, h, w)."""
        size = features[0].shape[-2:]
        level, total = None, 0.0
        for index in reversed(range(len(features))):
            lateral = self.laterals[index](features[index])  # (N, channels, ., .)
            level = lateral if level is None else lateral + resize(level, lateral.shape[-2:])
            total = total + resize(self.refinements[index](level), size)  # (N, channels, h, w)
        return self.classifier(total)  # (N, K, h, w)
