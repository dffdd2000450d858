"""Evaluates a classifier: top-1, top-5 and the share of each class, for all images and per tag.

Shape shorthand in this module:
    K: classes
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from smmcl.d2 import CfgNode
from smmcl.evaluation.report import MEANS, TABLE, Report
from smmcl.evaluation.sem_seg import PairSemSegEvaluator

TASK = "classification"
NUM_TOP = 5


class ClassificationReport(Report):
    """A report on counts of images, (K, K + 1): rows are the truth, columns the prediction.

    The last column counts those whose truth is among the five classes of the highest scores.
    "mACC" is the mean over the classes that occur.
    """

    kinds = ("ACC",)

    def results(self) -> OrderedDict[str, dict[str, float]]:
        results = OrderedDict()
        for task, counts in self.counts.items():
            scores, total = self._score(task), counts[:, :-1].sum().item()
            results[task] = {
                "top1": scores.pixel_accuracy,
                "top5": 100 * counts[:, -1].sum().item() / total,
                "mACC": scores.mean_accuracy,
            }
            for name, value in zip(self.classes, scores.accuracy, strict=True):
                if value == value:  # NaN without an image
                    results[task][f"ACC-{name}"] = value
        return results

    def means_table(self) -> str:
        rows = [[task, *map(values.get, MEANS[TASK])] for task, values in self.results().items()]
        return tabulate(rows, ["task", *MEANS[TASK]], **TABLE)

    def confusion(self, task: str) -> Tensor:
        return self.counts[task][:, :-1]  # (K, K)


class ClassificationEvaluator(PairSemSegEvaluator):
    """Counts images as the evaluator of segmentation counts pixels, and reports alike."""

    task, report_type = TASK, ClassificationReport

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str) -> dict[str, Any]:
        if cfg.TEST.SAVE_PREDICTIONS:
            raise ValueError(
                "TEST.SAVE_PREDICTIONS saves label images, which a classifier has none of. Leave "
                f"it empty, and write the classes by smmcl predict --dataset {dataset_name}."
            )
        return super().from_config(cfg, dataset_name)

    def _count(
        self, record: Mapping[str, Any], output: Mapping[str, Any]
    ) -> tuple[Tensor, tuple[int, int]]:
        """The counts (K, K + 1) of one image, and its size."""
        best = output["scores"].topk(min(NUM_TOP, len(output["scores"]))).indices.tolist()
        num_classes, truth = self._classes["num_classes"], record["class_id"]
        counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)
        counts[truth, best[0]] = 1
        counts[truth, -1] = truth in best
        return counts, (record["height"], record["width"])
