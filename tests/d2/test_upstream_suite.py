"""Detectron2's own tests on the embedded engine, where a clone of Detectron2 is named."""

import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("upstream_suite.py")
SOURCE = "SMMCL_DETECTRON2_SOURCE"
PROBE = """
import unittest
from detectron2.config import get_cfg
from detectron2.engine import hooks
from detectron2.structures import Instances
from detectron2.utils.env import seed_all_rng

class TestProbe(unittest.TestCase):
    def test_passes(self):
        seed_all_rng(3)
        self.assertEqual(get_cfg().SEED, -1)
    def test_absent(self):
        Instances((2, 2))
    def test_absent_hook(self):
        hooks.BestCheckpointer
"""
DIFFERENCE = """
    def test_differs(self):
        for part in range(2):
            with self.subTest(part=part):
                self.assertEqual(get_cfg().SEED, part)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SMMCL_ENGINE": "builtin", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_detectron2s_own_tests_pass_or_say_why_not() -> None:
    if SOURCE not in os.environ:
        pytest.skip(f"{SOURCE} names no clone of Detectron2, whose own tests would run here")
    done = run(os.environ[SOURCE])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "UNEXPLAINED" not in done.stdout


def test_tests_are_sorted_by_what_became_of_them(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "test_probe.py"
    file.write_text(PROBE, encoding="utf-8")
    done = run(str(tmp_path), file.name)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "1 pass: TestProbe.test_passes"
    wanted = "2 use names that the door does not have: Instances, hooks.BestCheckpointer"
    assert lines[1] == wanted
    assert lines[2:] == ["0 differ:"]

    file.write_text(PROBE + DIFFERENCE, encoding="utf-8")
    done = run(str(tmp_path), file.name)
    assert done.returncode == 1
    assert "  TestProbe.test_differs: UNEXPLAINED AssertionError: -1 != 0" in done.stdout


def test_without_a_clone_there_is_a_word() -> None:
    assert "Skipped: name a clone of Detectron2" in run().stderr
