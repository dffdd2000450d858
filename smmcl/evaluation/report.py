"""The result of an evaluation in the forms people need: values by name, a table, files."""

import csv
import json
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate
from torch import Tensor

from smmcl.evaluation.confusion import SegmentationScores, score
from smmcl.files.atomic import atomic, write_text
from smmcl.files.json import read_json

# Of each task, the headline first.
MEANS = {
    "sem_seg": ("mIoU", "mIoU_all", "fwIoU", "mACC", "pACC"),
    "classification": ("top1", "top5", "mACC"),
}
SCORES = {"*": float}  # by name
FORM = {  # of evaluation.json
    "protocol": {"dataset": str, "*": str},
    "results": {"*": SCORES},
    "classes": [str],
    "pairs": SCORES,
    "confusion": {"*": [[int]]},
}
TABLE = {"floatfmt": ".2f", "missingval": "-", "tablefmt": "pipe"}


def main_task(tasks: Iterable[str]) -> str:
    """The task of all pairs, beside which are those of tags: "sem_seg" or "classification"."""
    if found := [task for task in MEANS if task in tasks]:
        return found[0]
    raise ValueError(f"there are scores of {', '.join(tasks)}, but none of {' or '.join(MEANS)}.")


@dataclass(frozen=True)
class Report:
    """Confusion counts, and by which rules they become scores.

    Args:
        protocol: what a reader must know beside the numbers, in order.
        classes: K names.
        counts: (K, K) confusion counts by task.
        absent_rule: classes of the mean, as in `confusion.score`.
        excluded: classes left out of the headline means.
        pair_ious: mean IoU of each pair by its image id, by the same rules; NaN without labels.
    """

    protocol: Mapping[str, str]
    classes: Sequence[str]
    counts: Mapping[str, Tensor]
    absent_rule: str
    excluded: Sequence[str]
    pair_ious: Mapping[str, float] = field(default_factory=dict)
    kinds = ("IoU", "ACC")  # of scores of a class

    def results(self) -> OrderedDict[str, dict[str, float]]:
        """Returns values in percent by task and name; what has no pixels is left out.

        Where classes are excluded, "mIoU_all" is the mean with them.
        """
        results = OrderedDict()
        for task in self.counts:
            scores = self._score(task)
            values = {"mIoU": scores.mean_iou}
            if self.excluded:
                values["mIoU_all"] = score(self.counts[task], absent_rule=self.absent_rule).mean_iou
            values["fwIoU"] = scores.frequency_weighted_iou
            values["mACC"] = scores.mean_accuracy
            values["pACC"] = scores.pixel_accuracy
            for index, name in enumerate(self.classes):
                values[f"IoU-{name}"] = scores.iou[index]
                values[f"ACC-{name}"] = scores.accuracy[index]
            results[task] = {n: value for n, value in values.items() if not math.isnan(value)}
        return results

    def text(self) -> str:
        """States the protocol, then all tasks side by side with one row a class, then the means."""
        results = self.results()
        headers = ["class", *(f"{kind} {task}" for task in results for kind in self.kinds)]
        rows = [
            [name, *(v.get(f"{kind}-{name}") for v in results.values() for kind in self.kinds)]
            for name in self.classes
        ]
        lines = [f"{name}: {value}" for name, value in self.protocol.items()]
        return "\n".join(
            ["Evaluation", *lines, tabulate(rows, headers, **TABLE), "", self.means_table()]
        )

    def means_table(self) -> str:
        """Returns a Markdown table with one row a task.

        Where the other common rule for absent classes gives another mean, it stands beside.
        """
        results, known = self.results(), MEANS["sem_seg"]
        names = [name for name in known if any(name in values for values in results.values())]
        rows = [[task, *(values.get(n) for n in names)] for task, values in results.items()]
        other = "present" if self.absent_rule == "truth" else "truth"
        others = [self._score(task, absent_rule=other).mean_iou for task in results]
        headers = ["task", *names]
        if any(abs(value - v.get("mIoU", value)) > 0.005
               for value, v in zip(others, results.values(), strict=True)):  # fmt: skip
            headers.append(f"mIoU by rule '{other}'")
            rows = [[*row, value] for row, value in zip(rows, others, strict=True)]
        return tabulate(rows, headers, **TABLE)

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """Reads what `save` wrote into evaluation.json."""
        content = read_json(path, FORM)
        main_task(content["results"])
        count = len(content["classes"])
        for task, rows in content["confusion"].items():
            if [len(row) for row in rows] != [count] * count:
                raise ValueError(f"{path} counts {task} for other than its {count} classes.")
        return content

    def save(self, folder: str | Path) -> None:
        """Writes evaluation.json (with all counts), .csv and .md into a folder."""
        folder = Path(folder)
        results = self.results()
        content = {
            "protocol": dict(self.protocol),
            "results": results,
            "classes": list(self.classes),
            "pairs": {name: iou for name, iou in self.pair_ious.items() if not math.isnan(iou)},
            "confusion": {task: self.confusion(task).tolist() for task in self.counts},
        }
        write_text(folder / "evaluation.json", json.dumps(content, indent=1))
        with atomic(folder / "evaluation.csv") as path, path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["task", "metric", "value"])
            for task, values in results.items():
                writer.writerows([task, name, value] for name, value in values.items())
        lines = [f"- {name}: {value}" for name, value in self.protocol.items()]
        write_text(folder / "evaluation.md", "\n".join([*lines, "", self.means_table(), ""]))

    def confusion(self, task: str) -> Tensor:
        """(K, K) counts, rows are the truth."""
        return self.counts[task]

    def _score(self, task: str, *, absent_rule: str = "") -> SegmentationScores:
        excluded = [self.classes.index(name) for name in self.excluded]
        rule = absent_rule or self.absent_rule
        return score(self.confusion(task), absent_rule=rule, excluded=excluded)
