"""Drawing on images with matplotlib: label maps with their class names, polygons, text.

Shape shorthand in this module:
    H, W: height and width of the image
"""

import colorsys
from enum import Enum
from typing import Any

import cv2
import matplotlib.colors
import matplotlib.figure
import matplotlib.patches
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from smmcl.d2.builtin.catalog import Metadata, MetadataCatalog

_OFF_WHITE = (1.0, 1.0, 240.0 / 255)
_LARGE_AREA = 120_000  # pixels; a region above it carries its name even beside a larger one


class ColorMode(Enum):
    """How instances are coloured; a label map looks the same in all of them."""

    IMAGE = 0
    SEGMENTATION = 1
    IMAGE_BW = 2


class VisImage:
    """An image as the ground of a figure without margins."""

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        """Args:
        img: (H, W, 3), RGB in 0..255.
        scale: size of the figure relative to the image.
        """
        self.img = img
        self.scale = scale
        self.height, self.width = img.shape[:2]
        self.fig = matplotlib.figure.Figure(frameon=False)
        dpi = self.fig.get_dpi()
        # The small addend keeps matplotlib from truncating to one pixel less.
        self.fig.set_size_inches(
            (self.width * scale + 1e-2) / dpi, (self.height * scale + 1e-2) / dpi
        )
        self.canvas = FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes([0.0, 0.0, 1.0, 1.0])
        self.ax.axis("off")
        self.ax.imshow(
            img.astype("uint8"), extent=(0, self.width, self.height, 0), interpolation="nearest"
        )

    def save(self, filepath: str) -> None:
        """Writes the figure; the name's ending says the format."""
        self.fig.savefig(filepath)

    def get_image(self) -> np.ndarray:
        """Returns the figure, (H * scale, W * scale, 3) uint8 in RGB."""
        buffer, (width, height) = self.canvas.print_to_buffer()
        rgba = np.frombuffer(buffer, dtype="uint8").reshape(height, width, 4)
        return rgba[:, :, :3].copy()


