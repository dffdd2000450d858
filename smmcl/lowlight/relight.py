"""Second views: how the visible image of a pair could look in other light, in the same geometry.

A source maps a view and the inputs of a batch to (N, 3, H, W) RGB in 0..1.

Shape shorthand in this module:
    N: images     H, W: height and width     k: pixels along a patch of noise
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smmcl.lowlight.curves import DarkeningCurve, EnhancingCurve, noisy_exposure
from smmcl.lowlight.view import View
from smmcl.lowlight.wrapped import Frozen, images_of, pad

ViewSource = Callable[[View, list[dict]], Tensor]


@dataclass(frozen=True)
class GammaView:
    """The image to a random power: nothing to train, and hard to beat."""

    low: float = 2.0
    high: float = 6.0

    def __call__(self, view: View, inputs: list[dict]) -> Tensor:
        return view.image ** view.uniform(self.low, self.high)


@dataclass(frozen=True)
class ExposureView:
    """Less light on a sensor: fewer photons of the linear image, with shot and read noise."""

    stops: tuple[float, float] = (-5.0, -1.5)  # powers of two of the light
    photons: float = 1000.0  # at white, in full light
    read_noise: float = 2.0  # standard deviation, in photons

    def __call__(self, view: View, inputs: list[dict]) -> Tensor:
        counts = self.photons * view.image**2.2 * 2 ** view.uniform(*self.stops)
        noise = (counts + self.read_noise**2).sqrt() * view.normal(*counts.shape[1:])
        return ((counts + noise) / self.photons).clamp(0, 1) ** (1 / 2.2)


class DarkenerView(nn.Module):
    """A trained darkener's image at a noisy exposure (Similarity Min-Max, stage 2)."""

    def __init__(
        self,
        curve: DarkeningCurve,
        *,
        trained_range: tuple[float, float],
        highest: float = 0.2,
        patch_size: int = 64,
    ) -> None:
        """
        Args:
            trained_range: `exposure_range` of the darkener's checkpoint.
            highest: level of exposure, drawn from 0.
            patch_size: k of `noisy_exposure`. The authors take 64 for 512 x 1024, 16 for 224 x 224.
        """
        super().__init__()
        low, high = trained_range
        if low > 0 or highest > high:
            raise ValueError(
                f"The darkener's checkpoint was trained for exposures {low:g} to {high:g}, but the "
                f"second view draws 0 to {highest:g}. Draw fewer, or train another darkener."
            )
        self.curve = Frozen(curve)
        self.highest = highest
        self.patch_size = patch_size

    def exposure(self, view: View) -> Tensor:
        """(N, 1, H, W), at least 0."""
        size = view.image.shape[-2:]
        patches = view.normal(1, *(max(side // self.patch_size, 1) for side in size), stream=6)
        level = view.uniform(0, self.highest)
        return noisy_exposure(level, view.normal(1, *size), patches).clamp_min(0)

    @torch.no_grad()
    def forward(self, view: View, inputs: list[dict]) -> Tensor:
        return self.curve.module(view.image, self.exposure(view))[0].clamp(0, 1)


class EnhancerView(nn.Module):
    """A trained enhancer's image, to show night pairs in more light (WiiD)."""

    def __init__(self, curve: EnhancingCurve) -> None:
        super().__init__()
        self.curve = Frozen(curve)

    @torch.no_grad()
    def forward(self, view: View, inputs: list[dict]) -> Tensor:
        return self.curve.module(view.image)[0].clamp(0, 1)


@dataclass(frozen=True)
class StoredView:
    """Images that the inputs bring along, cut like "image": translated to night, or enhanced."""

    key: str = "translated"

    def __call__(self, view: View, inputs: list[dict]) -> Tensor:
        images = images_of(inputs, self.key)
        for image, record in zip(images, inputs, strict=True):
            if image.shape != record["image"].shape:
                sizes = f"{tuple(image.shape)}, its image {tuple(record['image'].shape)}"
                raise ValueError(f"A {self.key!r} image is {sizes}. Store both in one size.")
        return pad(images, view.image.shape[-2:]).to(view.image) / 255
