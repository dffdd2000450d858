"""The report end to end: one run, two runs, runs that cannot be compared."""

import json
import pathlib
import shutil
import subprocess

import pytest
import torch

from smmcl.evaluation.report import Report
from smmcl.evaluation.robustness import Robustness, all_conditions

DATASET = "synthetic_night_val@64x96"
CLASSES = [f"class {index}" for index in range(9)]


@pytest.fixture
def evaluated(run_folder, tmp_path):
    """A function that makes the folder of a run with results, and returns it."""

    def make(
        name: str, *, hits: int = 3, pairs: str = "sem_seg 2", gain: tuple = (0.0, 0.0, 0.0)
    ) -> pathlib.Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.yaml", "model_final.pth"):
            (folder / file).symlink_to(run_folder / file)
        counts = torch.eye(9, dtype=torch.int64) * hits + 1
        protocol = {"dataset": DATASET, "pairs": pairs, "checkpoint": f"{name}.pth"}
        ious = {"00000": 30.0 + gain[0], "00001": 70.0 + gain[1], "00002": 50.0 + gain[2]}
        report = Report(protocol, CLASSES, {"sem_seg": counts}, "present", [], ious)
        report.save(folder / "inference" / DATASET)
        lines = [{"iteration": i, "total_loss": 2.0 - i / 40, "loss_x": 1.0} for i in (19, 39)]
        lines[1]["sem_seg/mIoU"] = float("nan")
        (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return make


def test_two_runs_side_by_side(call_tool, evaluated, capsys) -> None:
    first, second = evaluated("baseline"), evaluated("smmcl", hits=30, gain=(-20.0, 15.0, 0.0))
    call_tool("make_report", first, second, "--pairs", 1)
    assert str(first / "report.html") in capsys.readouterr().out
    text = (first / "report.html").read_text()
    # IoU of a class: (hits + 1) / (2 * (hits + 9) - (hits + 1)): 4 / 20 and 31 / 47.
    assert "<td>20.00</td>" in text
    assert "<b>65.96</b>" in text
    # Two pairs, each with two images, the truth and two predictions.
    assert text.count("data:image/webp") == 10
    gain, loss = text.index("smmcl gains most over baseline"), text.index("loses most to baseline")
    assert gain < text.index("Pair 00001: mIoU") < loss < text.index("Pair 00000: mIoU")
    assert "not comparable" not in text  # other checkpoints, but one protocol
    assert "Robustness" not in text
    assert "Cost" not in text


def test_a_run_called_truth_leaves_the_truth_in_place(call_tool, evaluated) -> None:
    folder = evaluated("truth")
    call_tool("make_report", folder, "--pairs", 1)
    assert (folder / "report.html").read_text().count("<figcaption>truth</figcaption>") == 4


def test_the_only_loss_of_a_baseline_stands_beside_that_of_others(call_tool, evaluated) -> None:
    folder = evaluated("baseline")
    lines = [{"iteration": i, "total_loss": 2.0 - i / 40} for i in (19, 39)]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    call_tool("make_report", folder, "--pairs", 0)
    assert "Segmentation loss" in (folder / "report.html").read_text()


def test_robustness_and_cost_where_they_were_measured(call_tool, evaluated) -> None:
    folders = evaluated("baseline"), evaluated("smmcl")
    spoilt = {one: {"sem_seg": 40.0 / one.severity} for one in all_conditions([1, 5])}
    found = Robustness({"dataset": DATASET}, {"sem_seg": 80.0}, spoilt)
    found.save(folders[1] / "inference" / DATASET)
    (folders[1] / "cost.md").write_text("| part | ms |\n|---|---|\n| head | 7.5 |\n")
    call_tool("make_report", *folders, "--pairs", 0)
    text = (folders[0] / "report.html").read_text()
    # Twelve corruptions and their mean, of the second run alone.
    assert text.count("<td>-</td><td>80.0, 40.0, 8.0</td>") == 13
    assert "auxiliary: over exposure" in text
    assert "Mean of all corruptions" in text
    assert "<pre>| part | ms |" in text


def test_different_protocols_are_said(call_tool, evaluated, tmp_path) -> None:
    folders = evaluated("all"), evaluated("half", pairs="sem_seg 1")
    output = tmp_path / "new" / "r.html"
    call_tool("make_report", *folders, "--pairs", 0, "--output", output)
    assert "different pairs" in output.read_text()
    assert "data:image/webp" not in output.read_text()


def test_a_folder_without_results_ends_in_a_sentence(call_tool, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as leaving:
        call_tool("make_report", tmp_path)
    assert leaving.value.code == 2
    assert "holds no inference/<dataset>/evaluation.json" in capsys.readouterr().err


def test_a_browser_shows_it(call_tool, evaluated, tmp_path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    folder = evaluated("run")
    call_tool("make_report", folder, "--pairs", 0)
    shot = tmp_path / "shot.png"
    options = ["--headless", "--no-sandbox", "--enable-logging=stderr", f"--screenshot={shot}"]
    done = subprocess.run(
        [browser, *options, (folder / "report.html").as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert shot.stat().st_size > 10_000
    assert "CONSOLE" not in done.stderr
