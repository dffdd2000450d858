"""The hooks of a training: timing, learning rate, batch-norm statistics, saving, testing, writing."""

import datetime
import itertools
import logging
import math
import operator
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as _LRScheduler

from smmcl.d2.builtin import comm
from smmcl.d2.builtin.evaluation import flatten_results_dict
from smmcl.d2.builtin.events import EventStorage, EventWriter
from smmcl.d2.builtin.solver import LRMultiplier
from smmcl.d2.builtin.train_loop import HookBase

logger = logging.getLogger("detectron2.engine.hooks")


class CallbackHook(HookBase):
    """Calls functions of the trainer, given by keyword."""

    def __init__(
        self,
        *,
        before_train: Callable[[Any], None] | None = None,
        after_train: Callable[[Any], None] | None = None,
        before_step: Callable[[Any], None] | None = None,
        after_step: Callable[[Any], None] | None = None,
    ) -> None:
        self._calls = {
            "before_train": before_train,
            "after_train": after_train,
            "before_step": before_step,
            "after_step": after_step,
        }

    def _call(self, moment: str) -> None:
        if self._calls[moment]:
            self._calls[moment](self.trainer)

    def before_train(self) -> None:
        self._call("before_train")

    def after_train(self) -> None:
        self._call("after_train")
        self._calls.clear()  # the functions may hold the trainer

    def before_step(self) -> None:
        self._call("before_step")

    def after_step(self) -> None:
        self._call("after_step")


class IterationTimer(HookBase):
    """Times each iteration, and logs the sum at the end; stands first among the hooks."""

    def __init__(self, warmup_iter: int = 3) -> None:
        """Args:
        warmup_iter: iterations at the start that are not counted.
        """
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._start_time = time.perf_counter()
        self._total_timer = Timer()

    def before_train(self) -> None:
        self._start_time = time.perf_counter()
        self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self) -> None:
        total = time.perf_counter() - self._start_time
        steps = self._total_timer.seconds()
        count = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if count > 0 and steps > 0:
            logger.info(
                f"Overall training speed: {count} iterations in {_clock(steps)} "
                f"({steps / count:.4f} s / it)"
            )
        logger.info(f"Total training time: {_clock(total)} ({_clock(total - steps)} on hooks)")

    def before_step(self) -> None:
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self) -> None:
        done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._start_time = time.perf_counter()
            self._total_timer.reset()
        self._total_timer.pause()


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicWriter(HookBase):
    """Lets writers write every `period` iterations and after the last."""

    def __init__(self, writers: list[EventWriter], period: int = 20) -> None:
        self._writers = writers
        for writer in writers:
            assert isinstance(writer, EventWriter), writer
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()  # what other hooks put after the last iteration
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's periodic checkpointer as a hook."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


def _is_due(trainer: Any, period: int) -> bool:
    """Returns whether a periodic test follows this iteration; the last one comes after training."""
    done = trainer.iter + 1
    return period > 0 and done % period == 0 and done != trainer.max_iter


class BestCheckpointer(HookBase):
    """Saves the model whenever a metric is better than before; stands after the `EvalHook`."""

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        """Args:
        eval_period: period of the `EvalHook`.
        checkpointer: saves the model.
        val_metric: name of the metric in the storage, such as "sem_seg/mIoU".
        mode: "max" or "min", which of them is better.
        file_prefix: name of the file.
        """
        assert mode in ("max", "min"), f"BestCheckpointer's mode is 'max' or 'min', got '{mode}'."
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._compare = operator.gt if mode == "max" else operator.lt
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def _best_checking(self) -> None:
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            logger.warning(
                f"Given val metric {self._val_metric} does not seem to be computed/stored."
                "Will not be checkpointing based on it."
            )
            return
        metric, iteration = latest
        if not math.isfinite(metric):
            return
        if self.best_metric is not None and not self._compare(metric, self.best_metric):
            logger.info(
                f"Not saving as latest eval score for {self._val_metric} is {metric:0.5f}, not "
                f"better than best score {self.best_metric:0.5f} @ iteration {self.best_iter}."
            )
            return
        self.best_metric, self.best_iter = metric, iteration
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        logger.info(f"Saved best model, {self._val_metric} {metric:0.5f} @ iteration {iteration}.")

    def after_step(self) -> None:
        if _is_due(self.trainer, self._period):
            self._best_checking()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._best_checking()


class LRScheduler(HookBase):
    """Steps the learning rate after every iteration and puts it into the storage."""

    def __init__(
        self,
        optimizer: Optimizer | None = None,
        scheduler: _LRScheduler | ParamScheduler | None = None,
    ) -> None:
        """Args:
        optimizer: by default the trainer's.
        scheduler: by default the trainer's.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer,
                self.scheduler,
                self.trainer.max_iter,
                last_iter=self.trainer.iter - 1,
            )
        self._best_param_group_id = LRScheduler.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: Optimizer) -> int:
        """Returns the group whose rate stands for all: the largest, or one of the commonest rate.

        Args:
            optimizer: the optimiser.
        """
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates.index(Counter(rates).most_common()[0][0])

    def after_step(self) -> None:
        rate = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    @property
    def scheduler(self) -> _LRScheduler | ParamScheduler:
        """The schedule."""
        return self._scheduler or self.trainer.scheduler

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict() if isinstance(self.scheduler, _LRScheduler) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a saved state."""
        if isinstance(self.scheduler, _LRScheduler):
            logger.info("Loading scheduler from state_dict ...")
            self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Runs a test every `eval_period` iterations and after training; on every process or on none."""

    def __init__(
        self,
        eval_period: int,
        eval_function: Callable[[], dict | None],
        eval_after_train: bool = True,
    ) -> None:
        """Args:
        eval_period: iterations between two tests; 0 for none before the end.
        eval_function: returns nested metrics, or nothing.
        eval_after_train: whether to test after the last iteration.
        """
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        results = self._func()
        if results:
            assert isinstance(results, dict), f"Eval function must return a dict. Got {results}."
            flat = flatten_results_dict(results)
            for name, value in flat.items():
                try:
                    float(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        "[EvalHook] eval_function should return a nested dict of float. "
                        f"Got '{name}: {value}' instead."
                    ) from error
            self.trainer.storage.put_scalars(**flat, smoothing_hint=False)
        comm.synchronize()  # processes may have tested for different times

    def after_step(self) -> None:
        if _is_due(self.trainer, self._period):
            self._do_eval()

    def after_train(self) -> None:
        # A training that failed ends before max_iter and is not tested.
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        del self._func  # it may hold the trainer


class PreciseBN(HookBase):
    """Replaces running batch-norm statistics by true averages before each test."""

    def __init__(self, period: int, model: nn.Module, data_loader: Iterable, num_iter: int) -> None:
        """Args:
        period: iterations between two updates; 0 for one at the end.
        model: its batch norms in training mode are updated.
        data_loader: batches for the model.
        num_iter: number of batches averaged.
        """
        self._is_disabled = not get_bn_modules(model)
        self._model = model
        self._data_loader = data_loader
        self._num_iter = num_iter
        self._period = period
        self._data_iter = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            self.update_stats()

    def update_stats(self) -> None:
        """Computes the averages now."""
        if self._is_disabled:
            return
        if self._data_iter is None:
            self._data_iter = iter(self._data_loader)
        batches = itertools.islice(self._data_iter, self._num_iter)
        with EventStorage():  # keeps what the model puts away from the training's own storage
            logger.info(f"Running precise-BN for {self._num_iter} iterations...  ")
            update_bn_stats(self._model, batches, self._num_iter)
