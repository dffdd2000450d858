"""All kinds of input, by the name that the command line has for each; a new one is added here."""

from of_checkpoints import CHECKPOINT, PICKLE, SAFETENSORS
from of_images import IMAGE, LABEL
from of_runs import ANNOTATIONS, GRID, RESULTS, RESUMED
from of_texts import CONFIG_FILE, DATASET_FILE, LIST, PREDICTIONS
from of_videos import VIDEO
from worker import Kind

KINDS: dict[str, Kind] = {
    "image": IMAGE,
    "label": LABEL,
    "list": LIST,
    "dataset": DATASET_FILE,
    "config": CONFIG_FILE,
    "checkpoint": CHECKPOINT,
    "pickle": PICKLE,
    "safetensors": SAFETENSORS,
    "predictions": PREDICTIONS,
    "video": VIDEO,
    "annotations": ANNOTATIONS,
    "results": RESULTS,
    "resumed": RESUMED,
    "grid": GRID,
}
