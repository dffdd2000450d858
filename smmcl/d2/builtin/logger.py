"""Logging to the terminal and to OUTPUT_DIR/log.txt, in Detectron2's format."""

import atexit
import functools
import logging
import pathlib
import sys
import time
from typing import IO

from iopath.common.file_io import g_pathmgr
from termcolor import colored

_LAST_LOGGED: dict[str, float] = {}


class _TerminalFormatter(logging.Formatter):
    """Colours, and the root name of a logger shortened."""

    def __init__(self, *, root_name: str, short_name: str) -> None:
        super().__init__(
            colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt="%m/%d %H:%M:%S"
        )
        self._root = root_name + "."
        self._short = f"{short_name}." if short_name else ""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.name = record.name.replace(self._root, self._short)
        line = super().formatMessage(record)
        if record.levelno == logging.WARNING:
            return colored("WARNING", "red", attrs=["blink"]) + " " + line
        if record.levelno >= logging.ERROR:
            return colored("ERROR", "red", attrs=["blink", "underline"]) + " " + line
        return line


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
    """Gives a logger its handlers: the terminal on the main process, a file on every process.

    Args:
        output: a folder (its file is log.txt) or a file ending in .txt or .log; None for no file.
        distributed_rank: rank of this process; ranks above 0 append ".rankN" to the file's name.
        color: whether the terminal shows colours.
        name: root of the loggers to set up; each package needs a call of its own.
        abbrev_name: how the terminal spells `name`; by default "d2" for detectron2.
        enable_propagation: whether parents of the logger see its records too.
        configure_stdout: whether to write to the terminal.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    plain = logging.Formatter(
        "[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S"
    )
    if configure_stdout and distributed_rank == 0:
        short = abbrev_name
        if short is None:
            short = "d2" if name == "detectron2" else name
        terminal = logging.StreamHandler(stream=sys.stdout)
        terminal.setFormatter(
            _TerminalFormatter(root_name=name, short_name=short) if color else plain
        )
        logger.addHandler(terminal)
    if output is not None:
        filename = output if output.endswith((".txt", ".log")) else f"{output}/log.txt"
        if distributed_rank > 0:
            filename = f"{filename}.rank{distributed_rank}"
        file = logging.StreamHandler(_open_log(filename))
        file.setFormatter(plain)
        logger.addHandler(file)
    return logger


@functools.cache  # several loggers share one open file
def _open_log(filename: str) -> IO[str]:
    g_pathmgr.mkdirs(str(pathlib.PurePath(filename).parent))
    file = g_pathmgr.open(filename, "a")
    atexit.register(file.close)
    return file


def log_every_seconds(logger: logging.Logger, message: str, *, seconds: float) -> None:
    """Logs unless the same logger did so less than `seconds` ago."""
    now = time.monotonic()
    if now - _LAST_LOGGED.get(logger.name, -seconds) >= seconds:
        logger.info(message)
        _LAST_LOGGED[logger.name] = now
