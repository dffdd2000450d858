"""Sensor failures: what a model still knows when sensors are dead, have holes, or are noisy.

Names and definitions are those of the benchmark of Liao et al. (CVPR Workshops 2025): EMM, entire
missing modality; RMM, random missing modality; NM, noisy modality. A missing value is 0 in what the
network reads, after normalization.
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from smmcl.d2 import CfgNode
from smmcl.evaluation.report import TABLE
from smmcl.evaluation.robustness import KEYS, Measured

PROBABILITIES = (0.2, 0.1, 0.05)  # of each sensor, to fail independently of the other
SHARES = (0.25, 0.5, 0.75)  # of the values that are missing, in RMM
# Share of the values that become the highest or lowest, and deviation of the Gaussian noise, in NM.
NOISE = {"low": (0.05, 0.1), "mid": (0.1, 0.2), "high": (0.2, 0.5)}

Normalization = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Failure:
    """One way in which sensors fail; what it draws depends on the pair alone.

    Args:
        scenario: "EMM", "RMM" or "NM".
        sensors: "visible", "auxiliary", or "both", in NM.
        level: the share of missing values, 1 in EMM, or a key of `NOISE`.
        seed: of the draws.
        normalization: mean and deviation (C, 1, 1) of each image on the scale 0..255.
    """

    scenario: str
    sensors: str
    level: float | str
    seed: int = 0
    normalization: Normalization = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The mapper's inputs, with the images of the failed sensors changed, as float32."""
        changed = dict(inputs)
        identity = zlib.crc32(str(inputs["image_id"]).encode())
        for place, (sensor, key) in enumerate(KEYS.items()):
            if self.sensors in (sensor, "both"):
                if key not in inputs:
                    raise ValueError(
                        f"{inputs['file_name']} has no auxiliary image that could fail. Name a "
                        "dataset of pairs in DATASETS.TEST."
                    )
                mean, std = self.normalization[key]
                generator = np.random.default_rng((self.seed, identity, place))
                values = self._spoil(((inputs[key].float() - mean) / std).numpy(), generator)
                changed[key] = torch.from_numpy(values) * std + mean
        return changed

    def _spoil(self, values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Spoils normalized values (C, H, W)."""
        if self.scenario == "EMM":
            return np.zeros_like(values)
        if self.scenario == "RMM":
            return np.where(generator.random(values.shape) < self.level, np.float32(0), values)
        share, std = NOISE[self.level]
        low, high, spoilt = values.min(), values.max(), values.copy()
        for value in (high, low):
            count = int(np.ceil(share * values.size / 2))
            spoilt.flat[generator.integers(values.size, size=count)] = value
        noise = generator.standard_normal(values.shape, dtype=np.float32)
        return spoilt + np.float32(std) * noise


def all_failures(cfg: CfgNode, *, seed: int = 0) -> Iterator[Failure]:
    """Every failure of the benchmark that two sensors can have; one of them always works."""
    scales = {"visible": cfg.MODEL, "auxiliary": cfg.MODEL.AUXILIARY}
    normalization = {
        KEYS[sensor]: tuple(
            torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            for values in (node.PIXEL_MEAN, node.PIXEL_STD)
        )
        for sensor, node in scales.items()
    }
    for sensor in KEYS:
        yield Failure("EMM", sensor, 1.0, seed, normalization)
    for share in SHARES:
        for sensor in KEYS:
            yield Failure("RMM", sensor, share, seed, normalization)
    for level in NOISE:
        yield Failure("NM", "both", level, seed, normalization)


def expectation(
    scores: Mapping[tuple[str, ...], float], probability: float, *, count: int
) -> float:
    """The expected score where each of `count` sensors fails with that probability.

    Args:
        scores: by the sensors that failed; the case in which all fail is left out.
    """
    weights = {
        failed: probability ** len(failed) * (1 - probability) ** (count - len(failed))
        for failed in scores
    }
    return sum(weights[f] * scores[f] for f in scores) / sum(weights.values())


@dataclass(frozen=True)
class SensorFailures(Measured):
    """What was measured under every failure, and the benchmark's means over them."""

    name = "failures"
    kind = Failure
    row: ClassVar = {
        "scenario": str, "sensors": str, "level": int | float | str, "seed": int
    }  # fmt: skip

    def means(self, task: str) -> dict[str, float]:
        """The benchmark's figures: mean and expectations over what fails, and NM by its level."""
        cases: dict[str, dict[tuple[str, ...], float]] = {}
        figures = {}
        for failure, scores in self.spoilt.items():
            if failure.scenario == "NM":
                figures[f"NM {failure.level}"] = scores[task]
            else:
                share = f" r={failure.level}" if failure.scenario == "RMM" else ""
                case = cases.setdefault(f"{failure.scenario}{share}", {(): self.clean[task]})
                case[(failure.sensors,)] = scores[task]
        by_case = {}
        for name, scores in cases.items():
            by_case[f"{name} Avg"] = float(np.mean([*scores.values()]))
            for p in PROBABILITIES:
                by_case[f"{name} E p={p}"] = expectation(scores, p, count=len(KEYS))
        return by_case | figures

    def content(self) -> dict[str, Any]:
        return {**super().content(), "results": {task: self.means(task) for task in self.clean}}

    def table(self) -> str:
        """A Markdown table of mIoU: a row for each failure, then one for each mean."""
        tasks = list(self.clean)
        rows = [["none", "", "", *(self.clean[task] for task in tasks)]]
        for failure, scores in self.spoilt.items():
            named = [failure.scenario, failure.sensors, str(failure.level)]
            rows.append([*named, *(scores[task] for task in tasks)])
        means = {task: self.means(task) for task in tasks}
        rows += [[name, "", "", *(means[task][name] for task in tasks)] for name in means[tasks[0]]
                 if not name.startswith("NM")]  # fmt: skip
        return tabulate(rows, ["failure", "sensor", "level", *tasks], **TABLE)

    def save(self, folder: Any) -> None:
        """Writes failures.json and .md into a folder."""
        self.save_scores(folder)
        self.save_page(folder)
