"""All heads by one tester, and the cross-entropy by hand."""

import math

import pytest
import torch
from torch import Tensor

from smmcl.config import build_config
from smmcl.d2 import ShapeSpec, build_sem_seg_head
from smmcl.modeling.head import fpn_head, ham_head, mlp_head  # noqa: F401  registers them

HEADS = {
    "HamHead": ["res3", "res4", "res5"],
    "MLPHead": ["res2", "res3", "res4", "res5"],
    "FPNHead": ["res2", "res3", "res4", "res5"],
}
SHAPES = {
    name: ShapeSpec(channels=channels, stride=stride)
    for name, channels, stride in (
        ("res2", 32, 4), ("res3", 64, 8), ("res4", 160, 16), ("res5", 256, 32),
    )
}  # fmt: skip


def build(name: str, *extra: str) -> torch.nn.Module:
    torch.manual_seed(0)
    overrides = [
        "MODEL.SEM_SEG_HEAD.NAME", name, "MODEL.SEM_SEG_HEAD.IN_FEATURES", str(HEADS[name]),
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "64",
        "MODEL.SEM_SEG_HEAD.HAM.CHANNELS", "64", "MODEL.SEM_SEG_HEAD.HAM.RANK", "8",
        *extra,
    ]  # fmt: skip
    return build_sem_seg_head(build_config("Base-SMMCL.yaml", overrides), SHAPES)


def features(height: int = 64, width: int = 96) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(
            2,
            spec.channels,
            math.ceil(height / spec.stride),
            math.ceil(width / spec.stride),
            generator=generator,
        )
        for name, spec in SHAPES.items()
    }


@pytest.mark.parametrize("name", HEADS)
def test_logits_have_the_finest_feature_s_size(name: str) -> None:
    for size in ((64, 96), (70, 90)):
        given = features(*size)
        logits, losses = build(name).eval()(given)
        assert logits.shape == (2, 5, *given[HEADS[name][0]].shape[-2:])
        assert losses == {}


@pytest.mark.parametrize("name", HEADS)
def test_every_parameter_is_trained(name: str) -> None:
    head = build(name).train()
    logits, losses = head(features(), torch.randint(5, (2, 64, 96)))
    assert logits is None
    assert list(losses) == ["loss_sem_seg"]
    losses["loss_sem_seg"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_a_batch_without_labels_gives_an_attached_zero(name: str) -> None:
    head = build(name).train()
    _, losses = head(features(), torch.full((2, 64, 96), 255))
    losses["loss_sem_seg"].backward()
    assert losses["loss_sem_seg"].item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_cross_entropy_by_hand() -> None:
    """Logits (0, ln 3) give softmax (1/4, 3/4); the third pixel is ignored."""
    head = build("MLPHead")
    logits = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    loss = head.loss(logits, torch.tensor([[[0, 1, 255]]]))
    assert loss.item() == pytest.approx((math.log(4.0) + math.log(4.0 / 3.0)) / 2)


# A pixel of class 0 then has the loss A, one of class 1 the smaller B; class 0 weighs 2.
A, B = math.log(4.0), math.log(4.0 / 3.0)
TWO_IMAGES = torch.tensor([[[0, 1, 1, 255]], [[1, 255, 255, 255]]])
WEIGHTS = ("MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS", "[2, 0.5]", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2")
HARD = ("MODEL.SEM_SEG_HEAD.HARD_SHARE", "0.5")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (WEIGHTS, (2 * A + 3 * 0.5 * B) / (2 + 3 * 0.5)),
        # Half of 3 pixels are 2, half of 1 is at least 1.
        (HARD, (A + B + B) / 3),
        # The two of the first image count 2/3 of its weight 3, whichever they are.
        (WEIGHTS + HARD, (2 * A + 0.5 * B + 0.5 * B) / (2 + 0.5)),
    ],
    ids=["class weights", "hard pixels", "both"],
)
def test_weighted_and_hard_pixels_by_hand(keys: tuple[str, ...], expected: float) -> None:
    head = build("MLPHead", *keys)
    logits = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1, 1).expand(2, 2, 1, 4)
    assert head.loss(logits, TWO_IMAGES).item() == pytest.approx(expected)
    # In two parts, told the divisor of both, the mean of their losses is the same.
    divisor = head.divisor(TWO_IMAGES, num_parts=2)
    parts = [head.loss(logits[:1], labels[None], divisor).item() for labels in TWO_IMAGES]
    assert sum(parts) / 2 == pytest.approx(expected)


def test_no_labels_under_hard_pixels_are_zero() -> None:
    head = build("MLPHead", *HARD)
    logits = torch.zeros(1, 5, 1, 3, requires_grad=True)
    loss = head.loss(logits, torch.full((1, 1, 3), 255))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize(("key", "value"), [("CLASS_WEIGHTS", "[1, 2]"), ("HARD_SHARE", "0.0")])
def test_loss_keys_out_of_range_are_answered_by_name(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=key):
        build("MLPHead", f"MODEL.SEM_SEG_HEAD.{key}", value)


def test_unknown_head_is_answered_by_name() -> None:
    with pytest.raises(KeyError, match="NoHead"):
        build_sem_seg_head(
            build_config("Base-SMMCL.yaml", ["MODEL.SEM_SEG_HEAD.NAME", "NoHead"]), SHAPES
        )
