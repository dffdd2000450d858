"""How near features of two kinds of light are: cosine similarity by place, and MMD between sets.

Shape shorthand in this module:
    N, M: images of the two sets     C: channels     H, W: height and width of a feature map
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def cosine_similarity(features: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Cosine over channels, mean over images and places, then over levels. Zeros have cosine 0.

    Args:
        features, others: maps (N, C, H, W), or vectors (N, C), of each level.
    """
    pairs = zip(features, others, strict=True)
    return torch.stack([F.cosine_similarity(a, b, eps=1e-12).mean() for a, b in pairs]).mean()


def maximum_mean_discrepancy(
    source: Tensor,
    target: Tensor,
    *,
    bandwidth: float | None = None,
    is_normalized: bool = True,
    eps: float = 1e-12,
) -> Tensor:
    """Biased squared MMD under the sum of five Gaussian kernels (WiiD, ECCV 2024).

    Args:
        source, target: (N, C) and (M, C). A gradient reaches both.
        bandwidth: of the middle kernel; None takes the mean squared distance, as a constant.
        is_normalized: compares directions only. Authors' code: False.
        eps: of the mean distance, so that equal features give 0. Authors' code: 0.
    """
    if is_normalized:
        source, target = F.normalize(source), F.normalize(target)
    num = len(source)
    both = torch.cat((source, target))  # (N + M, C)
    distances = (both[:, None] - both).square().sum(2)  # (N + M, N + M)
    if bandwidth is None:
        bandwidth = distances.detach().sum() / (len(both) * (len(both) - 1)) + eps
    kernel = sum((-distances / (c * bandwidth)).exp() for c in BANDWIDTHS)
    within = kernel[:num, :num].mean() + kernel[num:, num:].mean()
    return within - kernel[:num, num:].mean() - kernel[num:, :num].mean()
