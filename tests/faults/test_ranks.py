"""Faults in one process of two: the run ends, is named, and resumes."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch
from runs import are_equal

HERE = pathlib.Path(__file__).resolve().parent
STOPPED = "process 0 leaves: process 1 was stopped, died or lost its connection"
ENDS = {  # what happens to the second process: the exit status, the message, the last checkpoint
    "kill": (137, "process 1 was ended by SIGKILL", 3),
    "stop": (1, STOPPED, 3),
    "stop and end": (143, STOPPED, 3),  # SIGTERM reaches the run while one process is stopped
    "worker": (2, "and died of SIGKILL. Mostly the system ran out of memory", 6),
    "evaluation": (2, "and died of SIGKILL. Mostly the system ran out of memory", 5),
}


def train(folder: pathlib.Path, fault: str = "") -> tuple[int, str]:
    """The exit status and the errors of a run, on from its last checkpoint."""
    command = [sys.executable, str(HERE / "two_ranks.py"), str(folder), *([fault] if fault else [])]
    path = os.pathsep.join([str(HERE.parent / "helpers"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
        env=os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        timeout=400,  # below the 600 s that processes have to save
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pathlib.Path:
    """The folder of a run without faults."""
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(data))
        folder = data / "whole"
        status, errors = train(folder)
        assert status == 0, errors
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("fault", ENDS)
def test_a_fault_of_one_process_ends_all_and_resumes(whole, tmp_path, fault: str) -> None:
    status, words, iteration = ENDS[fault]
    found, errors = train(tmp_path / "run", fault)
    assert found == status, errors
    assert words in errors
    last = tmp_path / "run" / (tmp_path / "run/last_checkpoint").read_text()
    # A worker that dies may take along the batch before, which it had read.
    assert torch.load(last)["iteration"] in {iteration, iteration - (fault == "worker")}
    assert train(tmp_path / "run")[0] == 0
    assert are_equal(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_process_that_pauses_is_waited_for(whole, tmp_path) -> None:
    status, errors = train(tmp_path / "run", "pause")
    assert status == 0, errors
    assert are_equal(tmp_path / "run", whole)
