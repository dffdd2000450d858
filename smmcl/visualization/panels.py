"""Pictures of pairs: what the cameras saw, what the model says, and which color means what.

Shape shorthand in this module:
    H, W: height and width of a picture     A: channels of the auxiliary image
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from smmcl.d2 import ColorMode, Visualizer

# Perceptual color maps: equal steps of the sensor look equal. Near is bright, and so is warm.
COLOR_MAPS = {"thermal": "inferno", "depth": "viridis_r"}
OTHER_COLOR_MAP = "cividis"
NO_MEASUREMENT = (38, 38, 42)
BACKGROUND, PADDING = (252, 252, 250), (214, 216, 220)
INK, FAINT, LINE = (34, 38, 46), (110, 116, 128), (190, 194, 200)
MARGIN, GAP = 28, 14
MIN_WIDTH = 320  # pixels: narrower pictures are enlarged by a whole number
BORDER = 4  # pixels: outlines that follow the edge of a picture are drawn outside of it


def pictures(inputs: Mapping[str, Any], *, fmt: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Takes visible (H, W, 3) uint8 RGB and auxiliary (H, W, A), if any, out of the model's input.

    Its "image" (3, H, W) has the channel order `fmt`, "RGB" or "BGR".
    """
    visible, auxiliary = (
        inputs[key].permute(1, 2, 0).numpy() if key in inputs else None
        for key in ("image", "auxiliary")
    )
    return np.ascontiguousarray(visible if fmt == "RGB" else visible[:, :, ::-1]), auxiliary


def brighten(visible: np.ndarray) -> np.ndarray:
    """Lifts the dark parts of (H, W, 3) uint8 so that a person sees what is there; hues stay.

    A gamma brings the median brightness to 0.35; lit images stay as they are. Lamps and glare,
    which would keep a linear stretch from doing anything, hardly move the median.
    """
    brightness = visible.max(axis=2).astype(np.float32) / 255  # (H, W)
    brightness = brightness.clip(1 / 255)
    gamma = float(np.clip(math.log(0.35) / math.log(min(np.median(brightness), 0.99)), 0.3, 1))
    gain = brightness ** (gamma - 1)  # (H, W)
    return (visible * gain[:, :, None]).clip(0, 255).astype(np.uint8)


def color_auxiliary(auxiliary: np.ndarray, *, kind: str) -> np.ndarray:
    """Colors (H, W) or (H, W, A), values 0..255, as (H, W, 3) uint8 by the format's `kind`.

    The contrast is stretched between the 1st and 99th percentile. Three channels that differ (HHA)
    are shown as they are. In depth, 0 is no measurement: gray.
    """
    if auxiliary.ndim == 3 and (auxiliary != auxiliary[:, :, :1]).any():
        return auxiliary.clip(0, 255).astype(np.uint8)
    values = auxiliary.reshape(*auxiliary.shape[:2], -1)[:, :, 0].astype(np.float32)  # (H, W)
    is_measured = values > 0 if kind == "depth" else np.ones_like(values, dtype=bool)
    if not is_measured.any():
        return np.full((*values.shape, 3), NO_MEASUREMENT, dtype=np.uint8)
    low, high = np.percentile(values[is_measured], (1, 99))
    stretched = ((values - low) / max(high - low, 1.0)).clip(0, 1)
    colors = color(stretched, name=COLOR_MAPS.get(kind, OTHER_COLOR_MAP))  # (H, W, 3)
    colors[~is_measured] = NO_MEASUREMENT
    return colors


def blend(visible: np.ndarray, auxiliary: np.ndarray, *, kind: str) -> np.ndarray:
    """Half of both images, (H, W, 3) uint8: where they are misaligned, outlines stand twice."""
    parts = (brighten(visible), color_auxiliary(auxiliary, kind=kind))
    return np.mean(parts, axis=0).astype(np.uint8)


