"""The evaluator: hand-computed scores per tag, shares of several processes, and its statement."""

import csv
import json
import logging
import uuid

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask

from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog, EventStorage, MetadataCatalog, comm
from smmcl.evaluation.sem_seg import PairSemSegEvaluator, _state_inference, check_result_folders

# Stored labels: 0 void, 1..3 the classes.
TRUTHS = [[[1, 1, 2, 0]], [[1, 2, 2, 2]]]
PREDICTIONS = [[[0, 1, 1, 1]], [[0, 1, 1, 0]]]


@pytest.fixture
def dataset(tmp_path):
    """Registers two pairs, one by day and one by night; returns a function of further facts."""
    names = []

    def register(**facts):
        name = f"pairs_{uuid.uuid4().hex}"
        records = []
        for index, (truth, tag) in enumerate(zip(TRUTHS, ("day", "night"), strict=True)):
            path = tmp_path / f"{index}.png"
            Image.fromarray(np.array(truth, np.uint8)).save(path)
            records.append(
                {"sem_seg_file_name": str(path), "image_id": f"room/{index}", "tags": [tag]}
            )
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(
            **{"stuff_classes": ["floor", "wall", "lamp"], "ignore_label": 255, "label_offset": 1,
               "stuff_colors": [[9, 9, 9], [80, 0, 0], [0, 80, 0]], "stored_ignore": 0,
               "absent_from_mean": [], **facts}
        )  # fmt: skip
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def scores_of(prediction):
    """Class scores, (3, H, W), whose maximum is the prediction."""
    return torch.nn.functional.one_hot(torch.tensor(prediction), 3).permute(2, 0, 1).float()


def run(evaluator, name, pairs=(0, 1)):
    records = DatasetCatalog.get(name)
    for index in pairs:
        evaluator.process([records[index]], [{"sem_seg": scores_of(PREDICTIONS[index])}])
    return evaluator


def test_scores_by_hand(dataset):
    name = dataset()
    results = run(PairSemSegEvaluator(name), name).evaluate()
    assert list(results) == ["sem_seg", "sem_seg_day", "sem_seg_night"]
    # Day, truth 0 0 1 -: predicted 0 1 1: IoU 1/2 and 1/2.
    assert results["sem_seg_day"]["mIoU"] == pytest.approx(50)
    assert results["sem_seg_day"]["pACC"] == pytest.approx(200 / 3)
    # Night, truth 0 1 1 1: predicted 0 1 1 0: IoU 1/2 and 2/3.
    assert results["sem_seg_night"]["IoU-wall"] == pytest.approx(200 / 3)
    assert results["sem_seg_night"]["mIoU"] == pytest.approx(175 / 3)
    # Together class 0: 2 of 4, class 1: 3 of 5.
    assert results["sem_seg"]["mIoU"] == pytest.approx(55)
    assert results["sem_seg"]["ACC-floor"] == pytest.approx(200 / 3)


def test_scores_without_pixels_are_left_out(dataset):
    name = dataset()
    results = run(PairSemSegEvaluator(name), name).evaluate()
    assert "IoU-lamp" not in results["sem_seg"]
    assert "NaN" not in json.dumps(results)


def test_absent_rule_reaches_the_mean(dataset):
    name = dataset()
    results = run(PairSemSegEvaluator(name, absent_rule="zero"), name).evaluate()
    assert results["sem_seg"]["mIoU"] == pytest.approx(110 / 3)


def test_excluded_class_is_named_and_the_other_mean_stands_beside(dataset):
    name = dataset(absent_from_mean=["floor"])
    results = run(PairSemSegEvaluator(name), name).evaluate()
    assert results["sem_seg"]["mIoU"] == pytest.approx(60)
    assert results["sem_seg"]["mIoU_all"] == pytest.approx(55)


def test_shares_of_two_processes_are_added(dataset, monkeypatch):
    name = dataset()
    whole = run(PairSemSegEvaluator(name), name).evaluate()
    shares = []
    monkeypatch.setattr(comm, "all_gather", lambda share: shares.append(share) or shares)
    run(PairSemSegEvaluator(name), name, pairs=[0]).evaluate()
    second = run(PairSemSegEvaluator(name), name, pairs=[1]).evaluate()
    assert second == whole


def test_only_the_main_process_returns(dataset, monkeypatch):
    name = dataset()
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert run(PairSemSegEvaluator(name), name).evaluate() is None


def test_reset_forgets(dataset):
    name = dataset()
    evaluator = run(PairSemSegEvaluator(name), name)
    evaluator.reset()
    results = run(evaluator, name, pairs=[0]).evaluate()
    assert list(results) == ["sem_seg", "sem_seg_day"]


def test_protocol_is_stated(dataset, caplog):
    name = dataset(absent_from_mean=["floor"])
    evaluator = PairSemSegEvaluator(name, protocol={"window": "whole image"})
    with caplog.at_level(logging.INFO, logger="smmcl"):
        run(evaluator, name).evaluate()
    for words in (
        f"dataset: {name}",
        "pairs: sem_seg 2, sem_seg_day 1, sem_seg_night 1",
        "resolution: 1x4",
        "absent classes: present (mean over the classes in truth or prediction)",
        "excluded from means: floor",
        "window: whole image",
        "mIoU_all",
    ):
        assert words in caplog.text


