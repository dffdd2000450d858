"""Drawing label maps with their class names on images."""

import colorsys
from enum import Enum
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from smmcl.d2.builtin.data import Metadata, MetadataCatalog


class ColorMode(Enum):
    """How instances are coloured; a label map looks the same in all of them."""

    IMAGE = 0
    SEGMENTATION = 1
    IMAGE_BW = 2


class VisImage:
    """An RGB image in 0..255, scaled, to draw on."""

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        self.scale = scale
        self.height, self.width = img.shape[:2]
        size = (round(self.width * scale), round(self.height * scale))
        self.canvas = Image.fromarray(img).resize(size, Image.Resampling.NEAREST)

    def get_image(self) -> np.ndarray:
        """The drawing, (height, width, 3) uint8 in RGB."""
        return np.array(self.canvas)

    def save(self, filepath: str) -> None:
        self.canvas.save(filepath)


class Visualizer:
    """Draws label maps on one RGB image in 0..255; Detectron2's own draws much more."""

    def __init__(
        self,
        img_rgb: Any,
        metadata: Metadata | None = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = MetadataCatalog.get("__nonexist__") if metadata is None else metadata
        self.output = VisImage(self.img, scale=scale)
        points = max(np.sqrt(self.output.height * self.output.width) // 90, 10 // scale)
        pixels = points * font_size_scale * scale * 100 / 72  # at 100 pixels to the inch
        self._font = ImageFont.load_default(pixels)

    def draw_sem_seg(
        self,
        sem_seg: Any,
        area_threshold: float | None = None,
        alpha: float = 0.8,
        draw_text: bool = True,
        edge_color: Any = (1.0, 1.0, 240.0 / 255),
    ) -> VisImage:
        """Paints a label map; labels without a class, and regions of fewer pixels, are left."""
        labels = np.asarray(sem_seg)
        present, areas = np.unique(labels, return_counts=True)
        names, colors = self.metadata.stuff_classes, self.metadata.get("stuff_colors", [])
        texts = []
        for label in (k for k in present[np.argsort(-areas)] if k < len(names)):
            color = colors[label] if label < len(colors) else np.random.randint(256, size=3)
            _, regions, stats, _ = cv2.connectedComponentsWithStats((labels == label).astype("u1"))
            sizes = stats[:, cv2.CC_STAT_AREA]
            sizes[0] = 0  # the ground
            kept = (sizes > 0) & (sizes >= (area_threshold or 0))
            self._paint(kept[regions], np.array(color), alpha, np.multiply(edge_color, 255))
            if kept.any():
                rows, columns = np.nonzero(regions == sizes.argmax())
                texts.append((names[label], np.median(columns), np.median(rows), color))
        for text in texts if draw_text else []:
            self._write(*text)
        return self.output

    def _paint(self, mask: np.ndarray, color: Any, alpha: float, edge_color: Any) -> None:
        size, image = self.output.canvas.size, self.output.get_image()
        inside = cv2.resize(mask.astype("u1"), size, interpolation=cv2.INTER_NEAREST)
        around = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}  # the image ends in an edge
        edge = inside > cv2.erode(inside, np.ones((3, 3), "u1"), **around)
        blend = image[inside > 0] * (1 - alpha) + color * alpha
        image[inside > 0] = blend.round()
        image[edge] = edge_color
        self.output.canvas.paste(Image.fromarray(image))

    def _write(self, text: str, column: float, row: float, color: Any) -> None:
        """Writes text below a place, in a lighter shade on a dark box."""
        hue, lightness, saturation = colorsys.rgb_to_hls(*(c / 255 for c in color))
        rgb = colorsys.hls_to_rgb(hue, max(0.4, min(1.7 * lightness, 1)), saturation)
        place = (column * self.output.scale, row * self.output.scale)
        draw = ImageDraw.Draw(self.output.canvas, "RGBA")
        box = draw.textbbox(place, text, font=self._font, anchor="ma")
        draw.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), fill=(0, 0, 0, 204))
        fill = tuple(round(255 * c) for c in rgb)
        draw.text(place, text, fill=fill, font=self._font, anchor="ma")
