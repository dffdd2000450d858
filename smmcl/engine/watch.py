"""Every process of a run learns within seconds that another has died, and which was the first."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading

import torch.distributed as dist

from smmcl.d2 import comm

# Seconds between two signs of life; how many may be missed before a process counts as dead, and
# how many when an error of this process may come from another one's death.
BEAT = 1.0
PATIENCE, SHORT_PATIENCE = 20, 5
# Seconds left to whoever started this process to end it in better order.
GRACE = 10.0

logger = logging.getLogger(__name__)


class Watch(threading.Thread):
    """Ends this process soon after another has died, and says which; NCCL alone would hang.

    Every process counts its signs of life in the store through which all of them have met. Missing
    ones are counted as well, not timed, so that a run that was suspended wakes up whole.
    """

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        store = dist.distributed_c10d._get_default_store()
        # A clone (torch 2.8) does not wait where the main thread waits for a slow process.
        self.store = dist.PrefixStore("watch", store.clone() if hasattr(store, "clone") else store)
        self.rank = str(comm.get_rank())
        self.seen = {str(rank): b"" for rank in range(comm.get_world_size())}
        del self.seen[self.rank]
        place = (socket.gethostname(), os.getppid())
        everyone = comm.all_gather((place, os.getpid()))
        self.siblings = [pid for theirs, pid in everyone if theirs == place]
        self.missed = dict.fromkeys(self.seen, 0)
        self.left = threading.Event()
        self.store.set(self.rank, "0")
        comm.synchronize()  # from here on every process has its sign

    def run(self) -> None:
        beat = 0
        while not self.left.wait(BEAT):
            beat += 1
            try:
                reason = self._look(beat)
            except RuntimeError:
                reason = "the run's store is gone, and with it what started process 0"
            if reason:
                self._end(reason)

    def report(self, error: Exception) -> None:
        """Tells the others that this process fails; returns unless another had failed before."""
        if isinstance(error, RuntimeError):  # perhaps only of the connection to a dead process
            self.left.wait((SHORT_PATIENCE + 2) * BEAT)
        what = str(error).strip().partition("\n")[0]
        own = f"process {self.rank} failed: {type(error).__name__}: {what}"
        first = self.store.compare_set("failed", "", self._silent(SHORT_PATIENCE) or own).decode()
        if first != own:
            self._end(first)
        self.left.wait(2 * BEAT)  # the store may go with this process, so let the others read

    def leave(self) -> None:
        """Ends the watch without alarming the others."""
        self.left.set()
        with contextlib.suppress(RuntimeError):  # process 0 may have left with the store
            self.store.set(self.rank, "left")

    def _look(self, beat: int) -> str:
        """Gives a sign of life and looks for those of the others; returns what is wrong."""
        self.store.set(self.rank, str(beat))
        for rank, sign in zip(self.seen, self.store.multi_get([*self.seen]), strict=True):
            is_alive = sign == b"left" or sign != self.seen[rank]
            self.missed[rank] = 0 if is_alive else self.missed[rank] + 1
            self.seen[rank] = sign
        if self.store.check(["failed"]):
            return self.store.get("failed").decode()
        return self._silent(PATIENCE)

    def _silent(self, patience: int) -> str:
        dead = [rank for rank, missed in self.missed.items() if missed >= patience]
        names = ", ".join(dead)
        return f"process {names} was stopped, died or lost its connection" if dead else ""

    def _end(self, reason: str) -> None:
        """Ends this process, unless it leaves by itself or is ended by whoever started it."""
        if self.left.wait(GRACE):
            return
        logger.error(f"Leaving: {reason}")
        sys.stderr.write(f"error: process {self.rank} leaves: {reason}\n")
        sys.stderr.flush()
        for pid in self.siblings:  # one that was stopped cannot end, and holds up those that wait
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)
        os._exit(1)
