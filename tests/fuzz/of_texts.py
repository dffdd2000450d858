"""Texts: lists, dataset files, configs and predictions, spoiled as trees and as lines."""

import copy
import functools
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mutations import spoil_bytes, spoil_text, spoil_tree
from PIL import Image
from pycocotools import mask
from worker import Kind

from smmcl.config import build_config
from smmcl.data.datasets.description import read_description
from smmcl.data.datasets.layouts import find_split
from smmcl.data.reader import PairReader
from smmcl.evaluation.predictions import open_predictions
from smmcl.files.images import MAX_PIXELS

IDS = ("a/1", "my file", "3")
DATASET = {
    "classes": ["floor", "wall"], "label_offset": 1, "stored_ignore": 0, "root": ".",
    "colors": [[0, 0, 0], [255, 0, 0]], "absent_from_mean": ["wall"], "skip": "*_flip",
    "auxiliary": [{"kind": "depth", "unit": "mm", "low": 0, "high": 5000.0, "invalid": 0}],
    "align": {"rule": "resize", "interpolation": "linear"},
    "tags": {"dark": "a/*", "lit": "l.txt"},
    "splits": {"train": {"lists": ["train.txt"], "pairs": 3}, "all": {}, "dark": {"only": "dark"}},
    "layouts": [
        {"visible": "rgb/{id}.png", "auxiliary": "depth/{id}.png", "label": "ids/{id}.png"}
    ],
}  # fmt: skip
CONFIG = {
    "VERSION": 2, "IMPORTS": [], "OUTPUT_DIR": "output", "SEED": 1,
    "DATASETS": {"TRAIN": ["synthetic_night_train"], "TEST": ["synthetic_night_val"]},
    "INPUT": {"CROP_SIZE": [128, 160], "SCALES": [0.5, 1.0], "FLIP": 0.5, "AUXILIARY_FORMAT": "RGB",
              "CORRUPTION": {"NAMES": ["missing"], "PROBABILITY": 0.1}},
    "MODEL": {"PIXEL_MEAN": [1.0, 2.0, 3.0], "PAIR": {"VISIBLE": {"NAME": "mscan_t"}},
              "SMMCL": {"SAMPLER": {"MIN_VIEWS": 5},
                        "IN_FEATURES": ["res4_visible", "res4_auxiliary"]},
              "SEM_SEG_HEAD": {"CLASS_WEIGHTS": [], "IN_FEATURES": ["res3", "res4"]}},
    "SOLVER": {"BASE_LR": 6.0e-5, "AMP": {"ENABLED": False}, "MAX_ITER": 300},
    "TEST": {"SLIDING": {"ENABLED": True, "SIZE": [64, 64], "OVERLAP": 0.5}},
}  # fmt: skip
READER = PairReader(None, num_classes=3)


@functools.cache
def _pictures() -> tuple[bytes, bytes, bytes]:
    """A visible image, a 16-bit auxiliary image and a label."""
    arrays = np.zeros((4, 6, 3), np.uint8), np.ones((4, 6), np.uint16), np.ones((4, 6), np.uint8)
    files = [io.BytesIO() for _ in arrays]
    for array, file in zip(arrays, files, strict=True):
        Image.fromarray(array).save(file, "PNG")
    return tuple(file.getvalue() for file in files)


def _write_pairs(folder: Path) -> None:
    for name in IDS:
        for part, content in zip(("rgb", "depth", "ids"), _pictures(), strict=True):
            path = folder / part / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for name in ("train.txt", "l.txt"):
        (folder / name).write_text("\n".join(IDS))


def spoiled_file(draw: random.Random, tree: Any, dump: Any) -> bytes:
    """A tree whose values are wrong, or a text whose lines, encoding or bytes are."""
    if draw.random() < 0.6:
        tree = spoil_tree(draw, tree)
    try:
        text = dump(tree)
    except RecursionError:  # the writer's, of lists in lists in lists
        text = "[" * 2000
    text = text.encode(errors="replace").decode()
    content = spoil_text(draw, text) if draw.random() < 0.5 else text.encode()
    return spoil_bytes(draw, content) if draw.random() < 0.1 else content


