"""Testing: a model runs over a loader, an evaluator collects, the numbers are logged."""

import datetime
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from smmcl.d2.builtin import comm
from smmcl.d2.builtin.config import CfgNode

logger = logging.getLogger("detectron2.evaluation.evaluator")
result_logger = logging.getLogger("detectron2.evaluation.testing")


class DatasetEvaluator:
    """Collects inputs and outputs of a model; `evaluate` returns {task: {metric: value}}."""

    def reset(self) -> None: ...

    def process(self, inputs: list, outputs: list) -> None: ...

    def evaluate(self) -> dict[str, Any] | None: ...


def inference_on_dataset(
    model: nn.Module, data_loader: Any, evaluator: DatasetEvaluator
) -> dict[str, Any]:
    """Runs a model in eval mode, without gradients, over a loader; returns the results."""
    logger.info(f"Start inference on {len(data_loader)} batches")
    evaluator.reset()
    timer = _Timer(len(data_loader))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for inputs in timer.watch(data_loader):
            outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            timer.lap("Inference")
            evaluator.process(inputs, outputs)
    model.train(was_training)
    timer.log_total()
    return evaluator.evaluate() or {}


class _Timer:
    """Times data, model and evaluator over a loop, without its first steps, and logs the pace."""

    def __init__(self, total: int) -> None:
        self.total, self.num_warmup, self.last_log = total, min(5, total - 1), 0.0
        self.reset()

    def reset(self) -> None:
        self.start = self.last = time.perf_counter()
        self.seconds = {"Dataloading": 0.0, "Inference": 0.0, "Eval": 0.0}

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] += now - self.last
        self.last = now

    def watch(self, batches: Any) -> Iterator[Any]:
        for index, batch in enumerate(batches):
            self.lap("Dataloading")
            if index == self.num_warmup:
                self.reset()
            yield batch
            self.lap("Eval")
            if index >= 2 * self.num_warmup and self.last - self.last_log > 5:
                self.last_log = self.last
                self._log_progress(index + 1)

    def _log_progress(self, done: int) -> None:
        all_seconds = {**self.seconds, "Total": self.last - self.start}
        pace = {part: seconds / (done - self.num_warmup) for part, seconds in all_seconds.items()}
        parts = " ".join(f"{part}: {seconds:.4f} s/iter." for part, seconds in pace.items())
        eta = datetime.timedelta(seconds=int(pace["Total"] * (self.total - done)))
        logger.info(f"Inference done {done}/{self.total}. {parts} ETA={eta}")

    def log_total(self) -> None:
        times = {"": time.perf_counter() - self.start, "pure compute ": self.seconds["Inference"]}
        for kind, seconds in times.items():
            pace = f"{seconds / (self.total - self.num_warmup):.6f} s / iter per device"
            clock = datetime.timedelta(seconds=int(seconds) if kind else seconds)
            devices = f"on {comm.get_world_size()} devices"
            logger.info(f"Total inference {kind}time: {clock} ({pace}, {devices})")


def print_csv_format(results: Mapping[str, Mapping[str, float]]) -> None:
    """Logs {task: {metric: value}} in lines to copy, without metrics named with a "-"."""
    for task, metrics in results.items():
        shown = {name: value for name, value in metrics.items() if "-" not in name}
        result_logger.info(f"copypaste: Task: {task}")
        result_logger.info("copypaste: " + ",".join(shown))
        result_logger.info("copypaste: " + ",".join(f"{value:.4f}" for value in shown.values()))


def verify_results(cfg: CfgNode, results: Mapping[str, Mapping[str, float]]) -> bool:
    """Ends the program if a [task, metric, value, tolerance] of EXPECTED_RESULTS is missed."""
    expected = cfg.TEST.EXPECTED_RESULTS
    if not len(expected):
        return True
    for task, metric, value, tolerance in expected:
        if not abs(results[task].get(metric, np.nan) - value) <= tolerance:  # also when it is NaN
            result_logger.error("Result verification failed!")
            result_logger.error(f"Expected Results: {expected}\nActual Results: {results}")
            sys.exit(1)
    result_logger.info("Results verification passed.")
    return True


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Nested results as one dict with keys "a/b/c"."""
    flat = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{k}": v for k, v in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat
