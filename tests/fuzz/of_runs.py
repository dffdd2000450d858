"""What other programs and runs leave: COCO and labelme JSON, results, a grid, a stopped run."""

import functools
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import yaml
from of_texts import spoiled_file
from PIL import Image
from torch import nn
from worker import Kind

from smmcl.data.datasets.new.build import propose
from smmcl.data.datasets.new.polygons import draw_labels
from smmcl.engine.checkpoint import RunCheckpointer
from smmcl.engine.experiments import share_done
from smmcl.engine.grid import flat, read_grid
from smmcl.engine.tracking import CsvWriter
from smmcl.evaluation.comparison import Comparison
from smmcl.evaluation.robustness import Robustness
from smmcl.visualization.report import make_report
from smmcl.visualization.runs import read_runs

SQUARE = [[2, 2], [2, 12], [12, 12], [12, 2]]
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 16, "width": 24}],
    "categories": [{"id": 3, "name": "car"}, {"id": 5, "name": "wall"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0, "area": 100.0,
         "bbox": [2, 2, 10, 10], "segmentation": [[2, 2, 2, 12, 12, 12, 12, 2]]},
        {"id": 2, "image_id": 1, "category_id": 5, "iscrowd": 1, "area": 9.0, "bbox": [0, 0, 3, 3],
         "segmentation": {"size": [16, 24], "counts": [3, 5, 376]}},
        {"id": 3, "image_id": 1, "category_id": 5, "iscrowd": 0, "area": 9.0, "bbox": [0, 0, 3, 3],
         "segmentation": {"size": [16, 24], "counts": "`1`0P:"}},
    ],
}  # fmt: skip
LABELME = {
    "version": "5.2.1", "flags": {}, "imagePath": "a.png", "imageData": None,
    "imageHeight": 16, "imageWidth": 24,
    "shapes": [
        {"label": "car", "points": SQUARE, "shape_type": "polygon", "flags": {}},
        {"label": "__ignore__", "points": [[1, 1], [4, 4]], "shape_type": "rectangle"},
        {"label": "wall", "points": [[8, 8], [10, 8]], "shape_type": "circle"},
    ],
}  # fmt: skip
EVALUATION = {
    "protocol": {"dataset": "night", "engine": "builtin", "checkpoint": "iteration 9 of the run"},
    "results": {"sem_seg": {"mIoU": 50.0, "fwIoU": 50.0, "IoU-road": 60.0, "IoU-car": 40.0}},
    "classes": ["road", "car"], "pairs": {"0": 30.0, "1": 70.0},
    "confusion": {"sem_seg": [[3, 1], [1, 3]]},
}  # fmt: skip
ROBUSTNESS = {
    "protocol": {"dataset": "night", "engine": "builtin"}, "clean": {"sem_seg": 50.0},
    "conditions": [
        {"image": "visible", "corruption": corruption, "severity": severity, "seed": 0,
         "mIoU": {"sem_seg": 50.0 - severity}}
        for corruption in ("noise", "blur") for severity in (1, 3)
    ],
}  # fmt: skip
METRICS = [{"iteration": i, "total_loss": 1.0 / (i + 1), "sem_seg/mIoU": 5.0 * i} for i in range(3)]
GRID_FILE = {
    "base": "synthetic_night.yaml", "seeds": [0], "rows": {"plain": {}},
    "keys": {"MODEL.CONTRAST.NAME": ""},
}  # fmt: skip


def write_annotations(draw: random.Random, folder: Path) -> Path:
    (folder / "rgb").mkdir()
    Image.new("RGB", (24, 16)).save(folder / "rgb/a.png")
    path = folder / "a.json"
    path.write_bytes(spoiled_file(draw, draw.choice((COCO, LABELME)), json.dumps))
    return path


def read_annotations(path: Path) -> None:
    names, labels = draw_labels([path])
    for draw in labels.values():
        assert set(draw().ravel().tolist()) <= {*range(len(names.names)), 255}
    plan = propose(path.parent, output=path.parent)
    for make in plan.images.values():
        make()


def _json_lines(tree: Any) -> str:
    return "\n".join(map(json.dumps, tree if isinstance(tree, list) else [tree]))


