"""A run is never lost to another one: refused, numbered, removed on demand, or locked out."""

import argparse
import errno
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from torch import nn

from smmcl.config import build_config
from smmcl.engine import run_folder
from smmcl.engine.checkpoint import RunCheckpointer
from smmcl.engine.run_folder import claim, held, remove_checkpoints
from smmcl.engine.setup import setup

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN = ["model_0000009.pth", "model_final.pth", "model_best.pth", "last_checkpoint", "metrics.json"]
LOGS = ["log.txt", "log.txt.rank1", "events.out.tfevents.1.host"]
OTHERS = ["model_mine.pth", "config.yaml", "notes.md", "log.txt.bak", ".model_1.tmp"]


@pytest.fixture(autouse=True)
def _no_locks_stay() -> Iterator[None]:
    yield
    run_folder._leave_locks()


def claimed(folder: object, *flags: str, **keys: str) -> str:
    overrides = ["OUTPUT_DIR", str(folder)]
    for key, value in keys.items():
        overrides += [key.replace("_OF_", "."), value]
    names = ("eval_only", "resume", "overwrite")
    args = argparse.Namespace(config_file="configs/night.yaml", **{n: n in flags for n in names})
    return claim(build_config("Base-SMMCL.yaml", overrides), args)


def fill(folder: pathlib.Path, *names: str) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("content")
    return folder


def names_in(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", RUN)
def test_a_new_run_does_not_enter_the_folder_of_another(tmp_path, name: str) -> None:
    folder = fill(tmp_path / "run", name)
    with pytest.raises(ValueError, match=r"holds a run.*--resume.*OUTPUT_DIR auto.*--overwrite"):
        claimed(folder)
    assert names_in(folder) == {name}
    for flag in ("resume", "eval_only"):
        assert claimed(folder, flag) == str(folder)


def test_what_holds_no_run_is_entered(tmp_path: pathlib.Path) -> None:
    fill(tmp_path, *OTHERS, *LOGS)
    (tmp_path / "metrics.json").touch()  # of a run that failed before its first step
    assert claimed(tmp_path) == str(tmp_path)


def test_overwrite_removes_a_run_and_nothing_else(tmp_path: pathlib.Path, caplog) -> None:
    fill(tmp_path, *RUN, *LOGS, *OTHERS)
    fill(tmp_path / "inference", "metrics.json")
    claimed(tmp_path, "overwrite")
    assert names_in(tmp_path) == {*RUN[:4], *OTHERS, "inference", ".lock"}
    remove_checkpoints(str(tmp_path))
    assert names_in(tmp_path) == {*OTHERS, "inference", ".lock"}
    assert names_in(tmp_path / "inference") == {"metrics.json"}
    assert all(f"removed {tmp_path / name} of" in caplog.text for name in RUN + LOGS)


def test_overwrite_keeps_what_the_run_starts_from(tmp_path: pathlib.Path) -> None:
    fill(tmp_path, *RUN)
    for key in ("MODEL_OF_WEIGHTS", "MODEL_OF_PAIR_OF_VISIBLE_OF_WEIGHTS"):
        with pytest.raises(ValueError, match=r"would remove .*model_final\.pth, which this run"):
            claimed(tmp_path, "overwrite", **{key: str(tmp_path / "model_final.pth")})
    assert {*RUN} <= names_in(tmp_path)


@pytest.mark.parametrize("other", ["resume", "eval_only"])
def test_overwrite_goes_with_a_new_run_only(tmp_path: pathlib.Path, other: str) -> None:
    fill(tmp_path, *RUN)
    with pytest.raises(ValueError, match="Give only one"):
        claimed(tmp_path, "overwrite", other)
    assert names_in(tmp_path) == {*RUN}


def test_auto_counts_folders(tmp_path: pathlib.Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [claimed("auto") for _ in range(3)] == [
        "output/night",
        "output/night_2",
        "output/night_3",
    ]
    with pytest.raises(ValueError, match="auto is always new"):
        claimed("auto", "resume")


HOLDER = """
import pathlib, sys, time
import torch
from smmcl.engine.run_folder import held

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        (pathlib.Path(sys.argv[1]) / f"works_{index}").touch()
        time.sleep(600)

with held(sys.argv[1]):
    next(iter(torch.utils.data.DataLoader(Slow(), num_workers=2)))
"""


def test_a_lock_dies_with_its_process_and_not_with_the_workers(tmp_path: pathlib.Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, start_new_session=True
    )
    try:
        while not all((tmp_path / f"works_{index}").exists() for index in range(2)):
            assert holder.poll() is None
            time.sleep(0.05)
        for flags in ((), ("resume",), ("overwrite",)):
            with pytest.raises(ValueError, match=rf"running training, process {holder.pid} on "):
                claimed(tmp_path, *flags)
        assert claimed(tmp_path, "eval_only") == str(tmp_path / run_folder.BESIDE)
        holder.kill()
        holder.wait()
        os.killpg(holder.pid, 0)  # the workers live
        assert claimed(tmp_path) == str(tmp_path)
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_an_evaluation_beside_a_training_writes_elsewhere(tmp_path: pathlib.Path) -> None:
    fill(tmp_path, "config.yaml", "log.txt")
    RunCheckpointer(nn.Linear(1, 1), str(tmp_path)).save("model_0000009")
    opts = ["OUTPUT_DIR", str(tmp_path)]
    config = str(ROOT / "configs/synthetic_night.yaml")
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cfg = setup(argparse.Namespace(config_file=config, opts=opts, eval_only=True))
    assert str(tmp_path / "model_0000009.pth") == cfg.MODEL.WEIGHTS
    assert str(tmp_path / run_folder.BESIDE) == cfg.OUTPUT_DIR
    assert {(tmp_path / name).read_text() for name in ("config.yaml", "log.txt")} == {"content"}


SHARING = """
import argparse, os, pathlib
from smmcl.config import build_config
from smmcl.d2 import comm
from smmcl.engine.launch import start
from smmcl.engine.run_folder import claim

def main(args):
    folder = claim(build_config("Base-SMMCL.yaml", ["OUTPUT_DIR", "auto"]), args)
    pathlib.Path(f"told_{comm.get_rank()}").write_text(folder)

start(main, argparse.Namespace(config_file="night.yaml"))
"""


@pytest.mark.slow
def test_all_processes_are_told_one_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / "script.py").write_text(SHARING)
    starter = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, *starter, "script.py"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
    assert [(tmp_path / f"told_{rank}").read_text() for rank in (0, 1)] == ["output/night"] * 2
    assert names_in(tmp_path / "output") == {"night"}


def test_a_look_at_the_lock_does_not_stop_a_training(tmp_path: pathlib.Path, monkeypatch) -> None:
    (tmp_path / ".lock").touch()
    looker = (tmp_path / ".lock").open()
    fcntl.flock(looker, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda seconds: looker.close())
    assert claimed(tmp_path) == str(tmp_path)


def test_a_lock_ends_with_the_training(tmp_path: pathlib.Path) -> None:
    claimed(tmp_path)
    with held(str(tmp_path)):
        assert run_folder._held
    assert not run_folder._held


def test_a_file_system_without_locks_is_said_once(tmp_path, monkeypatch, caplog) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        claimed(tmp_path)
        run_folder._leave_locks()
    assert caplog.text.count("no locks on this file system") == 1