def write_list(draw: random.Random, folder: Path) -> Path:
    _write_pairs(folder)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(DATASET))
    lines = [f"rgb/{name}.png\tids/{name}.png" if draw.random() < 0.3 else name for name in IDS]
    path = folder / draw.choice(("train.txt", "l.txt"))
    path.write_bytes(spoiled_file(draw, lines, lambda tree: "\n".join(map(str, _as_list(tree)))))
    return path


def _as_list(tree: Any) -> list[Any]:
    return tree if isinstance(tree, list) else [tree]


def write_dataset(draw: random.Random, folder: Path) -> Path:
    _write_pairs(folder)
    path = folder / "dataset.yaml"
    if draw.random() < 0.2:  # based on a sound file, on itself, or on what is spoiled
        (folder / "base.yaml").write_text(yaml.safe_dump(DATASET))
        base = draw.choice(("base.yaml", "dataset.yaml", ["base.yaml"] * 40, "rgb", "/dev/zero"))
        path.write_bytes(
            spoiled_file(draw, {"_BASE_": base, "classes": ["a", "b"]}, yaml.safe_dump)
        )
    else:
        path.write_bytes(spoiled_file(draw, DATASET, yaml.safe_dump))
    return path


def read_dataset(path: Path) -> None:
    """Every split of the set, whose pairs lie in its folder whatever the lists name."""
    description = read_description(path.parent / "dataset.yaml")
    for name in list(description.splits)[:5]:
        for record in find_split(description, name, base=path.parent).records:
            assert ".." not in record["image_id"].split("/"), record
            assert not record["image_id"].startswith("/"), record


def write_config(draw: random.Random, folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(spoiled_file(draw, CONFIG, yaml.safe_dump))
    return path


def read_config(path: Path) -> None:
    """A config survives being written and read again."""
    cfg = build_config(str(path))
    again = build_config(str(path), text=cfg.dump())
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


@functools.cache
def _predictions() -> list[dict[str, Any]]:
    """Two regions of an image, in COCO's form for results."""
    is_left = np.zeros((20, 30), np.uint8)
    is_left[3:9, :15] = 1
    regions = [mask.encode(np.asfortranarray(array)) for array in (is_left, 1 - is_left)]
    return [
        {"image_id": "7", "category_id": category, "score": 1.0,
         "segmentation": {**region, "counts": region["counts"].decode()}}
        for category, region in enumerate(regions)
    ]  # fmt: skip


def write_predictions(draw: random.Random, folder: Path) -> Path:
    path = folder / "predictions.json"
    entries = copy.deepcopy(_predictions())
    entries = spoil_tree(draw, entries) if draw.random() < 0.2 else entries
    for entry in entries if isinstance(entries, list) else []:
        try:
            counts = entry["segmentation"]["counts"].encode("latin-1")
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
        if draw.random() < 0.3:
            spoiled = spoil_bytes(draw, counts).decode("latin-1")
            entry["segmentation"] = {**entry["segmentation"], "counts": spoiled}
    path.write_bytes(spoiled_file(draw, entries, json.dumps))
    return path


def read_predictions(path: Path) -> None:
    labels = open_predictions(path, reader=READER)("7")
    assert labels.dtype == np.uint8
    assert labels.ndim == 2
    assert labels.size <= MAX_PIXELS
    assert set(np.unique(labels)) <= {0, 1, 2, 255}


LIST, DATASET_FILE = Kind(write_list, read_dataset), Kind(write_dataset, read_dataset)
CONFIG_FILE = Kind(write_config, read_config)
PREDICTIONS = Kind(write_predictions, read_predictions)
