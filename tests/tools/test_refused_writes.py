"""Tools whose results cannot be written: one sentence with the path, status 2, no half file."""

import contextlib
import errno
import json
import logging
import os
import pathlib
import resource
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from smmcl.d2 import DatasetCatalog
from smmcl.data.datasets.build import ensure_registered
from smmcl.files.atomic import PREFIX
from smmcl.files.video import VideoWriter

DATASET = "synthetic_night_val@64x96"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, run_folder: pathlib.Path) -> pathlib.Path:
    """What the tools read: a video, pairs without a dataset file, a grid, a result."""
    ensure_registered([DATASET])
    assert DatasetCatalog.get(DATASET)  # generates the pairs
    folder = tmp_path_factory.mktemp("inputs")
    for part, mode in (("rgb", "RGB"), ("thermal", "L")):
        (folder / "pairs" / part).mkdir(parents=True)
        Image.new(mode, (64, 48)).save(folder / "pairs" / part / "a.png")
    writer = VideoWriter(folder / "a.mp4")
    for _ in range(3):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.close()
    (folder / "grid.yaml").write_text("base: synthetic_night.yaml\nrows: {plain: {}}\n")
    place = folder / "run/inference" / DATASET
    place.mkdir(parents=True)
    content = {
        "protocol": {"dataset": DATASET}, "results": {"sem_seg": {"mIoU": 50.0}},
        "classes": ["a"], "pairs": {}, "confusion": {"sem_seg": [[1]]},
    }  # fmt: skip
    (place / "evaluation.json").write_text(json.dumps(content))
    return folder


def command(tool: str, inputs: pathlib.Path, run: pathlib.Path, output: pathlib.Path) -> list:
    """The command line of a tool that writes to a folder."""
    model = ("--checkpoint", run / "model_final.pth")
    files = {
        "pictures": ["demo", *model, "--dataset", DATASET, "--limit", 1, "--output", output],
        "video": ["demo", *model, "--visible", inputs / "a.mp4", "--auxiliary", inputs / "a.mp4",
                  "--output", output, "--write", "panels"],
        "report": ["make_report", inputs / "run", "--pairs", 0, "--output", output / "a.html"],
        "export": ["export_model", *model, "--limit", 1, "--output", output / "a.pt2"],
        "convert": ["convert_weights", run / "model_final.pth", output / "a.pth", "--to",
                    "authors"],
        "robustness": ["evaluate_robustness", *model, "--quick", "--limit", 1, "--config-file",
                       run / "config.yaml", "OUTPUT_DIR", output],
        "new dataset": ["new_dataset", inputs / "pairs", "--output", output],
        "experiments": ["experiments", inputs / "grid.yaml", "--table", "--output", output],
        "sheet": ["check_dataset", DATASET, "--sheet", output / "a.png"],
    }  # fmt: skip
    return files[tool]


TOOLS = ("pictures", "video", "report", "export", "convert", "robustness", "new dataset",
         "experiments", "sheet")  # fmt: skip


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def refused(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file that has been written cannot take its place."""
    rename = pathlib.Path.replace

    def fails(path: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        if path.name.startswith(PREFIX):
            raise OSError(number, os.strerror(number), str(path))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "replace", fails)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("fault", ["full", "cannot grow", "read-only", "no folder"])
def test_what_cannot_be_written_is_named_and_leaves_nothing(
    tool: str,
    fault: str,
    call_tool: Callable,
    inputs: pathlib.Path,
    run_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)  # log.txt is on that disk, too
    output = tmp_path / "out"
    if fault == "no folder":
        output.write_text("")
    place = {
        "full": lambda: refused(errno.ENOSPC, monkeypatch),
        "read-only": lambda: refused(errno.EROFS, monkeypatch),
        "cannot grow": full_disk,
        "no folder": contextlib.nullcontext,
    }[fault]()
    arguments = command(tool, inputs, run_folder, output)
    with place, pytest.raises(SystemExit) as leaving:
        call_tool(*arguments)
    assert leaving.value.code == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]
    assert str(output) in line
    if fault == "full":
        assert "No space left on device; " in line
        assert f" MiB are free in {tmp_path}" in line
    elif fault == "read-only":
        assert "Read-only file system" in line
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path != output]
    assert not [path for path in left if PREFIX in path.name]
    assert not [path for path in left if path.suffix not in (".txt", ".jsonl", ".lock", ".yaml")]
