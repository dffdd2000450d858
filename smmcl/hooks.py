"""What is done around the steps: randomness by place, equal statistics, leaving on a signal."""

import logging
import signal
import threading
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from smmcl.d2 import HookBase, comm

logger = logging.getLogger(__name__)


class ReseedEveryStep(HookBase):
    """Makes dropout, drop path and random bases a function of seed, iteration and process.

    So a run that was stopped goes on as if it had not been, without any stored random state.
    """

    def __init__(self, seed: int, *, is_drawn: bool = False) -> None:
        """
        Args:
            seed: of the run.
            is_drawn: the config left it open; a run that is resumed keeps the one it began with.
        """
        self.seed = seed
        self.is_drawn = is_drawn

    def before_step(self) -> None:
        place = (self.trainer.iter * comm.get_world_size() + comm.get_rank()) * 1_000_003
        torch.manual_seed(self.seed + place)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        if self.is_drawn:
            self.seed = state_dict["seed"]
            logger.info("Going on with the seed that the run has drawn, %d", self.seed)


class AverageRunningStatistics(HookBase):
    """Keeps batch norm's running statistics equal on all processes, which DDP does not.

    Evaluation and checkpoints are then of all processes' images. At every step, since a run that
    was stopped in between must go on to the same numbers as one that was not.
    """

    def before_train(self) -> None:
        self.buffers = [
            buffer
            for module in self.trainer.model.modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
            for buffer in (module.running_mean, module.running_var)
        ]

    def after_step(self) -> None:
        if comm.get_world_size() == 1 or not self.buffers:
            return
        flat = torch.cat(self.buffers)
        torch.distributed.all_reduce(flat)
        parts = (flat / comm.get_world_size()).split([len(buffer) for buffer in self.buffers])
        for buffer, mean in zip(self.buffers, parts, strict=True):
            buffer.copy_(mean)


class StopOnSignal(HookBase):
    """On SIGTERM or SIGINT finishes the step, saves, and leaves with 128 + the signal's number.

    A second signal leaves at once.
    """

    def __init__(self) -> None:
        self.received = 0
        self.before: dict[int, Any] = {}

    def before_train(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python lets only the main thread handle signals
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self._receive)

    def after_step(self) -> None:
        # Every process leaves after the same step, so that none waits for another.
        if not any(comm.all_gather(self.received)):
            return
        iteration = self.trainer.iter
        self.trainer.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        logger.warning("Stopped by a signal after iteration %d; --resume goes on", iteration)
        raise SystemExit(128 + (self.received or signal.SIGTERM))

    def after_train(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received:
            signal.signal(number, self.before[number])
            signal.raise_signal(number)
        self.received = number
