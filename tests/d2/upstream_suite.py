"""Runs Detectron2's own tests on the embedded engine, with `detectron2.X` answered by the door.

`SMMCL_ENGINE=builtin python tests/d2/upstream_suite.py CLONE_OF_DETECTRON2 [FILE ...]` ends with
status 1 if a test fails that is not in EXPLAINED and uses only names that the door has.
"""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import pathlib
import pkgutil
import sys
import types
import unittest
from collections.abc import Sequence
from typing import Any

import smmcl.d2 as d2
from smmcl.d2 import builtin

FILES = (
    "tests/data/test_sampler.py",
    "tests/test_checkpoint.py",
    "tests/test_engine.py",
    "tests/test_events.py",
    "tests/test_scheduler.py",
    "tests/config/test_yacs_config.py",
    "tests/structures/test_imagelist.py",
)
# The differences in behavior: tests that fail although the door has their names, and why.
ZOO = "matching by heuristics is for the model zoo; this project loads a checkpoint whole or not"
VERSIONS = "configs older than VERSION 2 are refused, not upgraded"
TORCHSCRIPT = "torch.jit is deprecated; this project exports by torch.export"
EXPLAINED = {
    "TestCheckpointer.test_load_with_matching_heuristics": ZOO,
    "TestCheckpointer.test_custom_path_manager_handler": f"{ZOO}; without heuristics it loads",
    "TestTrainer.test_default_trainer": "DefaultTrainer is the base of smmcl's Trainer, which "
    "builds its own parts; it says so when it is built by itself",
    "TestConfigVersioning.test_auto_upgrade": VERSIONS,
    "TestConfigVersioning.test_guess_v1": VERSIONS,
    "TestImageList.test_imagelist_from_tensors_scriptability": TORCHSCRIPT,
    "TestImageList.test_imagelist_padding_tracing": TORCHSCRIPT,
}
FOREIGN = ("detectron2", "omegaconf")  # modules that are answered here


class AbsentNameError(Exception):
    """A test has used a name that the door does not have."""


class Absent:
    """Stands for a name that the door does not have, until a test uses it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        raise AbsentNameError(self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise AbsentNameError(self._name)


class Shim(types.ModuleType):
    """A module of Detectron2: names by what they are called, wherever Detectron2 keeps them."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for module in (d2, *EMBEDDED):
            if name in vars(module):
                return vars(module)[name]
        return Absent(name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes a shim of every module of Detectron2 that is imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        is_foreign = name.partition(".")[0] in FOREIGN
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_foreign else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Shim:
        return Shim(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...


class Result(unittest.TestResult):
    """Sorts tests by what became of them; a test of several parts fails with its first."""

    def __init__(self) -> None:
        super().__init__()
        self.raised: dict[str, BaseException | None] = {}

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        self.raised[_short(test)] = None

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self.raised[_short(test)] = err[1]

    def addSubTest(self, test: unittest.TestCase, subtest: Any, err: Any) -> None:  # noqa: N802
        if err is not None and self.raised[_short(test)] is None:
            self.raised[_short(test)] = err[1]

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        del self.raised[_short(test)]

    addFailure = addError  # noqa: N815


def _short(test: unittest.TestCase) -> str:
    return ".".join(test.id().split(".")[-2:])


def _absent_name(error: BaseException | None) -> str:
    """The name that the door does not have, where that is why a test failed; else ""."""
    if isinstance(error, AbsentNameError):
        return str(error)
    is_refusal = isinstance(error, AttributeError) and str(error).startswith("smmcl.d2 has no")
    return error.name if is_refusal else ""


def run(source: pathlib.Path, files: Sequence[str]) -> dict[str, BaseException | None]:
    """Runs test files of a source tree; returns what each test raised."""
    suite = unittest.TestSuite()
    for file in files:
        spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, source / file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        suite.addTests(unittest.defaultTestLoader.loadTestsFromModule(module))
    result = Result()
    with contextlib.redirect_stdout(io.StringIO()):
        suite.run(result)
    return result.raised


def main(source: pathlib.Path, files: Sequence[str]) -> int:
    """Prints what passes, what the door lacks, and what differs; returns the exit status."""
    raised = run(source, files)
    absent = {test: name for test, error in raised.items() if (name := _absent_name(error))}
    passed = [test for test, error in raised.items() if error is None]
    differing = [test for test in raised if test not in {*passed, *absent}]
    names = ", ".join(sorted({*absent.values()}))
    print(f"{len(passed)} pass: {', '.join(passed)}")
    print(f"{len(absent)} use names that the door does not have: {names}")
    print(f"{len(differing)} differ:")
    for test in differing:
        unexplained = f"UNEXPLAINED {type(raised[test]).__name__}: {raised[test]}"
        print(f"  {test}: {EXPLAINED.get(test, unexplained)}")
    if stale := EXPLAINED.keys() & {*passed, *absent}:
        print(f"Remove the explanations of {', '.join(stale)}")
    return int(bool(stale) or not set(differing) <= EXPLAINED.keys())


EMBEDDED = [
    importlib.import_module(f"{builtin.__name__}.{module.name}")
    for module in pkgutil.iter_modules(builtin.__path__)
]

if __name__ == "__main__":
    if d2.ENGINE != "builtin":
        raise SystemExit("Set SMMCL_ENGINE=builtin: the embedded engine is what is tested.")
    if len(sys.argv) < 2:
        raise SystemExit("Skipped: name a clone of Detectron2, whose own tests are to run.")
    sys.meta_path.insert(0, Finder())
    raise SystemExit(main(pathlib.Path(sys.argv[1]), sys.argv[2:] or FILES))
