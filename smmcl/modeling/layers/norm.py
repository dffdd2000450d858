"""Layer norm over the channels of a map.

Shape shorthand in this module:
    N: images in the batch     C: channels      H, W: feature height and width
"""

import torch
import torch.nn.functional as F
from torch import nn


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map (N, C, H, W), at each place for itself."""

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        # The permutations only relabel strides; a channels-last map is normalised without a copy.
        feature = feature.permute(0, 2, 3, 1)  # (N, H, W, C)
        feature = F.layer_norm(feature, self.normalized_shape, self.weight, self.bias, self.eps)
        return feature.permute(0, 3, 1, 2)  # (N, C, H, W)
