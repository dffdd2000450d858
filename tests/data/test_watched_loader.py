"""Workers that die or hang: the error or the warning has the files that they were reading."""

import logging
import multiprocessing
import os
import pathlib
import signal
import threading
import time
from typing import Any

import pytest
from torch.utils.data import DataLoader

from smmcl.cli import user_message
from smmcl.data import watched_loader
from smmcl.data.loader import Pairs
from smmcl.data.watched_loader import WatchedLoader

RECORDS = [{"file_name": f"{i}.png", "auxiliary_file_name": f"{i}_depth.png"} for i in range(6)]


def load(mapper: Any, *, num_workers: int) -> WatchedLoader:
    pairs = Pairs(RECORDS, mapper=mapper, num_workers=num_workers)
    return WatchedLoader(DataLoader(pairs, batch_size=None, num_workers=num_workers), pairs)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (9, "died of SIGKILL. Mostly the system ran out of memory: lower DATALOADER.NUM_WORKERS"),
        pytest.param(
            11,
            "died of SIGSEGV. Check these files by tools/check_dataset.py",
            marks=pytest.mark.slow,  # torch looks for dead workers every 5 seconds
        ),
    ],
)
def test_a_worker_that_dies_names_its_files(number: int, words: str) -> None:
    def dies(record: dict) -> dict:
        if record["file_name"] == "3.png":
            os.kill(os.getpid(), number)
        return record

    seen = []
    with pytest.raises(ChildProcessError) as error:
        seen.extend(load(dies, num_workers=2))
    assert str(error.value).startswith(f"loader worker 1 reads 3.png, 3_depth.png and {words}")
    assert user_message(error.value) == str(error.value)


@pytest.mark.slow
def test_a_death_is_raised_where_a_batch_is_awaited_and_nowhere_else() -> None:
    loader = load(lambda record: record | {"pid": os.getpid()}, num_workers=1)
    batches = iter(loader)
    pid = next(batches)["pid"]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:  # where torch's handler of SIGCHLD would raise
        pass
    with pytest.raises(ChildProcessError, match="reads nothing and died of SIGKILL"):
        list(batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_slow_file_is_told_once(num_workers, monkeypatch, caplog, tmp_path) -> None:
    assert watched_loader.PATIENCE == 60  # seconds, which no test waits
    monkeypatch.setattr(watched_loader, "TICK", 0.05)
    caplog.set_level(logging.WARNING, "smmcl")
    told = threading.Event()
    monkeypatch.setattr(watched_loader.logger, "warning", _and_set(told, watched_loader.logger))
    go_on = tmp_path / "go_on"

    def slow(record: dict) -> dict:
        while record["file_name"] == "2.png" and not go_on.exists():
            time.sleep(0.01)
        return record

    waiter = threading.Thread(target=lambda: (told.wait(60), time.sleep(0.5), go_on.touch()))
    waiter.start()
    loader = load(slow, num_workers=num_workers)
    batches = iter(loader)
    names = [next(batches)["file_name"] for _ in range(2)]
    while num_workers and loader.pairs.reading[0] != 2:
        time.sleep(0.01)
    monkeypatch.setattr(watched_loader, "PATIENCE", 0.2)  # not before the slow file is being read
    names += [record["file_name"] for record in batches]
    waiter.join()
    assert names == [f"{i}.png" for i in range(6)]
    (text,) = [record.getMessage() for record in caplog.records]
    who = "loader worker 0" if num_workers else "the loader"
    assert f"No batch for 0.2 s: {who} reads 2.png, 2_depth.png" in text


def _and_set(event: threading.Event, logger: logging.Logger) -> Any:
    warn = logger.warning

    def warns(text: str) -> None:
        warn(text)
        event.set()

    return warns


def test_a_loader_that_ends_leaves_no_thread() -> None:
    before = threading.active_count()
    assert len(list(load(dict, num_workers=0))) == len(load(dict, num_workers=0)) == 6
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_error_of_a_worker_passes_as_it_is(tmp_path: pathlib.Path) -> None:
    def fails(record: dict) -> dict:
        raise RuntimeError("no fault of the loader")

    with pytest.raises(RuntimeError, match="no fault of the loader"):
        list(load(fails, num_workers=1))


def _fails_with_workers(left: list) -> None:
    left.append(iter(load(dict, num_workers=1)))  # as the traceback of an error would
    next(left[0])


def test_a_process_that_fails_is_not_kept_by_its_workers() -> None:
    """They block SIGTERM, by which Python ends them at its exit before it waits for them."""
    child = multiprocessing.get_context("fork").Process(target=_fails_with_workers, args=([],))
    child.start()
    child.join(timeout=30)
    child.kill()
    assert child.exitcode == 0
