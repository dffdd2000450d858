"""The short form of the fuzzers, and that they see what they look for."""

import pathlib
import random
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLANTED = """
import os, pathlib, sys, time
sys.path.insert(0, sys.argv[1])
import run, worker
from worker import Kind

worker.MAX_SECONDS = 0.5

def write(draw, folder):
    path = folder / "input.txt"
    path.write_text(str(draw.random()))
    return path

def foreign(path): raise RuntimeError(path)
def nameless(path): raise ValueError("it is wrong")
def crash(path): os.abort()
def memory(path): bytearray(1200 << 20)
def hang(path): time.sleep(60)
def slow(path):
    end = time.process_time() + 1
    while time.process_time() < end: pass
def sound(path): return None
def refused(path): raise ValueError(f"{path} is wrong")

out = pathlib.Path(sys.argv[2])
child = run.Child(out)
readers = (foreign, nameless, crash, memory, hang, slow, sound, refused)
run.KINDS.update({read.__name__: Kind(write, read) for read in readers})
for read in readers:
    name, wait = read.__name__, 1.0 if read is hang else 60.0
    print(run.fuzz(child, name, [0], seed=0, output=out / "kept", wait=wait))
child.stop()
"""


def run(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert not done.stderr, done.stderr
    return done.stdout


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")


def test_every_kind_of_input_is_read_or_refused(tmp_path: pathlib.Path) -> None:
    said = run(str(HERE / "run.py"), "--number", "700", "--output", str(tmp_path))
    assert "700 inputs, 0 findings" in said, said
    counts = re.findall(r"(\d+) read +(\d+) refused", said)
    assert len(counts) == 14
    assert all(int(number) for pair in counts for number in pair), said


def test_findings_are_seen_kept_and_survived(tmp_path: pathlib.Path) -> None:
    said = run("-c", PLANTED, str(HERE), str(tmp_path))
    found = dict(re.findall(r"FINDING --kind (\w+) --seed 0 --only 0: (\w[\w ]+)", said))
    assert found == {
        "foreign": "foreign error",
        "nameless": "the file is not named",
        "crash": "crash",
        "memory": "large",
        "hang": "hang",
        "slow": "slow",
    }
    drawn = random.Random("0 crash 0").random()  # of the seed, the kind and the number
    assert (tmp_path / "kept/crash-0-0/input.txt").read_text() == str(drawn)
    assert re.search(r"sound +1 inputs +1 read", said), said
    assert re.search(r"refused +1 inputs +0 read +1 refused", said), said
