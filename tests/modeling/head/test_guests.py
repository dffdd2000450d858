"""Heads from elsewhere: what has the interface of Detectron2's heads trains, scores and exports."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smmcl.config import add_smmcl_config
from smmcl.d2 import ENGINE, SEM_SEG_HEADS_REGISTRY, build_model, get_cfg
from smmcl.engine.trainer import Trainer
from smmcl.inference.export import TensorSegmentor, export_program

FUSED = ["res2", "res3", "res4", "res5"]
FEATURES = "MODEL.SEM_SEG_HEAD.IN_FEATURES"
DEEPLAB = ["MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 32, "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", [1, 2, 3]]
POINTS = ["MODEL.POINT_HEAD.IN_FEATURES", ["res2"], "MODEL.POINT_HEAD.NUM_CLASSES", 9]
POINTS += ["MODEL.POINT_HEAD.SUBDIVISION_STEPS", 2, "MODEL.POINT_HEAD.FC_DIM", 16]
GUESTS = {
    "PlainHead": [FEATURES, ["res3"]],
    "SemSegFPNHead": [FEATURES, FUSED],
    "DeepLabV3PlusHead": [FEATURES, ["res2", "res5"], *DEEPLAB],
    "DeepLabV3Head": [FEATURES, ["res5"], "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 32, *DEEPLAB],
    "PointRendSemSegHead": [FEATURES, FUSED, *POINTS],
}


class PlainHead(nn.Module):
    """Nothing but the interface: no `ignore_value`, and a fixed factor, as upstream's heads."""

    def __init__(self, cfg, input_shape) -> None:
        super().__init__()
        (self.name,) = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES
        self.stride = input_shape[self.name].stride
        self.ignored = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        self.classify = nn.Conv2d(
            input_shape[self.name].channels, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 1
        )

    def forward(self, features, targets=None):
        logits = self.classify(features[self.name])
        logits = F.interpolate(logits, scale_factor=self.stride, mode="bilinear")
        if not self.training:
            return logits, {}
        return None, {"loss_plain": F.cross_entropy(logits, targets, ignore_index=self.ignored)}


if "PlainHead" not in SEM_SEG_HEADS_REGISTRY:
    SEM_SEG_HEADS_REGISTRY.register(PlainHead)


@pytest.fixture(params=GUESTS)
def cfg(request, tiny_config, tmp_path):
    """A small run with a guest as its head."""
    cfg = get_cfg()
    add_smmcl_config(cfg)
    if request.param != "PlainHead":
        if ENGINE != "detectron2":
            pytest.skip("Detectron2 is not here")
        from detectron2.projects.deeplab import add_deeplab_config
        from detectron2.projects.point_rend import add_pointrend_config

        add_deeplab_config(cfg)
        add_pointrend_config(cfg)
    cfg.merge_from_other_cfg(tiny_config(tmp_path, "SOLVER.MAX_ITER", "3"))
    cfg.merge_from_list(["MODEL.SEM_SEG_HEAD.NAME", request.param, *GUESTS[request.param]])
    cfg.merge_from_list(["MODEL.SEM_SEG_HEAD.NORM", "BN", "SOLVER.ACCUMULATION", 2])
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 4])
    cfg.freeze()
    return cfg


def pair(height: int, width: int) -> dict:
    images = {
        key: torch.full((3, height, width), 99, dtype=torch.uint8) for key in ("image", "auxiliary")
    }
    return {**images, "sem_seg": torch.ones(height, width, dtype=torch.int64), "view_seed": 0}


def test_a_guest_trains_and_is_scored(cfg) -> None:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert 0 <= results["sem_seg"]["mIoU"] <= 100


def test_sides_that_no_stride_divides(cfg) -> None:
    model = build_model(cfg).train()
    assert model.size_divisibility
    losses = model([pair(70, 90), pair(64, 96)])
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    with torch.no_grad():
        assert model.eval()([pair(70, 90)])[0]["sem_seg"].shape == (9, 70, 90)


def test_a_batch_without_labels_is_zero_and_attached(cfg) -> None:
    model, empty = build_model(cfg).train(), pair(64, 96)
    empty["sem_seg"][:] = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    losses = model([empty, empty])
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@torch.no_grad()
def test_a_guest_is_exported(cfg) -> None:
    """PointRend turns sizes into numbers, so its file is of one size."""
    size = (70, 90)
    network = TensorSegmentor(build_model(cfg)).eval()
    is_fixed = cfg.MODEL.SEM_SEG_HEAD.NAME == "PointRendSemSegHead"
    program = export_program(network, auxiliary_channels=3, size=size if is_fixed else None)
    images = torch.randn(2, 3, 3, *size, generator=torch.Generator().manual_seed(0))
    got, wanted = program.module()(*images), network(*images)
    assert wanted.shape == (3, 9, *size)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_feature_that_is_not_there_is_named(tiny_config, tmp_path) -> None:
    class Greedy(PlainHead):
        def __init__(self, cfg, input_shape) -> None:
            super().__init__(cfg, {"res2": input_shape["p2"]})

    SEM_SEG_HEADS_REGISTRY.register(Greedy)
    keys = ["MODEL.SEM_SEG_HEAD.NAME", "Greedy", FEATURES, "['res2']"]
    with pytest.raises(ValueError, match=r"Greedy reads the feature 'p2', but .*IN_FEATURES"):
        build_model(tiny_config(tmp_path, *keys))


def test_our_own_heads_take_no_padding(tiny_config, tmp_path) -> None:
    assert build_model(tiny_config(tmp_path)).size_divisibility == 0
