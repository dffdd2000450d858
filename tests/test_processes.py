"""How many processes a run gets, and what is refused."""

import argparse
import pathlib
import subprocess
import sys

import pytest
import torch

from smmcl.processes import start

ROOT = pathlib.Path(__file__).resolve().parents[1]

SCRIPT = """
import argparse, sys
from smmcl.d2 import comm
from smmcl.processes import start

def main(args):
    everyone = comm.all_gather(comm.get_rank())
    if comm.is_main_process():
        sys.stdout.write(f"{everyone} {comm.get_local_rank()}")

if __name__ == "__main__":
    start(main, argparse.Namespace(num_gpus=int(sys.argv[1]), num_machines=1, machine_rank=0,
                                   dist_url="auto"))
"""


def arguments(num_gpus: int) -> argparse.Namespace:
    return argparse.Namespace(num_gpus=num_gpus, num_machines=1, machine_rank=0, dist_url="auto")


def test_more_processes_than_gpus_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="--num-gpus is 3 but this machine has 2"):
        start(print, arguments(3))


def test_one_process_is_this_one() -> None:
    seen = []
    start(seen.append, arguments(1))
    assert len(seen) == 1


@pytest.mark.parametrize("torchrun", [False, True], ids=["launch", "torchrun"])
def test_two_processes_on_a_cpu(tmp_path: pathlib.Path, torchrun: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    starter = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [sys.executable, *(starter if torchrun else []), str(script), "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0, 1] 0"
