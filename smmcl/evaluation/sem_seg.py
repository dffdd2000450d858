"""Evaluates predictions over a dataset and states by which rules, for all pairs and per tag."""

import logging
import re
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smmcl.d2 import (
    ENGINE,
    ENGINE_VERSION,
    CfgNode,
    DatasetEvaluator,
    MetadataCatalog,
    comm,
    configurable,
    get_event_storage,
    has_event_storage,
)
from smmcl.data.appearance.photometric import build_appearance
from smmcl.data.datasets.build import check_labels
from smmcl.data.reader import PairReader
from smmcl.evaluation.confusion import count_confusion, explain_rule, score
from smmcl.evaluation.predictions import PredictionWriter
from smmcl.evaluation.report import Report
from smmcl.files.paths import relative_path

logger = logging.getLogger(__name__)


class ElsewhereError(RuntimeError):
    """Another process told, in place of its counts, why it cannot evaluate its pairs."""


class PairSemSegEvaluator(DatasetEvaluator):
    """Counts each pair's pixels once and reports the scores of the field.

    The result has the task "sem_seg", and "sem_seg_<tag>" for every tag of the pairs (day, night).
    A score without pixels is left out: it is neither 0 nor NaN.
    """

    task, report_type = "sem_seg", Report

    @configurable
    def __init__(
        self,
        dataset_name: str,
        *,
        absent_rule: str = "present",
        output_folder: str | Path | None = None,
        predictions_folder: str | Path | None = None,
        protocol: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            dataset_name: whose metadata tells classes, label values and excluded classes.
            absent_rule: which classes the mean IoU is taken over; see `confusion.score`.
            output_folder: where the report is written.
            predictions_folder: where predictions are written.
            protocol: further lines of the stated protocol, such as window and scales.
        """
        check_labels([dataset_name])
        metadata = MetadataCatalog.get(dataset_name)
        self._dataset_name = dataset_name
        self._metadata = metadata
        self._reader = PairReader.of(metadata)
        self._excluded = metadata.get("absent_from_mean", [])
        self._classes = {"num_classes": self._reader.num_classes, "ignore": self._reader.ignore}
        indices = [metadata.stuff_classes.index(name) for name in self._excluded]
        self._rules = {"absent_rule": absent_rule, "excluded": indices}
        self._stated = {  # lines of the protocol
            "absent classes": explain_rule(absent_rule),
            "excluded from means": ", ".join(self._excluded) or "none",
        }
        self.output_folder = output_folder
        self._protocol = dict(protocol or {})
        self._writer = None
        if predictions_folder:
            self._writer = PredictionWriter(
                predictions_folder,
                label_offset=metadata.label_offset,
                colors=metadata.stuff_colors,
            )
        self.reset()

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str) -> dict[str, Any]:
        check_result_folders(cfg)
        name = result_folder(dataset_name)
        output, predictions = Path(cfg.OUTPUT_DIR), cfg.TEST.SAVE_PREDICTIONS
        return {
            "dataset_name": dataset_name,
            "absent_rule": cfg.TEST.ABSENT_CLASSES,
            "output_folder": output / "inference" / name,
            "predictions_folder": output / predictions / name if predictions else None,
            "protocol": _state_inference(cfg),
        }

    def reset(self) -> None:
        """Forgets all counts."""
        self._counts: dict[str, Tensor] = {}  # (K, K) by task
        self._pair_ious: dict[str, float] = {}
        self._num_pairs: Counter[str] = Counter()
        self._sizes: Counter[tuple[int, int]] = Counter()

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Counts a batch.

        Args:
            inputs: records with "sem_seg_file_name", "image_id" and optional "tags".
            outputs: for each "sem_seg" (K, H, W), scores at the label's resolution.
        """
        for record, output in zip(inputs, outputs, strict=True):
            counts, size = self._count(record, output)
            for task in (self.task, *(f"{self.task}_{tag}" for tag in record.get("tags", ()))):
                self._counts[task] = self._counts.get(task, 0) + counts
                self._num_pairs[task] += 1
            self._sizes[size] += 1

    def _count(
        self, record: Mapping[str, Any], output: Mapping[str, Any]
    ) -> tuple[Tensor, tuple[int, int]]:
        """The counts (K, K) of one pair, and its size."""
        truth = torch.from_numpy(self._reader.label(record))
        # On a CPU torch takes seven times as long for `argmax` of the first dimension.
        prediction = output["sem_seg"].max(dim=0).indices  # (H, W)
        counts = count_confusion(prediction, truth, **self._classes)  # (K, K)
        self._pair_ious[str(record["image_id"])] = score(counts, **self._rules).mean_iou
        if self._writer:
            self._writer.write(prediction.cpu().numpy(), record["image_id"])
        return counts, tuple(prediction.shape)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Adds up the counts of all processes; the main one returns the scores, and reports.

        The report is written, logged, and kept as `report`.
        """
        if self._writer:
            self._writer.finish()
        own = {task: counts.cpu() for task, counts in self._counts.items()}
        shares = comm.all_gather((own, self._num_pairs, self._sizes, self._pair_ious))
        if not comm.is_main_process():
            return None
        for rank, share in enumerate(shares):
            if isinstance(share, str):
                raise ElsewhereError(f"process {rank} failed: {share}")
        counts, num_pairs, sizes, pair_ious = zip(*shares, strict=True)
        tasks = sorted(set().union(*counts))
        report = self.report_type(
            protocol=self._state_protocol(sum(num_pairs, Counter()), sum(sizes, Counter())),
            classes=self._metadata.stuff_classes,
            counts={task: sum(share[task] for share in counts if task in share) for task in tasks},
            absent_rule=self._rules["absent_rule"],
            excluded=self._excluded,
            pair_ious={name: iou for share in pair_ious for name, iou in share.items()},
        )
        if self.output_folder:
            report.save(self.output_folder)
        logger.info(report.text())
        self.report = report
        return report.results()

    def _state_protocol(
        self, num_pairs: Counter[str], sizes: Counter[tuple[int, int]]
    ) -> dict[str, str]:
        published = self._metadata.get("num_images")
        is_subset = published is not None and num_pairs[self.task] != published
        pairs = ", ".join(f"{task} {number}" for task, number in sorted(num_pairs.items()))
        return {
            "dataset": self._dataset_name,
            "pairs": f"{pairs} (published: {published}, so not comparable)" if is_subset else pairs,
            "resolution": ", ".join(f"{h}x{w}" for (h, w), _ in sizes.most_common(4))
            + (f" and {len(sizes) - 4} more" if len(sizes) > 4 else ""),
            **self._stated,
            "engine": f"{ENGINE} {ENGINE_VERSION}",
            **self._protocol,
        }


def result_folder(dataset_name: str) -> str:
    """Names the folder of a dataset's results; the dataset's name may be a path."""
    name = re.sub(r"[^\w.@-]+", "_", dataset_name)
    return relative_path(name, source="the dataset's name")


def check_result_folders(cfg: CfgNode) -> None:
    """Raises if results would leave OUTPUT_DIR, or those of two datasets overwrite each other."""
    if cfg.TEST.SAVE_PREDICTIONS:
        relative_path(cfg.TEST.SAVE_PREDICTIONS, source="TEST.SAVE_PREDICTIONS")
    seen: dict[str, str] = {}
    for name in cfg.DATASETS.TEST:
        folder = result_folder(name)
        if folder in seen:
            raise ValueError(
                f"DATASETS.TEST has {seen[folder]!r} and {name!r}, whose results would both be "
                f"written to {folder}. Name each dataset once, or evaluate them in two runs with "
                "different OUTPUT_DIR."
            )
        seen[folder] = name


def _state_inference(cfg: CfgNode) -> dict[str, str]:
    window, augmented = cfg.TEST.SLIDING, cfg.TEST.AUG
    scales = augmented.SCALES if augmented.ENABLED else [1]
    has_several = window.ENABLED or augmented.ENABLED
    tiles = "{}x{}, each overlapping the next by a share of {:.2f} or more"
    return {
        "window": tiles.format(*window.SIZE, window.OVERLAP) if window.ENABLED else "whole image",
        "scales": ", ".join(f"{scale:g}" for scale in scales),
        "flip": "yes" if augmented.ENABLED and augmented.FLIP else "no",
        "sum": f"of {augmented.SUM}" if has_several else "none, one forward a pair",
        "precision": f"mixed, {cfg.SOLVER.AMP.DTYPE}" if cfg.TEST.AMP else "float32",
        "auxiliary image": cfg.INPUT.AUXILIARY_ABLATION or "the pair's own",
        "images": _state_changes(cfg),
        "checkpoint": _state_checkpoint(cfg),
    }


def _state_changes(cfg: CfgNode) -> str:
    changes = build_appearance(cfg) if cfg.INPUT.CHANGED_AT_TEST else ()
    return "; ".join(map(str, changes)) or "as stored"


def _state_checkpoint(cfg: CfgNode) -> str:
    """In training MODEL.WEIGHTS is what the run started from, and not what is evaluated."""
    if has_event_storage():
        return f"iteration {get_event_storage().iter} of the run in {cfg.OUTPUT_DIR}"
    return cfg.MODEL.WEIGHTS or "none: the weights are as the caller set them"
