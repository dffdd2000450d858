"""What the embedded engine has of its own: refusals that name the way out, and its drawing."""

import importlib.util
import pathlib
import pickle

import numpy as np
import pytest
from torch import nn

from smmcl.d2.builtin import config, data, default_trainer, modeling, train_loop, visualizer


def test_configs_do_not_share_their_lists() -> None:
    cfg = config.get_cfg()
    cfg.MODEL.PIXEL_MEAN.append(1.0)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    assert config.get_cfg().MODEL.PIXEL_MEAN == [103.53, 116.28, 123.675]
    assert not config.get_cfg().SOLVER.CLIP_GRADIENTS.ENABLED


def test_lean_keys_are_all_there() -> None:
    cfg = config.get_cfg()
    for key in config.LEAN_KEYS:
        node = cfg
        for part in key.rstrip(".").split("."):
            node = node[part]
    assert not any(key.split(".")[1] in cfg.SOLVER for key in config.FOREIGN_KEYS)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("MODEL: {MASK_ON: true}", "MODEL.MASK_ON"),
        ("MODEL: {RPN: {IOU_LABELS: [0, 1]}}", "MODEL.RPN.IOU_LABELS"),
        ("SOLVER: {REFERENCE_WORLD_SIZE: 8}", "SOLVER.REFERENCE_WORLD_SIZE"),
    ],
)
def test_a_key_that_is_not_here_is_refused_by_name(
    text: str, key: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "config.yaml").write_text(f"VERSION: 2\n{text}\n", encoding="utf-8")
    with pytest.raises(KeyError, match=rf"{key} is .*accepts only Detectron2's default"):
        config.get_cfg().merge_from_file(str(tmp_path / "config.yaml"))


def test_grouping_by_aspect_ratio_is_left_to_detectron2() -> None:
    with pytest.raises(ValueError, match=r"ASPECT_RATIO_GROUPING to False"):
        data.build_detection_train_loader([{}], mapper=dict, total_batch_size=1)


def test_samples_are_copies() -> None:
    samples = [{"tags": ["day"]}]
    loader = data.build_detection_test_loader(samples, mapper=None)
    next(iter(loader))[0]["tags"].append("night")
    assert next(iter(loader)) == [{"tags": ["day"]}]


def test_formats_of_the_model_zoo_are_left_to_detectron2(tmp_path: pathlib.Path) -> None:
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": {}, "__author__": "x"}))
    checkpointer = default_trainer.DetectionCheckpointer(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"zoo.pkl.*SMMCL_ENGINE=detectron2"):
        checkpointer.load(str(tmp_path / "zoo.pkl"))


def test_metrics_in_a_thread_are_left_to_detectron2() -> None:
    with pytest.raises(AssertionError, match="in step only"):
        train_loop.SimpleTrainer(nn.Linear(1, 1), [], None, async_write_metrics=True)


def test_without_tensorboard_there_are_two_writers(tmp_path: pathlib.Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    writers = default_trainer.default_writers(str(tmp_path))
    assert [type(writer).__name__ for writer in writers] == ["CommonMetricPrinter", "JSONWriter"]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_building_what_is_no_backbone_is_an_error(monkeypatch) -> None:
    monkeypatch.setitem(modeling.BACKBONE_REGISTRY._obj_map, "probe", lambda *_: nn.Identity())
    cfg = config.get_cfg()
    cfg.MODEL.BACKBONE.NAME = "probe"
    with pytest.raises(AssertionError, match="probe built no Backbone"):
        modeling.build_backbone(cfg)


# Hand-drawn: a 6x8 map of class 0 with a 2x3 block of class 1 and one ignored pixel.
LABELS = np.zeros((6, 8), dtype=np.int64)
LABELS[1:3, 2:5] = 1
LABELS[5, 7] = 255


def draw(**kwargs: object) -> np.ndarray:
    facts = data.Metadata(stuff_classes=["floor", "wall"], stuff_colors=[(200, 0, 0), (0, 100, 0)])
    image = np.full((6, 8, 3), 50)
    return visualizer.Visualizer(image, facts).draw_sem_seg(LABELS, **kwargs).get_image()


def test_inside_edges_and_ignored_pixels_of_a_drawing() -> None:
    drawn = draw(alpha=0.5, draw_text=False, edge_color=(1.0, 1.0, 1.0))
    assert drawn[5, 7].tolist() == [50, 50, 50]  # ignored
    assert drawn[4, 4].tolist() == [125, 25, 25]  # inside: (50 + 200) / 2, (50 + 0) / 2
    assert drawn[1, 2].tolist() == [255, 255, 255]  # a block of two rows is all edge
    assert drawn[0, 0].tolist() == [255, 255, 255]  # the image ends in an edge


def test_small_regions_are_left_out() -> None:
    drawn = draw(alpha=1.0, draw_text=False, area_threshold=7)
    assert drawn[1, 3].tolist() == [50, 50, 50]  # 6 pixels
    assert drawn[4, 4].tolist() == [200, 0, 0]


def test_names_are_written_over_all_classes() -> None:
    assert (draw() != draw(draw_text=False)).any()


def test_a_drawing_is_saved_as_it_is_shown(tmp_path: pathlib.Path) -> None:
    drawing = visualizer.VisImage(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), scale=2.0)
    drawing.save(str(tmp_path / "drawing.png"))
    saved = visualizer.Image.open(tmp_path / "drawing.png")
    assert saved.size == (8, 8)
    assert (np.array(saved) == drawing.get_image()).all()
