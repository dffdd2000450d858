"""How many processes a run gets, and what is refused."""

import argparse
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from smmcl.engine.launch import start

ROOT = pathlib.Path(__file__).resolve().parents[2]

SCRIPT = """
import argparse, sys
from smmcl.d2 import comm
from smmcl.engine.launch import start

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
    with pytest.raises(ValueError, match=r"3 processes .* this machine has 2 GPUs"):
        start(print, arguments(3))


def test_torchrun_too_is_refused_more_processes_than_gpus(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"3 processes .* this machine has 2 GPUs"):
        start(print, arguments(1))


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((0, 1, 0), "--num-gpus is 0. Give at least 1"),
        ((-1, 1, 0), "--num-gpus is -1"),
        ((1, 0, 0), "--num-machines is 0"),
        ((1, 2, 5), "--machine-rank is 5 but --num-machines is 2.* up to 1"),
        ((1, 2, 2), "--machine-rank is 2"),
        ((1, 2, -1), "--machine-rank is -1"),
        ((1, 1, 1), "--machine-rank is 1 but --num-machines is 1"),
    ],
)
def test_counts_that_make_no_run_are_refused(counts, words) -> None:
    names = ("num_gpus", "num_machines", "machine_rank")
    given = argparse.Namespace(**dict(zip(names, counts, strict=True)), dist_url="auto")
    with pytest.raises(ValueError, match=words):
        start(lambda args: pytest.fail("it was started"), given)


@pytest.mark.parametrize("url", ["auto", "tcp://node0", "node0:4000"])
def test_several_machines_need_a_place_to_meet(url: str) -> None:
    names = {"num_gpus": 1, "num_machines": 2, "machine_rank": 0}
    with pytest.raises(ValueError, match=rf"--dist-url is {url}.*tcp://ADDRESS:PORT of machine 0"):
        start(print, argparse.Namespace(**names, dist_url=url))


def test_a_taken_port_is_said() -> None:
    names = {"num_gpus": 1, "num_machines": 2, "machine_rank": 0}
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        url = f"tcp://127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(ValueError, match=rf"machines do not meet at {url}: .*a free port of"):
            start(print, argparse.Namespace(**names, dist_url=url))


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


DYING = """
import argparse, os, signal, sys, time
import torch
from smmcl.cli import run
from smmcl.d2 import comm
from smmcl.engine.launch import start

def main(args):
    for step in range(10_000):
        time.sleep(0.02)
        if step == 3 and comm.get_rank() == int(sys.argv[2]):
            open(sys.argv[3], "w").write(str(time.time()))
            if sys.argv[1] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            kind = {"raise": ValueError, "fault": TypeError}[sys.argv[1]]
            raise kind("image a.png cannot be read.")
        torch.distributed.all_reduce(torch.ones(1))

if __name__ == "__main__":
    run(lambda: start(main, argparse.Namespace(
        num_gpus=2, num_machines=int(sys.argv[4]), machine_rank=int(sys.argv[5]),
        dist_url=sys.argv[6],
    )))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "machines"), [("kill", 1), ("kill", 2), ("raise", 1), ("raise", 2), ("fault", 1)]
)
def test_a_death_ends_all_within_a_minute_and_is_named(tmp_path, how: str, machines: int) -> None:
    """The last process dies; with two machines the first hears of it from the store alone."""
    script, died_at = tmp_path / "script.py", tmp_path / "died_at"
    script.write_text(DYING)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    victim = 2 * machines - 1
    command = [sys.executable, str(script), how, str(victim), str(died_at), str(machines)]
    running = [
        subprocess.Popen([*command, str(rank), url], cwd=ROOT, text=True, stderr=subprocess.PIPE)
        for rank in range(machines)
    ]
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert time.time() - float(died_at.read_text()) < 60
    assert all(process.returncode for process in running)
    if how == "kill":
        assert f"error: process {victim} was ended by SIGKILL" in errors[-1]
    else:
        assert f"process {victim} failed" in errors[-1]
        assert running[-1].returncode == (2 if how == "raise" else 1)
        line = "error: image" if how == "raise" else "TypeError: image"
        assert errors[-1].count(f"{line} a.png cannot be read.") == 1
        assert ("Traceback" in errors[-1]) is (how == "fault")
    if machines == 2:
        named = "failed: ValueError: image a.png" if how == "raise" else "died or lost"
        assert "leaves: process" in errors[0]
        assert named in errors[0]