class Visualizer:
    """Draws on one image; each `draw_*` returns the image drawn on."""

    def __init__(
        self,
        img_rgb: Any,
        metadata: Metadata | None = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        """Args:
        img_rgb: (H, W, 3), RGB in 0..255.
        metadata: gives `stuff_classes` and `stuff_colors`.
        scale: size of the drawing relative to the image.
        instance_mode: kept; a label map looks the same in all modes.
        font_size_scale: factor on the size of text.
        """
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = MetadataCatalog.get("__nonexist__") if metadata is None else metadata
        self.output = VisImage(self.img, scale=scale)
        size = np.sqrt(self.output.height * self.output.width) // 90
        self._default_font_size = max(size, 10 // scale) * font_size_scale
        self._instance_mode = instance_mode

    def draw_sem_seg(
        self,
        sem_seg: Any,
        area_threshold: float | None = None,
        alpha: float = 0.8,
        draw_text: bool = True,
        edge_color: Any = _OFF_WHITE,
    ) -> VisImage:
        """Paints a label map, the largest classes first; labels without a class stay unpainted.

        Args:
            sem_seg: (H, W) of class labels.
            area_threshold: regions of fewer pixels are left out.
            alpha: opacity in 0..1.
            draw_text: whether classes are named.
            edge_color: colour of the outlines.
        """
        labels = sem_seg.numpy() if isinstance(sem_seg, torch.Tensor) else sem_seg  # (H, W)
        present, areas = np.unique(labels, return_counts=True)
        names, colors = self.metadata.stuff_classes, self.metadata.get("stuff_colors", [])
        for label in present[np.argsort(-areas)]:
            if label >= len(names):
                continue
            self.draw_binary_mask(
                labels == label,
                color=[c / 255 for c in colors[label]] if label < len(colors) else None,
                edge_color=edge_color,
                text=names[label] if draw_text else None,
                alpha=alpha,
                area_threshold=area_threshold,
            )
        return self.output

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: Any = None,
        *,
        edge_color: Any = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: float | None = 10,
    ) -> VisImage:
        """Paints where a mask is set, as polygons or, where it has holes, pixel by pixel.

        Args:
            binary_mask: (H, W), 0 or 1.
            color: None for a random one.
            edge_color: colour of the outline; by default like `color`.
            text: written into the largest region.
            alpha: opacity in 0..1.
            area_threshold: polygons of a smaller area are left out.
        """
        color = matplotlib.colors.to_rgb(np.random.rand(3) if color is None else color)
        mask = np.ascontiguousarray(binary_mask.astype("uint8"))  # (H, W)
        contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        is_drawn = False
        if tree is not None and (tree.reshape(-1, 4)[:, 3] >= 0).any():
            rgba = np.zeros((*mask.shape, 4), dtype="float32")  # (H, W, 4)
            rgba[:, :, :3] = color
            rgba[:, :, 3] = mask * alpha
            self.output.ax.imshow(rgba, extent=(0, self.output.width, self.output.height, 0))
            is_drawn = True
        else:
            for contour in contours:
                # Contours run through pixel centres. Fewer than three points are no polygon.
                polygon = contour.reshape(-1, 2) + 0.5
                if len(polygon) < 3 or cv2.contourArea(contour) < (area_threshold or 0):
                    continue
                self.draw_polygon(polygon, color, edge_color=edge_color, alpha=alpha)
                is_drawn = True
        if text is not None and is_drawn:
            self._draw_text_in_mask(mask, text, color=_lighter(color, by=0.7))
        return self.output

    def draw_polygon(
        self, segment: np.ndarray, color: Any, edge_color: Any = None, alpha: float = 0.5
    ) -> VisImage:
        """Paints a polygon.

        Args:
            segment: (points, 2), x and y.
            color: of the inside.
            edge_color: of the outline; by default like `color`, darker where that is opaque.
            alpha: opacity of the inside in 0..1.
        """
        if edge_color is None:
            edge_color = _lighter(color, by=-0.7) if alpha > 0.8 else color
        self.output.ax.add_patch(
            matplotlib.patches.Polygon(
                segment,
                fill=True,
                facecolor=(*matplotlib.colors.to_rgb(color), alpha),
                edgecolor=(*matplotlib.colors.to_rgb(edge_color), 1),
                linewidth=max(self._default_font_size // 15 * self.output.scale, 1),
            )
        )
        return self.output

    def draw_text(
        self,
        text: str,
        position: tuple[float, float],
        *,
        font_size: float | None = None,
        color: Any = "g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> VisImage:
        """Writes text on a dark box.

        Args:
            text: the text.
            position: x and y of its top.
            font_size: by default it grows with the image.
            color: brightened where it is too dark to read.
            horizontal_alignment: of the text relative to x.
            rotation: in degrees, counter-clockwise.
        """
        rgb = np.maximum(matplotlib.colors.to_rgb(color), 0.2)
        rgb[np.argmax(rgb)] = max(0.8, rgb.max())
        self.output.ax.text(
            *position,
            text,
            size=(font_size or self._default_font_size) * self.output.scale,
            family="sans-serif",
            bbox={"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"},
            verticalalignment="top",
            horizontalalignment=horizontal_alignment,
            color=rgb,
            zorder=10,
            rotation=rotation,
        )
        return self.output

    def get_output(self) -> VisImage:
        """Returns the image drawn on."""
        return self.output

    def _draw_text_in_mask(self, mask: np.ndarray, text: str, *, color: Any) -> None:
        count, regions, stats, _ = cv2.connectedComponentsWithStats(mask, 8)
        areas = stats[1:, cv2.CC_STAT_AREA]
        for region in range(1, count):
            if region == np.argmax(areas) + 1 or areas[region - 1] > _LARGE_AREA:
                rows, columns = np.nonzero(regions == region)
                self.draw_text(text, (np.median(columns), np.median(rows)), color=color)


def _lighter(color: Any, *, by: float) -> tuple[float, ...]:
    """Returns a colour with its lightness changed by a share of it, in -1..1."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*matplotlib.colors.to_rgb(color))
    return colorsys.hls_to_rgb(hue, min(lightness * (1 + by), 1.0), saturation)
