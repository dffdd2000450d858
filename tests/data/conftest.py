"""Small made-up pairs on disk, registered in the catalog for one test."""

import uuid

import numpy as np
import pytest
from PIL import Image

from smmcl.d2 import DatasetCatalog, MetadataCatalog


@pytest.fixture
def registered_pairs(tmp_path):
    """A function that writes pairs, registers them, and returns the dataset's name."""
    names = []

    def register(*, num_pairs=5, size=(40, 48), tags=(), **facts):
        name = f"pairs_{uuid.uuid4().hex}"
        folder = tmp_path / name
        folder.mkdir()
        records = [_write_pair(folder, index, size) for index in range(num_pairs)]
        for record, tag in zip(records, tags, strict=False):
            record["tags"] = [tag]
        DatasetCatalog.register(name, lambda: records)
        names.append(name)
        metadata = {
            "stuff_classes": ["floor", "wall", "lamp"],
            "stuff_colors": [[0, 0, 0], [255, 0, 0], [0, 255, 0]],
            "ignore_label": 255,
            "evaluator_type": "sem_seg",
            "label_offset": 1,
            "stored_ignore": 0,
            "auxiliary": {"kind": "thermal"},
            "absent_from_mean": [],
        }
        MetadataCatalog.get(name).set(**{**metadata, **facts})
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _write_pair(folder, index, size):
    """Writes pair `index`: its visible red channel and its auxiliary image hold the index."""
    visible = np.zeros((*size, 3), np.uint8)
    visible[..., 0] = index
    visible[..., 1] = np.arange(size[1])
    paths = {}
    label = np.random.default_rng(index).integers(0, 4, size).astype(np.uint8)
    images = {
        "file_name": visible,
        "auxiliary_file_name": np.full(size, index, np.uint8),
        "sem_seg_file_name": label,
    }
    for key, image in images.items():
        paths[key] = str(folder / f"{index:03d}_{key}.png")
        Image.fromarray(image).save(paths[key])
    return {**paths, "image_id": f"{index:03d}", "height": size[0], "width": size[1]}