def color(values: np.ndarray, *, name: str = "viridis") -> np.ndarray:
    """Colors (H, W) values of 0..1 by one of matplotlib's maps: (H, W, 3) uint8."""
    return np.rint(255 * matplotlib.colormaps[name](values)[:, :, :3]).astype(np.uint8)


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Brings (H, W) labels or values to `size` (height, width), each pixel the nearest one's."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, image.shape, strict=True))
    return image[rows[:, None], columns]


def overlay(
    visible: np.ndarray, labels: np.ndarray, *, metadata: Any, alpha: float = 0.6
) -> np.ndarray:
    """Paints (H, W) labels over (H, W, 3) uint8 RGB; ignored pixels stay unpainted."""
    ground = np.pad(visible, ((BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="edge")
    drawing = Visualizer(ground, metadata, instance_mode=ColorMode.SEGMENTATION)
    drawing = drawing.draw_sem_seg(
        np.pad(labels, BORDER, mode="edge"), alpha=alpha, draw_text=False
    )
    return drawing.get_image()[BORDER:-BORDER, BORDER:-BORDER]


def enlarge(image: np.ndarray, *, width: int | None = None) -> np.ndarray:
    """Repeats the pixels of (H, W) or (H, W, 3) k times both ways.

    k is the least whole number that makes k * `width`, or k * W, MIN_WIDTH.
    """
    factor = math.ceil(MIN_WIDTH / (width or image.shape[1]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def class_shares(labels: np.ndarray, *, metadata: Any) -> dict[str, float]:
    """Share of each class among the pixels of (H, W) labels that have one, by its name."""
    names = metadata.stuff_classes
    counts = np.bincount(labels[labels < len(names)], minlength=len(names))
    return dict(zip(names, (counts / max(counts.sum(), 1)).tolist(), strict=True))


def legend(
    maps: Mapping[str, np.ndarray],
    *,
    metadata: Any,
    width: int,
    text_size: int = 18,
    is_steady: bool = False,
) -> np.ndarray:
    """Names the classes that occur with their colors and their shares of pixels.

    Args:
        maps: (H, W) class indices by title; the first one orders the classes. Other values, such
            as the ignore value, are not counted.
        metadata: of the dataset, with `stuff_classes` and `stuff_colors`.
        width: of the result, (height as needed, width, 3) uint8.
        is_steady: names every class, in the dataset's order: a legend of one size, for videos.
    """
    shares = [class_shares(labels, metadata=metadata) for labels in maps.values()]
    entries = [
        (
            tuple(color),
            name,
            " / ".join(f"{100 * share[name]:{4 * is_steady}.1f}%" for share in shares),
        )
        for name, color in zip(metadata.stuff_classes, metadata.stuff_colors, strict=True)
        if is_steady or any(share[name] for share in shares)
    ]
    if not is_steady:
        entries.sort(key=lambda entry: -shares[0][entry[1]])
    note = f"share of pixels, {' / '.join(maps)}"
    return _draw_entries(entries, note=note, width=width, text_size=text_size)


def panel(
    images: Mapping[str, np.ndarray],
    *,
    heading: str = "",
    legend: np.ndarray | None = None,
    text_size: int = 18,
) -> np.ndarray:
    """Lays pictures of one size side by side, each under its title, on a light ground.

    Args:
        images: (H, W, 3) uint8 by title.
        heading: a line above all.
        legend: (any height, at most the row's width, 3) picture to go below.
    """
    height, width = next(iter(images.values())).shape[:2]
    top = MARGIN + (2 * text_size if heading else 0)
    bottom = top + round(1.5 * text_size) + height
    below = legend.shape[0] + GAP if legend is not None else 0
    size = (row_width(len(images), width) + 2 * MARGIN, bottom + below + MARGIN)
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), heading, INK, font(text_size, bold=True), anchor="lt")
    for place, (title, image) in enumerate(images.items()):
        left = MARGIN + place * (width + GAP)
        draw.text((left, top), title, FAINT, font(text_size), anchor="lt")
        canvas.paste(Image.fromarray(image), (left, bottom - height))
    if legend is not None:
        canvas.paste(Image.fromarray(legend), (MARGIN, bottom + GAP))
    return np.asarray(canvas)


def row_width(count: int, width: int) -> int:
    """Width of `count` pictures in a panel, without its margins."""
    return count * width + (count - 1) * GAP


def draw_pair(
    visible: np.ndarray,
    auxiliary: np.ndarray | None,
    *,
    maps: Mapping[str, np.ndarray],
    kind: str,
    metadata: Any,
    heading: str = "",
    valid_box: tuple[int, int, int, int] | None = None,
    extras: Mapping[str, np.ndarray] | None = None,
    is_steady: bool = False,
) -> np.ndarray:
    """The panel of one pair: visible, brightened, auxiliary, the label maps, further pictures.

    Args:
        visible, auxiliary: as `pictures` gives them.
        maps: (H, W) class indices by title, such as "prediction" and "truth"; may be empty.
        kind: of the auxiliary format.
        metadata: of the dataset.
        heading: a line above all.
        valid_box: (top, left, bottom, right) of the real pixels; the others are drawn gray.
        extras: (H, W, 3) uint8 by title, the last in the row.
        is_steady: the panel has the same size for every pair of one size.
    """
    size = visible.shape[:2]
    box = valid_box or (0, 0, *size)
    inside = np.s_[box[0] : box[2], box[1] : box[3]]
    images = {
        "visible": enlarge(visible[inside], width=size[1]),
        "visible, brightened": enlarge(brighten(visible[inside]), width=size[1]),
    }
    if auxiliary is not None:
        images[kind] = enlarge(color_auxiliary(auxiliary[inside], kind=kind), width=size[1])
    for title, labels in maps.items():
        labels = enlarge(labels[inside], width=size[1])
        images[title] = overlay(images["visible, brightened"], labels, metadata=metadata)
    for title, image in (extras or {}).items():
        images[title] = enlarge(image[inside], width=size[1])
    images = {title: _pad(image, size=size, box=box) for title, image in images.items()}
    width = images["visible"].shape[1]
    row, text_size = row_width(len(images), width), 10 + width // 40
    key = None
    if maps:
        facts = {"metadata": metadata, "is_steady": is_steady}
        key = legend(maps, width=row, text_size=text_size, **facts)
    return panel(images, heading=heading, legend=key, text_size=text_size)


def _pad(image: np.ndarray, *, size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """Lays the enlarged picture of a box of real pixels into a gray one of the whole size."""
    top, left, bottom, right = box
    scale = image.shape[0] // (bottom - top)
    whole = np.full((scale * size[0], scale * size[1], 3), PADDING, dtype=np.uint8)
    whole[scale * top : scale * bottom, scale * left : scale * right] = image
    return whole


def _draw_entries(
    entries: Sequence[tuple[tuple, str, str]], *, note: str, width: int, text_size: int
) -> np.ndarray:
    """A framed note, and below it swatches, names and shares in as many columns as fit."""
    sans, row = font(text_size), round(1.7 * text_size)
    lengths = [sans.getlength(f"{name}  {shares}") for _, name, shares in entries]
    cell, edge = round(max(lengths, default=width)) + 2 * row, row // 2
    columns = max(1, (width - 2 * edge) // cell)
    height = row * (1 + math.ceil(len(entries) / columns)) + 2 * edge
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, width - 1, height - 1), outline=LINE)
    draw.text((edge, edge + row / 2), note, FAINT, sans, anchor="lm")
    for index, (color, name, shares) in enumerate(entries):
        left, top = edge + (index % columns) * cell, edge + (1 + index // columns) * row
        swatch = (left, top + row // 8, left + 3 * row // 4, top + row - row // 8)
        draw.rounded_rectangle(swatch, radius=row // 8, fill=color, outline=FAINT)
        draw.text((left + row, top + row / 2), name, INK, sans, anchor="lm")
        after = left + row + sans.getlength(f"{name}  ")
        draw.text((after, top + row / 2), shares, FAINT, sans, anchor="lm")
    return np.asarray(canvas)


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The sans-serif that matplotlib ships, so that pictures look alike on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
