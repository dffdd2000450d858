"""Draws label images from the polygons of COCO JSON and labelme JSON.

Where objects overlap, the smaller one is on top, and the later one of two equal ones. Pixels of no
object are class 0, the background; those of a COCO crowd, or of labelme's __ignore__, are ignored.

Shape shorthand in this module:
    H, W: height and width of an image
"""

import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from smmcl.data.datasets.new.labels import IGNORE, MAX_CLASSES, Classes
from smmcl.files.images import MAX_PIXELS
from smmcl.files.rle import decode_rle

BACKGROUND = ("_background_", "background")
Drawing = Callable[[], np.ndarray]  # makes (H, W) uint8; all images at once would fill the memory
MAX_OUTSIDE = 10  # sides of an image that a corner may be away; outlines are drawn to their ends
RULE = (
    "labels are drawn from polygons: the smaller object is on top, pixels of no object are class "
    "0 (background), crowds and __ignore__ are not scored."
)


def draw_labels(files: Sequence[Path]) -> tuple[Classes, dict[str, Drawing]]:
    """Returns the classes, and by image name without ending what draws its label image."""
    loaded = {path: _load(path) for path in files}
    coco = {path: facts for path, facts in loaded.items() if "annotations" in facts}
    shapes = {path: facts for path, facts in loaded.items() if "shapes" in facts}
    if bool(coco) == bool(shapes):
        raise ValueError(
            f"{files[0].parent} holds {len(coco)} COCO and {len(shapes)} labelme files among "
            f"{len(files)} JSON files. Name files of one kind by --labels: COCO has the keys "
            "images, annotations and categories, labelme has shapes."
        )
    names, labels = _from_coco(coco) if coco else _from_labelme(shapes)
    if len(names) > MAX_CLASSES:
        raise ValueError(f"{files[0]} has {len(names)} classes; at most {MAX_CLASSES} can be read.")
    return Classes(names, [], IGNORE, {}, [RULE]), labels


def has_polygons(path: Path) -> bool:
    """Whether a JSON file is one of COCO or labelme, rather than settings of a camera."""
    try:
        return not {"annotations", "shapes"}.isdisjoint(_load(path))
    except ValueError:
        return False


def _load(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file ({error}). Export it again.") from error
    return facts if isinstance(facts, dict) else {}


def _get(entry: Any, key: str, kind: Any, path: Path) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise ValueError(
            f"{path} has {value!r:.80} as the {key} of {entry!r:.80}, which is of no use. Export "
            "the file again."
        )
    return value


def _size(entry: Any, keys: tuple[str, str], path: Path) -> tuple[int, int]:
    height, width = (_get(entry, key, int, path) for key in keys)
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise ValueError(f"{path} has an image of {height}x{width} pixels. Export the file again.")
    return height, width


def _from_coco(files: Mapping[Path, dict[str, Any]]) -> tuple[list[str], dict[str, Drawing]]:
    labels, names = {}, None
    for path, facts in files.items():
        entries = _get(facts, "categories", list, path)
        categories = {_get(c, "id", int, path): _get(c, "name", str, path) for c in entries}
        here = ["background", *(categories[number] for number in sorted(categories))]
        if names not in (None, here):
            first = next(iter(files))
            raise ValueError(f"{path} has other categories than {first}. Give them one list.")
        names = here
        ids = {number: i for i, number in enumerate(sorted(categories), start=1)}
        below = defaultdict(list)
        for annotation in _annotations(facts, ids, path):
            below[annotation["image_id"]].append(annotation)
        for image in _get(facts, "images", list, path):
            size = _size(image, ("height", "width"), path)
            own = below[_get(image, "id", int | str, path)]
            values = [IGNORE if one.get("iscrowd") else ids[one["category_id"]] for one in own]
            name = _stem(_get(image, "file_name", str, path))
            labels[name] = functools.partial(_stack, _region, own, values, size, path)
    return names, labels


def _annotations(facts: Any, ids: Mapping[int, int], path: Path) -> list[dict[str, Any]]:
    annotations = _get(facts, "annotations", list, path)
    for one in annotations:
        _get(one, "image_id", int | str, path)
        if _get(one, "category_id", int, path) not in ids:
            raise ValueError(
                f"{path} has annotations of the category {one['category_id']}, which its list of "
                "categories lacks. Add it there."
            )
    if without := [one for one in annotations if not one.get("segmentation")]:
        raise ValueError(
            f"{len(without)} of {len(annotations)} annotations in {path} have no `segmentation`, "
            f"the first with id {without[0].get('id')}: boxes do not label pixels. Export polygons "
            "or masks, or remove these annotations."
        )
    return annotations


def _region(annotation: dict[str, Any], size: tuple[int, int], path: Path) -> np.ndarray:
    """(H, W) bool of one annotation: run lengths, or polygons."""
    region = annotation["segmentation"]
    try:
        if not isinstance(region, dict):
            # COCO's own rule for pixels on an outline is in pycocotools alone.
            corners = [_points(flat, size, 3).ravel().tolist() for flat in region]
            merged = coco_mask.merge(coco_mask.frPyObjects(corners, *size))
            region = {"size": [*size], "counts": merged["counts"].decode()}
        inside = decode_rle(region)
        if inside.shape != size:
            raise ValueError(f"it is {inside.shape}, but its image {size}")
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{path}: the segmentation of annotation {annotation.get('id')} cannot be drawn: "
            f"{error}. Export it again."
        ) from error
    return inside


