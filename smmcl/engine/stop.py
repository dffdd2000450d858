"""What ends a training before its time: a signal, or data that cannot be read."""

import contextlib
import json
import logging
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from smmcl.d2 import DefaultTrainer, HookBase, comm
from smmcl.data.loader import too_many_broken
from smmcl.engine.launch import handle_stop_signals
from smmcl.engine.step import StepTrainer
from smmcl.evaluation.sem_seg import ElsewhereError
from smmcl.files.atomic import write_text

logger = logging.getLogger(__name__)


class StopTogether(HookBase):
    """Ends all processes after the same step, saved: at a signal, or without a next batch.

    At SIGTERM, SIGINT or SIGHUP the run leaves with 128 + the signal's number. A second signal
    leaves at once. The same one may come twice: `timeout` sends it to its child and to the group; a
    process of several gets it by itself and, later, from whoever started it.

    Pairs that the loader has replaced are the same in all processes and after a restart, and stand
    in skipped.json.
    """

    ECHO, ECHO_OF_SEVERAL = 0.05, 1.0  # seconds within which a second one counts as the first

    def __init__(
        self, step: StepTrainer | None = None, *, max_broken: int = 0, folder: str = ""
    ) -> None:
        """
        Args:
            step: reads the batches; None for another trainer, where only signals count.
            max_broken: pairs that may be broken; one more ends the run.
            folder: gets skipped.json; "" for none.
        """
        self.step = step
        self.max_broken = max_broken
        self.folder = folder
        self.broken: dict[str, str] = {}  # why, by the files of a pair
        self.received = 0
        self.received_at = 0.0
        self.before: dict[int, Any] = {}

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            # Python lets only the main thread handle signals.
            self.before = handle_stop_signals(self._receive)
        if self.step and self.trainer.start_iter < self.trainer.max_iter:
            self.step.read_ahead()
            failure, _ = self._exchange(is_last=False)
            if failure:
                raise failure

    def after_step(self) -> None:
        iteration = self.trainer.iter
        failure, is_stopped = self._exchange(is_last=iteration + 1 >= self.trainer.max_iter)
        if not failure and not is_stopped:
            return
        self.trainer.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        comm.synchronize()  # the first process that leaves may take the others along
        reason = "for want of a next batch" if failure else "by a signal"
        logger.warning(f"Stopped {reason} after iteration {iteration}; --resume goes on")
        raise failure or SystemExit(128 + (self.received or signal.SIGTERM))

    def _exchange(self, *, is_last: bool) -> tuple[Exception | None, bool]:
        """Hears all processes: why the next step cannot be taken, and whether a signal came."""
        failure, broken = None, {}
        if self.step and not is_last:
            failure = self.step.failure
            for pair in self.step.batch or []:
                broken |= pair.get("broken", {})
        own = failure and f"{type(failure).__name__}: {failure}"
        for rank, (_, other, found) in enumerate(
            told := comm.all_gather((self.received, own, broken))
        ):
            broken |= found
            if other and not failure:
                failure = RuntimeError(f"process {rank} failed: {other}")
        failure = failure or self._add(broken)
        return failure, any(received for received, *_ in told)

    def _add(self, broken: dict[str, str]) -> Exception | None:
        """Lists further broken pairs, unless they are too many."""
        if all(files in self.broken for files in broken):
            return None
        everything = {**self.broken, **broken}
        if len(everything) > self.max_broken:
            return too_many_broken(everything, self.max_broken)
        self.broken = everything
        if comm.is_main_process():
            for files, why in broken.items():
                logger.warning(f"Skipping a broken pair ({files}): {why}")
            if self.folder:
                path = pathlib.Path(self.folder) / "skipped.json"
                write_text(path, json.dumps(self.broken, indent=1) + "\n")
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"broken": self.broken} if self.broken else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.broken = state_dict["broken"]

    def after_train(self) -> None:
        has_failed = isinstance(sys.exc_info()[1], Exception)
        if has_failed and comm.get_world_size() > 1:
            return  # torchrun ends all when one dies; the others shall live to say which it was
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        echo = self.ECHO if comm.get_world_size() == 1 else self.ECHO_OF_SEVERAL
        if not self.received:
            self.received, self.received_at = number, now
        elif now > self.received_at + echo:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextlib.contextmanager
def saving_at_a_failure(trainer: DefaultTrainer) -> Iterator[None]:
    """Saves the iteration whose evaluation fails, on whichever process, before all end."""
    try:
        yield
    except Exception as error:
        is_elsewhere = isinstance(error, ElsewhereError)
        if not comm.is_main_process():  # where the main one awaits the counts
            comm.all_gather(f"{type(error).__name__}: {error}")
        elif trainer.iter < trainer.max_iter:  # later there is the final checkpoint
            trainer.checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
            logger.warning(
                f"The evaluation after iteration {trainer.iter} failed; --resume goes on without it"
            )
        if is_elsewhere or not comm.is_main_process():
            comm.synchronize()  # the first process that leaves may take the others along
        raise
