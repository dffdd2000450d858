"""Running a grid: what is done is skipped, what was stopped is resumed, what fails is told."""

import logging
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from smmcl.engine import experiments
from smmcl.engine.experiments import Experiments, share_done
from smmcl.engine.grid import read_grid

GRID = """
base: synthetic_night.yaml
rows:
  baseline: {keys: {MODEL.CONTRAST.NAME: ""}}
  SMMCL: {}
extra: {swapped: {INPUT.AUXILIARY_ABLATION: swap}}
"""
# Stands for the tools: notes its command line, and trains by one step at each call until three.
TOOL = """
import json, pathlib, signal, sys, time
options = sys.argv[1:]
folder = pathlib.Path(options[options.index("OUTPUT_DIR") + 1])
folder.mkdir(parents=True, exist_ok=True)
with open(pathlib.Path(__file__).with_name("calls"), "a") as calls:
    calls.write(" ".join(options) + "\\n")
if "broken" in options:
    sys.exit("error: it is broken")
if "slow" in options and folder.name == "seed0" and not (folder / "saved").exists():
    def save(*_):
        (folder / "saved").touch()
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    (folder / "started").touch()
    time.sleep(60)
place = folder / "inference" / "set"
place.mkdir(parents=True, exist_ok=True)
(place / "evaluation.json").write_text("{}")
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Builds the runner of a grid whose tool is a stand-in; `tmp_path/calls` lists its calls."""
    (tmp_path / "tool.py").write_text(TOOL)
    monkeypatch.setattr(experiments, "tool_file", lambda name: tmp_path / "tool.py")

    def build(text: str = GRID, **options: int) -> Experiments:
        (tmp_path / "grid.yaml").write_text(text)
        jobs = read_grid(tmp_path / "grid.yaml", output=tmp_path / "out").jobs
        return Experiments(jobs, **options)

    return build


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("num_parallel", [1, 2])
def test_each_job_runs_once(make, tmp_path: Path, caplog, num_parallel: int) -> None:
    with caplog.at_level(logging.INFO, logger="smmcl"):
        make(num_parallel=num_parallel).run()
    lines = calls(tmp_path)
    trained = [line for line in lines if line.startswith("--resume ")]
    evaluated = [line for line in lines if line.startswith("--eval-only ")]
    assert (len(trained), len(evaluated), len(lines)) == (2, 2, 4)
    weights = f"MODEL.WEIGHTS {tmp_path}/out/SMMCL/seed0/model_final.pth"
    assert any(weights in line and "ABLATION swap" in line for line in evaluated)
    assert "SMMCL, seed 0: swapped took" in caplog.text
    assert "2.00 of 2 runs done" in caplog.text
    again = make()
    again.run()
    assert calls(tmp_path) == lines
    assert not again.failed
    again.finish()


def test_only_the_missing_evaluation_is_run(make, tmp_path: Path) -> None:
    make().run()
    lines = calls(tmp_path)
    make(GRID.replace("swap}}", "swap}, dark: {INPUT.LOW_LIGHT.PROBABILITY: 1.0}}")).run()
    added = calls(tmp_path)[len(lines) :]
    assert len(added) == 2
    assert all("INPUT.LOW_LIGHT.PROBABILITY 1.0" in line for line in added)


def test_a_failure_is_told_and_the_others_run(make, tmp_path: Path) -> None:
    runner = make(GRID.replace('NAME: ""', 'NAME: "broken"'))
    runner.run()
    assert len(runner.failed) == 1
    assert (tmp_path / "out/SMMCL/seed0/inference").is_dir()
    with pytest.raises(ValueError, match=r"baseline, seed 0: training ended with status 1; see "):
        runner.finish()
    assert "it is broken" in (tmp_path / "out/baseline/seed0/console.txt").read_text()
    assert not runner.jobs[0].record()["done"]


