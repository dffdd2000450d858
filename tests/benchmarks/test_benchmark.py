"""The benchmark: its problems have the sizes it names, and what it compares computes the same."""

import argparse
import importlib.util
import pathlib
import types

import benchmark_data
import pytest
import torch

from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATH = ROOT / "benchmarks" / "benchmark.py"
PAIRS = "synthetic_night_val@64x96"


@pytest.fixture(scope="module")
def benchmark() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("tools_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_problem_has_the_views_it_is_named_after(benchmark) -> None:
    problem = benchmark.make_problem(594, num_classes=14, device="cpu")
    assert (problem.views.num_sets, problem.views.views_per_set) == (99, 6)
    for num_views, (num_images, size, sets, views_per_set) in benchmark.SIZES.items():
        assert num_views == sum(sets) * views_per_set
        assert len(sets) == num_images
        assert max(sets) * views_per_set <= size[0] * size[1]


def test_ours_and_the_dense_form_agree(benchmark) -> None:
    problem = benchmark.make_problem(594, num_classes=14, device="cpu")
    dense = benchmark.run_dense(problem).item()
    assert benchmark.run_ours(problem).item() == pytest.approx(dense, rel=1e-5)
    assert benchmark.run_whole(problem).item() == pytest.approx(dense, rel=1e-5)


def test_a_row_of_the_table(benchmark) -> None:
    rounds = [{"ours": 2.0, "whole": 3.0, "beside": 12.0}] * 3
    cells = benchmark.row(4800, rounds, [64.4, None]).strip("| ").split(" | ")
    assert cells == ["4,800", "2.0000", "-", "-", "3.0000", "12.0000", "4.00", "64", "-"]


def test_the_table_of_a_small_problem(benchmark, monkeypatch, capsys) -> None:
    monkeypatch.setattr(benchmark, "peak_mib", lambda *_: 1.0)
    arguments = argparse.Namespace(
        views=[594], classes=14, rounds=1, threads=1, clock="cpu", device="cpu", dense_limit=4800,
        beside=None,
    )  # fmt: skip
    benchmark.contrast(arguments)
    header, _, row = capsys.readouterr().out.splitlines()
    assert header.count("|") == row.count("|")
    assert row.startswith("| 594 | 0.")


def test_the_table_of_the_loader(tmp_path, call_tool, capsys) -> None:
    (tmp_path / "other.py").write_text("make_batch = len")
    call_tool(
        "benchmark", "data", "--config-file", ROOT / "configs/Base-SMMCL.yaml", "--pairs", 3,
        "--rounds", 1, "--beside", tmp_path / "other.py", "DATASETS.TRAIN", (PAIRS,),
        "INPUT.CROP_SIZE", [32, 32],
    )  # fmt: skip
    title, _, header, _, *rows = capsys.readouterr().out.splitlines()
    assert title == f"3 pairs of {PAIRS}, crop [32, 32]"
    assert [row.split("|")[1].strip() for row in rows] == [
        "read", "augment and collate", "ready", "beside"
    ]  # fmt: skip
    assert all(row.count("|") == header.count("|") for row in rows)


def test_the_steps_of_the_loader() -> None:
    cfg = build_config(overrides=["DATASETS.TRAIN", (PAIRS,), "INPUT.CROP_SIZE", [32, 32]])
    steps = benchmark_data.make_steps(cfg)
    samples, batch = (steps[step](DatasetCatalog.get(PAIRS)[:3]) for step in list(steps)[1:])
    assert batch["sem_seg"].shape == (3, 32, 32)
    red = (samples[2]["image"][0] - cfg.MODEL.PIXEL_MEAN[0]) / cfg.MODEL.PIXEL_STD[0]
    torch.testing.assert_close(batch["image"][2, 0], red)


OTHER = """
import copy, functools, torch
from smmcl.inference import cost
from smmcl.inference.fold import fold
def build(model, pairs):
    step = cost.train if model.training else cost.infer
    return functools.partial(step, copy.deepcopy(model), pairs)
"""
FOLDED = OTHER.replace("copy.deepcopy(model)", "fold(model)")
LOW = f"""{OTHER.replace("copy.deepcopy(model)", "fold(model, dtype=torch.bfloat16)")}
build_step = build
build = lambda *arguments: torch.autocast("cpu", torch.bfloat16)(build_step(*arguments))
"""


@pytest.mark.parametrize(
    ("other", "same", "options"),
    [(OTHER, "plain", ["--train"]), (OTHER, "plain", []), (FOLDED, "folded", []),
     (LOW, "bfloat16", [])],
)  # fmt: skip
def test_the_table_of_a_network_beside_its_like(
    other, same, options, tmp_path, call_tool, capsys
) -> None:
    """The row of what stands beside it has the same bits, on every processor; the others differ."""
    (tmp_path / "other.py").write_text(other)
    call_tool(
        "benchmark", "model", "--config-file", ROOT / "configs/synthetic_night.yaml", "--rounds", 1,
        "--size", 64, 96, "--batch", 2, "--threads", 1, "--beside", tmp_path / "other.py", *options,
    )  # fmt: skip
    _, _, *rows = capsys.readouterr().out.splitlines()
    rows = {name: cells for name, *cells in (row.strip("| ").split(" | ") for row in rows)}
    if options:
        assert list(rows) == ["beside", "plain", "bfloat16"]
        return
    assert list(rows) == ["beside", "plain", "folded", "bfloat16"]
    for name in ("plain", "folded", "bfloat16"):
        assert (rows[name][2:] == ["0.0e+00", "1.0000"]) == (name == same)
