"""Testing: a model runs over a loader, an evaluator collects, the numbers are logged."""

import contextlib
import datetime
import logging
import sys
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from smmcl.d2.builtin import comm
from smmcl.d2.builtin.config import CfgNode

logger = logging.getLogger("detectron2.evaluation.evaluator")
result_logger = logging.getLogger("detectron2.evaluation.testing")


class DatasetEvaluator:
    """Collects inputs and outputs of a model; `evaluate` returns {task: {metric: value}}."""

    def reset(self) -> None: ...

    def process(self, inputs: list, outputs: list) -> None: ...

    def evaluate(self) -> dict[str, Any] | None: ...


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; their tasks must differ."""

    def __init__(self, evaluators: list[DatasetEvaluator]) -> None:
        super().__init__()
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list, outputs: list) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        results = OrderedDict()
        for result in [evaluator.evaluate() for evaluator in self._evaluators]:
            if comm.is_main_process() and result is not None:
                twice = set(results) & set(result)
                assert not twice, f"Different evaluators produce results with the same key {twice}"
                results.update(result)
        return results


def inference_on_dataset(
    model: Callable[[list], list],
    data_loader: Any,
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: dict[str, Callable[[], None]] | None = None,
) -> dict[str, Any]:
    """Runs a model in eval mode, without gradients, over a loader; returns the results.

    An evaluator of None leaves only the times that are logged. The callbacks are for "on_start",
    "before_inference", "after_inference" and "on_end".
    """
    logger.info(f"Start inference on {len(data_loader)} batches")
    if evaluator is None or isinstance(evaluator, list):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()
    callbacks = defaultdict(lambda: lambda: None, callbacks or {})
    timer = _Timer(len(data_loader))
    with _eval_mode(model), torch.no_grad():
        callbacks["on_start"]()
        for inputs in timer.watch(data_loader):
            callbacks["before_inference"]()
            outputs = model(inputs)
            callbacks["after_inference"]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            timer.lap("Inference")
            evaluator.process(inputs, outputs)
        callbacks["on_end"]()
    timer.log_total()
    return evaluator.evaluate() or {}


@contextlib.contextmanager
def _eval_mode(model: Any) -> Iterator[None]:
    was_training = getattr(model, "training", None)
    if was_training is None:  # a plain function
        yield
    else:
        model.eval()
        yield
        model.train(was_training)


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


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Logs {task: {metric: value}} in lines to copy, without metrics named with a "-"."""
    assert isinstance(results, Mapping) or not len(results), results
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            result_logger.info(f"copypaste: {task}={metrics}")
            continue
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