def stop_once_started(folder: Path, action) -> threading.Thread:
    def wait() -> None:
        done = threading.Event()
        while not (folder / "started").exists():
            done.wait(0.02)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_signal_reaches_the_process_and_the_next_call_resumes(make, tmp_path: Path) -> None:
    runner = make(GRID.replace('NAME: ""', 'NAME: "slow"'))
    folder = tmp_path / "out/baseline/seed0"
    before = signal.getsignal(signal.SIGTERM)
    stop_once_started(folder, lambda: os.kill(os.getpid(), signal.SIGTERM))
    runner.run()
    assert signal.getsignal(signal.SIGTERM) is before
    assert (folder / "saved").exists()
    assert (runner.stopped_by, runner.failed, len(calls(tmp_path))) == (signal.SIGTERM, [], 1)
    with pytest.raises(SystemExit) as leaving:
        runner.finish()
    assert leaving.value.code == 128 + signal.SIGTERM
    assert len(runner.jobs[0].record()["sessions"]) == 1
    again = make(GRID.replace('NAME: ""', 'NAME: "slow"'))
    again.run()
    assert (again.stopped_by, again.failed, len(calls(tmp_path))) == (0, [], 5)
    record = again.jobs[0].record()
    assert record["done"]
    assert len(record["sessions"]) == 2


def test_the_time_limit_stops_without_an_error(make, tmp_path: Path, caplog) -> None:
    runner = make(GRID.replace('NAME: ""', 'NAME: "slow"'))
    stop_once_started(tmp_path / "out/baseline/seed0", lambda: runner.stop(-1))
    runner.run(limit_minutes=60)
    runner.finish()
    assert "Stopped by --limit-minutes; the same command goes on" in caplog.text


def test_the_limit_itself(make) -> None:
    runner = make()
    runner.run(limit_minutes=0)
    assert runner.stopped_by in (0, -1)  # what is faster than the timer is done
    assert not runner.failed


def test_progress_counts_iterations(make, tmp_path: Path) -> None:
    job = make().jobs[0]
    assert share_done(job) == 0
    job.folder.mkdir(parents=True)
    (job.folder / "config.yaml").write_text("SOLVER: {MAX_ITER: 200}")
    (job.folder / "metrics.json").write_text('{"iteration": 19}\n{"iteration": 100}\n')
    assert share_done(job) == pytest.approx(0.99 * 0.5)


def test_too_few_processes(make) -> None:
    with pytest.raises(ValueError, match=r"--jobs is 0\. Give at least 1\."):
        make(num_parallel=0)


@pytest.mark.slow
def test_a_real_run_is_tabled(tmp_path: Path, call_tool, monkeypatch, capsys) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    grid = tmp_path / "night.yaml"
    grid.write_text(
        GRID
        + """
keys:
  SOLVER.MAX_ITER: 2
  SOLVER.WARMUP_ITERS: 0
  SOLVER.IMS_PER_BATCH: 2
  DATASETS.TRAIN: ["synthetic_night_val@32x64"]
  DATASETS.TEST: ["synthetic_night_val@32x64"]
  INPUT.CROP_SIZE: [32, 64]
  DATALOADER.NUM_WORKERS: 0
cost: [32, 64]
"""
    )
    page = tmp_path / "page.md"
    page.write_text("Before\n<!-- experiment night -->\n<!-- end of night -->\nAfter\n")
    call_tool("experiments", grid, "--output", tmp_path / "out", "--write", page)
    text = page.read_text()
    assert text.count("| 1 of 1 |") == 2
    assert "not run" not in text
    assert text.startswith("Before\n")
    assert text.endswith("After\n")
    call_tool("make_report", *(tmp_path / f"out/{row}/seed0" for row in ("baseline", "SMMCL")),
              "--pairs", 0, "--output", tmp_path / "report.html")  # fmt: skip
    assert "multiply-adds G" in (tmp_path / "report.html").read_text()
