"""How near an image is to its truth: PSNR, SSIM, and the order of its lightness (LOE).

Shape shorthand in this module:
    H, W: height and width     P: pixels of the small images that LOE compares
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 7  # pixels along the side of SSIM's windows
LOE_SIDE = 50  # pixels of the shorter side of the images that LOE compares


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of images of 0..1; infinite if they are equal."""
    error = np.square(image.astype(np.float64) - truth).mean()
    return float(10 * np.log10(1 / error)) if error else float("inf")


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of images (H, W, 3) of 0..1: uniform windows, mean over channels.

    As scikit-image's `structural_similarity(image, truth, channel_axis=2, data_range=1)`.
    """
    if min(image.shape[:2]) < WINDOW:
        raise ValueError(
            f"SSIM needs images of {WINDOW}x{WINDOW} pixels or more, but one is "
            f"{image.shape[0]}x{image.shape[1]} (height x width)."
        )
    a, b = (torch.from_numpy(x.transpose(2, 0, 1).astype(np.float64))[None] for x in (image, truth))

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, WINDOW, stride=1)  # (1, 3, H - 6, W - 6)

    mean_a, mean_b = mean(a), mean(b)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    var_a, var_b = (unbiased * (mean(x * x) - m * m) for x, m in ((a, mean_a), (b, mean_b)))
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    bottom = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return float((top / bottom).mean())


def lightness_order_error(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean over pixels of how many others changed sides: were as light or lighter, or became so.

    Of the largest channel of both images, (H, W, 3) of 0..1, at a short side of LOE_SIDE pixels.
    """
    ours, theirs = (_small_lightness(x) for x in (image, truth))  # (P,) each
    changed = (ours[:, None] >= ours) ^ (theirs[:, None] >= theirs)  # (P, P)
    return float(changed.sum(1).double().mean())


def _small_lightness(image: np.ndarray) -> Tensor:
    lightness = torch.from_numpy(image.astype(np.float64).max(axis=2))[None, None]
    scale = LOE_SIDE / min(image.shape[:2])
    size = [max(round(side * scale), 1) for side in image.shape[:2]]
    return F.interpolate(lightness, size=size, mode="bilinear", antialias=True).flatten()
