"""Folders of runs that were evaluated, without a model."""

import json
import pathlib

import pytest
import torch

from smmcl.evaluation.report import Report

DATASET = "streets_val"


@pytest.fixture
def evaluated(tmp_path):
    """A function that makes the folder of a run and returns it."""

    def make(
        name: str,
        *,
        hits: int = 3,
        classes: tuple[str, ...] = ("road", "car"),
        ious: dict[str, float] | None = None,
        config: str | None = "SEED: 0\n",
        curves: tuple[dict, ...] = (),
        tags: tuple[str, ...] = (),
        **protocol: str,
    ) -> pathlib.Path:
        folder = tmp_path / name
        counts = torch.eye(len(classes), dtype=torch.int64) * hits + 1
        tasks = dict.fromkeys(("sem_seg", *(f"sem_seg_{tag}" for tag in tags)), counts)
        protocol = {"dataset": DATASET, "engine": "builtin", "checkpoint": f"{name}.pth"} | protocol
        report = Report(protocol, classes, tasks, "present", [], ious or {"0": 30.0, "1": 70.0})
        report.save(folder / "inference" / DATASET)
        if config is not None:
            (folder / "config.yaml").write_text(config)
        if curves:
            (folder / "metrics.json").write_text("\n".join(map(json.dumps, curves)))
        return folder

    return make
