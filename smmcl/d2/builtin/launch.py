"""Starting a run: command line, processes, logs, seeds."""

import argparse
import datetime
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from iopath.common.file_io import g_pathmgr

from smmcl.d2.builtin import comm
from smmcl.d2.builtin.config import CfgNode
from smmcl.d2.builtin.environment import collect_env_info, seed_all_rng
from smmcl.d2.builtin.logger import setup_logger

DEFAULT_TIMEOUT = datetime.timedelta(minutes=30)

_EXAMPLES = """
Examples:

One machine:
    $ {0} --num-gpus 8 --config-file cfg.yaml

Other values of config keys:
    $ {0} --config-file cfg.yaml MODEL.WEIGHTS /path/to/weight.pth SOLVER.BASE_LR 0.001

Two machines:
    (machine0)$ {0} --machine-rank 0 --num-machines 2 --dist-url <URL> [--other-flags]
    (machine1)$ {0} --machine-rank 1 --num-machines 2 --dist-url <URL> [--other-flags]
"""


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Returns the command line of a training tool.

    Args:
        epilog: text below the options; by default some examples.
    """
    parser = argparse.ArgumentParser(
        epilog=epilog or _EXAMPLES.format(sys.argv[0]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to config file")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR"
    )
    parser.add_argument("--eval-only", action="store_true", help="test, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on each machine")
    parser.add_argument("--num-machines", type=int, default=1, help="machines in all")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine")
    # One port per user: a process left over from an earlier run is noticed by its taken port.
    port = 49152 + (os.getuid() if hasattr(os, "getuid") else 1) % 16384
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        help="where the processes meet; 'auto' finds a free port on a single machine",
    )
    parser.add_argument(
        "opts",
        default=None,
        nargs=argparse.REMAINDER,
        help="config keys and values, as KEY VALUE KEY VALUE ...",
    )
    return parser


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: datetime.timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Runs a function in one process, or in several that form a process group.

    Args:
        main_func: called with `args` in every process.
        num_gpus_per_machine: processes on each machine, with or without GPUs.
        num_machines: machines in all; each calls `launch`.
        machine_rank: number of this machine.
        dist_url: where the processes meet; "auto" finds a free port on a single machine.
        args: arguments of `main_func`.
        timeout: of the process group.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url=auto not supported in multi-machine jobs."
        dist_url = f"tcp://127.0.0.1:{_find_free_port()}"
    if num_machines > 1 and dist_url.startswith("file://"):
        logging.getLogger("detectron2.engine.launch").warning(
            "file:// is not a reliable init_method in multi-machine jobs. Prefer tcp://"
        )
    mp.start_processes(
        _run_worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
        daemon=False,
    )


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _run_worker(
    local_rank: int,
    main_func: Callable,
    world_size: int,
    num_gpus_per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: datetime.timedelta,
) -> None:
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        assert num_gpus_per_machine <= torch.cuda.device_count()
    dist.init_process_group(
        backend="NCCL" if has_gpu else "GLOO",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * num_gpus_per_machine + local_rank,
        timeout=timeout,
    )
    comm.create_local_process_group(num_gpus_per_machine)
    if has_gpu:
        torch.cuda.set_device(local_rank)
    comm.synchronize()
    main_func(*args)


def default_setup(cfg: CfgNode, args: Any) -> None:
    """Sets up OUTPUT_DIR, loggers, seeds and cuDNN, and writes the config into OUTPUT_DIR.

    Args:
        cfg: the config.
        args: the command line, which is logged.
    """
    output_dir, rank = cfg.OUTPUT_DIR, comm.get_rank()
    if comm.is_main_process() and output_dir:
        g_pathmgr.mkdirs(output_dir)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)
    logger.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    if getattr(args, "config_file", ""):
        with g_pathmgr.open(args.config_file, "r") as file:
            logger.info(f"Contents of args.config_file={args.config_file}:\n{file.read()}")
    if comm.is_main_process() and output_dir:
        logger.info(f"Running with full config:\n{cfg.dump()}")
        path = f"{output_dir}/config.yaml"
        with g_pathmgr.open(path, "w") as file:
            file.write(cfg.dump())
        logger.info(f"Full config saved to {path}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION and torch.cuda.is_available():
        logger.info(f"Set fp32 precision to {cfg.FLOAT32_PRECISION}")
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"
