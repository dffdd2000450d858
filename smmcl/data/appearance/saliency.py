"""Where an image stands out: saliency by the spectral residual, without training.

Shape shorthand in this module:
    N: images     H, W: height and width
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def spectral_residual(image: Tensor) -> Tensor:
    """Saliency by the residual of the log spectrum, as OpenCV computes it from bytes.

    Takes RGB in 0..1, (N, 3, H, W), to 0..1, (N, 1, H, W) float32; a constant image has 0.
    """
    red, green, blue = (255 * image.double()).round().split(1, 1)  # (N, 1, H, W) each
    gray = ((9798 * red + 19235 * green + 3735 * blue) / 2**15 + 0.5).floor()  # as OpenCV rounds
    small = F.interpolate(gray, size=(64, 64), mode="bilinear", align_corners=False)
    small = (small + 0.5).floor()  # (N, 1, 64, 64)
    spectrum = torch.fft.fft2(small)
    log = spectrum.abs().log1p()
    residual = log - F.avg_pool2d(F.pad(log, (1, 1, 1, 1), mode="reflect"), 3, 1)
    energy = torch.fft.ifft2(torch.polar(residual.exp(), spectrum.angle())).abs()
    taps = torch.arange(-2, 3, device=energy.device).double()
    taps = torch.softmax(-taps.square() / (2 * 8**2), 0)  # a Gaussian of standard deviation 8
    energy = F.pad(energy, (2, 2, 2, 2), mode="reflect")
    energy = F.conv2d(F.conv2d(energy, taps.view(1, 1, 5, 1)), taps.view(1, 1, 1, 5)).square()
    energy = (energy / energy.amax((2, 3), keepdim=True)).float()
    energy = energy * (small.amax((2, 3), True) > small.amin((2, 3), True))  # (N, 1, 64, 64)
    return F.interpolate(energy, size=image.shape[-2:], mode="bilinear", align_corners=False)
