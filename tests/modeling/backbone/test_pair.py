"""The pair backbone: what it says it yields is what it yields, and who hears whom."""

import pytest
import torch

from smmcl.config import build_config
from smmcl.d2 import ShapeSpec
from smmcl.modeling.backbone.pair import build_pair_backbone

TINY = ["MODEL.PAIR.VISIBLE.NAME", "mscan_t", "MODEL.PAIR.AUXILIARY.NAME", "mscan_t"]


def build(*overrides: str) -> torch.nn.Module:
    torch.manual_seed(0)
    cfg = build_config("Base-SMMCL.yaml", [*TINY, *overrides])
    return build_pair_backbone(cfg, ShapeSpec(channels=3)).eval()


def images(height: int = 64, width: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pair = torch.rand(2, 2, 3, height, width, generator=generator)
    return pair[0], pair[1]


@pytest.mark.parametrize("auxiliary", ["mscan_t", "mscan_s", ""])
def test_output_shape_describes_the_features(auxiliary: str) -> None:
    backbone = build("MODEL.PAIR.AUXILIARY.NAME", auxiliary)
    features = backbone(*images())
    described = backbone.output_shape()
    assert set(features) == set(described)
    for name, spec in described.items():
        size = (64 // spec.stride, 96 // spec.stride)
        assert features[name].shape == (2, spec.channels, *size), name


def test_odd_sizes_pass() -> None:
    features = build()(*images(70, 90))
    assert features["res5"].shape[-2:] == (3, 3)  # 90 -> 45 -> 23 -> 12 -> 6 -> 3


def test_a_fusion_that_no_head_reads_is_not_built() -> None:
    backbone = build()
    assert "res2" not in backbone.output_shape()
    assert backbone.fusions[0].fuse is None
    assert backbone.fusions[1].fuse is not None
    everything = build("MODEL.SEM_SEG_HEAD.IN_FEATURES", '["res2", "res3", "res4", "res5"]')
    assert "res2" in everything.output_shape()


@torch.no_grad()
def test_streams_hear_each_other_only_through_the_exchange() -> None:
    visible, auxiliary = images()
    for fusion, hears in (("CrossModalModulation", True), ("PlainSum", False)):
        backbone = build("MODEL.FUSION.NAME", fusion)
        before = backbone(visible, auxiliary)
        after = backbone(visible, auxiliary.flip(-1))
        # The first stage is computed before any exchange, the last one after three.
        assert torch.equal(before["res2_visible"], after["res2_visible"])
        assert torch.equal(before["res5_visible"], after["res5_visible"]) != hears
        assert not torch.equal(before["res5"], after["res5"])


@torch.no_grad()
def test_one_stream_does_not_look_at_the_other_image() -> None:
    visible, auxiliary = images()
    backbone = build("MODEL.PAIR.AUXILIARY.NAME", "")
    assert torch.equal(
        backbone(visible, auxiliary)["res5"], backbone(visible, auxiliary * 0)["res5"]
    )
    backbone = build("MODEL.PAIR.VISIBLE.NAME", "")
    assert torch.equal(
        backbone(visible, auxiliary)["res5"], backbone(visible * 0, auxiliary)["res5"]
    )


def test_no_stream_and_no_last_stage_are_refused() -> None:
    with pytest.raises(ValueError, match="both empty"):
        build("MODEL.PAIR.VISIBLE.NAME", "", "MODEL.PAIR.AUXILIARY.NAME", "")
    with pytest.raises(ValueError, match="IN_FEATURES"):
        build("MODEL.SEM_SEG_HEAD.IN_FEATURES", '["res3", "res4"]')
    with pytest.raises(KeyError, match="Fusio"):
        build("MODEL.FUSION.NAME", "Fusio")
