"""The table of an experiment: statistics by hand, and what stands where runs are missing."""

import json
from pathlib import Path

import numpy as np
import pytest

from smmcl.engine.grid import Grid, read_grid
from smmcl.evaluation.comparison import (
    FAILURES,
    Comparison,
    bootstrap,
    compare,
    measure_costs,
    put_into,
)

GRID = """
base: synthetic_night.yaml
seeds: [0, 1, 2]
rows:
  baseline: {keys: {MODEL.CONTRAST.NAME: ""}}
  SMMCL: {}
  RegionContrast: {keys: {MODEL.CONTRAST.NAME: RegionContrast}, seeds: [0]}
score: [sem_seg/mIoU, sem_seg_night/mIoU]
extra:
  swapped: {INPUT.AUXILIARY_ABLATION: swap}
  robustness: true
"""
SCORES = {"baseline": (30.0, 32.0, 34.0), "SMMCL": (31.0, 32.5, 36.0)}


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    (tmp_path / "night.yaml").write_text(GRID)
    return read_grid(tmp_path / "night.yaml", output=tmp_path / "out")


def finish(grid: Grid, row: str, seed: int, score: float, *, done: bool = True) -> None:
    """Writes what a finished run leaves."""
    job = next(job for job in grid.of_row(row) if job.seed == seed)
    session = {"commit": f"c{seed}", "machine": "a CPU", "seconds": 600.0}
    job.note({"config": {}, "sessions": [session], "done": done})
    write(job.folder / "inference/set/evaluation.json", {
        "protocol": {"dataset": "set", "window": "whole image"},
        "results": {"sem_seg": {"mIoU": score}, "sem_seg_night": {"mIoU": score - 1}},
    })  # fmt: skip


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))


def finish_all(grid: Grid) -> None:
    for row, scores in SCORES.items():
        for seed, score in enumerate(scores):
            finish(grid, row, seed, score)


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_statistics_by_hand() -> None:
    cell = compare({0: 31.0, 1: 32.5, 2: 36.0}, {0: 30.0, 1: 32.0, 2: 34.0})
    assert cell.mean == pytest.approx(99.5 / 3)
    # Deviations -2.1667, -0.6667, 2.8333: squares 4.694 + 0.444 + 8.028, over 2.
    assert cell.spread == pytest.approx(np.sqrt(13.1667 / 2), abs=1e-4)
    assert cell.difference == pytest.approx((1.0 + 0.5 + 2.0) / 3)
    assert cell.texts()[0] == "33.17 \u00b1 2.57"
    assert cell.texts()[1].startswith("+1.17 [+0.50, +2.0")


def test_differences_are_of_equal_seeds() -> None:
    cell = compare({1: 5.0, 7: 9.0}, {1: 4.0, 2: 90.0})
    assert (cell.difference, cell.interval, cell.spread) == (1.0, None, pytest.approx(np.sqrt(8)))
    assert compare({3: 1.0}, {1: 4.0}).difference is None
    assert compare({3: 1.0}, None).texts() == ("1.00", "")


def test_bootstrap_by_hand() -> None:
    # The mean of two draws from -1 and 1 is -1, 0 or 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap(np.array([-1.0, 1.0])) == (-1.0, 1.0)
    assert bootstrap(np.array([2.0, 2.0, 2.0])) == (2.0, 2.0)
    assert bootstrap(np.array([2.0])) is None
    # Of many seeds the interval is that of the normal distribution, 1.96 / sqrt(400) = 0.098.
    many = np.random.default_rng(1).standard_normal(400)
    low, high = bootstrap(many)
    assert (high - low) / 2 == pytest.approx(1.96 * many.std() / 20, rel=0.05)
    assert bootstrap(many) == (low, high)


def test_table(grid: Grid) -> None:
    finish_all(grid)
    text = Comparison(grid).markdown()
    head, _, baseline, ours, region = rows_of(text)
    assert head == ["row", "seeds", "mIoU", "difference", "night mIoU", "difference",
                    "swapped mIoU", "difference", "robustness mIoU", "difference",
                    "min a run"]  # fmt: skip
    assert baseline[:4] == ["baseline", "3 of 3", "32.00 \u00b1 2.00", ""]
    assert ours[1:3] == ["3 of 3", "33.17 \u00b1 2.57"]
    assert ours[3] == ours[5]  # all night scores are lower by 1
    assert ours[-1] == "10"
    assert region == ["RegionContrast", "0 of 1", *["not run", ""] * 4, "-"]
    assert "dataset: set" in text
    assert "seeds 0, 1, 2; commit c0, c1, c2; a CPU; 1.0 h of training" in text
    assert "- RegionContrast: with `MODEL.CONTRAST.NAME RegionContrast`" in text
    assert "- baseline: with `MODEL.CONTRAST.NAME ''`" in text


def test_unfinished_runs_do_not_count(grid: Grid) -> None:
    finish(grid, "baseline", 0, 30.0)
    finish(grid, "baseline", 1, 90.0, done=False)  # evaluated on its way
    assert rows_of(Comparison(grid).markdown())[2][1:4] == ["1 of 3", "30.00", ""]