def test_protocol_of_windows_scales_and_mirror_images():
    keys = ("SLIDING.ENABLED", True, "SLIDING.SIZE", [48, 64], "SLIDING.OVERLAP", 0.25,
            "AUG.ENABLED", True, "AUG.SCALES", [0.5, 1.0], "AUG.FLIP", True)  # fmt: skip
    overrides = [f"TEST.{key}" if isinstance(key, str) else key for key in keys]
    stated = _state_inference(build_config(overrides=[*overrides, "MODEL.WEIGHTS", "w.pth"]))
    assert stated["window"] == "48x64, each overlapping the next by a share of 0.25 or more"
    assert stated["scales"] == "0.5, 1"  # as the scale of a plain evaluation is written
    assert stated["flip"] == "yes"
    assert stated["sum"] == "of softmax"
    assert stated["checkpoint"] == "w.pth"
    plain = _state_inference(build_config("Base-SMMCL.yaml"))
    assert (plain["window"], plain["scales"], plain["flip"]) == ("whole image", "1", "no")
    assert plain["sum"] == "none, one forward a pair"
    assert plain["images"] == "as stored"
    dark = ["INPUT.LOW_LIGHT.PROBABILITY", 0.5, "INPUT.CHANGED_AT_TEST", True]
    assert "LowLight(probability=0.5" in _state_inference(build_config(overrides=dark))["images"]


def test_in_training_the_checkpoint_is_the_iteration():
    cfg = build_config(overrides=["MODEL.WEIGHTS", "imagenet.pth", "OUTPUT_DIR", "output/run"])
    with EventStorage(120):
        assert _state_inference(cfg)["checkpoint"] == "iteration 120 of the run in output/run"


def test_subset_of_the_published_split_is_said_so(dataset, caplog):
    name = dataset(num_images=393)
    with caplog.at_level(logging.INFO, logger="smmcl"):
        run(PairSemSegEvaluator(name), name).evaluate()
    assert "(published: 393, so not comparable)" in caplog.text


def test_the_other_rule_stands_beside_where_it_differs(dataset, caplog):
    name = dataset()
    with caplog.at_level(logging.INFO, logger="smmcl"):
        run(PairSemSegEvaluator(name), name).evaluate()
        assert "by rule" not in caplog.text
        run(PairSemSegEvaluator(name, absent_rule="zero"), name).evaluate()
    assert "mIoU by rule 'truth'" in caplog.text
    assert "55.00" in caplog.text


def test_predictions_are_saved_in_the_datasets_own_ids(dataset, tmp_path):
    name = dataset()
    cfg = build_config(overrides=["OUTPUT_DIR", str(tmp_path), "TEST.SAVE_PREDICTIONS", "saved"])
    run(PairSemSegEvaluator(cfg, name), name).evaluate()
    folder = tmp_path / "saved" / name
    assert np.asarray(Image.open(folder / "labels/room/1.png")).tolist() == [[1, 2, 2, 1]]
    colors = np.asarray(Image.open(folder / "colors/room/1.png"))
    assert colors[0, :2].tolist() == [[9, 9, 9], [80, 0, 0]]
    entries = json.loads((folder / "predictions.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [
        ("room/0", 1), ("room/0", 2), ("room/1", 1), ("room/1", 2)]  # fmt: skip
    assert mask.decode(entries[3]["segmentation"]).tolist() == [[0, 1, 1, 0]]


@pytest.mark.parametrize("place", ["/elsewhere", "../elsewhere", "a/../../b", "C:\\b"])
def test_saved_predictions_stay_in_the_output_folder(place):
    cfg = build_config(overrides=["TEST.SAVE_PREDICTIONS", place])
    with pytest.raises(ValueError, match=r"TEST\.SAVE_PREDICTIONS: .* is no path inside"):
        check_result_folders(cfg)


@pytest.mark.parametrize("names", [("a/b.yaml:val", "a_b.yaml:val"), ("a@128x160", "a@128x160")])
def test_datasets_that_would_share_a_folder_are_refused(names):
    cfg = build_config(overrides=["DATASETS.TEST", names])
    with pytest.raises(ValueError, match="whose results would both be written to a"):
        check_result_folders(cfg)


def test_report_is_saved(dataset, tmp_path):
    name = dataset(absent_from_mean=["floor"])
    cfg = build_config(overrides=["OUTPUT_DIR", str(tmp_path)])
    results = run(PairSemSegEvaluator(cfg, name), name).evaluate()
    folder = tmp_path / "inference" / name
    content = json.loads((folder / "evaluation.json").read_text())
    assert content["results"] == results
    assert content["confusion"]["sem_seg_day"] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert content["protocol"]["excluded from means"] == "floor"
    # Without the floor the first pair has the wall alone, 1 of 2 pixels; the second 2 of 3.
    assert content["pairs"] == pytest.approx({"room/0": 50, "room/1": 200 / 3})
    with (folder / "evaluation.csv").open() as file:
        rows = {(row["task"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}
    assert rows["sem_seg", "mIoU_all"] == pytest.approx(55)
    assert "| sem_seg_night |" in (folder / "evaluation.md").read_text()


def test_prediction_of_another_size(dataset):
    name = dataset()
    record = DatasetCatalog.get(name)[0]
    with pytest.raises(ValueError, match="resolution of the label"):
        PairSemSegEvaluator(name).process([record], [{"sem_seg": torch.zeros(3, 2, 2)}])


def test_nothing_processed_has_no_result(dataset):
    assert PairSemSegEvaluator(dataset()).evaluate() == {}