SAVING = """
import argparse, os, pathlib, sys, time
import torch
from torch import nn
from smmcl.engine.checkpoint import RunCheckpointer
from smmcl.cli import run
from smmcl.data.watched_loader import shielded
from smmcl.d2 import SimpleTrainer, comm
from smmcl.engine.stop import StopTogether
from smmcl.engine.launch import start

FOLDER = pathlib.Path(sys.argv[2])

class Model(nn.Linear):
    def forward(self, batch):
        return {"loss": super().forward(batch).sum()}

class SlowCheckpointer(RunCheckpointer):
    def save(self, *args, **extra):
        (FOLDER / f"saves_{comm.get_rank()}").touch()
        if comm.is_main_process():
            time.sleep(2)
        super().save(*args, **extra)

class Ones(torch.utils.data.Dataset):
    def __len__(self):
        return 100_000

    def __getitem__(self, index):
        time.sleep(0.02)
        return torch.ones(1)

def batches():
    (FOLDER / f"pid_{comm.get_rank()}").write_text(str(os.getpid()))
    for batch in shielded(torch.utils.data.DataLoader(Ones(), num_workers=2)):
        (FOLDER / f"trains_{comm.get_rank()}").touch()
        yield batch

def main(args):
    model = Model(1, 1)
    trainer = SimpleTrainer(model, batches(), torch.optim.SGD(model.parameters(), 0.1))
    trainer.checkpointer = SlowCheckpointer(model, str(FOLDER))
    trainer.register_hooks([StopTogether()])
    trainer.train(0, 10_000)

if __name__ == "__main__":
    run(lambda: start(main, argparse.Namespace(
        num_gpus=int(sys.argv[1]), num_machines=1, machine_rank=0, dist_url="auto")))
"""


def stop(folder: pathlib.Path, *, starter: str, number: int, whom: str, again: bool) -> int:
    """The exit status of a run that gets a signal while it trains, and perhaps while it saves."""
    script = folder / "script.py"
    script.write_text(SAVING)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [sys.executable, *(torchrun if starter == "torchrun" else []), str(script)]
    num_processes = 1 if starter == "alone" else 2
    running = subprocess.Popen(
        [*command, str(num_processes), str(folder)],
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # not as under nohup
    )
    send = os.killpg if whom == "all" else os.kill  # Ctrl-C and most schedulers reach all
    try:
        for doing in ("trains", "saves") if again else ("trains",):
            while not all((folder / f"{doing}_{rank}").exists() for rank in range(num_processes)):
                assert running.poll() is None
                time.sleep(0.05)
            time.sleep(1.2 if doing == "saves" else 0)  # those within a second count as one
            send(running.pid, number)
        return running.wait(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("starter", "number", "whom"),
    [
        ("alone", signal.SIGINT, "one"),
        ("alone", signal.SIGTERM, "all"),
        ("alone", signal.SIGHUP, "all"),
        ("launch", signal.SIGHUP, "all"),
        ("launch", signal.SIGTERM, "one"),
        ("launch", signal.SIGTERM, "all"),
        ("launch", signal.SIGINT, "all"),
        ("torchrun", signal.SIGTERM, "one"),
        ("torchrun", signal.SIGTERM, "all"),
    ],
)
def test_a_signal_lets_the_run_save(tmp_path, starter: str, number: int, whom: str) -> None:
    status = stop(tmp_path, starter=starter, number=number, whom=whom, again=False)
    assert status == (1 if starter == "torchrun" else 128 + number)  # torchrun says 1 for all
    saved = (tmp_path / "last_checkpoint").read_text()
    assert torch.load(tmp_path / saved)["iteration"] == int(saved[6:13])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("starter", "number"), [("alone", signal.SIGTERM), ("launch", signal.SIGINT)]
)
def test_a_second_signal_leaves_at_once(tmp_path, starter: str, number: int) -> None:
    status = stop(tmp_path, starter=starter, number=number, whom="all", again=True)
    assert status == (-number if starter == "alone" else 128 + number)
    assert not (tmp_path / "last_checkpoint").exists()


@pytest.mark.slow
def test_under_torchrun_only_who_died_first_is_named(tmp_path) -> None:
    """torchrun then asks the others to end, which must not count as having died."""
    script = tmp_path / "script.py"
    script.write_text(SAVING)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=3", "--standalone"]
    running = subprocess.Popen(
        [*command, str(script), "3", str(tmp_path)], cwd=ROOT, text=True, stderr=subprocess.PIPE
    )
    while not all((tmp_path / f"trains_{rank}").exists() for rank in range(3)):
        assert running.poll() is None
        time.sleep(0.05)
    os.kill(int((tmp_path / "pid_2").read_text()), signal.SIGKILL)
    errors = running.communicate(timeout=60)[1]
    assert running.returncode == 1
    reason = "process 2 was stopped, died or lost its connection"
    for rank in (0, 1):
        assert f"error: process {rank} leaves: {reason}" in errors
