#!/usr/bin/env python3
"""Fuzzes every reader of files: `make fuzz`, or `tests/fuzz/run.py --number N --seed S`.

Each input ends in success or in an error for the user that names the file, within bounds of time
and memory (worker.py). A child process reads them, so that a crash, a hang or a full memory is seen
and attributed; it is started anew after that. What failed is kept in --output.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from kinds import KINDS
from worker import MIB, Outcome, serve

MAX_WAIT = 60.0  # seconds for one input by the clock, whatever else the machine does
NUM_BEFORE_RESTART = 2000  # so that what a library leaks does not add up


class Child:
    """The process that reads inputs, started when first needed and again after it has died."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: multiprocessing.Process | None = None
        self.pipe: Connection | None = None
        self.count = 0

    def read(self, name: str, *, seed: int, index: int, wait: float) -> Outcome:
        if self.process is None or self.count == NUM_BEFORE_RESTART:
            self._start()
        self.count += 1
        self.pipe.send((name, seed, index, str(self.folder / "input")))
        start = time.monotonic()
        try:
            if self.pipe.poll(wait):
                return self.pipe.recv()
            finding = f"hang: no answer within {wait:.0f} s"
        except EOFError:
            self.process.join()
            lines = (self.folder / "log").read_text(errors="replace")[-1500:]
            finding = f"crash: the process ended with {self.process.exitcode}\n{lines}"
        self.stop()
        return Outcome(is_success=False, finding=finding, seconds=time.monotonic() - start)

    def _start(self) -> None:
        self.stop()
        context = multiprocessing.get_context("fork")  # what is imported stays so
        self.pipe, theirs = context.Pipe()
        arguments = (KINDS, theirs, str(self.folder / "log"))
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.count = 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
        self.process = None


@dataclass
class Tally:
    """What the inputs of one kind came to."""

    name: str
    outcomes: list[Outcome] = field(default_factory=list)

    def __str__(self) -> str:
        findings = sum(bool(outcome.finding) for outcome in self.outcomes)
        successes = sum(o.is_success and not o.finding for o in self.outcomes)
        refusals = len(self.outcomes) - successes - findings
        return (
            f"{self.name:12} {len(self.outcomes):6} inputs  {successes:6} read  "
            f"{refusals:6} refused  {findings:4} findings  at most "
            f"{max(o.seconds for o in self.outcomes):5.2f} s, "
            f"{max(o.memory for o in self.outcomes) / MIB:4.0f} MiB"
        )


def fuzz(
    child: Child,
    name: str,
    indices: Sequence[int],
    *,
    seed: int,
    output: Path,
    wait: float = MAX_WAIT,
) -> Tally:
    """Tries the inputs of these numbers; keeps each one that failed, with what was found."""
    tally = Tally(name)
    for index in indices:
        outcome = child.read(name, seed=seed, index=index, wait=wait)
        tally.outcomes.append(outcome)
        if outcome.finding:
            kept = output / f"{name}-{seed}-{index}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(child.folder / "input", kept, symlinks=True)
            (kept / "finding.txt").write_text(outcome.finding)
            again = f"--kind {name} --seed {seed} --only {index}"
            print(f"FINDING {again}: {outcome.finding}\n", flush=True)
    return tally


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=12000, help="of inputs, over all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=KINDS, help="default: all")
    parser.add_argument("--only", type=int, help="number of one input, as a finding states it")
    parser.add_argument("--output", type=Path, default=Path("output/fuzz"))
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    names = args.kind or list(KINDS)
    share = -(-args.number // len(names))
    indices = range(share) if args.only is None else [args.only]
    tallies = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(XDG_CACHE_HOME=folder, DETECTRON2_DATASETS=folder)
        child = Child(Path(folder))
        for name in names:
            tallies.append(fuzz(child, name, indices, seed=args.seed, output=args.output))
            print(tallies[-1], flush=True)
        child.stop()
    outcomes = [outcome for tally in tallies for outcome in tally.outcomes]
    num_findings = sum(bool(outcome.finding) for outcome in outcomes)
    print(f"seed {args.seed}: {len(outcomes)} inputs, {num_findings} findings")
    sys.exit(1 if num_findings else 0)


if __name__ == "__main__":
    main()
