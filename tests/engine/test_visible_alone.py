"""Visible images alone, and a set without labels, from the dataset file to scores and pictures."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets.synthetic.build import render_pair
from smmcl.data.datasets.synthetic.night import CLASSES
from smmcl.engine.trainer import Trainer, evaluate
from smmcl.inference.predictor import Predictor

FILE = f"""
classes: [{", ".join(CLASSES)}]
stored_ignore: 255
splits: {{all: {{}}}}
layouts: [{{visible: "rgb/{{id}}.png", label: "ids/{{id}}.png"}}]
"""


@pytest.fixture
def street(tmp_path: pathlib.Path) -> pathlib.Path:
    for index in range(2):
        pair = render_pair("night", "val", index, size=(64, 96))
        for part, image in {"rgb": pair["visible"], "ids": pair["label"]}.items():
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / part / f"{index}.png")
    (tmp_path / "street.yaml").write_text(FILE)
    (tmp_path / "new.yaml").write_text(FILE.replace(', label: "ids/{id}.png"', ""))
    before = set(DatasetCatalog.list())
    yield tmp_path
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_train_evaluate_predict(tiny_config, street, call_tool, capsys) -> None:
    name = str(street / "street.yaml")
    keys = ["MODEL.PAIR.AUXILIARY.NAME", "", "MODEL.CONTRAST.NAME", "", "SOLVER.MAX_ITER", "3",
            "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"]  # fmt: skip
    cfg = tiny_config(street / "run", *keys)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    window = ["TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.SIZE", "[64, 64]"]
    for changes in ([], [*window, "TEST.AUG.ENABLED", "True"]):
        cfg = tiny_config(street / "run", *keys, *changes)
        assert 0 <= evaluate(cfg)["sem_seg"]["mIoU"] <= 100

    checkpoint = street / "run/model_final.pth"
    predictor = Predictor.from_checkpoint(checkpoint)
    visible = np.asarray(Image.open(street / "rgb/0.png"))
    assert predictor(visible).labels.shape == (64, 96)
    assert predictor.visualize(visible).width > 2 * 96
    with pytest.raises(ValueError, match=r"trained on visible images alone.*Leave it out"):
        predictor(visible, visible)

    new = str(street / "new.yaml")
    places = ("--checkpoint", checkpoint, "--output", street / "out", "--dataset", new)
    call_tool("demo", *places)
    assert "2 pairs predicted" in capsys.readouterr().out
    call_tool("make_figure", name, f"mine={checkpoint}", "--output", street / "figure.png")
    assert (street / "figure.png").is_file()
    call_tool("make_report", street / "run", "--output", street / "report.html")
    assert "data:image" in (street / "report.html").read_text()
    with pytest.raises(SystemExit) as leaving:
        call_tool("check_dataset", name)
    assert (leaving.value.code, "auxiliary: none" in capsys.readouterr().out) == (0, True)
    with pytest.raises(ValueError, match=r"new\.yaml has no label"):
        tiny_config(street / "other", *keys, "DATASETS.TEST", f"('{new}',)")
