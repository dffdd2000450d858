"""The folder of a run: chosen, held by one training at a time, and cleared only on demand."""

import argparse
import contextlib
import errno
import fcntl
import functools
import logging
import os
import pathlib
import re
import socket
import time
from collections.abc import Iterator
from typing import IO

from smmcl.d2 import CfgNode, comm

RESUMABLE = re.compile(r"model_(\d+|final)\.pth")  # what a run can go on from
CHECKPOINTS = re.compile(rf"{RESUMABLE.pattern}|model_best\.pth|last_checkpoint")
LOGS = re.compile(
    r"metrics\.(json|csv)|wandb_id\.txt|log\.txt(\.rank\d+)?|events\.out\.tfevents\..+"
    r"|skipped\.json|non_finite_batch_rank\d+\.pth"
)
# What an evaluation beside a training writes to, inside of the training's folder.
BESIDE = "evaluated_while_training"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
PATIENCE = 1.0  # seconds, for another process that only looks whether the folder is held

logger = logging.getLogger(__name__)

_held: dict[pathlib.Path, IO[str]] = {}  # the locks of this process, by folder


def claim(cfg: CfgNode, args: argparse.Namespace) -> str:
    """The folder that this command may write to: OUTPUT_DIR, where nothing speaks against it.

    Chosen on the main process, for all. A training holds it from here on.

    Args:
        args: with `config_file`, and `eval_only`, `resume` and `overwrite` where they are given.
    """
    answer: str | Exception = ""
    if comm.is_main_process() and cfg.OUTPUT_DIR:
        try:
            answer = _claim(cfg, args)
        except (ValueError, OSError) as error:
            answer = error
    answer = comm.all_gather(answer)[0]
    if isinstance(answer, Exception):
        raise answer
    return answer


def _claim(cfg: CfgNode, args: argparse.Namespace) -> str:
    evaluates, resumes, overwrites = (
        getattr(args, name, False) for name in ("eval_only", "resume", "overwrite")
    )
    if overwrites and (evaluates or resumes):
        raise ValueError("--overwrite removes what --resume and --eval-only need. Give only one.")
    if cfg.OUTPUT_DIR == "auto":
        if resumes:
            raise ValueError("OUTPUT_DIR auto is always new. Name the folder to --resume in.")
        folder = _new_folder(pathlib.Path("output"), pathlib.Path(args.config_file).stem or "run")
    else:
        folder = pathlib.Path(cfg.OUTPUT_DIR)
    if evaluates:
        if not _is_held(folder):
            return str(folder)
        logger.warning(f"A training writes to {folder}; evaluating into {BESIDE}/ there")
        return str(folder / BESIDE)
    is_new = not resumes and not overwrites
    if is_new and _holds_run(folder) and not _is_held(folder):
        raise ValueError(
            f"{folder} holds a run already: go on with it by --resume, take a numbered folder by "
            "OUTPUT_DIR auto, or remove that run by --overwrite."
        )
    _lock(folder)
    if overwrites:
        _check_start(folder, cfg)
        _remove(folder, LOGS)
    return str(folder)


def remove_checkpoints(folder: str) -> None:
    """The rest of --overwrite, for when the new run is built: one that fails leaves them."""
    if comm.is_main_process():
        _remove(pathlib.Path(folder), CHECKPOINTS)


def _new_folder(parent: pathlib.Path, name: str) -> pathlib.Path:
    """Makes the first of parent/name, parent/name_2, ... that is not there."""
    folder, number = parent / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = parent / f"{name}_{number}"


def _files(folder: pathlib.Path, pattern: re.Pattern[str]) -> list[pathlib.Path]:
    found = folder.iterdir() if folder.is_dir() else []
    return [path for path in found if pattern.fullmatch(path.name) and path.is_file()]


def _holds_run(folder: pathlib.Path) -> bool:
    """Whether there are checkpoints or metrics; those of a run without a step are empty."""
    metrics = folder / "metrics.json"
    return bool(_files(folder, CHECKPOINTS)) or (metrics.is_file() and metrics.stat().st_size > 0)


def _check_start(folder: pathlib.Path, cfg: CfgNode) -> None:
    old = {path.resolve() for path in _files(folder, CHECKPOINTS)}
    nodes = (cfg.MODEL, cfg.MODEL.PAIR.VISIBLE, cfg.MODEL.PAIR.AUXILIARY)
    for weights in (node.WEIGHTS for node in nodes if node.WEIGHTS):
        if pathlib.Path(weights).resolve() in old:
            raise ValueError(
                f"--overwrite would remove {weights}, which this run starts from. Move that file "
                "to another folder, or set OUTPUT_DIR to another."
            )


def _remove(folder: pathlib.Path, pattern: re.Pattern[str]) -> None:
    for path in _files(folder, pattern):
        path.unlink()
        logger.warning(f"--overwrite removed {path} of an earlier run")


@contextlib.contextmanager
def held(folder: str) -> Iterator[None]:
    """Keeps other trainings out of a folder; the lock also ends with this process."""
    if not folder or not comm.is_main_process():
        yield
        return
    _lock(pathlib.Path(folder))
    try:
        yield
    finally:
        _held.pop(pathlib.Path(folder).resolve()).close()


def _lock(folder: pathlib.Path) -> None:
    if folder.resolve() in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("a+")
    deadline = time.monotonic() + PATIENCE
    while not _try_lock(file, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise ValueError(
                f"{folder} belongs to a running training, {holder}. Wait for its end, or set "
                "OUTPUT_DIR to another folder, such as auto."
            )
        time.sleep(0.05)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held[folder.resolve()] = file


def _is_held(folder: pathlib.Path) -> bool:
    """Whether another process trains into a folder."""
    if folder.resolve() in _held or not (folder / ".lock").exists():
        return False
    with (folder / ".lock").open() as file:
        return not _try_lock(file, fcntl.LOCK_SH)


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _warn_of_no_locks(file.name)
    return True


@functools.cache  # once
def _warn_of_no_locks(name: str) -> None:
    logger.warning(f"{name}: no locks on this file system, so train once at a time there")


def _leave_locks() -> None:
    """A lock lasts as long as any process has its file open, and workers outlive a killed run."""
    for file in _held.values():
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_leave_locks)
