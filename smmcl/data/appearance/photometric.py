"""Random changes of what a pair looks like, in training; its geometry and labels stay.

Shape shorthand in this module:
    H, W: height and width of the pair      A: channels of the auxiliary image

Each is called with visible (H, W, 3) uint8, auxiliary (H, W, A) and a generator, and returns both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from smmcl.d2 import CfgNode
from smmcl.data.appearance.corruption import CORRUPTIONS, SEVERITIES
from smmcl.files.images import LUMINANCE

Pair = tuple[np.ndarray, np.ndarray]
Appearance = Callable[[np.ndarray, np.ndarray, np.random.Generator], Pair]

IMAGES = {"visible": 1.0, "either": 0.5, "auxiliary": 0.0}  # probability of the visible one


@dataclass(frozen=True)
class PhotometricJitter:
    """Changes brightness, contrast and saturation of the visible image."""

    strength: float  # each factor is drawn from 1 - strength to 1 + strength
    image_format: str = "RGB"

    def __call__(
        self, visible: np.ndarray, auxiliary: np.ndarray, generator: np.random.Generator
    ) -> Pair:
        low, high = 1 - self.strength, 1 + self.strength
        brightness, contrast, saturation = generator.uniform(low, high, 3).astype(np.float32)
        weights = LUMINANCE if self.image_format == "RGB" else LUMINANCE[::-1]
        image = visible.astype(np.float32) * brightness
        image = image.mean() + contrast * (image - image.mean())
        gray = (image @ weights)[..., None]  # (H, W, 1)
        image = gray + saturation * (image - gray)
        return _to_bytes(image), auxiliary


@dataclass(frozen=True)
class LowLight:
    """Makes the visible image look as if taken in less light, by a simple model of a camera.

    The image is made linear, exposed less, tinted, counted in photons, read with noise, and
    encoded again. The ranges are those of consumer cameras at night.
    """

    probability: float  # of a change
    stops: tuple[float, float] = (-5.0, -1.5)  # exposure, in powers of two
    gamma: tuple[float, float] = (1.0, 1.4)  # exponent that darkens the middle tones further
    cast: float = 0.2  # largest relative gain of one color against the others
    photons: tuple[float, float] = (500.0, 4000.0)  # that the full exposure would count at white
    read_noise: tuple[float, float] = (1.0, 5.0)  # standard deviation, in photons

    def __call__(
        self, visible: np.ndarray, auxiliary: np.ndarray, generator: np.random.Generator
    ) -> Pair:
        if generator.random() >= self.probability:
            return visible, auxiliary
        gamma = 2.2 * generator.uniform(*self.gamma)
        exposure = 2.0 ** generator.uniform(*self.stops)
        gains = generator.uniform(1 - self.cast, 1 + self.cast, 3)
        photons = np.exp(generator.uniform(*np.log(self.photons)))
        table = photons * exposure * (np.arange(256) / 255.0) ** gamma  # photons of each value
        expected = table[visible] * gains  # (H, W, 3)
        counted = generator.poisson(expected).astype(np.float32)
        noise = generator.standard_normal(visible.shape, dtype=np.float32)
        counted += np.float32(generator.uniform(*self.read_noise)) * noise
        encoded = (np.maximum(counted, 0) / np.float32(photons)) ** np.float32(1 / 2.2)
        return _to_bytes(255 * encoded), auxiliary


@dataclass(frozen=True)
class Gamma:
    """Takes the visible image to a power above 1: darker, but without noise."""

    probability: float  # of a change
    exponent: tuple[float, float] = (2.0, 6.0)

    def __call__(
        self, visible: np.ndarray, auxiliary: np.ndarray, generator: np.random.Generator
    ) -> Pair:
        if generator.random() >= self.probability:
            return visible, auxiliary
        table = (np.arange(256) / 255.0) ** generator.uniform(*self.exponent)
        return _to_bytes(255 * table)[visible], auxiliary


def gamma_to_mean(image: np.ndarray, mean: float) -> np.ndarray:
    """Brings bytes to a mean of 0..1 by a power; black and white stay, so those images do."""
    counts = np.bincount(image.ravel(), minlength=256) / image.size
    values = np.arange(256) / 255.0
    low, high = np.log([0.01, 100.0])  # of the exponent
    for _ in range(30):
        middle = (low + high) / 2
        is_too_bright = counts @ values ** np.exp(middle) > mean
        low, high = (middle, high) if is_too_bright else (low, middle)
    return _to_bytes(255 * values ** np.exp(low))[image]


@dataclass(frozen=True)
class ModalityCorruption:
    """Corrupts one image of the pair."""

    probability: float
    names: tuple[str, ...]  # of the corruptions to choose from; "missing" is the image's loss
    image: str = "either"  # or "visible" or "auxiliary"

    def __post_init__(self) -> None:
        if self.image not in IMAGES:
            raise ValueError(
                f"INPUT.CORRUPTION.IMAGE is {self.image!r}. Set it to one of {', '.join(IMAGES)}."
            )
        if unknown := sorted(set(self.names) - set(CORRUPTIONS)):
            raise ValueError(
                f"{', '.join(unknown)}: no such corruption. Choose from {', '.join(CORRUPTIONS)}."
            )

    def __call__(
        self, visible: np.ndarray, auxiliary: np.ndarray, generator: np.random.Generator
    ) -> Pair:
        happens, which = generator.random(2)
        if happens >= self.probability:
            return visible, auxiliary
        corrupt = CORRUPTIONS[self.names[generator.integers(len(self.names))]]
        severity = int(generator.choice(SEVERITIES))
        if which < IMAGES[self.image]:
            return corrupt(visible, severity, generator), auxiliary
        return visible, corrupt(auxiliary, severity, generator)


# Ways to darken, by INPUT.LOW_LIGHT.NAME; a part of your own (see IMPORTS) may add to them.
LIGHTS: dict[str, Callable[[CfgNode], Appearance]] = {
    "camera": lambda cfg: LowLight(cfg.INPUT.LOW_LIGHT.PROBABILITY),
    "gamma": lambda cfg: Gamma(cfg.INPUT.LOW_LIGHT.PROBABILITY),
}


def build_appearance(cfg: CfgNode) -> list[Appearance]:
    """The changes that the config asks for, in the order of a camera: light, then what fails."""
    changes: list[Appearance] = []
    if cfg.INPUT.PHOTOMETRIC.STRENGTH:
        changes.append(PhotometricJitter(cfg.INPUT.PHOTOMETRIC.STRENGTH, cfg.INPUT.FORMAT))
    if cfg.INPUT.LOW_LIGHT.PROBABILITY:
        if cfg.INPUT.LOW_LIGHT.NAME not in LIGHTS:
            raise ValueError(
                f"INPUT.LOW_LIGHT.NAME is {cfg.INPUT.LOW_LIGHT.NAME!r}. Choose "
                f"{', '.join(LIGHTS)}; 'darkener' needs IMPORTS ['smmcl.lowlight.register']."
            )
        changes.append(LIGHTS[cfg.INPUT.LOW_LIGHT.NAME](cfg))
    if cfg.INPUT.CORRUPTION.PROBABILITY:
        changes.append(
            ModalityCorruption(
                cfg.INPUT.CORRUPTION.PROBABILITY,
                tuple(cfg.INPUT.CORRUPTION.NAMES),
                cfg.INPUT.CORRUPTION.IMAGE,
            )
        )
    return changes


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
