"""The command over the tools; which errors end as a sentence, and where their tracebacks go."""

import ast
import errno
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from smmcl.cli import COMMANDS, main, run, user_message, without_traceback

TOOLS = pathlib.Path(__file__).resolve().parents[1] / "tools"


class Unreadable(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise ValueError("image a.png cannot be read: it is cut short.")


class Unknown(Unreadable):
    def __getitem__(self, index: int) -> None:
        raise KeyError("no stream is called 'x'. Known are a, b.")


def raised_by(function, *args: object) -> Exception:
    try:
        function(*args)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def ended(capsys: pytest.CaptureFixture, error: Exception) -> str:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as leaving:
        run(main)
    assert leaving.value.code == 2
    return capsys.readouterr().err


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["smmcl", *arguments])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # put back at the end
    main()


def test_every_tool_has_a_command(monkeypatch, capsys) -> None:
    assert {file for file, *_ in COMMANDS.values()} == {path.stem for path in TOOLS.glob("*.py")}
    command(monkeypatch)
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:])
    assert list(listed) == list(COMMANDS)
    assert len({*listed.values()}) == len(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str, monkeypatch, capsys) -> None:
    tool = TOOLS / f"{COMMANDS[name][0]}.py"
    (first, *_) = ast.get_docstring(ast.parse(tool.read_text())).splitlines()
    with pytest.raises(SystemExit):
        command(monkeypatch, name, "--help")
    assert first in " ".join(capsys.readouterr().out.split())


def test_a_command_is_its_tool(monkeypatch, capsys) -> None:
    seen = []
    monkeypatch.setattr("smmcl.engine.launch.start", lambda main, args: seen.append((main, args)))
    for name, is_evaluation in (("train", False), ("evaluate", True)):
        command(monkeypatch, name, "--config-file", "a.yaml", "SEED", "3")
        function, args = seen.pop()
        # Spawned processes find what they run by this module and its file.
        assert getattr(sys.modules["__main__"], function.__name__) is function
        assert sys.modules["__main__"].__file__ == str(TOOLS / "train_net.py")
        assert (args.eval_only, args.config_file) == (is_evaluation, "a.yaml")
        assert args.opts == ["SEED", "3"]
    with pytest.raises(SystemExit):
        command(monkeypatch, "predict", "--help")
    assert capsys.readouterr().out.startswith("usage: smmcl predict ")


