"""Disks, clocks, signals and files that fail while a run trains: it recovers, or names the file."""

import errno
import logging
import os
import pathlib
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from runs import At, are_equal, train

from smmcl.cli import user_message
from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data import reader, watched_loader
from smmcl.engine.trainer import Trainer
from smmcl.files.atomic import PREFIX


@pytest.fixture
def config(tiny_config, tmp_path) -> Callable:
    keys = ("SOLVER.MAX_ITER", "8", "SOLVER.CHECKPOINT_PERIOD", "4", "DATASETS.TEST", "()")
    return lambda name, *more: tiny_config(tmp_path / name, *keys, *more)


@pytest.fixture
def same(config, tmp_path) -> Callable[[str], None]:
    """A function that compares a run of 8 iterations with one without faults."""

    def compare(name: str) -> None:
        train(config("whole"))
        assert are_equal(tmp_path / name, tmp_path / "whole")

    return compare


def test_a_disk_that_fails_a_read_ends_the_run_saved(config, same, tmp_path, monkeypatch) -> None:
    decode, reads = reader.decode, []

    def fails(path: str, **options: Any) -> reader.Picture:
        reads.append(path)
        if len(reads) == 21:  # two reads a pair, two pairs an iteration
            raise OSError(errno.EIO, "Input/output error", str(path))
        return decode(path, **options)

    monkeypatch.setattr(reader, "decode", fails)
    with pytest.raises(OSError, match="Input/output error") as error:
        train(config("run"))
    assert error.value.filename == reads[20]
    assert (tmp_path / "run/last_checkpoint").read_text() == "model_0000004.pth"
    train(config("run"))
    same("run")


@pytest.fixture
def file_size() -> Iterator[Callable[[int], None]]:
    """A function that limits the size of files, as a disk that has filled up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 64 * 2**10], ids=["metrics", "checkpoint"])
def test_a_disk_that_is_full_ends_the_run_with_its_name(
    config, same, tmp_path, file_size, size: int
) -> None:
    unlimited = resource.RLIM_INFINITY
    logging.getLogger("smmcl").setLevel(logging.ERROR)  # log.txt is on that disk, too
    with pytest.raises(OSError, match="File too large") as error:
        train(config("run"), At(6, lambda: file_size(size)))
    assert str(tmp_path / "run") in user_message(error.value)
    file_size(unlimited)
    train(config("run"))
    same("run")


def test_slow_reads_change_nothing(config, same, monkeypatch) -> None:
    decode = reader.decode
    monkeypatch.setattr(
        reader, "decode", lambda path, **options: (time.sleep(0.02), decode(path, **options))[1]
    )
    train(config("run", "DATALOADER.NUM_WORKERS", "2"))
    monkeypatch.undo()
    same("run")


def test_a_clock_that_runs_backwards_changes_nothing(config, same, monkeypatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 1000 * time.monotonic())
    train(config("run"))
    monkeypatch.undo()
    same("run")


def test_a_worker_that_is_stopped_is_told_and_then_goes_on(
    config, same, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(watched_loader, "TICK", 0.05)
    monkeypatch.setattr(watched_loader, "PATIENCE", 0.3)
    trainer = Trainer(config("run", "DATALOADER.NUM_WORKERS", "1"))
    workers, warnings = trainer.data_loader.workers, []

    def wake(text: str) -> None:
        warnings.append(text)
        os.kill(workers[0].pid, signal.SIGCONT)

    monkeypatch.setattr(watched_loader.logger, "warning", wake)
    trainer.register_hooks([At(2, lambda: os.kill(workers[0].pid, signal.SIGSTOP))])
    trainer.train()
    assert len(warnings) == 1
    assert "No batch for 0.3 s: loader worker 0 reads" in warnings[0]
    same("run")


@pytest.mark.parametrize("during", ["evaluation", "writing"])
def test_a_signal_in_the_wrong_moment_is_heard_after_it(
    config, same, tmp_path, monkeypatch, during: str
) -> None:
    keys = ["DATASETS.TEST", "('few_val',)", "TEST.EVAL_PERIOD", "3"]
    trainer = Trainer(config("run", *keys))
    owner, name = (trainer, "test") if during == "evaluation" else (torch, "save")
    real, calls = getattr(owner, name), []

    def struck(*args: object) -> object:
        if not calls:
            signal.raise_signal(signal.SIGTERM)
        calls.append(name)
        return real(*args)

    monkeypatch.setattr(owner, name, struck)
    with pytest.raises(SystemExit) as leaving:
        trainer.train()
    assert leaving.value.code == 128 + signal.SIGTERM
    assert calls
    monkeypatch.undo()
    folder = tmp_path / "run"
    assert not [path for path in folder.iterdir() if path.name.startswith(PREFIX)]
    assert torch.load(folder / (folder / "last_checkpoint").read_text())["iteration"] in (3, 4)
    train(config("run", *keys))
    same("run")


def test_an_output_folder_that_is_removed_is_made_anew(config, same, tmp_path) -> None:
    train(config("run"), At(2, lambda: shutil.rmtree(tmp_path / "run")))
    same("run")


@pytest.mark.parametrize("skip", ["0", "3"])
def test_a_dataset_that_is_removed_ends_the_run_saved(config, same, tmp_path, skip) -> None:
    facts = MetadataCatalog.get("few_train").as_dict()
    folder, records = tmp_path / "pairs", [dict(r) for r in DatasetCatalog.get("few_train")]
    for record in records:
        for key in ("file_name", "auxiliary_file_name", "sem_seg_file_name"):
            copy = folder / key / pathlib.Path(record[key]).name
            copy.parent.mkdir(parents=True, exist_ok=True)
            record[key] = str(shutil.copy(record[key], copy))
    DatasetCatalog.register("lost", lambda: records)
    MetadataCatalog.get("lost").set(**{k: v for k, v in facts.items() if k != "name"})
    keys = ["DATASETS.TRAIN", "('lost',)", "DATALOADER.SKIP_BROKEN", skip]
    try:
        words = rf"visible image {folder}/\S+ does not exist"
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            train(config("run", *keys), At(3, lambda: folder.rename(tmp_path / "away")))
        assert (tmp_path / "run/last_checkpoint").read_text() == "model_0000003.pth"
        (tmp_path / "away").rename(folder)
        train(config("run", *keys))
    finally:
        DatasetCatalog.remove("lost")
        MetadataCatalog.remove("lost")
    same("run")
