"""What every contrastive branch begins with: features of a stage become embeddings.

Shape shorthand in this module:
    N: images in the batch     C: channels of a stage     h, w: its height and width
    D: embedding size
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from smmcl.d2 import ShapeSpec
from smmcl.modeling.layers.cpu import PointConv
from smmcl.modeling.layers.init import init_encoder


class Projector(nn.Sequential):
    """Two hidden 1x1 layers and a linear one (Section 3.2); the norm follows the activation."""

    def __init__(self, channels: int, hidden_dim: int, embed_dim: int) -> None:
        super().__init__(
            PointConv(channels, hidden_dim),
            nn.GELU(),
            nn.BatchNorm2d(hidden_dim),
            PointConv(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.BatchNorm2d(hidden_dim),
            PointConv(hidden_dim, embed_dim),
        )
        init_encoder(self)

    def forward(self, feature: Tensor) -> Tensor:
        """In float32, or float64, whatever the autocast, (N, C, h, w) to (N, D, h, w)."""
        with torch.autocast(feature.device.type, enabled=False):
            return super().forward(feature.to(self[0].weight.dtype))


def check_features(names: Sequence[str], input_shape: Mapping[str, ShapeSpec]) -> list[int]:
    """Channels of the visible and the auxiliary feature, which must exist and share a stride."""
    missing = [name for name in names if name not in input_shape]
    if missing or len(names) != 2:
        raise ValueError(
            f"MODEL.SMMCL.IN_FEATURES is {list(names)}, but must name one visible and one "
            f"auxiliary feature of {sorted(input_shape)}. A backbone of one stream has none of "
            "them: set MODEL.CONTRAST.NAME to ''."
        )
    if input_shape[names[0]].stride != input_shape[names[1]].stride:
        raise ValueError(
            f"MODEL.SMMCL.IN_FEATURES is {list(names)}, of strides "
            f"{[input_shape[name].stride for name in names]}. Name two features of one stage."
        )
    return [input_shape[name].channels for name in names]
