#!/usr/bin/env python3
"""Undoes each mend of the package in turn and sees its tests fail: `make mutations`.

For each finding, mutations.yaml states a text, what takes its place in a copy of the tree, and the
tests, every one of which must then fail. In the copy as it is they pass, which is seen first.
"""

import argparse
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch  # noqa: F401 - imported once, for all processes that are forked
import yaml

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 3600.0  # seconds for the tests of an entry


@dataclass(frozen=True)
class Mutation:
    """What holds since a mend, the file of the mend, its text, and what undoes it.

    Tests are named by file::name, or file::name[part of the parameters]; names may be cut short.
    """

    finding: str
    file: str
    old: str
    new: str
    tests: list[str]
    hangs: bool = False  # a test does so without the mend, which then counts as its failure

    def verdict(self, tree: Path) -> tuple[str, str]:
        """Says "killed" where all tests fail, else what happened; and returns their output."""
        path = tree / self.file
        whole = path.read_text(encoding="utf-8")
        if (count := whole.count(self.old)) != 1:
            return f"GONE: the text stands {count} times in {self.file}", ""
        patience = self._patience(tree)
        path.write_text(whole.replace(self.old, self.new), encoding="utf-8")
        ended, log = run_tests(self.tests, tree, patience=patience)
        path.write_text(whole, encoding="utf-8")
        is_killed = set(ended) <= {"failed", "crashed", *["hung"] * self.hangs}
        return "killed" if ended and is_killed else f"SURVIVED: {dict(ended)}", log

    def _patience(self, tree: Path) -> float:
        """Seconds for the tests, by what they take with the mend where one is to hang without."""
        start = time.monotonic()
        if self.hangs:
            run_tests(self.tests, tree)
        return 20 + 3 * (time.monotonic() - start) if self.hangs else PATIENCE


class Chosen:
    """A plugin of pytest that takes the named tests alone, and counts how they end."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.wanted = [test.removesuffix("]").partition("[") for test in tests]
        self.ended: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen: dict[pytest.Item, None] = {}
        for name, _, part in self.wanted:
            found = [item for item in items if item.nodeid.startswith(name) and part in item.nodeid]
            chosen.update(dict.fromkeys(found))
            if not found:
                self.ended[f"without {name}[{part}]"] += 1
        items[:] = chosen

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.skipped:
            self.ended[report.outcome] += 1
        elif report.failed:
            self.ended["not run"] += 1


def run_tests(
    tests: Sequence[str], tree: Path, *, patience: float = PATIENCE
) -> tuple[Counter[str], str]:
    """How many tests of a tree passed, failed, and so on, and their output."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    log = tree.with_name("log")
    child = multiprocessing.Process(target=_test, args=(tests, tree, log, theirs))
    child.start()
    theirs.close()
    try:
        ended = ours.recv() if ours.poll(patience) else Counter(["hung"])
    except EOFError:
        ended = Counter(["crashed"])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # and what it has left behind
    child.join()
    return ended, log.read_text(encoding="utf-8", errors="replace")


def _test(tests: Sequence[str], tree: Path, log: Path, pipe: Connection) -> None:
    os.setsid()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    # Compiled files are told apart by seconds, and mutations follow faster.
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE="1")
    chosen = Chosen(tests)
    options = ["-p", "no:cacheprovider", "--tb=short", f"--basetemp={tree.with_name('results')}"]
    pytest.main([*options, *{test.partition("::")[0] for test in tests}], plugins=[chosen])
    pipe.send(chosen.ended)


def copy_tree(tree: Path) -> None:
    """Copies what git has or would take, as it is now."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    for path in (ROOT / name for name in names.decode().split("\0") if (ROOT / name).is_file()):
        copy = tree / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        copy.chmod(path.stat().st_mode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="entries whose finding has one of them")
    parser.add_argument("--show", action="store_true", help="the output of the tests, too")
    args = parser.parse_args()
    multiprocessing.set_start_method("fork")
    entries = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    table = [Mutation(**e) for e in entries if any(w in e["finding"] for w in args.words or [""])]
    start, verdicts = time.monotonic(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        ended, log = run_tests([test for mutation in table for test in mutation.tests], tree)
        if set(ended) != {"passed"}:
            sys.exit(f"{log}\nThe tests do not pass as the tree is: {dict(ended)}")
        print(f"{ended['passed']} tests pass without a mutation", flush=True)
        for mutation in table:
            began = time.monotonic()
            found, log = mutation.verdict(tree)
            verdicts[found] += 1
            print(f"{found} {time.monotonic() - began:6.1f} s  {mutation.finding}", flush=True)
            print(log * args.show, end="")
    minutes = (time.monotonic() - start) / 60
    print(f"{verdicts['killed']} of {len(table)} mutations killed, {minutes:.0f} minutes")
    sys.exit(verdicts["killed"] < len(table))


if __name__ == "__main__":
    main()
