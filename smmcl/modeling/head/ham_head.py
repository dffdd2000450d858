"""The light Hamburger head of SegNeXt: global context on the fused features of three stages.

Shape shorthand in this module:
    N: images in the batch     C: channels     K: classes     h, w: of the finest feature read
"""

from typing import Any

import torch
from torch import Tensor, nn

from smmcl.d2 import SEM_SEG_HEADS_REGISTRY, CfgNode, ShapeSpec
from smmcl.modeling.head.base import SemSegHead
from smmcl.modeling.head.hamburger import Hamburger
from smmcl.modeling.layers.cpu import PointConv
from smmcl.modeling.layers.resize import resize


@SEM_SEG_HEADS_REGISTRY.register()
class HamHead(SemSegHead):
    """Squeezes the features to one map, factorizes it, and classifies every pixel."""

    def build(
        self, in_channels: list[int], channels: int, *, ham_channels: int, **ham: int
    ) -> None:
        """`ham_channels` has the map that is factorized; for `ham` see `Hamburger`."""
        self.squeeze = _conv_norm(sum(in_channels), ham_channels)
        self.hamburger = Hamburger(ham_channels, **ham)
        self.align = _conv_norm(ham_channels, channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        ham = cfg.MODEL.SEM_SEG_HEAD.HAM
        return {
            **super().from_config(cfg, input_shape),
            "ham_channels": ham.CHANNELS,
            "rank": ham.RANK,
            "steps_train": ham.STEPS_TRAIN,
            "steps_test": ham.STEPS_TEST,
        }

    def layers(self, features: list[Tensor], *, bases: Tensor | None = None) -> Tensor:
        """Maps features (N, C, ., .), finest first, to logits (N, K, h, w).

        `bases` are the factorization's start, for references; None as `Hamburger` chooses.
        """
        size = features[0].shape[-2:]
        same = [features[0], *(resize(feature, size) for feature in features[1:])]
        feature = self.squeeze(torch.cat(same, dim=1))  # (N, C, h, w)
        feature = self.hamburger(feature, bases=bases)  # (N, C, h, w)
        return self.classifier(self.align(feature))  # (N, K, h, w)


def _conv_norm(in_channels: int, channels: int) -> nn.Sequential:
    """A 1x1 convolution, group norm and ReLU."""
    return nn.Sequential(
        PointConv(in_channels, channels, bias=False), nn.GroupNorm(32, channels), nn.ReLU()
    )