def write_results(draw: random.Random, folder: Path) -> Path:
    """A run's folder of which one file is spoiled."""
    place = folder / "inference/night"
    place.mkdir(parents=True)
    files = {
        place / "evaluation.json": (EVALUATION, json.dumps),
        place / "robustness.json": (ROBUSTNESS, json.dumps),
        folder / "metrics.json": (METRICS, _json_lines),
        folder / "config.yaml": ({"SEED": 1, "MODEL": {"DEVICE": "cpu"}}, yaml.safe_dump),
    }
    for path, (tree, dump) in files.items():
        path.write_text(dump(tree))
    path = draw.choice([*files])
    path.write_bytes(spoiled_file(draw, *files[path]))
    return path


def read_results(path: Path) -> None:
    folder = next(parent for parent in path.parents if (parent / "inference").is_dir())
    runs = read_runs([folder])
    assert make_report(runs, num_pairs=0).startswith("<!doctype html>")
    measured = Robustness.read(folder / "inference/night/robustness.json")
    measured.table()
    measured.earlier(folder / "inference/night")


@functools.cache
def _checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        RunCheckpointer(nn.Linear(3, 2), folder).save("model_0000001", iteration=1)
        return (Path(folder) / "model_0000001.pth").read_bytes()


def write_resumed(draw: random.Random, folder: Path) -> Path:
    """The folder of a run that was stopped, of which one file is spoiled."""
    (folder / "model_0000001.pth").write_bytes(_checkpoint())
    files = {
        folder / "last_checkpoint": ("model_0000001.pth", str),
        folder / "metrics.csv": (["iteration,loss", "1,0.5", "2,0.25"], _as_lines),
    }
    for path, (tree, dump) in files.items():
        path.write_text(dump(tree))
    path = draw.choice([*files])
    path.write_bytes(spoiled_file(draw, *files[path]))
    return path


def _as_lines(tree: Any) -> str:
    return "\n".join(map(str, tree if isinstance(tree, list) else [tree]))


def read_resumed(path: Path) -> None:
    checkpointer = RunCheckpointer(nn.Linear(3, 2), str(path.parent))
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1
    CsvWriter(path.parent / "metrics.csv").write_row(2, {"loss": 0.125})
    rows = (path.parent / "metrics.csv").read_text().splitlines()
    assert sum(row.startswith("2,") for row in rows) == 1


def write_grid(draw: random.Random, folder: Path) -> Path:
    """A grid with one finished run, of which one file is spoiled."""
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID_FILE))
    (job,) = read_grid(folder / "grid.yaml", output=folder).jobs
    session = {"seconds": 60.0, "commit": "a", "machine": "b"}
    record = {"sessions": [session], "done": True, "config": _flat_config(str(folder))}
    place = job.folder / "inference/night"
    place.mkdir(parents=True)
    config = {"SOLVER": {"MAX_ITER": 300}}
    files = {
        job.record_file: (record, json.dumps), place / "evaluation.json": (EVALUATION, json.dumps),
        folder / "grid.yaml": (GRID_FILE, yaml.safe_dump),
        job.folder / "config.yaml": (config, yaml.safe_dump),
        job.folder / "metrics.json": (METRICS, _json_lines),
    }  # fmt: skip
    for path, (tree, dump) in files.items():
        path.write_text(dump(tree))
    path = draw.choice([*files])
    path.write_bytes(spoiled_file(draw, *files[path]))
    return path


@functools.cache
def _flat_config(folder: str) -> dict[str, Any]:
    (job,) = read_grid(Path(folder) / "grid.yaml", output=folder).jobs
    return flat(job.config())


def read_table(path: Path) -> None:
    folder = next(parent for parent in path.parents if (parent / "grid.yaml").is_file())
    grid = read_grid(folder / "grid.yaml", output=folder)
    for job in grid.jobs:
        job.check()
        share_done(job)
    table = Comparison(grid)
    assert table.markdown()
    assert table.csv()


ANNOTATIONS, RESULTS = Kind(write_annotations, read_annotations), Kind(write_results, read_results)
RESUMED, GRID = Kind(write_resumed, read_resumed), Kind(write_grid, read_table)
