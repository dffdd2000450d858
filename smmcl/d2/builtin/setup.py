"""Setting up a run: command line, folders, logs in Detectron2's format, seeds."""

import argparse
import functools
import logging
import os
import pathlib
import random
import sys
from typing import Any

import numpy as np
import torch
from iopath.common.file_io import g_pathmgr
from termcolor import colored

from smmcl.d2.builtin import comm
from smmcl.d2.builtin.config import CfgNode
from smmcl.files.atomic import write_text


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The command line of a training tool."""
    parser = argparse.ArgumentParser(epilog=epilog)
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="path to config file")
    add("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    add("--eval-only", action="store_true", help="test, do not train")
    add("--num-gpus", type=int, default=1, help="processes on each machine")
    add("--num-machines", type=int, default=1, help="machines in all")
    add("--machine-rank", type=int, default=0, help="number of this machine")
    # One port per user: a process left over from an earlier run is noticed by its taken port.
    port = 49152 + (os.getuid() if hasattr(os, "getuid") else 1) % 16384
    url = f"tcp://127.0.0.1:{port}"
    add("--dist-url", default=url, help="where processes meet; 'auto' finds a free port")
    add("opts", nargs=argparse.REMAINDER, help="config keys and values: KEY VALUE KEY VALUE ...")
    return parser


def default_setup(cfg: CfgNode, args: Any) -> None:
    """Sets up OUTPUT_DIR, loggers, seeds and cuDNN; logs the command line and the config."""
    output_dir, rank = cfg.OUTPUT_DIR, comm.get_rank()
    if comm.is_main_process() and output_dir:
        g_pathmgr.mkdirs(output_dir)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)
    logger.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    logger.info(f"Environment info: Python {sys.version}, torch {torch.__version__}, {devices}")
    logger.info(f"Command line arguments: {args}")
    if comm.is_main_process() and output_dir:
        logger.info(f"Running with full config:\n{cfg.dump()}")
        path = f"{output_dir}/config.yaml"
        write_text(path, cfg.dump())
        logger.info(f"Full config saved to {path}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def seed_all_rng(seed: int | None = None) -> None:
    """Seeds Python, numpy and torch; None draws a seed and logs it."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big")
        logging.getLogger("detectron2.utils.env").info(f"Using a generated random seed {seed}")
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)


class _TerminalFormatter(logging.Formatter):
    """Colors, and the root name of a logger shortened."""

    names: tuple[str, str]  # the root name and its short form, each with its dot

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.name = record.name.replace(*self.names)
        level = record.levelname if record.levelno >= logging.WARNING else ""
        return (colored(level, "red") + " " if level else "") + super().formatMessage(record)


@functools.lru_cache  # a second call must not add a second handler
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Gives a logger its handlers: the terminal on the main process, a file on every process."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    date = "%m/%d %H:%M:%S"
    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=date)
    if configure_stdout and distributed_rank == 0:
        short = ("d2" if name == "detectron2" else name) if abbrev_name is None else abbrev_name
        line = colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s"
        colored_line = _TerminalFormatter(line, datefmt=date)
        colored_line.names = (f"{name}.", f"{short}." if short else "")
        terminal = logging.StreamHandler(stream=sys.stdout)
        terminal.setFormatter(colored_line if color else plain)
        logger.addHandler(terminal)
    if output is not None:
        filename = output if output.endswith((".txt", ".log")) else f"{output}/log.txt"
        g_pathmgr.mkdirs(str(pathlib.PurePath(filename).parent))
        rank_suffix = f".rank{distributed_rank}" if distributed_rank > 0 else ""
        file = logging.FileHandler(filename + rank_suffix)
        file.setFormatter(plain)
        logger.addHandler(file)
    return logger
