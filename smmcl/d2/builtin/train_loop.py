"""The training loop: a trainer runs steps between its hooks; the simplest one trains a model."""

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smmcl.d2.builtin import comm
from smmcl.d2.builtin.events import EventStorage, get_event_storage

logger = logging.getLogger("detectron2.engine.train_loop")


class HookBase:
    """Something done around the steps of a training.

    before_train, (before_step, [forward, backward, after_backward, update], after_step) for every
    iteration, after_train; each for all hooks in the order in which they were registered.
    """

    trainer: "TrainerBase" = None  # a weak reference, set when the hook is registered

    def before_train(self) -> None:
        """Called before the first iteration."""

    def after_train(self) -> None:
        """Called after the last iteration, also when training failed."""

    def before_step(self) -> None:
        """Called before each iteration; should take no time worth measuring."""

    def after_backward(self) -> None:
        """Called when the gradients of an iteration are there."""

    def after_step(self) -> None:
        """Called after each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps; a hook that has some also has `load_state_dict`."""
        return {}


class TrainerBase:
    """A loop with hooks; a subclass says in `run_step` what an iteration does."""

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Adds hooks, to be run in this order after those already there.

        Args:
            hooks: the hooks; None is left out.
        """
        hooks = [hook for hook in hooks if hook is not None]
        for hook in hooks:
            assert isinstance(hook, HookBase)
            hook.trainer = weakref.proxy(self)  # a cycle would keep the trainer alive
        self._hooks.extend(hooks)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Runs the iterations from `start_iter` up to, not including, `max_iter`."""
        logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):  # noqa: B020
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter += 1  # max_iter: tells after_train that nothing failed
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        """Runs the hooks of this moment."""
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        """Runs the hooks of this moment."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        """Runs the hooks of this moment."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        """Runs the hooks of this moment."""
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        """Runs the hooks of this moment."""
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        """Does one iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Returns the iteration and the states of the hooks, by class; the first of a class."""
        hooks: dict[str, dict] = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                hooks.setdefault(type(hook).__qualname__, state)
        return {"iteration": self.iter, **({"hooks": hooks} if hooks else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a saved state.

        Args:
            state_dict: what `state_dict` returned.
        """
        self.iter = state_dict["iteration"]
        by_name = {type(hook).__qualname__: hook for hook in reversed(self._hooks)}
        for name, state in state_dict.get("hooks", {}).items():
            if name in by_name:
                by_name[name].load_state_dict(state)
            else:
                logger.warning(f"Cannot find the hook '{name}', its state_dict is ignored.")


class SimpleTrainer(TrainerBase):
    """One model, one loader, one optimiser: forward, sum of the losses, backward, update."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        """Args:
        model: maps a batch to a loss, or to a dict of losses.
        data_loader: an endless iterable of batches.
        optimizer: the optimiser.
        gather_metric_period: iterations between two gatherings of losses from all processes.
        zero_grad_before_forward: whether gradients are cleared before the forward pass, and not
            only after it.
        async_write_metrics: whether losses are gathered and checked in a thread of their own.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self._data_loader_iter_obj: Iterator | None = None
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self.concurrent_executor = ThreadPoolExecutor(max_workers=1)  # one: keeps the order

    def run_step(self) -> None:
        """Does one iteration."""
        assert self.model.training, "[SimpleTrainer] model was changed to eval mode!"
        data, data_time = self._next_batch()
        losses, loss_dict = total_loss(self.model(data))
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses.backward()
        self.after_backward()
        self._report(loss_dict, data_time)
        self.optimizer.step()

    def _next_batch(self) -> tuple[Any, float]:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        return data, data_time

    def _report(self, loss_dict: Mapping[str, Tensor], data_time: float) -> None:
        if self.async_write_metrics:
            self.concurrent_executor.submit(
                self._write_metrics, loss_dict, data_time, iter=self.iter
            )
        else:
            self._write_metrics(loss_dict, data_time)

    @property
    def _data_loader_iter(self) -> Iterator:
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Replaces the loader.

        Args:
            data_loader_builder: returns the new one; called after the old one is let go.
        """
        del self.data_loader
        self.data_loader = data_loader_builder()
        self._data_loader_iter_obj = None

    def _write_metrics(
        self,
        loss_dict: Mapping[str, Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,
    ) -> None:
        iteration = self.iter if iter is None else iter
        if (iteration + 1) % self.gather_metric_period == 0:
            try:
                SimpleTrainer.write_metrics(loss_dict, data_time, iteration, prefix)
            except Exception:
                logger.exception("Exception in writing metrics: ")
                raise

    @staticmethod
    def write_metrics(
        loss_dict: Mapping[str, Tensor], data_time: float, cur_iter: int, prefix: str = ""
    ) -> None:
        """Puts the losses, averaged over the processes, into the storage of the main process.

        Args:
            loss_dict: losses by name.
            data_time: seconds spent waiting for the batch.
            cur_iter: the iteration they belong to.
            prefix: put before "total_loss".
        """
        own = {name: loss.detach().cpu().item() for name, loss in loss_dict.items()}
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        gathered = comm.gather({**own, "data_time": data_time})
        if not comm.is_main_process():
            return
        # The slowest process is what the others wait for.
        slowest = max(metrics.pop("data_time") for metrics in gathered)
        storage.put_scalar("data_time", slowest, cur_iter=cur_iter)
        mean = {name: np.mean([metrics[name] for metrics in gathered]) for name in gathered[0]}
        total = sum(mean.values())
        if not np.isfinite(total):
            raise FloatingPointError(
                f"Loss became infinite or NaN at iteration={cur_iter}!\nloss_dict = {mean}"
            )
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(mean) > 1:
            storage.put_scalars(cur_iter=cur_iter, **mean)

    def state_dict(self) -> dict[str, Any]:
        """Returns the iteration, the hooks and the optimiser."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a saved state.

        Args:
            state_dict: what `state_dict` returned.
        """
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

    def after_train(self) -> None:
        """Runs the hooks of this moment and waits for the last report."""
        super().after_train()
        self.concurrent_executor.shutdown(wait=True)


def total_loss(output: Tensor | Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Returns the sum to differentiate and the losses by name."""
    if isinstance(output, Tensor):
        return output, {"total_loss": output}
    return sum(output.values()), output
