"""Every tool as it is started: what ends it is one line with the right status."""

import argparse
import errno
import pathlib
import runpy
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = sorted(path for folder in ("tools", "datasets") for path in (ROOT / folder).glob("*.py"))
FULL = OSError(errno.ENOSPC, "No space left on device", str(ROOT / "a.png"))


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C"),
        (FULL, 2, "a.png: No space left on device; "),
        (
            PermissionError(errno.EACCES, "Permission denied", "a.png"),
            2,
            "a.png: Permission denied",
        ),
        (OSError(errno.EROFS, "Read-only file system", "a.png"), 2, "a.png: Read-only file system"),
        (KeyError("no dataset is called a."), 2, "error: no dataset is called a."),
    ],
    ids=["ctrl-c", "full", "permission", "read-only", "key"],
)
def test_every_tool_ends_in_one_line(path, error, status, words, monkeypatch, capsys) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", fails)
    monkeypatch.setattr(sys, "argv", [str(path)])
    with pytest.raises(SystemExit) as leaving:
        runpy.run_path(str(path), run_name="__main__")
    assert leaving.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
