"""Curves that darken or brighten an image pixel by pixel, and the small networks that predict them.

One step takes y to y + a (y^2 - y): 0 and 1 stay, a > 0 darkens and a < 0 brightens. Similarity
Min-Max (ICCV 2023) repeats one map a, given the wanted exposure. SCL-LLE (AAAI 2022) predicts a map
for each step.

Shape shorthand in this module:
    N: images     H, W: height and width     k: pixels along a patch of noise
"""

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor], Tensor]  # an image and a map to an image


def quadratic(image: Tensor, curve: Tensor) -> Tensor:
    """One step y + a (y^2 - y)."""
    return image + curve * (image.square() - image)


def reciprocal(image: Tensor, curve: Tensor) -> Tensor:
    """One step (b + 1) y / (b + y), b = -1 / a, for 0 <= a < 1: an ablation of the paper."""
    slope = -1 / (curve + 1e-5)
    return (slope + 1) * image / (slope + image)


def apply_curves(image: Tensor, curves: Iterable[Tensor], step: Step = quadratic) -> Tensor:
    """Takes an image (N, 3, H, W) through one step per map (N, 3, H, W), in order."""
    for curve in curves:
        image = step(image, curve)
    return image


def encode_exposure(exposure: Tensor, num_channels: int) -> Tensor:
    """(N, 1, H, W) -> (N, num_channels, H, W): sine, cosine of 2^i pi 10^(-10 exposure), i >= 0."""
    powers = 2 ** torch.arange(num_channels // 2, device=exposure.device).view(-1, 1, 1)
    phases = powers * (math.pi * 10 ** (-10 * exposure))  # (N, num_channels / 2, H, W)
    return torch.stack((phases.sin(), phases.cos()), 2).flatten(1, 2)


def noisy_exposure(
    level: Tensor, pixels: Tensor, patches: Tensor, *, strength: float = 0.025
) -> Tensor:
    """A map (N, 1, H, W): a level per image, noise per pixel and per patch. It can fall below 0.

    Args:
        level: (N, 1, 1, 1).
        pixels, patches: standard normal noise, (N, 1, H, W) and (N, 1, H // k, W // k).
    """
    enlarged = F.interpolate(patches, size=pixels.shape[-2:], mode="bilinear")  # (N, 1, H, W)
    return level + strength * pixels + strength * enlarged


class CurveNetwork(nn.Module):
    """A chain of convolutions at full resolution, then three that join its outputs backward.

    The last output of the chain meets the one before it, the result the one before that, and so on.
    """

    def __init__(
        self, conv: Callable[[int, int], nn.Module], widths: tuple[int, int, int], depth: int
    ) -> None:
        """
        Args:
            conv: builds a convolution from its channels in and out.
            widths: channels of the input, of all layers between, and of the output.
            depth: convolutions in the chain, at least 4.
        """
        super().__init__()
        first, width, last = widths
        self.chain = nn.ModuleList(conv(width if i else first, width) for i in range(depth))
        self.joins = nn.ModuleList(conv(2 * width, channels) for channels in (width, width, last))

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for conv in self.chain:
            x = F.relu(conv(x))  # (N, width, H, W)
            outputs.append(x)
        x = outputs.pop()
        for conv in self.joins[:-1]:
            x = F.relu(conv(torch.cat((outputs.pop(), x), 1)))  # (N, width, H, W)
        return self.joins[-1](torch.cat((outputs.pop(), x), 1))  # (N, last, H, W)


class DarkeningCurve(nn.Module):
    """Similarity Min-Max's darkener: an image and a wanted exposure give a dark image.

    A map A bends and a map B below 1 scales: D = curve(I B) / B, so that white can darken too.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        num_steps: int = 8,
        lowest_scale: float = 0.95,
        code_channels: int = 1,
        is_signed: bool = False,
        step: Step = quadratic,
    ) -> None:
        """
        Args:
            width, num_steps: channels of hidden layers, and steps of the curve.
            lowest_scale: B lies from here to 1.
            code_channels: 1 gives the network the exposure itself, an even number its code.
            is_signed: A lies in -1..1, not 0..1, and D can pass 1. Authors' code: True.
            step: `quadratic` or `reciprocal`.
        """
        super().__init__()
        if code_channels != 1 and (code_channels < 2 or code_channels % 2):
            raise ValueError(f"code_channels is {code_channels}. Set it to 1 or an even number.")
        self.network = CurveNetwork(self._separable, (3 + code_channels, width, 6), depth=5)
        self.num_steps = num_steps
        self.lowest_scale = lowest_scale
        self.code_channels = code_channels
        self.is_signed = is_signed
        self.step = step

    @staticmethod
    def _separable(in_channels: int, out_channels: int) -> nn.Module:
        depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels)
        return nn.Sequential(depthwise, nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, image: Tensor, exposure: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            image: (N, 3, H, W) RGB in 0..1.
            exposure: wanted brightness, (N, 1, 1, 1) or (N, 1, H, W).

        Returns:
            (N, 3, H, W) each: the dark image, its curve map A, its scale map B.
        """
        if self.code_channels > 1:
            exposure = encode_exposure(exposure, self.code_channels)
        exposure = exposure.expand(-1, -1, *image.shape[-2:])  # (N, code_channels, H, W)
        bend, scale = self.network(torch.cat((image, exposure), 1)).chunk(2, 1)  # (N, 3, H, W)
        curve = bend.tanh() if self.is_signed else bend.sigmoid()
        scale = self.lowest_scale + (1 - self.lowest_scale) * scale.sigmoid()
        dark = apply_curves(image * scale, [curve] * self.num_steps, self.step) / scale
        return dark, curve, scale


class EnhancingCurve(nn.Module):
    """SCL-LLE's enhancer: a dark image gives a bright one, which can leave 0..1, and its maps.

    The maps are predicted on an image `shrink` times smaller, and enlarged. Authors' code: 1.
    """

    def __init__(self, *, width: int = 32, num_steps: int = 8, shrink: int = 1) -> None:
        super().__init__()
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        self.network = CurveNetwork(conv, (3, width, 3 * num_steps), depth=4)
        for layer in (*self.network.chain, *self.network.joins):
            nn.init.normal_(layer.weight, std=0.02)
        self.num_steps = num_steps
        self.shrink = shrink

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) -> (N, 3, H, W), and the maps (N, 3 num_steps, H, W) in -1..1."""
        size = image.shape[-2:]
        small = F.adaptive_avg_pool2d(image, [-(-side // self.shrink) for side in size])
        curves = F.interpolate(self.network(small).tanh(), size, mode="bilinear")
        return apply_curves(image, curves.chunk(self.num_steps, 1)), curves
