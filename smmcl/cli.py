"""The command `smmcl NAME ...` and the guard of all tools: a user's mistake ends as a sentence.

The user's are ValueError, OSError, a KeyError that is a sentence, a loss that is not finite, and a
module that an extra installs; all else is a fault of the program. What the engines report by
assertion is raised as ValueError where they are called.
"""

import ast
import contextlib
import errno
import importlib.util
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from smmcl import MISSING
from smmcl.files.paths import shipped_folder

# What each command runs: a file of tools/ and its first arguments.
COMMANDS = {
    "train": ("train_net",),
    "experiments": ("experiments",),
    "evaluate": ("train_net", "--eval-only"),
    "predict": ("demo",),
    "darken": ("darken",),
    "enhance": ("enhance",),
    "new-dataset": ("new_dataset",),
    "check": ("check_dataset",),
    "report": ("make_report",),
    "export": ("export_model",),
    "analyze": ("analyze_model",),
    "figure": ("make_figure",),
    "features": ("visualize_features",),
    "robustness": ("evaluate_robustness",),
    "convert": ("convert_weights",),
    "visualize-data": ("visualize_data",),
}
FULL = (errno.ENOSPC, errno.EDQUOT)
MAX_MESSAGE = 2000  # characters; a file may hold a name of any length

logger = logging.getLogger("smmcl")


def main() -> None:
    """Runs `python tools/X.py ...` under the name of a command, from a clone or an installation."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(_usage())
        return
    if name not in COMMANDS:
        sys.stderr.write(f"error: smmcl has no command {name!r}. Use {', '.join(COMMANDS)}.\n")
        raise SystemExit(2)
    file, *first = COMMANDS[name]
    sys.argv = [f"smmcl {name}", *first, *arguments]
    # As Python itself runs a file, so that the processes of a run find what they are started with.
    spec = importlib.util.spec_from_file_location("__main__", tool_file(file))
    sys.modules["__main__"] = module = importlib.util.module_from_spec(spec)
    module.__spec__ = None
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        if error.name not in MISSING:
            raise
        sys.stderr.write(f"error: {MISSING[error.name]}\n")
        raise SystemExit(2) from None


def _usage() -> str:
    lines = ["usage: smmcl COMMAND ...    (smmcl COMMAND --help lists the options)", ""]
    for name, (file, *first) in COMMANDS.items():
        text = ast.get_docstring(ast.parse(tool_file(file).read_text(encoding="utf-8")))
        text = f"Evaluates a model, as train {first[0]} does." if first else text.splitlines()[0]
        lines.append(f"  {name:<16}{text}")
    return "\n".join(lines) + "\n"


def tool_file(name: str) -> Path:
    return shipped_folder("tools") / f"{name}.py"


def run(main: Callable[[], object]) -> None:
    """Runs a tool; an error that its user can mend is one line on stderr, with exit status 2.

    Its traceback goes to the run's log file; SMMCL_DEBUG=1 lets it through to the console. Any
    other error is a fault of the program and keeps its traceback. Ctrl-C ends with status 130.
    """
    try:
        main()
        return
    except SystemExit as leaving:
        if leaving.code:
            _tell("")
        raise
    except KeyboardInterrupt:
        message, status = "stopped by Ctrl-C", 130
    except Exception as error:
        message, status = user_message(error), 2
        if message is None or os.environ.get("SMMCL_DEBUG") == "1":
            raise
        _log_to_files("".join(traceback.format_exception(error)))
    _tell(f"error: {message}\n")
    raise SystemExit(status)


def _tell(text: str) -> None:
    """Writes to stderr. A console that is a file on a full disk does not change how a tool ends."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would fail once more, at its end, and change the status
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def user_message(error: Exception) -> str | None:
    """What to tell the user, in one line, or None when the fault is not the user's."""
    if isinstance(error, ModuleNotFoundError):
        return MISSING.get(error.name)
    if not isinstance(error, ValueError | KeyError | OSError | FloatingPointError):
        return None
    name, text = type(error).__name__, str(error)
    if isinstance(error, OSError) and error.strerror:
        text = _of_the_system(error)
    elif isinstance(error, KeyError):
        text = str(error.args[0]) if error.args else ""
    # A DataLoader raises a worker's error anew: the same class, but its text is a traceback.
    if text.startswith(f"Caught {name} in DataLoader worker"):
        text = text.rpartition(f"{name}: ")[2].strip()
        text = text.strip("'\"") if isinstance(error, KeyError) else text
    text = _printable(" ".join(text.split()))
    if " " in text:
        return text
    return None if isinstance(error, KeyError) else f"{name}: {text} (SMMCL_DEBUG=1 shows where)"


def _printable(text: str) -> str:
    """The text without its middle where it is long, and without what terminals interpret."""
    if len(text) > MAX_MESSAGE:
        half = MAX_MESSAGE // 2
        text = f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _of_the_system(error: OSError) -> str:
    """Which file the system refused, why, and how much is free where the disk is full."""
    if error.filename is None:
        return error.strerror
    text = f"{error.filename}: {error.strerror}"
    if error.errno not in FULL:
        return text
    folder = next(path for path in Path(error.filename).absolute().parents if path.is_dir())
    return f"{text}; {shutil.disk_usage(folder).free / 2**20:.0f} MiB are free in {folder}"


def without_traceback(record: logging.LogRecord) -> bool:
    """Logging filter for a loop that logs the traceback of an error which `run` will report."""
    if record.exc_info and record.exc_info[1] and user_message(record.exc_info[1]):
        record.exc_info = None
    return True


def _log_to_files(text: str) -> None:
    """Logs at debug level, but not to the console, where the engine's loggers show every level."""
    record = logger.makeRecord(logger.name, logging.DEBUG, __file__, 0, text, (), None)
    for handler in logger.handlers:
        if getattr(handler, "stream", None) not in (sys.stdout, sys.stderr):
            handler.handle(record)
