"""Runs the fast suite as other processors, thread counts and Pythons would: `make test-processors`.

Every setting alone, the others as they are. A setting above this machine is skipped, and said.
`python tests/processors.py NAME ...` runs those settings only, as the output names them.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOGS = ROOT / "output" / "processors"
# What torch's own kernels, then oneDNN's, may use at most, and the flag of a processor that has it.
LEVELS = {
    "ATEN_CPU_CAPABILITY": {"default": "sse2", "avx2": "avx2", "avx512": "avx512_f"},
    "ONEDNN_MAX_CPU_ISA": {
        "SSE41": "sse4_1",
        "AVX2": "avx2",
        "AVX512_CORE": "avx512_bw",
        "AVX512_CORE_BF16": "avx512_bf16",
        "AVX512_CORE_AMX": "amx_bf16",
    },
}
PYTHONS = ("3.11", "3.12", "3.13")


def find_python(version: str) -> str | None:
    """A Python of this version that runs; a shim of pyenv may not."""
    pyenv = sorted(pathlib.Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for path in filter(None, [shutil.which(f"python{version}"), *map(str, pyenv)]):
        if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return None


def environment_of(version: str) -> str | None:
    """The Python of an environment of its own, `.venv-VERSION`, made where it is not there."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    python = find_python(version)
    if python is None:
        return None
    folder = f".venv-{version}"
    make = ["make", f"VENV={folder}", f"PYTHON={python}", f"{folder}/ready"]
    subprocess.run(make, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return str(ROOT / folder / "bin" / "python")


def is_green(name: str, *, python: str = sys.executable, **variables: str) -> bool:
    """Prints the line of one setting; its whole output is in a log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [python, "-m", "pytest", "-n", "2", "-m", "not slow", "-p", "no:cacheprovider"]
    log, start = LOGS / f"{name}.log", time.monotonic()
    with log.open("w") as file:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    counts = re.findall(r"\d+ (?:failed|passed|skipped|errors?)", log.read_text()[-500:])
    seconds = time.monotonic() - start
    print(f"{name:40} {', '.join(counts) or 'did not run'}; {seconds:.0f} s", flush=True)
    return done.returncode == 0


def run_levels(is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    flags = torch.cpu.get_capabilities()
    for variable, levels in LEVELS.items():
        for level, flag in levels.items():
            name = f"{variable}={level}"
            if is_wanted(name) and flags.get(flag):
                yield name, is_green(name, **{variable: level})
            elif is_wanted(name):
                print(f"{name:40} skipped: this processor has no {flag}", flush=True)


def run_thread_counts(is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    for count in ("1", "2"):
        name = f"OMP_NUM_THREADS={count}"
        if is_wanted(name):
            yield name, is_green(name, OMP_NUM_THREADS=count)


def run_pythons(is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    for version in PYTHONS:
        name = f"python{version}"
        if not is_wanted(name):
            continue
        python = environment_of(version)
        if python is None:
            print(f"{name:40} skipped: it is not here", flush=True)
        elif python != sys.executable:  # else it has just run, on one thread
            yield name, is_green(name, python=python)


def main() -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:]
    verdicts = {
        name: is_good
        for run in (run_levels, run_thread_counts, run_pythons)
        for name, is_good in run(lambda name: not wanted or name in wanted)
    }
    failed = [name for name, is_good in verdicts.items() if not is_good]
    if not verdicts:
        sys.exit("No setting was run.")
    sys.exit(f"Failed, see {LOGS}: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
