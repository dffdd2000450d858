"""A checkpoint on a full disk, or cut short anywhere: the run ends in a sentence, or goes on."""

import errno
import logging
import os
import pathlib
import re
import resource
import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from smmcl.cli import user_message
from smmcl.engine.checkpoint import RunCheckpointer
from smmcl.files.archive import check_archive
from smmcl.files.atomic import PREFIX

KIB = 2**10


def checkpointer(folder: pathlib.Path, *, width: int = 64) -> RunCheckpointer:
    torch.manual_seed(width)
    return RunCheckpointer(nn.Linear(width, width), str(folder))


@pytest.fixture
def disk() -> Iterator:
    """A function that limits the size of files, as a disk that fills up while one is written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("width", "step"), [(256, 64 * KIB), pytest.param(1024, 64 * KIB, marks=pytest.mark.slow)]
)
def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path, disk, width, step) -> None:
    run = checkpointer(tmp_path, width=width)
    run.save("model_0000001", iteration=1)
    whole = (tmp_path / "model_0000001.pth").read_bytes()
    names = sorted(tmp_path.iterdir())
    for size in range(0, len(whole), step):
        disk(size)
        with pytest.raises(OSError, match="model_0000002") as error:
            run.save("model_0000002", iteration=2)
        assert error.value.errno == errno.EFBIG
        assert f"{tmp_path}/model_0000002.pth: File too large" in user_message(error.value)
        assert sorted(tmp_path.iterdir()) == names
        assert run.get_checkpoint_file() == str(tmp_path / "model_0000001.pth")
    assert (tmp_path / "model_0000001.pth").read_bytes() == whole


def test_a_full_disk_is_said_with_what_is_free(tmp_path, monkeypatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="model_0000001") as error:
        checkpointer(tmp_path).save("model_0000001")
    words = rf"{tmp_path}/model_0000001\.pth: No space left on device; \d+ MiB are free in"
    assert re.match(words, user_message(error.value))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("width", "step"), [(96, 4 * KIB), pytest.param(512, 4 * KIB, marks=pytest.mark.slow)]
)
def test_every_prefix_is_refused_and_the_one_before_is_taken(
    tmp_path, caplog, width: int, step: int
) -> None:
    run = checkpointer(tmp_path, width=width)
    run.save("model_0000001", iteration=1)
    run.save("model_0000002", iteration=2)
    newest = tmp_path / "model_0000002.pth"
    whole = newest.read_bytes()
    caplog.set_level(logging.WARNING, "smmcl")
    for size in [*range(0, len(whole), step), len(whole) - 1]:
        newest.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model_0000002\.pth is damaged.*ownload it again"):
            check_archive(newest)
        with pytest.raises(ValueError, match=r"model_0000002\.pth"):
            run.load(str(newest))
        caplog.clear()
        assert run.get_checkpoint_file() == str(tmp_path / "model_0000001.pth")
        assert f"{newest} is missing or damaged" in caplog.text
    newest.write_bytes(whole)
    assert run.get_checkpoint_file() == str(newest)


def test_an_output_folder_that_is_removed_comes_back_with_the_next_checkpoint(tmp_path) -> None:
    run = checkpointer(tmp_path / "run")
    run.save("model_0000001", iteration=1)
    shutil.rmtree(tmp_path / "run")
    run.save("model_0000002", iteration=2)
    assert run.get_checkpoint_file() == str(tmp_path / "run/model_0000002.pth")
    assert not list((tmp_path / "run").glob(f"{PREFIX}*"))
