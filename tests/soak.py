#!/usr/bin/env python3
"""Trains under a stream of faults for hours; the weights must be those of a run without any.

    python tests/soak.py [MINUTES [SEED]]

For so many minutes, a run is killed, signaled, suspended, left without disk space, workers or its
newest checkpoint, and resumed after each. Then a run without faults goes as far, in about a third
of that time; its memory must stay flat. The same command goes on where an earlier one ended.
"""

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Iterator

import torch

from smmcl.cli import run
from smmcl.engine.setup import setup
from smmcl.engine.trainer import Trainer
from smmcl.files.archive import is_sound
from smmcl.modeling.streams import mscan
from smmcl.modeling.streams.base import register_sizes

ROOT = pathlib.Path(__file__).resolve().parents[1]
FAULTS = ("kill", "kill group", "terminate", "suspend", "kill worker", "cut newest", "fill disk")
SIZE = {"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}
ITERATIONS, PERIOD = 10_000_000, 20  # of a run, and between its checkpoints
MAX_GROWTH = 0.05  # of the memory, between the second and the last quarter of a run
Process = multiprocessing.process.BaseProcess


def train(folder: pathlib.Path) -> None:
    """Trains without end, on from the last checkpoint, as the leader of a process group."""
    os.setsid()
    log = (folder.parent / f"{folder.name}.log").open("a")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    opts = [
        "OUTPUT_DIR", str(folder), "MODEL.PAIR.VISIBLE.NAME", "soaked",
        "MODEL.PAIR.AUXILIARY.NAME", "soaked", "MODEL.PAIR.VISIBLE.DROP_PATH_RATE", "0.2",
        "DATASETS.TRAIN", "('synthetic_night_train@64x96',)", "INPUT.CROP_SIZE", "[32, 64]",
        "DATASETS.TEST", "('synthetic_night_val@64x96',)", "INPUT.SCALES", "[0.75, 1.0]",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.HAM.CHANNELS", "32",
        "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", str(ITERATIONS),
        "SOLVER.WARMUP_ITERS", "10",
        "SOLVER.CHECKPOINT_PERIOD", str(PERIOD), "SOLVER.AVERAGE_DECAY", "0.99",
        "DATALOADER.NUM_WORKERS", "2", "TEST.EVAL_PERIOD", "1000", "SOLVER.CHECKPOINTS_KEPT", "5",
    ]  # fmt: skip
    config = str(ROOT / "configs/synthetic_night.yaml")
    args = argparse.Namespace(config_file=config, opts=opts, eval_only=False, resume=True)

    def main() -> None:
        trainer = Trainer(setup(args))
        trainer.resume_or_load(resume=True)
        trainer.train()

    run(main)


def start(folder: pathlib.Path) -> Process:
    """Trains in a process that is forked, so that a start does not cost the imports."""
    child = multiprocessing.get_context("fork").Process(target=train, args=(folder,))
    child.start()
    return child


def end(child: Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # before it leads its group
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()


def memory(pid: int) -> float:
    """MiB of a process that are in memory; 0 once it has ended."""
    with contextlib.suppress(OSError):
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
    return 0.0


def workers(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]
    return []


def checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob("model_0*.pth"))


def ending(child: Process, folder: pathlib.Path) -> str:
    log = (folder.parent / f"{folder.name}.log").read_text(errors="replace")
    return f"the run ended by {child.exitcode}:\n{log[-3000:]}"


def run_alone(newest: pathlib.Path) -> list[float]:
    """Trains without a fault until a checkpoint is there; returns its memory, in MiB by seconds."""
    child, used = start(newest.parent), []
    while not newest.exists():
        child.join(timeout=1)
        assert child.is_alive(), f"without a fault, {ending(child, newest.parent)}"
        used.append(memory(child.pid))
    end(child)
    return used


def strike(fault: str, child: Process, folder: pathlib.Path, moments: random.Random) -> None:
    """Does something to a run; all but "suspend" end it."""
    if fault == "suspend":
        os.killpg(child.pid, signal.SIGSTOP)
        time.sleep(moments.uniform(0.5, 5))
        os.killpg(child.pid, signal.SIGCONT)
        return
    if fault == "kill worker":
        os.kill(moments.choice(workers(child.pid)), signal.SIGKILL)
    elif fault == "terminate":
        os.killpg(child.pid, signal.SIGTERM)
    elif fault == "fill disk":
        limit = moments.randrange(checkpoints(folder)[-1].stat().st_size)
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (limit, limit))
    elif fault == "kill group":
        os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    child.join(timeout=120)
    if child.is_alive():
        os.killpg(child.pid, signal.SIGKILL)
        raise AssertionError(f"after {fault!r} the run goes on")
    expected = {"terminate": (143,), "kill worker": (2,), "fill disk": (2,)}.get(fault, (-9,))
    assert child.exitcode in expected, f"after {fault!r} {ending(child, folder)}"
    if fault == "cut newest" and len(checkpoints(folder)) > 1:
        newest = checkpoints(folder)[-1]
        os.truncate(newest, moments.randrange(newest.stat().st_size))


