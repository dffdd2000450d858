"""A dataset of your own, where a dataset.yaml does not do: --config-file FILE \
IMPORTS "['examples/own_dataset.py']" DATASETS.TRAIN "('garden_train',)" \
DATASETS.TEST "('garden_val',)" MODEL.SEM_SEG_HEAD.NUM_CLASSES 2

It reads $DETECTRON2_DATASETS/garden/pairs.csv: split,visible,auxiliary,label,time"""

import csv
import functools
import os
import pathlib

from smmcl.d2 import DatasetCatalog, MetadataCatalog

ROOT = pathlib.Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "garden"


def load(split: str) -> list[dict]:
    """One record per pair. The image id names the pair's predictions; each tag is a score."""
    with (ROOT / "pairs.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    parts = {"file_name": "visible", "auxiliary_file_name": "auxiliary",
             "sem_seg_file_name": "label"}  # fmt: skip
    return [
        {key: str(ROOT / row[part]) for key, part in parts.items()}
        | {"image_id": pathlib.Path(row["visible"]).stem, "tags": [row["time"]]}
        for row in rows
    ]


for _split in ("train", "val"):
    DatasetCatalog.register(f"garden_{_split}", functools.partial(load, _split))
    MetadataCatalog.get(f"garden_{_split}").set(
        stuff_classes=["grass", "path"], label_offset=1, stored_ignore=0, ignore_label=255,
        auxiliary={"kind": "thermal", "unit": "cK", "low": 27000, "high": 31000},
        evaluator_type="sem_seg", num_images=None,
    )  # fmt: skip
