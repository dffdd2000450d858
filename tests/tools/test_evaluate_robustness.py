"""The robustness protocol end to end at tiny size."""

import json
from collections.abc import Iterator

import pytest

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets.build import ensure_registered

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