def run_with_faults(
    folder: pathlib.Path, *, until: float, moments: random.Random, pause: float
) -> Iterator[str]:
    """Trains through faults until a moment of time's monotonic clock, and yields each fault."""
    child, known = start(folder), set()
    while time.monotonic() < until:
        while child.is_alive() and not set(checkpoints(folder)) - known:
            time.sleep(0.02)  # each start makes some way, or there would be no end
        child.join(timeout=moments.uniform(0, pause))
        fault = moments.choice(FAULTS)
        if child.is_alive() and (fault != "kill worker" or workers(child.pid)):
            with contextlib.suppress(ProcessLookupError):  # it may just have ended
                strike(fault, child, folder, moments)
                yield fault
        elif not child.is_alive():
            raise AssertionError(f"without a fault, {ending(child, folder)}")
        if not child.is_alive():
            known = set(checkpoints(folder))
            child = start(folder)
    end(child)


def periodic(folder: pathlib.Path) -> pathlib.Path:
    """The newest sound checkpoint that a run without faults writes too."""
    numbered = {int(path.stem.removeprefix("model_")): path for path in checkpoints(folder)}
    sound = [n for n, path in numbered.items() if (n + 1) % PERIOD == 0 and is_sound(path)]
    return numbered[max(sound)]


class Record:
    """What a soak has done so far, kept in its folder: it may take several sittings."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.path = folder / "soak.json"
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.seconds, self.sittings = known.get("seconds", 0.0), known.get("sittings", 0) + 1
        self.faults = collections.Counter(known.get("faults", {}))

    def save(self) -> None:
        partial = self.path.with_suffix(".part")
        known = {"seconds": self.seconds, "sittings": self.sittings, "faults": self.faults}
        partial.write_text(json.dumps(known))
        partial.replace(self.path)


def soak(folder: pathlib.Path, *, minutes: float, seed: int) -> bool:
    """Both runs; prints one line, and returns whether all was as it should be."""
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    began, record = time.monotonic(), Record(folder)
    before = record.seconds
    whole, struck = (folder / part for part in ("whole", "struck"))
    until = began + minutes * 60 - before
    moments = random.Random(f"{seed} {record.sittings}")
    for fault in run_with_faults(struck, until=until, moments=moments, pause=min(15, minutes)):
        record.faults[fault] += 1
        record.seconds = before + time.monotonic() - began
        record.save()
    newest = periodic(struck)
    shutil.rmtree(whole, ignore_errors=True)  # of a sitting that ended early
    used = run_alone(whole / newest.name)
    quarter = len(used) // 4
    early, late = map(statistics.median, (used[quarter : 2 * quarter], used[-quarter:]))
    ends = [torch.load(path / newest.name, weights_only=True) for path in (whole, struck)]
    iterations = 1 + int(newest.stem.removeprefix("model_"))
    a, b = (end["model"] | end["trainer"]["hooks"]["WeightAverage"] for end in ends)
    are_equal = a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    is_flat = late <= early * (1 + MAX_GROWTH)
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(record.faults.items()))
    print(
        f"soak: {record.seconds / 60:.1f} min of faults (sittings: {record.sittings}), then "
        f"{len(used) / 60:.1f} min without; {iterations} iterations, seed {seed}, "
        f"{record.faults.total()} faults ({kinds}); "
        f"weights {'equal' if are_equal else 'DIFFER'}; memory {early:.0f} MiB, then {late:.0f} "
        f"({'flat' if is_flat else 'GROWS'})"
    )
    return are_equal and is_flat


def main(minutes: float, seed: int, folder: pathlib.Path) -> bool:
    register_sizes({"soaked": SIZE})(mscan.MSCAN)
    folder.mkdir(parents=True, exist_ok=True)
    is_well = soak(folder.resolve(), minutes=minutes, seed=seed)
    if is_well:
        shutil.rmtree(folder)
    return is_well


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=120)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "output" / "soak")
    try:
        sys.exit(not main(**vars(parser.parse_args())))
    finally:
        for left in multiprocessing.active_children():  # Ctrl-C does not reach their group
            end(left)
