"""Runs the jobs of a grid as processes of the ordinary tools: resumed, side by side, stoppable."""

import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from smmcl import __version__
from smmcl.cli import tool_file
from smmcl.engine.grid import ROBUSTNESS, Job, flat
from smmcl.engine.launch import handle_stop_signals
from smmcl.files.json import check_form, read_json_lines
from smmcl.files.yaml import read_yaml

CONSOLE = "console.txt"  # what the processes of a run print

logger = logging.getLogger(__name__)


class Experiments:
    """Trains and evaluates what is still to do; a stop reaches the processes, which save."""

    def __init__(self, jobs: Sequence[Job], *, num_parallel: int = 1) -> None:
        """
        Args:
            jobs: to run, in order; those that are done are skipped.
            num_parallel: processes side by side.
        """
        if num_parallel < 1:
            raise ValueError(f"--jobs is {num_parallel}. Give at least 1.")
        for job in jobs:
            job.check()
        self.jobs = list(jobs)
        self.num_parallel = num_parallel
        self.failed: list[str] = []
        self.stopped_by = 0  # number of the signal, -1 for the time limit
        self._processes: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._share_before = self._share_done()

    def run(self, *, limit_minutes: float | None = None) -> None:
        """Runs all jobs; afterwards `failed` and `stopped_by` say what is left, and why."""
        self._start = time.monotonic()
        waiting = [job for job in self.jobs if job.waiting()]
        logger.info(f"{len(self.jobs)} runs: {len(self.jobs) - len(waiting)} are done")
        before = handle_stop_signals(lambda number, frame: self.stop(number))
        timer = threading.Timer((limit_minutes or 0) * 60, self.stop, [-1])
        timer.daemon = True
        if limit_minutes is not None:
            timer.start()
        try:
            with ThreadPoolExecutor(self.num_parallel) as pool:
                for future in [pool.submit(self._run_job, job) for job in waiting]:
                    future.result()
        finally:
            timer.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, number: int) -> None:
        """Starts nothing more and has the running processes save and end."""
        with self._lock:
            self.stopped_by = self.stopped_by or number
            for process in self._processes:
                process.terminate()

    def finish(self) -> None:
        """Ends the program with what kept it from finishing all runs, if anything did."""
        if self.failed:
            raise ValueError(". ".join(self.failed))
        if self.stopped_by:
            reason = "--limit-minutes" if self.stopped_by < 0 else f"signal {self.stopped_by}"
            logger.warning(f"Stopped by {reason}; the same command goes on")
        if self.stopped_by > 0:
            raise SystemExit(128 + self.stopped_by)

    def _run_job(self, job: Job) -> None:
        for step in job.waiting():
            if self.stopped_by:
                return
            logger.info(f"{job}: {step} starts; {self.eta()}")
            start = time.monotonic()
            status = self._run_step(job, step)
            minutes = (time.monotonic() - start) / 60
            if self.stopped_by and status:
                logger.info(f"{job}: {step} stopped after {minutes:.1f} min")
                return
            if status:
                self.failed.append(f"{job}: {step} ended with status {status}; "
                                   f"see {job.folder / CONSOLE}")  # fmt: skip
                logger.error(self.failed[-1])
                return
            logger.info(f"{job}: {step} took {minutes:.1f} min; {self.eta()}")

    def _run_step(self, job: Job, step: str) -> int:
        """Runs a training or an extra evaluation; returns the exit status."""
        if step != "training":
            asked, place = job.extra[step], job.folder / step
            weights = ["MODEL.WEIGHTS", str(job.folder / "model_final.pth")]
            if step in ROBUSTNESS:
                limit = ["--limit", str(asked)] if asked else []
                options = [ROBUSTNESS[step], *limit, *job.options(*weights, folder=place)]
                return self._process(job, "evaluate_robustness", options)
            options = ["--eval-only", *job.options(*asked, *weights, folder=place)]
            return self._process(job, "train_net", options)
        record, start = job.record(), time.monotonic()
        session = {**circumstances(), "seconds": 0.0}
        record = {**record, "config": flat(job.config()),
                  "sessions": [*record["sessions"], session]}  # fmt: skip
        job.note(record)
        status = self._process(job, "train_net", ["--resume", *job.options()])
        session["seconds"] = time.monotonic() - start
        job.note({**record, "done": status == 0})
        return status

    def _process(self, job: Job, tool: str, options: Sequence[str]) -> int:
        threads = str(max(1, (os.cpu_count() or 1) // self.num_parallel))
        environment = {"OMP_NUM_THREADS": threads, **os.environ}
        with (job.folder / CONSOLE).open("a") as console:
            with self._lock:
                if self.stopped_by:
                    return 1
                # In a session of its own: Ctrl-C reaches it once, through `stop`.
                process = subprocess.Popen(
                    [sys.executable, str(tool_file(tool)), *options],
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
                self._processes.add(process)
            try:
                return process.wait()
            finally:
                self._processes.discard(process)

    def _share_done(self) -> float:
        """Returns the number of finished runs, those under way counted by their iterations."""
        return sum(share_done(job) for job in self.jobs)

    def eta(self) -> str:
        """Says how much of all runs is done, and when the rest will be at this session's pace."""
        done = self._share_done()
        pace = (done - self._share_before) / max(time.monotonic() - self._start, 1e-9)
        text = f"{done:.2f} of {len(self.jobs)} runs done"
        if pace <= 0:
            return text
        minutes = (len(self.jobs) - done) / pace / 60
        return f"{text}, {minutes // 60:.0f} h {minutes % 60:02.0f} min to go"


def share_done(job: Job) -> float:
    """Returns the share of a job's training that is behind it, 0 to 1."""
    if not job.waiting():
        return 1.0
    config, metrics = job.folder / "config.yaml", job.folder / "metrics.json"
    if not (config.is_file() and metrics.is_file() and metrics.stat().st_size):
        return 0.0
    check_form(cfg := read_yaml(config), {"SOLVER": {"MAX_ITER": int}}, str(config))
    done = [line["iteration"] for line in read_json_lines(metrics, {"iteration": int})[-1:]]
    return 0.99 * min(sum(done) / max(cfg["SOLVER"]["MAX_ITER"], 1), 1.0)


def circumstances() -> dict[str, Any]:
    """Returns commit and machine, of which the results are stated."""
    root = Path(__file__).parents[2]
    asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    commit = answer.stdout.strip() if (root / ".git").exists() else ""
    return {"commit": commit or f"smmcl {__version__}", "machine": machine()}


def machine() -> str:
    """Returns the GPU's name, or the processor's and how many there are."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} CPUs"
