"""The hooks of a training: timing, learning rate, saving, testing, writing."""

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.timer import Timer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as _LRScheduler

from smmcl.d2.builtin import comm, missing
from smmcl.d2.builtin.evaluation import flatten_results_dict
from smmcl.d2.builtin.events import EventWriter
from smmcl.d2.builtin.train_loop import HookBase

logger = logging.getLogger("detectron2.engine.hooks")


class IterationTimer(HookBase):
    """Times each iteration, and logs the sum at the end; stands first among the hooks."""

    def __init__(self, warmup_iter: int = 3) -> None:
        self._warmup_iter = warmup_iter  # not counted: the first iterations are slower
        self._step_timer, self._total_timer = Timer(), Timer()

    def before_train(self) -> None:
        self._start_time = time.perf_counter()
        self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self) -> None:
        total, steps = time.perf_counter() - self._start_time, self._total_timer.seconds()
        elapsed, counted, hooks = (
            datetime.timedelta(seconds=int(seconds)) for seconds in (total, steps, total - steps)
        )
        count = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if count > 0 and steps > 0:
            speed = f"{count} iterations in {counted} ({steps / count:.4f} s / it)"
            logger.info(f"Overall training speed: {speed}")
        logger.info(f"Total training time: {elapsed} ({hooks} on hooks)")

    def before_step(self) -> None:
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self) -> None:
        if self.trainer.storage.iter - self.trainer.start_iter + 1 >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
            self._total_timer.pause()
        else:
            self.before_train()


class LRScheduler(HookBase):
    """Steps the learning rate after every iteration and puts it into the storage."""

    def __init__(
        self, optimizer: Optimizer | None = None, scheduler: _LRScheduler | None = None
    ) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        self._best_param_group_id = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: Optimizer) -> int:
        """The group whose rate stands for all: the largest, or the first of the commonest rate."""
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
    def scheduler(self) -> _LRScheduler:
        return self._scheduler or self.trainer.scheduler

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        logger.info("Loading scheduler from state_dict ...")
        self.scheduler.load_state_dict(state_dict)


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's periodic checkpointer as a hook."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class EvalHook(HookBase):
    """Runs a test every so many iterations and after training; on every process or on none."""

    def __init__(
        self, eval_period: int, eval_function: Callable[[], Any], eval_after_train: bool = True
    ) -> None:
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        flat = flatten_results_dict(self._func() or {})
        self.trainer.storage.put_scalars(**flat, smoothing_hint=False)
        comm.synchronize()  # processes may have tested for different times

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        # A training that failed ends before max_iter and is not tested.
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        del self._func  # it may hold the trainer


class PeriodicWriter(HookBase):
    """Lets writers write every `period` iterations and after the last."""

    def __init__(self, writers: list[EventWriter], period: int = 20) -> None:
        self._writers = writers
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


def __getattr__(name: str) -> object:
    raise missing(f"hooks.{name}")
