"""Pairs per second of one worker: the command `data` of benchmark.py."""

import argparse
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from timeit import timeit
from types import ModuleType
from typing import Any

import cv2
import torch
from torch import Tensor

from smmcl.config import build_config
from smmcl.d2 import CfgNode, DatasetCatalog
from smmcl.data.mapper import MultiModalDatasetMapper

Records = Sequence[dict[str, Any]]


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "data", help="pairs per second of one worker", description=data.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.set_defaults(function=data)
    command.add_argument("--config-file", required=True)
    command.add_argument("--pairs", type=int, default=32, help="taken evenly from DATASETS.TRAIN")
    command.add_argument("--rounds", type=int, default=9)
    command.add_argument("--beside", type=Path, metavar="FILE",
                         help="a Python file whose make_batch(records) is a loader")  # fmt: skip
    command.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")


def data(arguments: argparse.Namespace) -> None:
    """Pairs per second of one worker, on one thread, by its processor time: a row per step.

    Every step includes those above it, and all take the same files in turn: medians over rounds,
    after one that brings the files into memory. `ready` is what the model does itself, on its
    device: normalize and stack. `beside` is what --beside names; whether its batches are ready is
    for its author to say.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cfg = build_config(arguments.config_file, arguments.opts)
    steps = make_steps(cfg)
    if arguments.beside:
        steps["beside"] = load_module(arguments.beside).make_batch
    records = [r for name in cfg.DATASETS.TRAIN for r in DatasetCatalog.get(name)]
    records = records[:: max(1, len(records) // arguments.pairs)][: arguments.pairs]
    rounds = [
        {
            name: timeit(functools.partial(step, records), timer=time.process_time, number=1)
            for name, step in steps.items()
        }
        for _ in range(arguments.rounds + 1)
    ][1:]
    print(f"{len(records)} pairs of {', '.join(cfg.DATASETS.TRAIN)}, crop {cfg.INPUT.CROP_SIZE}\n")
    print("| step | pairs/s | times the speed of beside |\n|---|---|---|")
    for name in steps:
        rate = len(records) / statistics.median(times[name] for times in rounds)
        gains = [times["beside"] / times[name] for times in rounds if "beside" in times]
        print(f"| {name} | {rate:.1f} | {f'{statistics.median(gains):.2f}' if gains else '-'} |")


def make_steps(cfg: CfgNode) -> dict[str, Callable[[Records], Any]]:
    """What is measured, by name: each takes records of the catalog."""
    mapper = MultiModalDatasetMapper(cfg, is_train=True)
    statistics_of = {
        "image": (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
        "auxiliary": (cfg.MODEL.AUXILIARY.PIXEL_MEAN, cfg.MODEL.AUXILIARY.PIXEL_STD),
    }

    def read(records: Records) -> None:
        for record in records:
            mapper.reader.images(record)
            mapper.reader.label(record)

    def collate(records: Records) -> list[dict[str, Any]]:
        return [mapper({**record, "position": i}) for i, record in enumerate(records)]

    def ready(records: Records) -> dict[str, Tensor]:
        samples = collate(records)
        batch = {"sem_seg": torch.stack([sample["sem_seg"] for sample in samples])}
        for key, values in statistics_of.items():
            mean, std = (torch.tensor(value)[:, None, None] for value in values)
            batch[key] = torch.stack([(sample[key] - mean) / std for sample in samples])
        return batch

    return {"read": read, "augment and collate": collate, "ready": ready}


def load_module(path: Path) -> ModuleType:
    """A Python file by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
