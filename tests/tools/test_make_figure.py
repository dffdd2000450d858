"""The figure end to end: a checkpoint, label images and RLE side by side, and wrong requests."""

import numpy as np
import pytest
from PIL import Image

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets.build import ensure_registered
from smmcl.evaluation.predictions import PredictionWriter

DATASET = "synthetic_night_val@64x96"


@pytest.fixture
def predictions(tmp_path):
    """Right answers of two pairs, as label images and as RLE."""
    ensure_registered([DATASET])
    facts = MetadataCatalog.get(DATASET)
    folder = tmp_path / "predicted"
    writer = PredictionWriter(folder, label_offset=facts.label_offset, colors=facts.stuff_colors)
    for record in DatasetCatalog.get(DATASET)[:2]:
        label = np.asarray(Image.open(record["sem_seg_file_name"]))
        writer.write(np.where(label == facts.stored_ignore, 0, label), record["image_id"])
    writer.finish()
    return folder


def test_methods_of_all_forms_side_by_side(call_tool, run_folder, predictions, tmp_path, capsys):
    methods = (
        f"model={run_folder / 'model_final.pth'}",
        f"images={predictions}",
        f"rle={predictions / 'predictions.json'}",
    )
    output = tmp_path / "new" / "figure.png"
    call_tool("make_figure", DATASET, *methods, "--pairs", "00000", "00001", "--output", output)
    assert f"2 pairs by 3 methods drawn into {output}" in capsys.readouterr().out
    picture = np.asarray(Image.open(output).convert("RGB")).astype(int)
    # Columns: visible, thermal, truth, model, images, RLE. The last two are the same and pale.
    columns = np.array_split(picture[30:250], 6, axis=1)
    width = min(column.shape[1] for column in columns)
    _, _, truth, model, images, rle = (column[:, 4 : width - 4] for column in columns)
    assert np.abs(images - rle).mean() < 6
    assert images.mean() > truth.mean() + 30
    assert np.abs(model - rle).mean() > 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("m=nowhere",), "there are no predictions nowhere"),
        (("m=zoo://nowhere",), "the zoo has no model 'nowhere'"),
        (("m=nowhere.safetensors",), "weights nowhere.safetensors do not exist"),
        (("m=.", "--pairs", "x"), "no pair is called x"),
        (("m=.",), "label image 00000.png does not exist"),
    ],
)
def test_wrong_requests_end_in_a_sentence(call_tool, tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as leaving:
        call_tool("make_figure", DATASET, *arguments, "--output", tmp_path / "f.png")
    assert leaving.value.code == 2
    assert words in capsys.readouterr().err
