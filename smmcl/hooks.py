"""What is done around the steps of a training: randomness by place, leaving on a signal."""

import logging
import signal
import threading
from typing import Any

import torch

from smmcl.d2 import HookBase, comm

logger = logging.getLogger(__name__)


class ReseedEveryStep(HookBase):
    """Makes dropout, drop path and random bases a function of seed, iteration and process.

    So a run that was stopped goes on as if it had not been, without any stored random state.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        if self.seed >= 0:
            place = (self.trainer.iter * comm.get_world_size() + comm.get_rank()) * 1_000_003
            torch.manual_seed(self.seed + place)


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
