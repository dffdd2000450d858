"""The child process: makes inputs, has them read, and says how each ended."""

import contextlib
import faulthandler
import os
import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from smmcl.cli import user_message

MIB = 1 << 20
MAX_SECONDS = 10.0  # of the processor; the slowest sound input takes about a tenth of it
MAX_MEMORY = 1024 * MIB  # more than before the input; a sound 8192x8192 picture takes half of it
MAX_ADDRESSES = 6 * 1024 * MIB  # beyond it an allocation fails, so that the machine stays usable
MAX_MESSAGE = 2100  # characters; those of a message that was shortened


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Args:
        write: makes one from a generator, in an empty folder; returns the path to read.
        read: what the package does with it, with checks of what a success gives.
    """

    write: Callable[[random.Random, Path], Path]
    read: Callable[[Path], Any]


@dataclass(frozen=True)
class Outcome:
    """How one input ended: `finding` is empty where all is as promised."""

    is_success: bool
    finding: str = ""
    seconds: float = 0.0
    memory: int = 0  # bytes at the peak, above those before


def try_input(kind: Kind, name: str, *, seed: int, index: int, folder: Path) -> Outcome:
    """Makes and reads the input of one number, in a folder that is emptied before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = kind.write(random.Random(f"{seed} {name} {index}"), folder)
    before, start = _forget_peak(), time.process_time()
    finding, is_success = "", False
    with _bounded_addresses():
        try:
            kind.read(path)
            is_success = True
        except Exception as error:
            message = user_message(error)
            if message is None:
                finding = f"foreign error\n{traceback.format_exc(limit=-12)}"
            else:
                finding = _fault_of(message, path, folder)
    seconds, memory = time.process_time() - start, _status("VmHWM") - before
    if seconds > MAX_SECONDS:
        finding = f"slow: {seconds:.1f} s of processor time\n{finding}"
    if memory > MAX_MEMORY:
        finding = f"large: {memory / MIB:.0f} MiB\n{finding}"
    return Outcome(is_success, finding, seconds, memory)


def _fault_of(message: str, path: Path, folder: Path) -> str:
    """What is wrong with a refusal: it is of no use without the file's name, or unreadable."""
    if path.name not in message and str(folder) not in message:
        return f"the file is not named: {message[:300]}"
    if len(message) > MAX_MESSAGE:
        return f"the message has {len(message)} characters: {message[:300]}"
    if not message.isprintable():
        return f"the message has characters that cannot be printed: {message[:300]!r}"
    return ""


@contextlib.contextmanager
def _bounded_addresses() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + MAX_ADDRESSES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _forget_peak() -> int:
    """Sets the peak of memory back, and returns what is in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    """Bytes that the system states of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def serve(kinds: Mapping[str, Kind], pipe: Connection, log: str) -> None:
    """Answers each (kind, seed, index, folder) by an Outcome until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries in C write to the descriptor itself.
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    os.dup2(descriptor, 1)
    faulthandler.enable()
    with contextlib.suppress(EOFError):
        while True:
            name, seed, index, folder = pipe.recv()
            outcome = try_input(kinds[name], name, seed=seed, index=index, folder=Path(folder))
            pipe.send(outcome)
