"""The command over the tools; which errors end as a sentence, and where their tracebacks go."""

import logging
import pathlib
import sys

import pytest
import torch.multiprocessing
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

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
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert listed == list(COMMANDS)


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
    assert "no command 'trian'. Use train, evaluate" in capsys.readouterr().err


def test_success_passes_silently(capsys: pytest.CaptureFixture) -> None:
    run(lambda: {"sem_seg": 1})
    assert capsys.readouterr() == ("", "")


def test_errors_of_the_user_are_one_line(capsys: pytest.CaptureFixture) -> None:
    assert ended(capsys, ValueError("too dark.\n  Light it.")) == "error: too dark. Light it.\n"
    assert ended(capsys, KeyError("no such 'thing'")) == "error: no such 'thing'\n"
    lines = ended(capsys, FileNotFoundError(2, "No such file or directory", "a.png"))
    assert lines == "error: [Errno 2] No such file or directory: 'a.png'\n"


def test_a_message_that_says_nothing_names_its_class(capsys: pytest.CaptureFixture) -> None:
    assert ended(capsys, KeyError("res5")).startswith("error: KeyError: res5 (SMMCL_DEBUG=1")


def test_config_assertions_are_the_users() -> None:
    error = raised_by(CfgNode({"A": 1}).merge_from_list, ["B", 2])
    assert isinstance(error, AssertionError)
    assert user_message(error) == "Non-existent key: B"


def test_faults_of_the_program_keep_their_traceback() -> None:
    for error in (RuntimeError("shapes differ"), AssertionError("never so"), TypeError("a b")):
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


def test_a_spawned_processes_error_is_its_last_line() -> None:
    # The text is that of torch.multiprocessing.spawn around an error of a DataLoader's worker.
    worker = raised_by(lambda: next(iter(DataLoader(Unreadable(), num_workers=1))))
    text = (
        f'Traceback (most recent call last):\n  File "a.py", line 1\n    b()\nValueError: {worker}'
    )
    error = torch.multiprocessing.ProcessRaisedException(f"\n\n-- Process 0:\n{text}\n", 0, 1)
    assert user_message(error) == "image a.png cannot be read: it is cut short."
    other = torch.multiprocessing.ProcessRaisedException(
        text.replace("ValueError", "OddError"), 0, 1
    )
    assert user_message(other) is None


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
