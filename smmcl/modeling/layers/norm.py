"""Norms: over the channels of a map, and batch norms that stay as they were loaded.

Shape shorthand in this module:
    N: images in the batch     C: channels      H, W: feature height and width
"""

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map (N, C, H, W), at each place for itself."""

    def forward(self, feature: Tensor) -> Tensor:
        # The permutations only relabel strides; a channels-last map is normalized without a copy.
        feature = feature.permute(0, 2, 3, 1)  # (N, H, W, C)
        feature = F.layer_norm(feature, self.normalized_shape, self.weight, self.bias, self.eps)
        return feature.permute(0, 3, 1, 2)  # (N, C, H, W)


class FrozenNorm(nn.Module):
    """A batch norm whose statistics, factors and offsets all stay as they were loaded.

    That is what Detectron2 calls FrozenBN; the names of the tensors are those of the batch norm.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        for name, value in norm.state_dict().items():
            self.register_buffer(name, value)

    def forward(self, feature: Tensor) -> Tensor:
        statistics = (self.running_mean, self.running_var)
        return F.batch_norm(feature, *statistics, self.weight, self.bias, eps=self.eps)


def freeze_norms(module: nn.Module) -> int:
    """Replaces the batch norms of a module by `FrozenNorm`s and returns their number."""
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.BatchNorm2d)
    ]
    for parent, name, norm in found:
        setattr(parent, name, FrozenNorm(norm))
    return len(found)
