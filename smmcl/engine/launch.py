"""Several processes: started by torchrun's agent, joined, and a model wrapped for them."""

import argparse
import atexit
import datetime
import functools
import inspect
import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel

from smmcl.cli import run
from smmcl.d2 import comm, create_ddp_model
from smmcl.data.watched_loader import STOP_SIGNALS
from smmcl.engine.watch import Watch

# Seconds that stopped processes have to save, and for which one waits for the others.
SAVING_TIME = 600
TIMEOUT = datetime.timedelta(minutes=30)

Main = Callable[[argparse.Namespace], object]

logger = logging.getLogger(__name__)


def start(main: Main, args: argparse.Namespace) -> None:
    """Runs `main(args)` in every process that the command line, or torchrun, asks for.

    Args:
        main: of the tool, called in each process; a function of a module, since it is pickled.
        args: with `num_gpus`, `num_machines`, `machine_rank` and `dist_url`.
    """
    if "LOCAL_WORLD_SIZE" in os.environ:
        _check_processes(int(os.environ["LOCAL_WORLD_SIZE"]))
        _run(main, args)
        sys.exit(0)  # the process group is gone, and with it what later code might count on
    _check_counts(args)
    _check_processes(args.num_gpus)
    if args.num_gpus * args.num_machines == 1:
        main(args)
    else:
        _start_processes(main, args)


def _start_processes(main: Main, args: argparse.Namespace) -> None:
    """Runs `main(args)` in processes of torchrun's agent; the first failure ends all of them."""
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False  # what went wrong is said below, once
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with tempfile.TemporaryDirectory(prefix="smmcl_") as folder:
            launcher = elastic_launch(_launch_config(args, folder), run)
            launcher(functools.partial(_run, main, args))
    except SignalException as stop:
        for child in multiprocessing.active_children():  # a second signal came while they saved
            child.terminate()
            child.join(SAVING_TIME)
        sys.stderr.write(f"error: stopped by {stop.sigval.name}\n")
        raise SystemExit(128 + stop.sigval) from None
    except ChildFailedError as error:
        raise SystemExit(_explain(error)) from None
    except dist.DistError as error:
        raise ValueError(
            f"the machines do not meet at {args.dist_url}: {str(error).splitlines()[0]} Set "
            "--dist-url to an address and a free port of machine 0, the same on all machines."
        ) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _launch_config(args: argparse.Namespace, folder: str) -> LaunchConfig:
    several = {
        "rdzv_backend": "static",
        "rdzv_endpoint": args.dist_url.removeprefix("tcp://"),
        "rdzv_configs": {"rank": args.machine_rank},
    }
    alone = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "127.0.0.1"}
    config = LaunchConfig(
        min_nodes=args.num_machines,
        max_nodes=args.num_machines,
        nproc_per_node=args.num_gpus,
        run_id="smmcl",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(folder),
        **(several if args.num_machines > 1 else alone),
    )
    # Fields that torch 2.6 does not have, and does without.
    config.shutdown_timeout = SAVING_TIME
    config.signals_to_handle = ",".join(number.name for number in _stop_signals())
    return config


def _explain(failed: ChildFailedError) -> int:
    """Says which process ended the run, and returns the exit status of the run."""
    rank, failure = failed.get_first_failure()
    if failure.exitcode < 0:
        sys.stderr.write(
            f"error: process {rank} was ended by {failure.signal_name()}, and the others with it. "
            "SIGKILL mostly means that memory ran out. --resume goes on from the last checkpoint.\n"
        )
        return 128 - failure.exitcode
    if isinstance(failure.message, dict):  # of an error that is no user's
        sys.stderr.write(failure.message["extraInfo"]["py_callstack"])
    if failure.exitcode < 128:
        sys.stderr.write(f"process {rank} failed, and the others were ended\n")
    return failure.exitcode


def _stop_signals() -> list[signal.Signals]:
    """What stops a run; nohup's choice stays."""
    has_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or not has_nohup]


def handle_stop_signals(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Sets the handler of what stops a run; returns those before."""
    return {number: signal.signal(number, handler) for number in _stop_signals()}


def parallelize(model: nn.Module, *, has_sync_norm: bool) -> nn.Module:
    """Wraps a model for several processes, on the CPU as well as on GPUs.

    Args:
        has_sync_norm: batch norm takes its statistics over the images of all processes, where
            there are GPUs; torch has no such norm on CPUs.
    """
    if comm.get_world_size() == 1:
        return model
    # The gradient of a 1x1 filter has other strides in the same memory: nothing is slower.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view")
    is_new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    kept = {"forward_sync_buffers" if is_new else "broadcast_buffers": False}
    if not next(model.parameters()).is_cuda:
        if dist.get_backend() == "nccl":
            raise ValueError(
                "MODEL.DEVICE is 'cpu', but where there are GPUs several processes take those. "
                "Set CUDA_VISIBLE_DEVICES= to hide them, or MODEL.DEVICE to cuda."
            )
        if has_sync_norm:
            logger.info("Batch norm over each process's own images: SyncBN needs GPUs")
        # Detectron2 gives DDP a GPU unless it is told that there is none.
        return create_ddp_model(model, device_ids=None, **kept)
    if has_sync_norm:
        logger.info("Batch norm over the images of all processes (SyncBN)")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return create_ddp_model(model, **kept)


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
    if args.num_machines > 1 and not re.fullmatch(r"tcp://\S+:\d+", args.dist_url):
        raise ValueError(
            f"--dist-url is {args.dist_url}, where {args.num_machines} machines cannot meet. Set "
            "it to tcp://ADDRESS:PORT of machine 0, the same on all machines."
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
        place = "GPUs" if torch.cuda.is_available() else "CPU"
        logger.info(f"{comm.get_world_size()} processes over {dist.get_backend()} on the {place}")


def _run(main: Main, args: argparse.Namespace) -> None:
    """Joins the group that the environment names, and runs `main` under the eyes of the others."""
    _join()
    if comm.get_world_size() == 1:
        main(args)
        return
    watch = Watch()
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
    if status:
        _leave(status)
    atexit.register(_leave, 0)


def _leave(status: int) -> None:
    """Ends this process, which has done and written all there was.

    Now and then gloo's threads abort an interpreter that takes itself apart, which would turn a
    good run into a failed one.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _join() -> None:
    """Makes the process group of torchrun's environment variables."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if has_gpu else "gloo", timeout=TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
