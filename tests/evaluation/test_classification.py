"""Scores of a classifier: counted by hand, by tag, gathered, in files, by the trainer."""

import json
import pathlib

import pytest
import torch

from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog, MetadataCatalog, comm
from smmcl.engine.trainer import Trainer
from smmcl.evaluation.classification import ClassificationEvaluator
from smmcl.evaluation.report import Report
from smmcl.evaluation.sem_seg import PairSemSegEvaluator

CLASSES = [f"c{i}" for i in range(7)]


@pytest.fixture(scope="module", autouse=True)
def _dataset():
    DatasetCatalog.register("seven", list)
    MetadataCatalog.get("seven").set(stuff_classes=CLASSES, evaluator_type="classification")
    yield
    DatasetCatalog.remove("seven")
    MetadataCatalog.remove("seven")


def process(evaluator: ClassificationEvaluator, cases: list[tuple[int, list[int], str]]) -> None:
    """Each case: the truth, the classes by falling score, a tag."""
    for index, (truth, order, tag) in enumerate(cases):
        scores = torch.zeros(7)
        for rank, name in enumerate(order):
            scores[name] = 7.0 - rank
        record = {"image_id": f"{index}", "class_id": truth, "tags": [tag], "height": 4, "width": 6}
        evaluator.process([record], [{"scores": scores}])


CASES = [
    (0, [0, 1, 2, 3, 4, 5, 6], "day"),  # right
    (0, [1, 2, 3, 4, 0, 5, 6], "day"),  # fifth
    (1, [6, 5, 4, 3, 2, 1, 0], "night"),  # sixth
    (2, [2, 1, 0, 3, 4, 5, 6], "night"),  # right
]


def test_scores_by_hand_and_files(tmp_path: pathlib.Path) -> None:
    evaluator = ClassificationEvaluator("seven", output_folder=tmp_path)
    process(evaluator, CASES)
    results = evaluator.evaluate()
    assert results == {
        "classification": {
            "top1": 50.0, "top5": 75.0, "mACC": pytest.approx(50.0),
            "ACC-c0": 50.0, "ACC-c1": 0.0, "ACC-c2": 100.0,
        },
        "classification_day": {"top1": 50.0, "top5": 100.0, "mACC": 50.0, "ACC-c0": 50.0},
        "classification_night": {
            "top1": 50.0, "top5": 50.0, "mACC": 50.0, "ACC-c1": 0.0, "ACC-c2": 100.0,
        },
    }  # fmt: skip
    content = Report.read(tmp_path / "evaluation.json")
    assert content["results"] == json.loads(json.dumps(results))
    confusion = torch.tensor(content["confusion"]["classification"])
    assert confusion.shape == (7, 7)
    assert (confusion[0, 0], confusion[0, 1], confusion[1, 6], confusion[2, 2]) == (1, 1, 1, 1)
    assert confusion.sum() == 4
    assert "4x6" in content["protocol"]["resolution"]
    assert "| classification " in (tmp_path / "evaluation.md").read_text()
    assert "ACC classification" in evaluator.report.text()


def test_processes_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluators = [ClassificationEvaluator("seven") for _ in range(3)]
    process(evaluators[0], CASES)
    process(evaluators[1], CASES[:1])
    process(evaluators[2], CASES[1:])
    shares: list = []
    monkeypatch.setattr(comm, "all_gather", lambda share: shares.append(share) or [share])
    evaluators[1].evaluate()
    monkeypatch.setattr(comm, "all_gather", lambda share: [*shares, share])
    split = evaluators[2].evaluate()
    monkeypatch.setattr(comm, "all_gather", lambda share: [share])
    assert split == evaluators[0].evaluate()


def test_fewer_than_five_classes_and_no_image() -> None:
    assert ClassificationEvaluator("seven").evaluate() == {}
    MetadataCatalog.get("two").set(stuff_classes=["a", "b"])
    DatasetCatalog.register("two", list)
    evaluator = ClassificationEvaluator("two")
    record = {"image_id": "0", "class_id": 1, "height": 4, "width": 4}
    evaluator.process([record], [{"scores": torch.tensor([1.0, 0.0])}])
    assert evaluator.evaluate()["classification"]["top5"] == 100
    DatasetCatalog.remove("two")
    MetadataCatalog.remove("two")


def test_the_trainer_chooses_by_the_dataset() -> None:
    cfg = build_config(overrides=["DATASETS.TEST", ("seven",)])
    assert isinstance(Trainer.build_evaluator(cfg, "seven"), ClassificationEvaluator)
    other = Trainer.build_evaluator(cfg, "synthetic_night_val")
    assert type(other) is PairSemSegEvaluator
    saving = build_config(overrides=["TEST.SAVE_PREDICTIONS", "predictions"])
    with pytest.raises(ValueError, match="smmcl predict --dataset seven"):
        Trainer.build_evaluator(saving, "seven")