def test_extra_evaluations(grid: Grid) -> None:
    finish_all(grid)
    folder = grid.of_row("SMMCL")[0].folder
    write(folder / "swapped/inference/set/evaluation.json", {"results": {"sem_seg": {"mIoU": 7}}})
    scores = {("visible", 1): 20, ("visible", 5): 10, ("auxiliary", 1): 30, ("auxiliary", 5): 20}
    spoilt = [
        {"image": i, "corruption": "missing", "severity": s, "seed": 0, "mIoU": {"sem_seg": score}}
        for (i, s), score in scores.items()
    ]
    content = {"protocol": {"dataset": "set"}, "clean": {"sem_seg": 31.0}, "conditions": spoilt}
    write(folder / "robustness/inference/set/robustness.json", content)
    ours = rows_of(Comparison(grid).markdown())[3]
    # The mean over conditions and severities, without the pairs as they are.
    assert (ours[6], ours[8]) == ("7.00", "20.00")


def test_csv(grid: Grid) -> None:
    finish_all(grid)
    comparison = Comparison(grid)
    comparison.save()
    lines = (grid.folder / "table.csv").read_text().splitlines()
    assert lines[0] == "row,score,seeds,mean,std,difference,low,high"
    assert lines[1] == "baseline,mIoU,0 1 2,32.0,2.0,,,"
    assert lines[5].startswith("SMMCL,mIoU,0 1 2,33.166")
    assert "RegionContrast,mIoU,,,,,," in lines
    assert (grid.folder / "table.md").read_text() == comparison.markdown()


def test_a_score_that_no_run_has(grid: Grid, tmp_path: Path) -> None:
    finish_all(grid)
    (tmp_path / "night.yaml").write_text(GRID.replace("sem_seg_night", "sem_seg_dusk"))
    with pytest.raises(ValueError, match=r"'sem_seg_dusk/mIoU'. Choose from sem_seg/mIoU, sem"):
        Comparison(read_grid(tmp_path / "night.yaml", output=tmp_path / "out"))


def test_costs_are_measured_once(grid: Grid, tmp_path: Path) -> None:
    (tmp_path / "night.yaml").write_text(GRID + "cost: [32, 64]\n")
    grid = read_grid(tmp_path / "night.yaml", output=tmp_path / "out")
    finish(grid, "SMMCL", 0, 30.0)
    measure_costs(grid)
    assert not grid.cost_file("baseline").exists()
    cost = json.loads(grid.cost_file("SMMCL").read_text())
    assert 8 < cost["parameters"] < 15
    assert 0 < cost["multiply_adds"] < 1
    grid.cost_file("SMMCL").write_text('{"parameters": 1, "multiply_adds": 2, "ms": 3}')
    measure_costs(grid)
    head, _, baseline, ours, _ = rows_of(Comparison(grid).markdown())
    assert head[-4:] == ["parameters M", "multiply-adds G", "ms", "min a run"]
    assert (ours[-4:], baseline[-4:]) == (["1.00", "2.00", "3.00", "10"], ["-"] * 4)


def test_tables_go_between_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    marks = "<!-- experiment a -->\nold\n<!-- end of a -->"
    page.write_text(f"one\n{marks}\ntwo\n<!-- experiment b -->\n<!-- end of b -->\n")
    put_into(page, "a", "new \\1\n")
    put_into(page, "a", "newer \\1\n")
    assert page.read_text() == (
        "one\n<!-- experiment a -->\nnewer \\1\n<!-- end of a -->\ntwo\n"
        "<!-- experiment b -->\n<!-- end of b -->\n"
    )
    with pytest.raises(ValueError, match=r"no place for the table.*<!-- experiment c -->"):
        put_into(page, "c", "")
    with pytest.raises(FileNotFoundError):
        put_into(tmp_path / "none.md", "a", "")


def test_a_grid_that_has_not_run_names_no_commit(tmp_path: Path) -> None:
    (tmp_path / "night.yaml").write_text(GRID)
    table = Comparison(read_grid(tmp_path / "night.yaml", output=tmp_path / "out")).markdown()
    assert table.rstrip().endswith("; no training yet.")


@pytest.mark.parametrize(("asked", "part"), [("true", ""), ("30", "first_30/")])
def test_sensor_failures_are_a_second_table(tmp_path: Path, asked: str, part: str) -> None:
    (tmp_path / "night.yaml").write_text(GRID.replace("robustness: true", f"failures: {asked}"))
    grid = read_grid(tmp_path / "night.yaml", output=tmp_path / "out")
    finish_all(grid)
    for seed, emm in enumerate((20.0, 22.0)):
        job = next(job for job in grid.of_row("SMMCL") if job.seed == seed)
        figures = dict.fromkeys(FAILURES, 1.0) | {"EMM Avg": emm}
        place = job.folder / f"failures/inference/set/{part}failures.json"
        write(place, {"results": {"sem_seg": figures}})
    text = Comparison(grid).markdown()
    assert ("Failures: on the first 30 pairs" in text) == (asked == "30")
    table = rows_of(text)
    place = next(i for i, cells in enumerate(table) if cells[1] == "EMM Avg")
    found = {cells[0]: cells[1:] for cells in table[place + 1 :]}
    assert found["SMMCL"] == ["21.00", *["1.00"] * (len(FAILURES) - 1)]
    assert set(found["baseline"]) == {"not run"}