def _points(values: Any, size: tuple[int, int], at_least: int) -> np.ndarray:
    """(points, 2), x before y."""
    points = np.array(values, dtype=np.float64)
    if points.size % 2 or points.size < 2 * at_least:
        raise ValueError(f"it has {points.size} coordinates, not two for each of {at_least} points")
    if not (np.abs(points) <= MAX_OUTSIDE * max(size)).all():  # nor NaN
        raise ValueError("a point is far outside of the image")
    return points.reshape(-1, 2)


def _from_labelme(files: Mapping[Path, dict[str, Any]]) -> tuple[list[str], dict[str, Drawing]]:
    shapes = {path: _get(facts, "shapes", list, path) for path, facts in files.items()}
    used = {_get(shape, "label", str, path) for path, some in shapes.items() for shape in some}
    names = ["background", *sorted(used - {*BACKGROUND, "__ignore__"})]
    ids = {**{name: i for i, name in enumerate(names)}, "_background_": 0, "__ignore__": IGNORE}
    labels = {}
    for path, facts in files.items():
        size = _size(facts, ("imageHeight", "imageWidth"), path)
        values = [ids[shape["label"]] for shape in shapes[path]]
        labels[path.stem] = functools.partial(_stack, _fill, shapes[path], values, size, path)
    return names, labels


def _fill(shape: dict[str, Any], size: tuple[int, int], path: Path) -> np.ndarray:
    mask, kind = np.zeros(size, dtype=np.uint8), shape.get("shape_type") or "polygon"
    if kind not in ("polygon", "rectangle", "circle"):
        raise ValueError(
            f"{path} has a shape of type {kind!r} ({shape['label']}), which has no area that is "
            "known here. Draw it as a polygon, rectangle or circle, or remove it."
        )
    try:
        points = _points(shape.get("points"), size, 3 if kind == "polygon" else 2)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{path}: a {kind} of {shape['label']} cannot be drawn: {error}. Draw it again."
        ) from error
    corners = np.rint(points).astype(np.int32)  # (points, 2)
    if kind == "polygon":
        cv2.fillPoly(mask, [corners], 1)
    elif kind == "rectangle":
        cv2.rectangle(mask, corners[0].tolist(), corners[1].tolist(), 1, cv2.FILLED)
    else:
        radius = round(math.dist(points[0], points[1]))
        cv2.circle(mask, corners[0].tolist(), radius, 1, cv2.FILLED)
    return mask > 0


def _stack(
    draw: Callable[..., np.ndarray],
    objects: Sequence[dict[str, Any]],
    values: Sequence[int],
    size: tuple[int, int],
    path: Path,
) -> np.ndarray:
    label = np.zeros(size, dtype=np.uint8)
    masks = [draw(one, size, path) for one in objects]
    for i in sorted(range(len(masks)), key=lambda i: -np.count_nonzero(masks[i])):
        label[masks[i]] = values[i]
    return label


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem
