"""Bilinear resizing of maps.

Shape shorthand in this module:
    N: images     C: channels     h, w: of the map
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(features: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear, (N, C, h, w) -> (N, C, *size), as the references do it (corners not aligned)."""
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)
