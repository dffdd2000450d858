"""A loader whose workers cannot vanish or hang unnoticed: the files that they read are named."""

import copy
import functools
import logging
import multiprocessing
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader

# A training saves and leaves at these. SIGHUP is sent when a terminal closes.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds that a batch may take before a warning, and between two looks at it.
PATIENCE, TICK = 60, 1.0
FILES = ("file_name", "auxiliary_file_name", "sem_seg_file_name")
HINTS = {
    signal.SIGKILL: "Mostly the system ran out of memory: lower DATALOADER.NUM_WORKERS.",
    signal.SIGBUS: "Mostly /dev/shm is full: enlarge it, or lower DATALOADER.NUM_WORKERS.",
}

logger = logging.getLogger(__name__)


class Tracked(Protocol):
    """A dataset that writes down which index each worker is at, and -1 in between."""

    reading: Tensor  # (number of workers, at least 1) int64

    def record(self, index: int) -> Mapping[str, Any]:
        """The record at an index."""


class WatchedLoader:
    """The batches of a loader; warns of a slow one, and says at which file a worker died."""

    def __init__(self, loader: DataLoader, pairs: Tracked) -> None:
        """
        Args:
            loader: of the pairs.
            pairs: its dataset, perhaps within another one.
        """
        self.pairs = pairs
        self.workers: list[multiprocessing.Process] = []
        self.loader = shielded(loader, workers=self.workers)
        self.is_waiting = False

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches = self._start()
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(ended,), daemon=True).start()
        try:
            while True:
                self.is_waiting = True
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except RuntimeError as error:
                    raise self._death() or error from None
                self.is_waiting = False
                yield batch
        finally:
            ended.set()

    def _start(self) -> Iterator[Any]:
        """Starts the workers; their death is found where a batch is awaited, and only there.

        torch's handler would raise it anywhere, also between two halves of a step.
        """
        self.workers.clear()
        self.pairs.reading.fill_(-1)
        before = signal.getsignal(signal.SIGCHLD)
        batches = iter(self.loader)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
        return batches

    def _watch(self, ended: threading.Event) -> None:
        """Counts looks, not time, so that a run that was suspended is not called slow."""
        waited = 0
        while not ended.wait(TICK):
            waited = waited + 1 if self.is_waiting else 0
            if waited == round(PATIENCE / TICK):
                doing = "; ".join(map(self._doing, range(len(self.pairs.reading))))
                logger.warning(
                    f"No batch for {PATIENCE} s: {doing}. The storage may be slow or gone, or a "
                    "worker stopped. The run waits"
                )

    def _doing(self, row: int) -> str:
        index = int(self.pairs.reading[row])
        doing = f"reads {named(self.pairs.record(index))}" if index >= 0 else "reads nothing"
        return f"loader worker {row} {doing}" if self.workers else f"the loader {doing}"

    def _death(self) -> ChildProcessError | None:
        for row, worker in enumerate(self.workers):
            if worker.exitcode:
                number = -worker.exitcode
                by = signal.Signals(number).name if number > 0 else f"status {worker.exitcode}"
                hint = HINTS.get(number, "Check these files by tools/check_dataset.py.")
                return ChildProcessError(f"{self._doing(row)} and died of {by}. {hint}")
        return None


def named(record: Mapping[str, Any]) -> str:
    """The files of a record."""
    return ", ".join(str(record[key]) for key in FILES if key in record)


def shielded(
    loader: DataLoader, *, workers: list[multiprocessing.Process] | None = None
) -> DataLoader:
    """Keeps stop signals from a loader's workers, which end with the main process.

    Ctrl-C and schedulers signal the whole process group. Workers that died of it would keep a
    training from finishing its step and saving.

    Args:
        workers: is given each one that starts.
    """
    if loader.num_workers:
        context = copy.copy(multiprocessing.get_context(multiprocessing.get_start_method()))
        context.Process = functools.partial(_ShieldedWorker, [] if workers is None else workers)
        loader.multiprocessing_context = context
    return loader


class _ShieldedWorker(multiprocessing.Process):
    """Starts with stop signals blocked: until `worker_init_fn` ran, they would have killed it."""

    def __init__(self, family: list[multiprocessing.Process], **options: Any) -> None:
        super().__init__(**options)
        family.append(self)

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # Python terminates workers at its exit by this, and waits until they have ended.
        self._popen.terminate = self._popen.kill
