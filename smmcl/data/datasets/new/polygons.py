"""Draws label images from the polygons of COCO JSON and labelme JSON.

Where objects overlap, the smaller one is on top, and the later one of two equal ones. Pixels of no
object are class 0, the background; those of a COCO crowd, or of labelme's __ignore__, are ignored.

Shape shorthand in this module:
    H, W: height and width of an image
"""

import contextlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from pycocotools.coco import COCO

from smmcl.data.datasets.new.labels import IGNORE, MAX_CLASSES, Classes

BACKGROUND = ("_background_", "background")
RULE = (
    "labels are drawn from polygons: the smaller object is on top, pixels of no object are class "
    "0 (background), crowds and __ignore__ are not scored."
)


def draw_labels(files: Sequence[Path]) -> tuple[Classes, dict[str, np.ndarray]]:
    """Returns the classes, and by image name without ending its label image (H, W) uint8."""
    loaded = {path: _load(path) for path in files}
    coco = [path for path, facts in loaded.items() if "annotations" in facts]
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


def _load(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file ({error}). Export it again.") from error
    return facts if isinstance(facts, dict) else {}


def _from_coco(files: Sequence[Path]) -> tuple[list[str], dict[str, np.ndarray]]:
    labels, names = {}, None
    for path in files:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress
            coco = COCO(str(path))
        categories = sorted(coco.loadCats(coco.getCatIds()), key=lambda entry: entry["id"])
        ids = {entry["id"]: i for i, entry in enumerate(categories, start=1)}
        here = ["background", *(entry["name"] for entry in categories)]
        if names not in (None, here):
            raise ValueError(f"{path} has other categories than {files[0]}. Give them one list.")
        names = here
        without = [a for a in coco.anns.values() if not a.get("segmentation")]
        if without:
            raise ValueError(
                f"{len(without)} of {len(coco.anns)} annotations in {path} have no `segmentation`, "
                f"the first with id {without[0]['id']}: boxes do not label pixels. Export polygons "
                "or masks, or remove these annotations."
            )
        for image in coco.imgs.values():
            objects = [
                (coco.annToMask(a) > 0, IGNORE if a.get("iscrowd") else ids[a["category_id"]])
                for a in coco.imgToAnns[image["id"]]
            ]
            labels[_stem(image["file_name"])] = _stack(objects, image["height"], image["width"])
    return names, labels


def _from_labelme(files: dict[Path, dict[str, Any]]) -> tuple[list[str], dict[str, np.ndarray]]:
    used = {shape["label"] for facts in files.values() for shape in facts["shapes"]}
    names = ["background", *sorted(used - {*BACKGROUND, "__ignore__"})]
    ids = {**{name: i for i, name in enumerate(names)}, "_background_": 0, "__ignore__": IGNORE}
    labels = {}
    for path, facts in files.items():
        size = facts["imageHeight"], facts["imageWidth"]
        objects = [(_fill(s, size, path), ids[s["label"]]) for s in facts["shapes"]]
        labels[path.stem] = _stack(objects, *size)
    return names, labels


def _fill(shape: dict[str, Any], size: tuple[int, int], path: Path) -> np.ndarray:
    mask, kind = np.zeros(size, dtype=np.uint8), shape.get("shape_type") or "polygon"
    points = np.rint(np.array(shape["points"], dtype=np.float64)).astype(np.int32)  # (points, 2)
    if kind == "polygon":
        cv2.fillPoly(mask, [points], 1)
    elif kind == "rectangle":
        cv2.rectangle(mask, points[0].tolist(), points[1].tolist(), 1, cv2.FILLED)
    elif kind == "circle":
        radius = round(float(np.linalg.norm(points[1] - points[0])))
        cv2.circle(mask, points[0].tolist(), radius, 1, cv2.FILLED)
    else:
        raise ValueError(
            f"{path} has a shape of type {kind!r} ({shape['label']}), which has no area that is "
            "known here. Draw it as a polygon, rectangle or circle, or remove it."
        )
    return mask > 0


def _stack(objects: Iterable[tuple[np.ndarray, int]], height: int, width: int) -> np.ndarray:
    label = np.zeros((height, width), dtype=np.uint8)
    for mask, value in sorted(objects, key=lambda entry: -np.count_nonzero(entry[0])):
        label[mask] = value
    return label


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem
