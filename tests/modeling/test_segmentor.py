"""The whole model: losses in training, logits at the input's own size, padding that is nothing."""

import logging

import pytest
import torch

import smmcl.engine.trainer  # noqa: F401  registers the parts
from smmcl.config import build_config
from smmcl.d2 import build_model

TINY = [
    "MODEL.DEVICE", "cpu", "MODEL.PAIR.VISIBLE.NAME", "mscan_t",
    "MODEL.PAIR.AUXILIARY.NAME", "mscan_t", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.HAM.CHANNELS", "32",
    "MODEL.SEM_SEG_HEAD.HAM.RANK", "4", "MODEL.SMMCL.IN_FEATURES",
    '["res4_visible", "res4_auxiliary"]',
]  # fmt: skip
LOSSES = {
    "loss_sem_seg",
    "loss_contrast_cross",
    "loss_contrast_visible",
    "loss_contrast_auxiliary",
}


def build(*overrides: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(build_config("Base-SMMCL.yaml", [*TINY, *overrides]))


def pair(height: int = 64, width: int = 96, **extra: object) -> dict:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
    auxiliary = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
    labels = (torch.arange(height)[:, None] * 4 // height).expand(height, width)
    return {
        "file_name": f"{height}.png",
        "sem_seg_file_name": f"label-{height}.png",
        "image": image,
        "auxiliary": auxiliary,
        "sem_seg": labels.clone(),
        "view_seed": 7,
        "height": height,
        "width": width,
        **extra,
    }


def test_training_gives_every_loss_and_trains_every_parameter() -> None:
    model = build().train()
    losses = model([pair(), pair(128, 160)])
    assert set(losses) == LOSSES
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_baseline_has_no_branch_and_no_cost() -> None:
    baseline = build("MODEL.CONTRAST.NAME", "")
    assert baseline.contrast is None
    assert set(baseline.train()([pair()])) == {"loss_sem_seg"}
    names = set(build().state_dict()) - set(baseline.state_dict())
    assert names
    assert all(name.startswith("contrast.") for name in names)


@torch.no_grad()
def test_inference_never_runs_the_branch() -> None:
    model = build().eval()
    before = model([pair()])[0]["sem_seg"]
    model.contrast = None
    assert torch.equal(before, model([pair()])[0]["sem_seg"])


@torch.no_grad()
def test_logits_come_at_the_asked_size() -> None:
    model = build().eval()
    results = model([pair(64, 96), {**pair(70, 90), "height": 140, "width": 180}])
    assert [tuple(result["sem_seg"].shape) for result in results] == [(4, 64, 96), (4, 140, 180)]


@torch.no_grad()
def test_what_lies_outside_the_valid_box_does_not_matter() -> None:
    model = build().eval()
    box = (8, 16, 56, 80)
    plain, other = pair(valid_box=box), pair(valid_box=box)
    for key in ("image", "auxiliary"):
        other[key] = torch.full_like(other[key], 99)
        other[key][:, 8:56, 16:80] = plain[key][:, 8:56, 16:80]
    assert torch.equal(model([plain])[0]["sem_seg"], model([other])[0]["sem_seg"])


def test_a_batch_without_labels_is_zero_attached_and_warned(caplog) -> None:
    model = build().train()
    empty = pair()
    empty["sem_seg"] = torch.full_like(empty["sem_seg"], 255)
    with caplog.at_level(logging.WARNING):
        losses = model([empty])
    assert "label-64.png" in caplog.text
    assert set(losses) == LOSSES
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_wrong_channel_count_is_answered_by_name() -> None:
    model = build("MODEL.AUXILIARY.PIXEL_MEAN", "[0.5]", "MODEL.AUXILIARY.PIXEL_STD", "[0.2]")
    with pytest.raises(ValueError, match=r"'auxiliary' of 64\.png has 3 channels"):
        model([pair()])


def test_an_auxiliary_image_of_one_channel() -> None:
    model = build("MODEL.AUXILIARY.PIXEL_MEAN", "[99.0]", "MODEL.AUXILIARY.PIXEL_STD", "[50.0]")
    single = pair()
    single["auxiliary"] = single["auxiliary"][:1]
    assert set(model.train()([single])) == LOSSES


def test_padding_is_zero_and_has_no_gradient() -> None:
    model, box = build(), (8, 16, 56, 80)
    batch = model.preprocess([pair(valid_box=box)])
    assert batch.visible.min() >= 0
    assert batch.visible.max() <= 1
    visible = batch.visible.requires_grad_()
    normalized = model.normalize(batch._replace(visible=visible)).visible
    outside = torch.ones(64, 96, dtype=torch.bool)
    outside[8:56, 16:80] = False
    assert (normalized[..., outside] == 0).all()
    normalized.sum().backward()
    assert (visible.grad[..., outside] == 0).all()
    assert (visible.grad[..., ~outside] > 0).all()


def test_a_record_without_an_auxiliary_image_is_refused_where_one_is_read() -> None:
    alone = pair()
    del alone["auxiliary"]
    with pytest.raises(ValueError, match=r"64\.png comes without 'auxiliary'.*reads pairs"):
        build()([alone])
    single = build("MODEL.PAIR.AUXILIARY.NAME", "", "MODEL.CONTRAST.NAME", "").eval()
    assert torch.equal(single([alone])[0]["sem_seg"], single([pair()])[0]["sem_seg"])


def test_padding_constraints_of_the_backbone_are_passed_on() -> None:
    model = build("MODEL.CONTRAST.NAME", "")
    type(model.backbone).padding_constraints = property(lambda self: {"square_size": 128})
    try:
        assert model.preprocess([pair()]).visible.shape[-2:] == (128, 128)
        assert model.eval()([pair()])[0]["sem_seg"].shape == (4, 64, 96)
    finally:
        del type(model.backbone).padding_constraints
