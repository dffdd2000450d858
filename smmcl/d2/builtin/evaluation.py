"""Testing: a model runs over a loader, an evaluator collects, the numbers are logged and checked."""

import contextlib
import datetime
import logging
import pprint
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from smmcl.d2.builtin import comm
from smmcl.d2.builtin.config import CfgNode
from smmcl.d2.builtin.logger import log_every_seconds

logger = logging.getLogger("detectron2.evaluation.evaluator")


class DatasetEvaluator:
    """Collects inputs and outputs of a model, and sums them up."""

    def reset(self) -> None:
        """Prepares for a new round."""

    def process(self, inputs: list, outputs: list) -> None:
        """Takes one batch.

        Args:
            inputs: what the model was given.
            outputs: what it returned.
        """

    def evaluate(self) -> dict[str, Any] | None:
        """Returns {task: {metric: value}} on the main process."""


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
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            if not comm.is_main_process() or result is None:
                continue
            for task, metrics in result.items():
                assert task not in results, (
                    f"Different evaluators produce results with the same key {task}"
                )
                results[task] = metrics
        return results


class _Stopwatch:
    """Adds up the seconds of named parts of a loop."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.start = self._last = time.perf_counter()
        self.seconds = {"data": 0.0, "compute": 0.0, "eval": 0.0}

    def lap(self, part: str) -> None:
        """Counts the time since the last lap for `part`."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now

    @property
    def total(self) -> float:
        return time.perf_counter() - self.start


def inference_on_dataset(
    model: Callable[[list], list],
    data_loader: Any,
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: dict[str, Callable[[], None]] | None = None,
) -> dict[str, Any]:
    """Runs a model in eval mode and without gradients over a loader.

    Args:
        model: from a batch to outputs.
        data_loader: batches; has a length.
        evaluator: one, several, or None to measure speed only.
        callbacks: called at "on_start", "before_inference", "after_inference" and "on_end".

    Returns:
        What the evaluator returns; an empty dict on processes other than the main one.
    """
    total = len(data_loader)
    logger.info(f"Start inference on {total} batches")
    if evaluator is None or isinstance(evaluator, list):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()
    call = _Callbacks(callbacks)
    num_warmup = min(5, total - 1)
    watch = _Stopwatch()
    with _eval_mode(model), torch.no_grad():
        call("on_start")
        for index, inputs in enumerate(data_loader):
            watch.lap("data")
            if index == num_warmup:
                watch.reset()
            call("before_inference")
            outputs = model(inputs)
            call("after_inference")
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            watch.lap("compute")
            evaluator.process(inputs, outputs)
            watch.lap("eval")
            done = index + 1 - num_warmup * int(index >= num_warmup)
            if index >= num_warmup * 2 or watch.seconds["compute"] / done > 5:
                _log_progress(watch, index=index, done=done, total=total)
        call("on_end")
    _log_times(watch, num_iters=total - num_warmup)
    return evaluator.evaluate() or {}


class _Callbacks:
    def __init__(self, callbacks: dict[str, Callable[[], None]] | None) -> None:
        self._callbacks = callbacks or {}

    def __call__(self, moment: str) -> None:
        if moment in self._callbacks:
            self._callbacks[moment]()


@contextlib.contextmanager
def _eval_mode(model: Any) -> Iterator[None]:
    if not isinstance(model, nn.Module):
        yield
        return
    was_training = model.training
    model.eval()
    yield
    model.train(was_training)


def _log_progress(watch: _Stopwatch, *, index: int, done: int, total: int) -> None:
    per_iter = {part: seconds / done for part, seconds in watch.seconds.items()}
    pace = watch.total / done
    log_every_seconds(
        logger,
        f"Inference done {index + 1}/{total}. Dataloading: {per_iter['data']:.4f} s/iter. "
        f"Inference: {per_iter['compute']:.4f} s/iter. Eval: {per_iter['eval']:.4f} s/iter. "
        f"Total: {pace:.4f} s/iter. "
        f"ETA={datetime.timedelta(seconds=int(pace * (total - index - 1)))}",
        seconds=5,
    )


def _log_times(watch: _Stopwatch, *, num_iters: int) -> None:
    devices = f"s / iter per device, on {comm.get_world_size()} devices"
    elapsed, compute = watch.total, watch.seconds["compute"]
    logger.info(
        f"Total inference time: {datetime.timedelta(seconds=elapsed)} "
        f"({elapsed / num_iters:.6f} {devices})"
    )
    logger.info(
        f"Total inference pure compute time: {datetime.timedelta(seconds=int(compute))} "
        f"({compute / num_iters:.6f} {devices})"
    )


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Logs results in lines to copy; metrics with "-" in their name are left out.

    Args:
        results: {task: {metric: value}}.
    """
    assert isinstance(results, Mapping) or not len(results), results
    log = logging.getLogger("detectron2.evaluation.testing")
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            log.info(f"copypaste: {task}={metrics}")
            continue
        shown = {name: value for name, value in metrics.items() if "-" not in name}
        log.info(f"copypaste: Task: {task}")
        log.info("copypaste: " + ",".join(shown))
        log.info("copypaste: " + ",".join(f"{value:.4f}" for value in shown.values()))


def verify_results(cfg: CfgNode, results: Mapping[str, Mapping[str, float]]) -> bool:
    """Compares results with `TEST.EXPECTED_RESULTS` and ends the program where they differ.

    Args:
        cfg: the config; each expected result is [task, metric, value, tolerance].
        results: {task: {metric: value}}.
    """
    expected = cfg.TEST.EXPECTED_RESULTS
    if not len(expected):
        return True
    log = logging.getLogger("detectron2.evaluation.testing")
    for task, metric, value, tolerance in expected:
        actual = results[task].get(metric, np.nan)
        if not abs(actual - value) <= tolerance:  # also when it is NaN
            log.error("Result verification failed!")
            log.error(f"Expected Results: {expected}")
            log.error(f"Actual Results: {pprint.pformat(results)}")
            sys.exit(1)
    log.info("Results verification passed.")
    return True


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested results as one dict with keys "a/b/c".

    Args:
        results: nested dicts.
    """
    flat = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{k}": v for k, v in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat
