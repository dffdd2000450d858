"""Second views: how the visible image of a pair could look in other light, in the same geometry.

A source maps a view and the inputs of a batch to (N, 3, H, W) RGB in 0..1.

Shape shorthand in this module:
    N: images     H, W: height and width
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smmcl.lowlight.view import View
from smmcl.modeling.wrapping import Frozen, images_of, pad

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

    stops: tuple[float, float] = (-9.0, -2.0)  # powers of two of the light
    photons: float = 1000.0  # at white, in full light
    read_noise: float = 2.0  # standard deviation, in photons

    def __call__(self, view: View, inputs: list[dict]) -> Tensor:
        counts = self.photons * view.image**2.2 * 2 ** view.uniform(*self.stops)
        noise = (counts + self.read_noise**2).sqrt() * view.normal(*counts.shape[1:])
        return ((counts + noise) / self.photons).clamp(0, 1) ** (1 / 2.2)


class RelightView(nn.Module):
    """The image as a trained model with `relight` shows it: a darkener's, or an enhancer's."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        """
        Args:
            model: is frozen.
            options: of its `relight`.
        """
        super().__init__()
        self.frozen = Frozen(model)
        self.options = options
        self(View(torch.zeros(1, 3, 8, 8), seeds=[0]), [])  # options that do not fit fail now

    def forward(self, view: View, inputs: list[dict]) -> Tensor:
        return self.frozen.module.relight(view.image, seeds=view.seeds, **self.options)


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
