"""A contact sheet: pairs from all over a dataset in one grid with one legend."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.reader import PairReader
from smmcl.visualization.figure import spread
from smmcl.visualization.panels import (
    BACKGROUND,
    FAINT,
    INK,
    LINE,
    MARGIN,
    blend,
    brighten,
    color_auxiliary,
    enlarge,
    font,
    legend,
    overlay,
)

TEXT = 18  # pixels


def contact_sheet(names: Sequence[str], *, num_pairs: int) -> np.ndarray:
    """Draws sound pairs of registered datasets: visible, brightened, auxiliary, blend, label.

    What a dataset does not have, auxiliary images or labels, is left out.

    Args:
        names: of the datasets, which share their classes.
        num_pairs: of each dataset at most; pairs that cannot be read are left out.

    Returns:
        (height, width, 3) uint8, pictures at their stored resolution or above.
    """
    rows, seen = {}, []
    for name in names:
        metadata = MetadataCatalog.get(name)
        reader = PairReader.of(metadata)
        for record in spread(DatasetCatalog.get(name), num_pairs):
            try:
                visible, auxiliary = reader.images(record)
                labels = reader.label(record) if "sem_seg_file_name" in record else None
            except (ValueError, FileNotFoundError):
                continue  # `datasets.check` reports it
            bright = enlarge(brighten(visible))
            row = {"visible": enlarge(visible), "visible, brightened": bright}
            if auxiliary is not None:
                row[reader.kind] = enlarge(color_auxiliary(auxiliary, kind=reader.kind))
                row["both, blended"] = enlarge(blend(visible, auxiliary, kind=reader.kind))
            if labels is not None:
                row["label"] = overlay(bright, enlarge(labels), metadata=metadata)
                seen.append(labels.flatten())
            rows[f"{name}  {record['image_id']}"] = row
    if not rows:
        raise ValueError(f"{', '.join(names)} has no sound pair to draw. Mend its files first.")
    sheet = draw_grid(rows)
    if not seen:
        return sheet
    shown = {"pairs on this sheet": np.concatenate(seen)[None]}  # (1, pixels)
    key = legend(shown, metadata=metadata, width=sheet.shape[1] - 2 * MARGIN)
    below = np.full((len(key) + MARGIN, *sheet.shape[1:]), BACKGROUND, dtype=np.uint8)
    below[: len(key), MARGIN:-MARGIN] = key
    return np.concatenate([sheet, below])


def draw_grid(rows: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    """Draws pictures in cells between lines, each row under its name.

    Args:
        rows: (H, W, 3) uint8 pictures by title, by the name of the row; sizes may differ, titles
            are those of the first row, and a row without one of them has a gap there.
    """
    titles, gap = list(next(iter(rows.values()))), np.full((1, 1, 3), BACKGROUND, dtype=np.uint8)
    pictures = [[row.get(title, gap) for title in titles] for row in rows.values()]
    widths = [max(image.shape[1] for image in column) for column in zip(*pictures, strict=True)]
    heights = [2 * TEXT + max(image.shape[0] for image in row) for row in pictures]
    lefts = MARGIN + np.cumsum([0, *(width + 1 for width in widths)])  # of the lines
    tops = MARGIN + 2 * TEXT + np.cumsum([0, *(height + 1 for height in heights)])
    canvas = Image.new("RGB", (int(lefts[-1]) + MARGIN, int(tops[-1]) + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for left, title in zip(lefts[:-1], titles, strict=True):
        draw.text((left, MARGIN), title, INK, font(TEXT, bold=True), anchor="lt")
    for top, name, row in zip(tops[:-1], rows, pictures, strict=True):
        draw.text((MARGIN + TEXT // 2, top + TEXT), name, FAINT, font(TEXT), anchor="lm")
        for left, image in zip(lefts[:-1], row, strict=True):
            canvas.paste(Image.fromarray(image), (int(left) + 1, int(top) + 2 * TEXT))
    for left in lefts:
        draw.line((left, tops[0], left, tops[-1]), LINE)
    for top in tops:
        draw.line((lefts[0], top, lefts[-1], top), LINE)
    return np.asarray(canvas)
