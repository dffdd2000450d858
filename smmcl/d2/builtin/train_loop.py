"""The training loop: a trainer runs steps between its hooks; the simplest one trains a model."""

import functools
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from smmcl.d2.builtin import comm
from smmcl.d2.builtin.events import EventStorage, get_event_storage

logger = logging.getLogger("detectron2.engine.train_loop")


class HookBase:
    """Something done around the steps of a training.

    before_train, then in each iteration before_step, after_backward, after_step, then after_train,
    which is also called when training failed. At each moment the hooks take turns in the order in
    which they were registered. A hook with a state also has `load_state_dict`.
    """

    trainer: "TrainerBase" = None  # a weak reference, set when the hook is registered

    def before_train(self) -> None: ...

    def after_train(self) -> None: ...

    def before_step(self) -> None: ...

    def after_backward(self) -> None: ...

    def after_step(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}


class TrainerBase:
    """A loop with hooks; a subclass says in `run_step` what an iteration does."""

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Adds hooks behind those already there; None is left out."""
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
                for self.iter in range(start_iter, max_iter):
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
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The iteration and the states of the hooks, by class; the first of each class."""
        states = [(type(hook).__qualname__, hook.state_dict()) for hook in reversed(self._hooks)]
        hooks = {name: state for name, state in states if state}
        return {"iteration": self.iter, **({"hooks": hooks} if hooks else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.iter = state_dict["iteration"]
        by_name = {type(hook).__qualname__: hook for hook in reversed(self._hooks)}
        for name, state in state_dict.get("hooks", {}).items():
            if name in by_name:
                by_name[name].load_state_dict(state)
            else:
                logger.warning(f"Cannot find the hook '{name}', its state_dict is ignored.")


class SimpleTrainer(TrainerBase):
    """One model, one loader, one optimizer: forward, sum of the losses, backward, update.

    With `async_write_metrics`, too, metrics are written in step: the same ones, a moment earlier.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        super().__init__()
        self.model = model.train()
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward

    def run_step(self) -> None:
        assert self.model.training, f"[{type(self).__name__}] model was changed to eval mode!"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses = self.model(data)
        loss_dict = {"total_loss": losses} if isinstance(losses, Tensor) else losses
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        sum(loss_dict.values()).backward()
        self.after_backward()
        if (self.iter + 1) % self.gather_metric_period == 0:
            self.write_metrics(loss_dict, data_time, self.iter)
        self.optimizer.step()

    @functools.cached_property
    def _data_loader_iter(self) -> Iterator:
        return iter(self.data_loader)

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Lets the loader go and takes another, built after that."""
        del self.data_loader
        self.__dict__.pop("_data_loader_iter", None)
        self.data_loader = data_loader_builder()

    @staticmethod
    def write_metrics(
        loss_dict: Mapping[str, Tensor], data_time: float, cur_iter: int, prefix: str = ""
    ) -> None:
        """Puts the losses, averaged over the processes, into the storage of the main process."""
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
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
