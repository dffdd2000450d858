"""Grids: what a file says becomes jobs in order, and what does not fit is answered by name."""

import re
from pathlib import Path

import pytest

from smmcl.engine.grid import flat, read_grid

ROOT = Path(__file__).resolve().parents[2]
GRID = """
base: synthetic_night.yaml
keys: {SOLVER.MAX_ITER: 6}
seeds: [0, 1]
rows:
  baseline: {keys: {MODEL.CONTRAST.NAME: ""}}
  SMMCL:
  "weights 0.05": {keys: {MODEL.SMMCL.CROSS_MODAL.WEIGHT: 0.05}, seeds: [1]}
extra:
  swapped: {INPUT.AUXILIARY_ABLATION: swap}
  robustness: true
"""


def write(folder: Path, text: str, name: str = "night.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_first_seeds_come_first(tmp_path: Path) -> None:
    grid = read_grid(write(tmp_path, GRID), output=tmp_path)
    assert [str(job) for job in grid.jobs] == [
        "baseline, seed 0", "SMMCL, seed 0", "weights 0.05, seed 1",
        "baseline, seed 1", "SMMCL, seed 1",
    ]  # fmt: skip
    assert grid.jobs[2].folder == tmp_path / "weights_0_05/seed1"
    assert str(read_grid(tmp_path / "night.yaml").folder) == "output/experiments/night"


def test_a_job_is_the_command_line_of_its_run(tmp_path: Path) -> None:
    first, _, third, *_ = read_grid(write(tmp_path, GRID), output=tmp_path).jobs
    assert first.options() == [
        "--config-file", "synthetic_night.yaml", "SOLVER.MAX_ITER", "6", "MODEL.CONTRAST.NAME", "",
        "SEED", "0", "OUTPUT_DIR", str(tmp_path / "baseline/seed0"),
    ]  # fmt: skip
    cfg = third.config()
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.MODEL.CONTRAST.NAME) == (1, 6, "SMMCL")
    assert cfg.MODEL.SMMCL.CROSS_MODAL.WEIGHT == 0.05
    assert third.extra == {"swapped": ("INPUT.AUXILIARY_ABLATION", "swap"), "robustness": 0}
    assert third.waiting() == ["training", "swapped", "robustness"]


def test_a_grid_may_change_another(tmp_path: Path) -> None:
    write(tmp_path, GRID)
    text = "_BASE_: night.yaml\nkeys: {SOLVER.MAX_ITER: 9}\nrows: {SMMCL: {seeds: [5]}}\n"
    grid = read_grid(write(tmp_path, text, "long.yaml"))
    assert list(grid.rows) == ["baseline", "SMMCL", "weights 0.05"]
    assert [job.seed for job in grid.of_row("SMMCL")] == [5]
    assert all(job.config().SOLVER.MAX_ITER == 9 for job in grid.jobs)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds: [0, 1]", "seed: [0]", "has the key 'seed'. Use base, keys, seeds, rows"),
        ("seeds: [0, 1]", "seeds: 3", "seeds is 3. Write a list"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "has the seeds [0, 0]. List whole numbers"),
        ("seeds: [0, 1]", "seeds: [-1]", "has the seeds [-1]"),
        ("seeds: [0, 1]", "score: []", "score is []. List scores such as sem_seg/mIoU"),
        ("seeds: [0, 1]", "score: [mIoU]", "score is ['mIoU']. List scores"),
        ("seeds: [0, 1]", "cost: [480]", "cost is [480]. Write the pair's height and width"),
        ("base: synthetic_night.yaml", "", "row baseline has no config. Give it one, or the grid"),
        ("base: synthetic_night.yaml", "base: nigth.yaml", "config file nigth.yaml does not"),
        ("  SMMCL:", "  SMMCL: 5", "row SMMCL is 5. Give it keys: config, keys, seeds."),
        ('"weights 0.05"', "smmcl!SMMCL?", "row smmcl!SMMCL?: the command line sets MODEL.SMCL"),
        ('"weights 0.05"', '"SMMCL "', "'SMMCL' and 'SMMCL ' would share a folder"),
        ("{SOLVER.MAX_ITER: 6}", "{SOLVER: {MAX_ITER: 6}}", "Write whole keys, such as SOLVER.MAX"),
        ("{SOLVER.MAX_ITER: 6}", "{SEED: 6}", "sets SEED, which the runner sets"),
        ("{SOLVER.MAX_ITER: 6}", "{SOLVER.MAX_ITERS: 6}", "Did you mean SOLVER.MAX_ITER?"),
        ("ABLATION: swap", "ABLATIONS: swap", "extra swapped: the command line sets INPUT.AUX"),
        ("robustness: true", "robustness: -3", "robustness is -3. Set it to true, or to a number"),
        ("robustness: true", "robustness: {}", "robustness is {}. Set it to true"),
        ("{SOLVER.MAX_ITER: 6}", "{DATASETS.TEST: []}", "has 0 datasets in DATASETS.TEST"),
        (GRID[GRID.index("rows") : GRID.index("extra")], "", "has no rows. Give at least one"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = GRID.replace(old, new)
    if "smmcl!" in new:
        text = text.replace("MODEL.SMMCL.CROSS", "MODEL.SMCL.CROSS")
    assert text != GRID
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(words)) as caught:
        read_grid(write(tmp_path, text))
    assert "night.yaml" in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("SOLVER.MAX_ITER", 25), ("INPUT.FLIP", 0.25)])
def test_a_run_of_another_config_is_told(tmp_path: Path, key: str, value: float) -> None:
    job = read_grid(write(tmp_path, GRID), output=tmp_path).jobs[0]
    config = flat(job.config())
    job.note({"config": config, "sessions": [], "done": True})
    job.check()
    job.note({"config": {**config, key: value}, "sessions": [], "done": True})
    with pytest.raises(ValueError, match=rf"made with {re.escape(f'{key} {value} (now')}.*Move "):
        job.check()


def test_a_run_of_an_older_version_goes_on(tmp_path: Path) -> None:
    job = read_grid(write(tmp_path, GRID), output=tmp_path).jobs[0]
    config = {**flat(job.config()), "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR"}
    del config["INPUT.AUXILIARY_ABLATION"]  # a key that did not exist
    job.note({"config": config, "sessions": [], "done": True})
    job.check()


def test_a_folder_of_another_run_is_not_entered(tmp_path: Path) -> None:
    job = read_grid(write(tmp_path, GRID), output=tmp_path).jobs[0]
    job.folder.mkdir(parents=True)
    (job.folder / "config.yaml").touch()
    with pytest.raises(ValueError, match="holds a run that is none of the grid's"):
        job.check()


GRIDS = sorted((ROOT / "configs/experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_shipped_grids_resolve(path: Path) -> None:
    text = path.read_text()
    if path.name.startswith("Base-"):
        assert "Not runnable by itself" in text
        return
    grid = read_grid(f"experiments/{path.name}")
    assert len(grid.rows) > 1
    assert f"# Command: smmcl experiments configs/experiments/{path.name}\n" in text
    assert "# Cost: " in text
