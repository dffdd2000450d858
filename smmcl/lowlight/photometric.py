"""Losses on what an image looks like: exposure, color, smooth maps, class brightness.

None is weighted here. Images are RGB in 0..1, and brightness is the mean of the three channels.

Shape shorthand in this module:
    N: images     C: channels     H, W: height and width
"""

import torch.nn.functional as F
from torch import Tensor


def brightness(image: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W)"""
    return image.mean(1, keepdim=True)


def exposure_loss(image: Tensor, exposure: Tensor, *, cell: int = 1) -> Tensor:
    """Mean square of brightness minus the wanted exposure, both averaged over square cells.

    Args:
        image: (N, 3, H, W)
        exposure: (N, 1, 1, 1) or (N, 1, H, W).
        cell: side in pixels.
    """
    return F.avg_pool2d(brightness(image) - exposure, cell).square().mean()


def color_loss(image: Tensor, *, eps: float = 1e-12) -> Tensor:
    """Mean of sqrt((r - g)^4 + (r - b)^4 + (g - b)^4 + eps), r, g, b the means of the channels.

    Args:
        image: (N, 3, H, W)
        eps: keeps the gradient finite on gray images. Authors' code: 0.
    """
    red, green, blue = image.mean((2, 3)).unbind(1)  # (N,) each
    fourth = (red - green) ** 4 + (red - blue) ** 4 + (green - blue) ** 4
    return (fourth + eps).sqrt().mean()


def total_variation(maps: Tensor, *, tent: float | None = None) -> Tensor:
    """Twice the mean square of vertical and of horizontal differences, summed over channels.

    Args:
        maps: (N, C, H, W)
        tent: None counts a difference d as d. A number a counts it as a - ||d| - a|, at least 0:
            a step beyond 2 a is an edge and costs nothing.
    """
    total = maps.sum() * 0
    for axis in (2, 3):
        change = maps.diff(dim=axis)
        if tent is not None:
            change = (tent - (change.abs() - tent).abs()).clamp(0, 1)
        total = total + change.square().sum() / max(change[0, 0].numel(), 1)
    return 2 * total / len(maps)


def flexibility_loss(scale: Tensor) -> Tensor:
    """Mean of 1 - B: keeps the darkener's scale near 1."""
    return (1 - scale).mean()


def class_brightness_loss(image: Tensor, labels: Tensor, *, ignore_value: int = 255) -> Tensor:
    """Variance of brightness inside a class, summed over an image's classes, mean over images.

    Args:
        image: (N, 3, H, W)
        labels: (N, H, W) int64. An image without labels counts as 0.
    """
    total = image.sum() * 0
    for values, classes in zip(brightness(image)[:, 0], labels, strict=True):  # (H, W) each
        for label in classes[classes != ignore_value].unique():
            total = total + values[classes == label].var(correction=0)
    return total / len(image)


def exposure_triplet_loss(
    image: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 0.3
) -> Tensor:
    """Brightness nearer to the well exposed image than to the badly exposed one.

    Args:
        image, positive, negative: (N, 3, H, W), compared pixel by pixel although unpaired.
    """
    near, far = (
        (brightness(image) - brightness(other)).abs().mean() for other in (positive, negative)
    )
    return F.relu(near - far + margin)
