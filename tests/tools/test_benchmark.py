"""The benchmark: its problems have the sizes it names, and what it compares computes the same."""

import argparse
import importlib.util
import pathlib
import types

import pytest

PATH = pathlib.Path(__file__).resolve().parents[2] / "tools" / "benchmark.py"


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
    rounds = [{"ours": 2.0, "products": 1.0, "whole": 3.0}] * 3
    cells = benchmark.row(4800, rounds, [64.4, None]).strip("| ").split(" | ")
    assert cells == ["4,800", "2.0000", "1.0000", "2.00", "-", "-", "3.0000", "-", "-", "64", "-"]


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
