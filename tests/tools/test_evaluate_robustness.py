"""The robustness protocol end to end at tiny size."""

import json
from collections.abc import Iterator

import pytest

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets.build import ensure_registered
from smmcl.evaluation.robustness import Condition

DATASET = "synthetic_night_val@64x96"


@pytest.fixture
def few_pairs() -> Iterator[str]:
    """The name of a dataset of two pairs."""
    ensure_registered([DATASET])
    facts = MetadataCatalog.get(DATASET).as_dict()
    DatasetCatalog.register("few_pairs", lambda: DatasetCatalog.get(DATASET)[:2])
    MetadataCatalog.get("few_pairs").set(**{**facts, "name": "few_pairs"})
    yield "few_pairs"
    DatasetCatalog.remove("few_pairs")
    MetadataCatalog.remove("few_pairs")


def test_one_table_and_one_plot(call_tool, run_folder, few_pairs, tmp_path, capsys) -> None:
    call_tool(
        "evaluate_robustness", "--config-file", run_folder / "config.yaml", "--quick",
        "OUTPUT_DIR", tmp_path, "MODEL.WEIGHTS", run_folder / "model_final.pth",
        "DATASETS.TEST", (few_pairs,),
    )  # fmt: skip
    assert "| sem_seg_unlit | auxiliary | shift" in capsys.readouterr().out
    folder = tmp_path / "inference" / few_pairs
    content = json.loads((folder / "robustness.json").read_text())
    assert content["protocol"]["checkpoint"] == str(run_folder / "model_final.pth")
    whole = json.loads((folder / "evaluation.json").read_text())
    assert content["clean"]["sem_seg"] == whole["results"]["sem_seg"]["mIoU"]
    assert len(content["conditions"]) == 12 * 3
    assert {path.suffix for path in folder.glob("robustness.*")} == {
        ".csv", ".json", ".md", ".png", ".svg"}  # fmt: skip


def test_an_interrupted_run_continues_to_the_same_table(
    call_tool, run_folder, tmp_path, capsys, monkeypatch
) -> None:
    measured, real = [], Condition.__call__

    def call(name: str, *, stops_after: int | None = None) -> str:
        def spoil(condition: Condition, inputs: dict) -> dict:
            if condition not in measured:
                if len(measured) == stops_after:
                    raise ValueError("the machine was needed for something else")
                measured.append(condition)
            return real(condition, inputs)

        monkeypatch.setattr(Condition, "__call__", spoil)
        measured.clear()
        call_tool(
            "evaluate_robustness", "--checkpoint", run_folder / "model_final.pth", "--config-file",
            run_folder / "config.yaml", "--quick", "--limit", 1, "OUTPUT_DIR", tmp_path / name,
        )  # fmt: skip
        return capsys.readouterr().out.rpartition("robustness.*")[0]

    with pytest.raises(SystemExit):
        call("stopped", stops_after=5)
    path = tmp_path / "stopped/inference" / DATASET / "first_1/robustness.json"
    # Scores of some pairs do not replace those of all.
    assert not (path.parents[1] / "evaluation.json").exists()
    assert len(json.loads(path.read_text())["conditions"]) == 5
    capsys.readouterr()
    continued = call("stopped")
    assert len(measured) == 12 * 3 - 5
    assert json.loads(path.read_text())["protocol"]["pairs"].startswith("sem_seg 1")
    assert continued[continued.index("| task ") :] in call("whole")
    assert len(measured) == 12 * 3
    # Scores of other weights do not count.
    path.write_text(path.read_text().replace('"clean": {', '"clean": {"sem_seg_other": 1,'))
    call("stopped")
    assert len(measured) == 12 * 3


def test_sensor_failures_have_a_table_of_their_own(call_tool, run_folder, tmp_path, capsys) -> None:
    call_tool(
        "evaluate_robustness", "--failures", "--checkpoint", run_folder / "model_final.pth",
        "--config-file", run_folder / "config.yaml", "--limit", 2, "OUTPUT_DIR", tmp_path,
    )  # fmt: skip
    assert "| EMM Avg" in capsys.readouterr().out
    content = json.loads((tmp_path / "inference" / DATASET / "first_2/failures.json").read_text())
    assert len(content["conditions"]) == 2 + 3 * 2 + 3
    means = content["results"]["sem_seg"]
    dead = {row["sensors"]: row["mIoU"]["sem_seg"] for row in content["conditions"][:2]}
    wanted = (content["clean"]["sem_seg"] + dead["visible"] + dead["auxiliary"]) / 3
    assert means["EMM Avg"] == pytest.approx(wanted)
    assert dead["visible"] != dead["auxiliary"]


def test_failures_have_no_severities(call_tool, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        call_tool("evaluate_robustness", "--failures", "--quick", "OUTPUT_DIR", tmp_path)
    assert "--quick: not allowed with argument --failures" in capsys.readouterr().err
