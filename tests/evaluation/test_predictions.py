"""Predictions read back: the same classes from every form, and what is no prediction."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from smmcl.data.format import AuxiliaryFormat
from smmcl.data.reader import PairReader
from smmcl.evaluation.predictions import PredictionWriter, open_predictions

# Stored labels: 0 no label, 1..3 the classes.
FACTS = {"label_offset": 1, "stored_ignore": 0, "num_classes": 3}
READER = PairReader(AuxiliaryFormat("thermal"), **FACTS)
PREDICTION = np.array([[0, 2, 2], [1, 1, 0]], np.uint8)


@pytest.fixture
def folder(tmp_path):
    writer = PredictionWriter(tmp_path, label_offset=1, colors=[[0, 0, 0]] * 3)
    writer.write(PREDICTION, "room/7")
    writer.finish()
    return tmp_path


@pytest.mark.parametrize("place", ["", "labels", "predictions.json"])
def test_every_form_gives_the_classes_back(folder, place):
    assert np.array_equal(open_predictions(folder / place, reader=READER)("room/7"), PREDICTION)


def test_images_that_count_from_another_number(tmp_path):
    Image.fromarray(PREDICTION).save(tmp_path / "7.png")
    read = open_predictions(tmp_path, reader=READER, label_offset=0)
    assert np.array_equal(read("7"), PREDICTION)
    # Read by the dataset's own ids, the first class would be "no label".
    with pytest.raises(ValueError, match=r"7\.png holds the values 0, but its dataset has 1\.\.3"):
        open_predictions(tmp_path, reader=READER)("7")


def test_pixels_that_no_mask_covers_have_no_class(folder):
    path = folder / "predictions.json"
    path.write_text(json.dumps([e for e in json.loads(path.read_text()) if e["category_id"] != 2]))
    read = open_predictions(path, reader=READER)
    assert read("room/7").tolist() == [[0, 2, 2], [255, 255, 0]]


@pytest.mark.parametrize("name", ["/elsewhere/7", "../7", "a/../../7", "C:/7", "a\\7"])
def test_no_prediction_leaves_its_folder(tmp_path, name):
    writer = PredictionWriter(tmp_path / "run", label_offset=1, colors=[[0, 0, 0]] * 3)
    with pytest.raises(ValueError, match=r"image_id: .* is no path inside its folder"):
        writer.write(PREDICTION, name)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"image_id: .* is no path inside its folder"):
        open_predictions(tmp_path, reader=READER)(name)


def test_stored_ids_above_255_keep_their_value(tmp_path):
    writer = PredictionWriter(tmp_path, label_offset=300, colors=[[0, 0, 0]] * 3)
    writer.write(PREDICTION, "7")
    read = open_predictions(tmp_path, reader=replace(READER, label_offset=300))
    assert np.array_equal(read("7"), PREDICTION)


def test_what_is_not_there(folder):
    with pytest.raises(ValueError, match=r"holds no prediction of room/8"):
        open_predictions(folder / "predictions.json", reader=READER)("room/8")
    with pytest.raises(FileNotFoundError, match="there are no predictions"):
        open_predictions(folder / "elsewhere", reader=READER)
