"""Robustness: what a model still knows when one image of its pairs is missing or spoilt, graded."""

import csv
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from matplotlib.figure import Figure
from tabulate import tabulate

from smmcl.data.appearance.corruption import CORRUPTIONS
from smmcl.evaluation.report import TABLE
from smmcl.files.atomic import atomic, write_text
from smmcl.files.json import Form, read_json

# Share of the pairs that lose an image, by severity: at the last one all do.
MISSING_SHARE = (0.1, 0.25, 0.5, 0.75, 1.0)
KEYS = {"visible": "image", "auxiliary": "auxiliary"}
# What can happen to which image; "either" is one of the two, drawn for each pair. The labels follow
# the visible image, so it is the auxiliary one that is misaligned.
CONDITIONS = {
    "visible": ("missing", "noise", "blur", "over_exposure", "under_exposure"),
    "auxiliary": ("missing", "noise", "blur", "over_exposure", "under_exposure", "shift"),
    "either": ("missing",),
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Condition:
    """One way of spoiling pairs; what it draws depends on the pair alone.

    So a pair that is lost at one severity is lost at the next, and a shift keeps its direction.

    Args:
        image: a key of `CONDITIONS`.
        corruption: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of the draws.
    """

    image: str
    corruption: str
    severity: int
    seed: int = 0

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            inputs: of the mapper: "image" (3, H, W) and "auxiliary" (A, H, W), values 0..255.

        Returns:
            The same with one image spoilt.
        """
        identity = zlib.crc32(str(inputs["image_id"]).encode())
        generator = np.random.default_rng((self.seed, identity))
        place, which = generator.random(2)
        if self.corruption == "missing" and place >= MISSING_SHARE[self.severity - 1]:
            return inputs
        key = KEYS.get(self.image) or tuple(KEYS.values())[int(2 * which)]
        if key not in inputs:
            raise ValueError(
                f"{inputs['file_name']} has no auxiliary image to spoil. Robustness is measured on "
                "datasets of pairs: name one in DATASETS.TEST."
            )
        stored = inputs[key]
        # One channel that the mapper repeated is spoilt once.
        is_repeated = bool((stored == stored[:1]).all())
        image = (stored[:1] if is_repeated else stored).permute(1, 2, 0).numpy()  # (H, W, C)
        spoilt = CORRUPTIONS[self.corruption](image, self.severity, generator)
        spoilt = torch.from_numpy(np.ascontiguousarray(spoilt)).permute(2, 0, 1)  # (C, H, W)
        return {**inputs, key: spoilt.expand_as(stored).contiguous()}


def all_conditions(severities: Sequence[int], *, seed: int = 0) -> Iterator[Condition]:
    """Every corruption of `CONDITIONS` at the severities, which grow."""
    for image, corruptions in CONDITIONS.items():
        for corruption in corruptions:
            for severity in sorted(severities):
                yield Condition(image, corruption, severity, seed)


@dataclass(frozen=True)
class Measured:
    """Scores of pairs as they are, and of the same pairs under each of many conditions.

    Args:
        protocol: of the evaluation.
        clean: mIoU of the pairs as they are, by task.
        spoilt: mIoU by task under each condition.
    """

    name: ClassVar[str]  # of the files
    kind: ClassVar[type]  # of the conditions, a dataclass
    row: ClassVar[dict[str, Form]]  # what a file holds of each
    protocol: Mapping[str, str]
    clean: Mapping[str, float]
    spoilt: Mapping[Any, Mapping[str, float]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the .json file."""
        scores = {"sem_seg": float, "*": float}  # mIoU by task
        protocol, conditions = {"dataset": str, "*": str}, [cls.row | {"mIoU": scores}]
        form = {"protocol": protocol, "clean": scores, "conditions": conditions}
        content, names = read_json(path, form), cls._names()
        spoilt = {cls.kind(*(row[n] for n in names)): row["mIoU"] for row in content["conditions"]}
        return cls(content["protocol"], content["clean"], spoilt)

    @classmethod
    def _names(cls) -> list[str]:
        return [field.name for field in fields(cls.kind) if field.compare]

    def earlier(self, folder: Path) -> dict[Any, Mapping[str, float]]:
        """What an interrupted run measured, if its protocol and clean scores are the same."""
        path = folder / f"{self.name}.json"
        if not path.is_file():
            return {}
        found = self.read(path)
        if (found.protocol, found.clean) == (self.protocol, self.clean):
            return dict(found.spoilt)
        logger.warning(f"{path} is of another model or protocol. It does not count as done.")
        return {}

    def content(self) -> dict[str, Any]:
        """What the .json file holds."""
        rows = [
            {name: getattr(condition, name) for name in self._names()} | {"mIoU": dict(scores)}
            for condition, scores in self.spoilt.items()
        ]
        return {"protocol": dict(self.protocol), "clean": dict(self.clean), "conditions": rows}

    def save_scores(self, folder: Path) -> None:
        """Writes the .json file, of conditions measured so far."""
        write_text(folder / f"{self.name}.json", json.dumps(self.content(), indent=1))

    def save_page(self, folder: Path) -> None:
        """Writes the table and the protocol as Markdown."""
        lines = [f"- {name}: {value}" for name, value in self.protocol.items()]
        write_text(folder / f"{self.name}.md", "\n".join([*lines, "", self.table(), ""]))


@dataclass(frozen=True)
class Robustness(Measured):
    """What was measured under graded conditions, as a table and as a picture."""

    name = "robustness"
    kind = Condition
    row: ClassVar = {"image": str, "corruption": str, "severity": int, "seed": int}

    def curves(self, task: str) -> dict[tuple[str, str], list[tuple[int, float]]]:
        """(severity, mIoU) by image and corruption, from severity 0 on, and the mean of all."""
        curves = {}
        for condition, scores in self.spoilt.items():
            start = [(0, self.clean[task])]
            curve = curves.setdefault((condition.image, condition.corruption), start)
            curve.append((condition.severity, scores[task]))
        # There is no mean of what was interrupted, and so not measured at the same severities.
        is_whole = len({tuple(severity for severity, _ in curve) for curve in curves.values()}) == 1
        means = [
            (points[0][0], float(np.mean([value for _, value in points])))
            for points in (zip(*curves.values(), strict=True) if is_whole else ())
        ]
        return {**curves, ("all", "mean"): means}

    def table(self) -> str:
        """A Markdown table of the mIoU with one row for each task, image and corruption."""
        rows = [
            [task, *names, *(value for _, value in curve)]
            for task in self.clean
            for names, curve in self.curves(task).items()
        ]
        severities = sorted({condition.severity for condition in self.spoilt})
        headers = ["task", "image", "corruption", "as it is", *map(str, severities)]
        return tabulate(rows, headers, **TABLE)

    def plot(self, task: str = "sem_seg") -> Figure:
        """mIoU over severity: one panel for the visible, one for the auxiliary image."""
        figure = Figure(figsize=(9, 4), layout="constrained")
        for panel, name in zip(figure.subplots(1, 2, sharey=True), KEYS, strict=True):
            for (image, corruption), curve in self.curves(task).items():
                if image in KEYS and image != name:
                    continue
                style = {"color": f"C{[*CORRUPTIONS, 'mean'].index(corruption)}", "marker": "o"}
                if image not in KEYS:
                    style, corruption = {"linestyle": ":"} | style, f"{corruption}, {image}"
                panel.plot(*zip(*curve, strict=True), label=corruption, ms=4, **style)
            panel.set(title=f"{name} image spoilt", xlabel="severity", ylabel="mIoU (%)", ylim=0)
            panel.legend(fontsize="small")
            panel.grid(alpha=0.3)
        return figure

    def save(self, folder: Path) -> None:
        """Writes robustness.json, .csv, .md, .png and .svg into a folder."""
        self.save_scores(folder)
        with atomic(folder / "robustness.csv") as path, path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["task", "image", "corruption", "severity", "mIoU"])
            for task in self.clean:
                for names, curve in self.curves(task).items():
                    writer.writerows([task, *names, *point] for point in curve)
        self.save_page(folder)
        for ending in ("png", "svg"):
            with atomic(folder / f"robustness.{ending}") as path:
                self.plot().savefig(path, dpi=150)
