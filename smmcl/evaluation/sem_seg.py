"""Evaluates predictions over a dataset and states by which rules, for all pairs and per tag."""

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from smmcl.d2 import ENGINE, CfgNode, DatasetEvaluator, MetadataCatalog, comm, configurable
from smmcl.data.datasets.build import ensure_registered
from smmcl.data.image_pair import label_facts, read_label
from smmcl.evaluation.confusion import ConfusionMatrix, SegmentationScores, score

TASK = "sem_seg"


class PairSemSegEvaluator(DatasetEvaluator):
    """Counts each pair's pixels once and reports the scores of the field.

    The result has the task "sem_seg", and "sem_seg_<tag>" for every tag of the pairs (day, night).
    A score without pixels is left out: it is neither 0 nor NaN.
    """

    @configurable
    def __init__(
        self,
        dataset_name: str,
        *,
        absent_rule: str = "present",
        predictions_folder: str | Path | None = None,
        protocol: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            dataset_name: whose metadata tells classes, label values and excluded classes.
            absent_rule: which classes the mean IoU is taken over; see `confusion.score`.
            predictions_folder: where predicted label images are written, in the dataset's own ids.
            protocol: further lines of the stated protocol, such as window and scales.
        """
        ensure_registered([dataset_name])
        metadata = MetadataCatalog.get(dataset_name)
        self._dataset_name = dataset_name
        self._classes = list(metadata.stuff_classes)
        self._labels = label_facts(metadata)
        absent = metadata.get("absent_from_mean", [])
        self._excluded = [self._classes.index(name) for name in absent]
        self._absent_rule = absent_rule
        self._folder = Path(predictions_folder) if predictions_folder else None
        self._protocol = dict(protocol or {})
        self._logger = logging.getLogger(__name__)
        self.reset()

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str) -> dict[str, Any]:
        folder = cfg.TEST.SAVE_PREDICTIONS
        name = re.sub(r"[^\w.@-]+", "_", dataset_name)  # it may be the path of a dataset file
        return {
            "dataset_name": dataset_name,
            "absent_rule": cfg.TEST.ABSENT_CLASSES,
            "predictions_folder": Path(cfg.OUTPUT_DIR) / folder / name if folder else None,
        }

    def reset(self) -> None:
        """Forgets all counts."""
        self._matrices: dict[str, ConfusionMatrix] = {}
        self._num_pairs: dict[str, int] = {}
        self._sizes: set[tuple[int, int]] = set()

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Counts a batch.

        Args:
            inputs: records with "sem_seg_file_name" and optional "tags".
            outputs: for each "sem_seg" (K, H, W), scores at the label's resolution.
        """
        for record, output in zip(inputs, outputs, strict=True):
            prediction = output["sem_seg"].argmax(dim=0)  # (H, W)
            truth = torch.from_numpy(read_label(record["sem_seg_file_name"], **self._labels))
            for task in (TASK, *(f"{TASK}_{tag}" for tag in record.get("tags", ()))):
                if task not in self._matrices:
                    self._matrices[task] = self._new_matrix()
                self._matrices[task].update(prediction, truth)
                self._num_pairs[task] = self._num_pairs.get(task, 0) + 1
            self._sizes.add(tuple(prediction.shape))
            if self._folder:
                self._save(prediction.cpu().numpy(), record["image_id"])

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Adds up the counts of all processes; the main one returns and logs the scores."""
        counts = {task: matrix.counts.cpu() for task, matrix in self._matrices.items()}
        shares = comm.all_gather((counts, self._num_pairs, self._sizes))
        if not comm.is_main_process():
            return None
        tasks = sorted({task for counts, _, _ in shares for task in counts})
        sizes = sorted(set().union(*(sizes for _, _, sizes in shares)))
        results: OrderedDict[str, dict[str, float]] = OrderedDict()
        tables = {}
        for task in tasks:
            total = sum(counts[task] for counts, _, _ in shares if task in counts)
            pairs = sum(num_pairs.get(task, 0) for _, num_pairs, _ in shares)
            scores = score(total, absent_rule=self._absent_rule, excluded=self._excluded)
            results[task] = self._flatten(scores, total)
            tables[task] = (pairs, scores)
        self._logger.info(self._report(results, tables, sizes))
        return results

    def _new_matrix(self) -> ConfusionMatrix:
        return ConfusionMatrix(len(self._classes), ignore=self._labels["ignore"])

    def _flatten(self, scores: SegmentationScores, counts: torch.Tensor) -> dict[str, float]:
        values = {
            "mIoU": scores.mean_iou,
            "fwIoU": scores.frequency_weighted_iou,
            "mACC": scores.mean_accuracy,
            "pACC": scores.pixel_accuracy,
        }
        if self._excluded:
            values["mIoU_all"] = score(counts, absent_rule=self._absent_rule).mean_iou
        for index, name in enumerate(self._classes):
            values[f"IoU-{name}"] = scores.iou[index]
            values[f"ACC-{name}"] = scores.accuracy[index]
        return {name: value for name, value in values.items() if not np.isnan(value)}

    def _report(
        self,
        results: Mapping[str, Mapping[str, float]],
        tables: Mapping[str, tuple[int, SegmentationScores]],
        sizes: Sequence[tuple[int, int]],
    ) -> str:
        """States the protocol, then all tasks side by side, one row a class."""
        excluded = [self._classes[index] for index in self._excluded]
        protocol = {
            "dataset": self._dataset_name,
            "pairs": ", ".join(f"{task} {pairs}" for task, (pairs, _) in tables.items()),
            "resolution": ", ".join(f"{height}x{width}" for height, width in sizes),
            "absent classes": self._absent_rule,
            "excluded from means": ", ".join(excluded) or "none",
            "engine": ENGINE,
            **self._protocol,
        }
        headers = ["class", *(f"{kind} {task}" for task in tables for kind in ("IoU", "ACC"))]
        rows = []
        for index, name in enumerate(self._classes):
            cells = [
                values[index]
                for _, scores in tables.values()
                for values in (scores.iou, scores.accuracy)
            ]
            rows.append([name, *(None if np.isnan(cell) else cell for cell in cells)])
        means = ("mIoU", "mIoU_all", "fwIoU", "mACC", "pACC")
        present = [name for name in means if any(name in values for values in results.values())]
        summary = [[task, *(values.get(n) for n in present)] for task, values in results.items()]
        options = {"floatfmt": ".2f", "missingval": "-", "tablefmt": "pipe"}
        lines = [f"{name}: {value}" for name, value in protocol.items()]
        return "\n".join(
            ["Evaluation", *lines, tabulate(rows, headers, **options), ""]
            + [tabulate(summary, ["task", *present], **options)]
        )

    def _save(self, prediction: np.ndarray, image_id: str) -> None:
        """Writes a label image beside which the dataset's own can be laid."""
        path = self._folder / f"{image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = (prediction + self._labels["label_offset"]).astype(np.uint8)
        Image.fromarray(stored).save(path)
