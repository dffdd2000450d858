"""A file is whole or absent, has its usual permissions, and nothing else is touched."""

import os
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from smmcl.engine.checkpoint import RunCheckpointer
from smmcl.files.atomic import PREFIX, atomic, partials, write_new_image, write_text


def save_checkpoint(path: pathlib.Path) -> None:
    RunCheckpointer(nn.Linear(1, 1), str(path.parent)).save(path.stem)


def save_figure(path: pathlib.Path) -> None:
    with atomic(path) as partial:
        Figure().savefig(partial)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model_0000001.pth", save_checkpoint),
        ("table.md", lambda path: write_text(path, "a")),
        ("image.png", lambda path: write_new_image(path, np.zeros((2, 2), np.uint8))),
        ("figure.svg", save_figure),
    ],
)
@pytest.mark.parametrize("umask", [0o022, 0o007])
def test_permissions_follow_the_umask(tmp_path, name: str, write: Callable, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / name)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}
    assert {path.name for path in tmp_path.iterdir()} <= {name, "last_checkpoint"}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(tmp_path, error: BaseException) -> None:
    write_text(tmp_path / "table.md", "old")
    with pytest.raises(type(error)), atomic(tmp_path / "table.md") as partial:  # noqa: PT012
        partial.write_text("ne")
        raise error
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("table.md", "old")]


def test_links_and_devices_stay_what_they_are(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "file")
    write_text(tmp_path / "link", "a\n", is_durable=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "deep" / "file").read_bytes() == b"a\n"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)


def test_only_what_this_project_left_is_found(tmp_path: pathlib.Path) -> None:
    with atomic(tmp_path / "model_1.pth") as partial:
        left = tmp_path / partial.name
        torch.save({}, partial)
        assert partials(tmp_path, "model_*.pth") == [left]
        assert partials(tmp_path, "*.json") == []
    for name in (".model_1.pth.abc.tmp", f"{PREFIX}notes-model_1.pth", "model_2.pth"):
        (tmp_path / name).touch()
    assert partials(tmp_path, "model_*.pth") == []
