"""What the embedded engine has of its own: refusals that name the way out, and its drawing."""

import argparse
import importlib.util
import logging
import pathlib
import resource

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smmcl.d2.builtin import (
    config,
    data,
    default_trainer,
    events,
    modeling,
    setup,
    train_loop,
    visualizer,
)


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
    ("key", "value", "text"),
    [
        ("MODEL.MASK_ON", "True", "MODEL: {MASK_ON: true}"),
        ("MODEL.RPN.IOU_LABELS", "[0, 1]", "MODEL: {RPN: {IOU_LABELS: [0, 1]}}"),
        ("SOLVER.REFERENCE_WORLD_SIZE", "8", "SOLVER: {REFERENCE_WORLD_SIZE: 8}"),
    ],
)
def test_a_key_that_is_not_here_is_refused_by_name(
    key: str, value: str, text: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "config.yaml").write_text(f"VERSION: 2\n{text}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{key} is .*only Detectron2's default, .* is accepted"):
        config.get_cfg().merge_from_file(str(tmp_path / "config.yaml"))
    with pytest.raises(ValueError, match=rf"{key} is .*only Detectron2's default, .* is accepted"):
        config.get_cfg().merge_from_list([key, value])


def test_a_key_that_is_not_here_may_stand_at_its_default() -> None:
    cfg = config.get_cfg()
    cfg.merge_from_list(["MODEL.MASK_ON", "False", "SEED", "3", "TEST.KEYPOINT_OKS_SIGMAS", "[]"])
    assert cfg.SEED == 3
    cfg.SEED = -1
    assert cfg == config.get_cfg()


def test_grouping_by_aspect_ratio_is_left_to_detectron2() -> None:
    with pytest.raises(ValueError, match="aspect_ratio_grouping=False"):
        data.build_detection_train_loader([{}], mapper=dict, total_batch_size=1)


def test_samples_are_copies() -> None:
    samples = [{"tags": ["day"]}]
    loader = data.build_detection_test_loader(samples, mapper=None)
    next(iter(loader))[0]["tags"].append("night")
    assert next(iter(loader)) == [{"tags": ["day"]}]


def test_metrics_are_the_same_where_they_may_be_asynchronous() -> None:
    weight = nn.Parameter(torch.ones(1))
    model = _Squared(weight)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    trainer = train_loop.SimpleTrainer(model, [0, 0], optimizer, async_write_metrics=True)
    trainer.train(0, 2)
    # 1 * 1, then 1 - 0.1 * 2 squared
    losses = [loss for loss, _ in trainer.storage.history("total_loss").values()]
    assert losses == pytest.approx([1.0, 0.64])


class _Squared(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, batch: object) -> Tensor:
        return self.weight.square().sum()


def test_without_a_timer_the_time_left_comes_from_the_lines(monkeypatch, caplog) -> None:
    clock = iter([10.0, 30.0, 30.0])
    monkeypatch.setattr(events.time, "perf_counter", lambda: next(clock))
    printer = events.CommonMetricPrinter(max_iter=100)
    with events.EventStorage() as storage, caplog.at_level("INFO", printer.logger.name):
        for storage.iter in (19, 39):
            printer.write()
    assert "eta" not in caplog.messages[0]
    assert "eta: 0:01:00" in caplog.messages[1]  # 20 seconds for 20 iterations, and 60 are left


def test_the_trainer_of_this_engine_is_for_those_that_build_their_own_parts() -> None:
    with pytest.raises(NotImplementedError, match="Subclass smmcl's Trainer"):
        default_trainer.DefaultTrainer(config.get_cfg())


def test_a_loader_without_a_sampler_is_refused() -> None:
    options = {"total_batch_size": 1, "aspect_ratio_grouping": False}
    with pytest.raises(AssertionError, match=r"NoneType.*chooses none by itself"):
        data.build_detection_train_loader([{}], mapper=dict, **options)


def test_padding_to_a_square_never_crops() -> None:
    images = [torch.ones(1, 5, 6)]
    constraints = {"square_size": 6}
    square = modeling.ImageList.from_tensors(images, padding_constraints=constraints)
    assert square.tensor.shape == (1, 1, 6, 6)
    with pytest.raises(ValueError, match=r"square_size of 5.*5 x 6 pixels\. Set it to 6"):
        modeling.ImageList.from_tensors(images, padding_constraints={"square_size": 5})


def test_without_tensorboard_there_are_two_writers(tmp_path: pathlib.Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    writers = default_trainer.default_writers(str(tmp_path))
    assert [type(writer).__name__ for writer in writers] == ["CommonMetricPrinter", "JSONWriter"]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_full_disk_leaves_the_config_of_the_run_before(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)  # log.txt is on that disk, too
    (tmp_path / "config.yaml").write_text("SEED: 1\n")
    cfg = config.get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.freeze()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match=r"too large: .*/config\.yaml"):
            setup.default_setup(cfg, argparse.Namespace())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "config.yaml").read_text() == "SEED: 1\n"


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
FACTS = data.Metadata(stuff_classes=["floor", "wall"], stuff_colors=[(200, 0, 0), (0, 100, 0)])


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_inside_edges_and_ignored_pixels_of_a_drawing(dtype: type) -> None:
    drawing = visualizer.Visualizer(np.full((6, 8, 3), 50), FACTS).draw_sem_seg(
        LABELS.astype(dtype), alpha=0.5, draw_text=False, edge_color=(1.0, 1.0, 1.0)
    )
    drawn = drawing.get_image()
    assert drawn[5, 7].tolist() == [50, 50, 50]  # ignored
    assert drawn[4, 4].tolist() == [125, 25, 25]  # inside: (50 + 200) / 2, (50 + 0) / 2
    assert drawn[1, 2].tolist() == [255, 255, 255]  # a block of two rows is all edge
    assert drawn[0, 0].tolist() == [255, 255, 255]  # the image ends in an edge


def test_names_scales_and_areas_are_left_to_detectron2() -> None:
    image = np.zeros((6, 8, 3))
    with pytest.raises(ValueError, match=r"writes no class names.*draw_text=False"):
        visualizer.Visualizer(image, FACTS).draw_sem_seg(LABELS)
    with pytest.raises(ValueError, match="leaves out no small regions"):
        visualizer.Visualizer(image, FACTS).draw_sem_seg(LABELS, 7, draw_text=False)
    with pytest.raises(ValueError, match="at the image's own scale"):
        visualizer.Visualizer(image, FACTS, scale=2.0)
