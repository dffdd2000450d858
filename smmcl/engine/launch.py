"""Several processes: starting them, wrapping the model for them, ending all when one dies."""

import argparse
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from smmcl.d2 import comm, create_ddp_model, launch
from smmcl.data.loader import STOP_SIGNALS

# Seconds between two signs of life; how many may be missed before a process counts as dead, and
# how many when an error of this process may come from another one's death.
BEAT = 1.0
PATIENCE, SHORT_PATIENCE = 20, 5
# Seconds left to whoever started this process to end it in better order.
GRACE = 10.0

logger = logging.getLogger(__name__)


def start(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Runs `main(args)` in every process that the command line, or torchrun, asks for.

    Args:
        main: of the tool, called in each process.
        args: with `num_gpus`, `num_machines`, `machine_rank` and `dist_url`.
    """
    if "LOCAL_WORLD_SIZE" in os.environ:
        _check_processes(int(os.environ["LOCAL_WORLD_SIZE"]))
        _join_torchrun()
        _run(main, args)
        return
    _check_counts(args)
    _check_processes(args.num_gpus)
    is_alone = args.num_gpus * args.num_machines == 1
    try:
        with contextlib.nullcontext() if is_alone else _passing_signals_on():
            launch(
                _run,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(main, args),
            )
    except ProcessExitedException as error:
        if error.exit_code >= 0:
            raise SystemExit(error.exit_code) from None  # it has said why
        rank = args.machine_rank * args.num_gpus + error.error_index
        sys.stderr.write(
            f"error: process {rank} was ended by {error.signal_name}, and the others with it. "
            "SIGKILL mostly means that memory ran out. --resume goes on from the last checkpoint.\n"
        )
        raise SystemExit(128 - error.exit_code) from None
    except ProcessRaisedException as error:
        rank = args.machine_rank * args.num_gpus + error.error_index
        sys.stderr.write(f"process {rank} failed, and the others were ended\n")
        raise


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[None]:
    """Hands SIGTERM, SIGINT and SIGHUP on to the processes of the run, and waits for what they do.

    By default this process would end first, and the others be killed while they save.
    """
    received = 0

    def receive(number: int, frame: object) -> None:
        nonlocal received
        received = number
        for child in multiprocessing.active_children():
            os.kill(child.pid, number)

    before = handle_stop_signals(receive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:  # torch takes a process that SIGINT ended for one that is done
        raise SystemExit(128 + received)


def handle_stop_signals(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Sets the handler of what stops a run; returns those before. nohup's choice stays."""
    has_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    numbers = [n for n in STOP_SIGNALS if n != signal.SIGHUP or not has_nohup]
    return {number: signal.signal(number, handler) for number in numbers}


def parallelise(model: nn.Module, *, has_sync_norm: bool) -> nn.Module:
    """Wraps a model for several processes, on the CPU as well as on GPUs.

    Args:
        has_sync_norm: batch norm takes its statistics over the images of all processes, where
            there are GPUs; torch has no such norm on CPUs.
    """
    if comm.get_world_size() == 1:
        return model
    if not next(model.parameters()).is_cuda:
        if dist.get_backend() == "nccl":
            raise ValueError(
                "MODEL.DEVICE is 'cpu', but where there are GPUs several processes take those. "
                "Set CUDA_VISIBLE_DEVICES= to hide them, or MODEL.DEVICE to cuda."
            )
        if has_sync_norm:
            logger.info("Batch norm over each process's own images: SyncBN needs GPUs")
        # Detectron2 gives DDP a GPU unless it is told that there is none.
        return create_ddp_model(model, broadcast_buffers=False, device_ids=None)
    if has_sync_norm:
        logger.info("Batch norm over the images of all processes (SyncBN)")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return create_ddp_model(model, broadcast_buffers=False)


def _check_counts(args: argparse.Namespace) -> None:
    for flag, count in (("--num-gpus", args.num_gpus), ("--num-machines", args.num_machines)):
        if count < 1:
            raise ValueError(
                f"{flag} is {count}. Give at least 1; --num-gpus counts the processes of each "
                "machine, on a CPU too."
            )
    if not 0 <= args.machine_rank < args.num_machines:
        raise ValueError(
            f"--machine-rank is {args.machine_rank} but --num-machines is {args.num_machines}. "
            f"Ranks count from 0: give each machine its own, up to {args.num_machines - 1}."
        )


def _check_processes(num_processes: int) -> None:
    count = torch.cuda.device_count()
    if count and num_processes > count:
        raise ValueError(
            f"{num_processes} processes are asked for (--num-gpus, or torchrun's --nproc-per-node) "
            f"but this machine has {count} GPUs. Ask for at most {count}, or hide them by "
            "CUDA_VISIBLE_DEVICES= to run that many processes on the CPU."
        )


def log_processes() -> None:
    """Says in one line how many processes there are, and over what they talk."""
    if comm.get_world_size() > 1:
        logger.info(
            "%d processes over %s on the %s",
            comm.get_world_size(),
            torch.distributed.get_backend(),
            "GPUs" if torch.cuda.is_available() else "CPU",
        )


def _run(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    if comm.get_world_size() == 1:
        main(args)
        return
    watch = _Watch()
    watch.start()
    status = 0
    try:
        main(args)
    except Exception as error:
        watch.report(error)
        watch.leave()
        raise
    except SystemExit as leaving:
        status = leaving.code or 0
    # A process that ends takes down those that still talk to it, or that write a last checkpoint.
    comm.synchronize()
    watch.leave()
    dist.destroy_process_group()
    # What there was to do is done and written. Now and then gloo's threads abort an interpreter
    # that takes itself apart, which would turn a good run into a failed one.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class _Watch(threading.Thread):
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
                reason = "the run's store is gone, and with it process 0 or torchrun"
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
        self.left.wait(2 * BEAT)  # process 0 takes the store with it, so let the others read

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
        return f"process {', '.join(dead)} died or lost its connection" if dead else ""

    def _end(self, reason: str) -> None:
        """Ends this process, unless it leaves by itself or is ended by whoever started it."""
        if self.left.wait(GRACE):
            return
        logger.error("Leaving: %s", reason)
        sys.stderr.write(f"error: process {self.rank} leaves: {reason}\n")
        sys.stderr.flush()
        os._exit(1)


def _join_torchrun() -> None:
    has_gpu = torch.cuda.is_available()
    torch.distributed.init_process_group("nccl" if has_gpu else "gloo")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    comm.synchronize()
