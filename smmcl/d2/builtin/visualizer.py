"""Painting label maps over images."""

from enum import Enum
from typing import Any

import numpy as np

from smmcl.d2.builtin.data import Metadata


class ColorMode(Enum):
    """How instances are colored; a label map looks the same in all of them."""

    IMAGE = 0
    SEGMENTATION = 1
    IMAGE_BW = 2


class Visualizer:
    """Paints label maps over one RGB image in 0..255; Detectron2's own draws much more."""

    def __init__(
        self,
        img_rgb: Any,
        metadata: Metadata | None = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        if metadata is None or scale != 1:
            raise ValueError("The embedded engine draws with metadata, at the image's own scale.")
        self.metadata = metadata
        self._image = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)

    def get_image(self) -> np.ndarray:
        """The drawing, (height, width, 3) uint8 in RGB."""
        return self._image

    def draw_sem_seg(
        self,
        sem_seg: Any,
        area_threshold: float | None = None,
        alpha: float = 0.8,
        draw_text: bool = True,
        edge_color: Any = (1.0, 1.0, 240.0 / 255),
    ) -> "Visualizer":
        """Paints labels (H, W) and the edges of their regions; those without a class are left."""
        if draw_text or area_threshold:
            raise ValueError(
                "The embedded engine writes no class names and leaves out no small regions. Pass "
                "draw_text=False and no area_threshold, or run with Detectron2."
            )
        labels, image = np.asarray(sem_seg), self._image
        colors = np.array(self.metadata.stuff_colors)[: len(self.metadata.stuff_classes)]  # (K, 3)
        has_class = labels < len(colors)
        blend = image[has_class] * (1 - alpha) + colors[labels[has_class]] * alpha
        image[has_class] = blend.round()
        image[has_class & _edges(labels)] = np.multiply(edge_color, 255)
        return self


def _edges(labels: np.ndarray) -> np.ndarray:
    """Where one of the 8 neighbors has another label; the image ends in an edge."""
    height, width = labels.shape
    padded = np.pad(labels.astype(np.int64), 1, constant_values=-1)
    shifts = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.any([shifted != labels for shifted in shifts], axis=0)  # (H, W)