def test_an_unknown_command_is_refused(monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit) as leaving:
        command(monkeypatch, "trian")
    assert leaving.value.code == 2
    assert "no command 'trian'. Use train, experiments, evaluate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "beginning"),
    [
        ("sys.argv = ['smmcl', 'check', 'x']; from smmcl.cli import main; main()", "error: "),
        ("from smmcl import Predictor", "ModuleNotFoundError: "),
    ],
)
def test_a_missing_opencv_is_told_with_the_extra(code: str, beginning: str) -> None:
    """On the embedded engine; Detectron2 without OpenCV is one of tests/d2/test_door.py's."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['cv2'] = None; {code}"],
        env={**os.environ, "SMMCL_ENGINE": "builtin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode
    words = "OpenCV is missing: pip install 'smmcl[headless]'"
    assert done.stderr.splitlines()[-1].startswith(beginning + words)


def test_a_missing_extra_is_told() -> None:
    told = user_message(ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript"))
    assert told == "ONNX is missing: pip install 'smmcl[export]'."
    assert user_message(ModuleNotFoundError("No module named 'smmcl.x'", name="smmcl.x")) is None


def test_success_passes_silently(capsys: pytest.CaptureFixture) -> None:
    run(lambda: {"sem_seg": 1})
    assert capsys.readouterr() == ("", "")


def test_errors_of_the_user_are_one_line(capsys: pytest.CaptureFixture) -> None:
    assert ended(capsys, ValueError("too dark.\n  Light it.")) == "error: too dark. Light it.\n"
    assert ended(capsys, KeyError("no such 'thing'")) == "error: no such 'thing'\n"
    lines = ended(capsys, FileNotFoundError(2, "No such file or directory", "a.png"))
    assert lines == "error: a.png: No such file or directory\n"
    assert ended(capsys, OSError(30, "Read-only file system", "b")).startswith(
        "error: b: Read-only"
    )


def test_a_full_disk_says_how_much_is_free(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 2**20))
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "not/there.pth"))
    assert ended(capsys, error) == (
        f"error: {tmp_path}/not/there.pth: No space left on device; 3 MiB are free in {tmp_path}\n"
    )


@pytest.mark.parametrize("full", [("stdout",), ("stderr",), ("stdout", "stderr")])
@pytest.mark.parametrize(
    ("error", "status"), [("ValueError('too dark')", 2), ("SystemExit(143)", 143)]
)
def test_a_console_on_a_full_disk_does_not_change_the_status(
    full: tuple[str, ...], error: str, status: int
) -> None:
    code = f"from smmcl.cli import run\ndef main(): print(1); raise {error}\nrun(main)"
    with pathlib.Path("/dev/full").open("w") as device:
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        done = subprocess.run(
            [sys.executable, "-c", code], **streams | dict.fromkeys(full, device),
            env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
        )  # fmt: skip
    assert done.returncode == status


def test_an_error_stands_below_the_progress_bar(capsys: pytest.CaptureFixture) -> None:
    def main() -> None:
        for number in tqdm(range(3), unit="pair"):
            if number == 2:
                raise ValueError("b.png cannot be read.")

    with pytest.raises(SystemExit):
        run(main)
    bar, error = capsys.readouterr().err.splitlines()[-2:]
    assert " 2/3 " in bar
    assert error == "error: b.png cannot be read."


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture) -> None:
    # A shell starts what it runs in the background with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(SystemExit) as leaving:
        run(lambda: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, before)
    assert leaving.value.code == 130
    assert capsys.readouterr().err == "error: stopped by Ctrl-C\n"


def test_a_message_that_says_nothing_names_its_class(capsys: pytest.CaptureFixture) -> None:
    assert ended(capsys, ValueError("res5")).startswith("error: ValueError: res5 (SMMCL_DEBUG=1")


def test_a_message_is_short_and_printable_whatever_a_file_holds() -> None:
    message = user_message(ValueError("a.yaml has the key \x1b[31m\u202e, which is none"))
    assert message == r"a.yaml has the key \x1b[31m\u202e, which is none"
    message = user_message(FileNotFoundError(f"a.yaml names {'x' * 9000}. Correct the path."))
    assert message.startswith("a.yaml names xxx")
    assert message.endswith("xxx. Correct the path.")
    assert "xxx [... 7032 characters ...] xxx" in message


def test_faults_of_the_program_keep_their_traceback() -> None:
    faults = (RuntimeError("a b"), AssertionError("Non-existent key: B"), TypeError("a b"))
    for error in (*faults, KeyError("res5"), KeyError()):
        assert user_message(error) is None
        with pytest.raises(type(error)):
            run(lambda error=error: (_ for _ in ()).throw(error))


def test_debug_lets_the_traceback_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMMCL_DEBUG", "1")
    with pytest.raises(ValueError, match="too dark"):
        run(lambda: (_ for _ in ()).throw(ValueError("it is too dark")))


def test_a_workers_error_is_its_last_line() -> None:
    for kind, message in (
        (Unreadable, "image a.png cannot be read: it is cut short."),
        (Unknown, "no stream is called 'x'. Known are a, b."),
    ):
        error = raised_by(lambda kind=kind: next(iter(DataLoader(kind(), num_workers=1))))
        assert "DataLoader worker" in str(error)
        assert user_message(error) == message


def test_the_traceback_goes_to_the_log_file_only(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    handler = logging.FileHandler(tmp_path / "log.txt")
    logging.getLogger("smmcl").addHandler(handler)
    try:
        text = ended(capsys, ValueError("it is too dark"))
    finally:
        logging.getLogger("smmcl").removeHandler(handler)
        handler.close()
    assert "Traceback" not in text
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_the_filter_drops_the_users_tracebacks() -> None:
    for error, kept in ((ValueError("too dark"), False), (RuntimeError("shapes differ"), True)):
        info = (type(error), error, None)
        record = logging.LogRecord("a", logging.ERROR, __file__, 0, "failed", (), info)
        assert without_traceback(record)
        assert bool(record.exc_info) is kept
