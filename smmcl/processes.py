"""Starts a run in one process or several, by the engine's launcher or under torchrun."""

import argparse
import logging
import os
import sys
from collections.abc import Callable

import torch

from smmcl.d2 import comm, launch

logger = logging.getLogger(__name__)


def start(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Runs `main(args)` in every process that the command line, or torchrun, asks for.

    Args:
        main: of the tool, called in each process.
        args: with `num_gpus`, `num_machines`, `machine_rank` and `dist_url`.
    """
    if "LOCAL_WORLD_SIZE" in os.environ:
        _join_torchrun()
        _run(main, args)
        return
    count = torch.cuda.device_count()
    if count and args.num_gpus > count:
        raise ValueError(
            f"--num-gpus is {args.num_gpus} but this machine has {count}. Ask for at most {count}, "
            "or hide them by CUDA_VISIBLE_DEVICES= to run that many processes on the CPU."
        )
    launch(
        _run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(main, args),
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
    main(args)
    if comm.get_world_size() > 1:
        # A process that ends while another still talks to it takes that one down.
        comm.synchronize()
        torch.distributed.destroy_process_group()
        # The work is done and written. Now and then gloo's threads abort an interpreter that
        # takes itself apart, which would turn a good run into a failed one.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _join_torchrun() -> None:
    has_gpu = torch.cuda.is_available()
    torch.distributed.init_process_group("nccl" if has_gpu else "gloo")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    comm.synchronize()
