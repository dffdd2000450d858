"""Scalars of a run beside metrics.json: a CSV file, and a stand-in for Weights & Biases."""

import csv
import importlib
import json
import sys

import pytest

from smmcl.d2 import EventStorage
from smmcl.engine.tracking import CsvWriter
from smmcl.engine.trainer import Trainer

STAND_IN = """
import types
started, logged, finished = [], [], []

def init(**options):
    started.append(options)
    return types.SimpleNamespace(
        id=options["id"] or "abc",
        log=lambda scalars, step: logged.append((step, scalars)),
        finish=lambda: finished.append(True),
    )
"""


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(writer: CsvWriter, iteration: int, **scalars: float) -> None:
    with EventStorage(iteration) as storage:
        storage.put_scalars(**scalars)
        writer.write()


def test_columns_are_added_and_repeated_rows_leave(tmp_path) -> None:
    path = tmp_path / "metrics.csv"
    writer = CsvWriter(path)
    write(writer, 19, loss=2.0)
    write(writer, 39, loss=1.0)
    write(writer, 59, loss=0.5, score=7.0)
    write(writer, 79, loss=0.25)
    assert rows_of(path) == [
        {"iteration": "19", "loss": "2.0", "score": ""},
        {"iteration": "39", "loss": "1.0", "score": ""},
        {"iteration": "59", "loss": "0.5", "score": "7.0"},
        {"iteration": "79", "loss": "0.25", "score": ""},
    ]
    with path.open("a") as file:
        file.write("9")  # a killed process
    write(CsvWriter(path), 59, loss=0.75)
    assert [(row["iteration"], row["loss"]) for row in rows_of(path)] == [
        ("19", "2.0"), ("39", "1.0"), ("59", "0.75"),
    ]  # fmt: skip


@pytest.mark.parametrize("lines", ["loss\n0.5\n", "iteration,loss\n1,0.5,7\n", "", "\n\n"])
def test_rows_of_another_form_are_left_out(tmp_path, lines: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(lines)
    write(CsvWriter(path), 19, loss=2.0)
    assert rows_of(path) == [{"iteration": "19", "loss": "2.0"}]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"iteration\n" + b"9" * 200_000])
def test_a_table_that_cannot_be_read_is_named(tmp_path, content: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.csv cannot be read as a table.* Move it away"):
        write(CsvWriter(path), 19, loss=2.0)


def train(cfg, *, resume: bool) -> None:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()


def test_a_run_and_its_continuation(tiny_config, tmp_path, monkeypatch) -> None:
    (tmp_path / "wandb.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    keys = ("TRACKING.WANDB", "streets", "DATASETS.TEST", "()")
    train(tiny_config(tmp_path / "run", *keys), resume=False)
    train(tiny_config(tmp_path / "run", *keys, "SOLVER.MAX_ITER", "40"), resume=True)
    wandb = importlib.import_module("wandb")
    monkeypatch.delitem(sys.modules, "wandb")
    assert [options["project"] for options in wandb.started] == 2 * ["streets"]
    assert [options["id"] for options in wandb.started] == [None, "abc"]
    assert wandb.started[0]["config"]["SOLVER"]["MAX_ITER"] == 20
    assert {19, 39} <= {step for step, _ in wandb.logged}
    assert len(wandb.finished) == 2

    lines = map(json.loads, (tmp_path / "run/metrics.json").read_text().splitlines())
    lines = sorted(lines, key=lambda line: line["iteration"])
    rows = rows_of(tmp_path / "run/metrics.csv")
    for line, row, (_, logged) in zip(lines, rows, wandb.logged, strict=True):
        assert {name: float(value) for name, value in row.items() if value} == line
        assert {**logged, "iteration": line["iteration"]} == line


def test_without_the_package_the_key_is_refused(tiny_config, tmp_path, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name)
    )
    with pytest.raises(ValueError, match="pip install wandb"):
        Trainer(tiny_config(tmp_path / "run", "TRACKING.WANDB", "streets"))


def test_a_run_that_may_not_log_stops_before_its_first_step(
    tiny_config, tmp_path, monkeypatch
) -> None:
    text = "class Error(Exception): pass\ndef init(**options): raise Error('No API key.')\n"
    (tmp_path / "wandb.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ValueError, match=r"did not start: No API key\. Log in with"):
        Trainer(tiny_config(tmp_path / "run", "TRACKING.WANDB", "streets"))
    monkeypatch.delitem(sys.modules, "wandb")
