"""The pair backbone: what it says it yields is what it yields, and who hears whom."""

import pytest
import torch
from torch import Tensor

from smmcl.config import build_config
from smmcl.d2 import ShapeSpec
from smmcl.modeling.backbone.pair import build_pair_backbone

TINY = ["MODEL.PAIR.VISIBLE.NAME", "mscan_t", "MODEL.PAIR.AUXILIARY.NAME", "mscan_t"]
NO_DROPS = [
    "MODEL.PAIR.VISIBLE.DROP_PATH_RATE",
    "0.0",
    "MODEL.PAIR.AUXILIARY.DROP_PATH_RATE",
    "0.0",
]
NO_NORMS = ["MODEL.PAIR.VISIBLE.NAME", "mit_b0", "MODEL.PAIR.AUXILIARY.NAME", "mit_b0"]


def build(*overrides: str) -> torch.nn.Module:
    torch.manual_seed(0)
    cfg = build_config("Base-SMMCL.yaml", [*TINY, *overrides])
    return build_pair_backbone(cfg, ShapeSpec(channels=3)).eval()


def images(height: int = 64, width: int = 96) -> tuple[Tensor, Tensor]:
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


def test_frozen_norms_are_constants_and_keep_their_names() -> None:
    plain, frozen = build(), build(*NO_DROPS, "MODEL.PAIR.FREEZE_NORM", "True")
    assert set(plain.state_dict()) == set(frozen.state_dict())
    for name in ("running_mean", "running_var", "weight", "bias"):  # as after training
        getattr(frozen.visible.stages[0].blocks[0].norm1, name).add_(0.5)
    plain.load_state_dict(frozen.state_dict())
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    features = frozen.train()(*images())
    for name, value in plain.eval()(*images()).items():
        torch.testing.assert_close(features[name], value)
    sum(feature.square().sum() for feature in features.values()).backward()
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    trained = {name for name, _ in plain.named_parameters()}
    gone = trained - {name for name, _ in frozen.named_parameters()}
    assert gone == {
        f"{name}.{part}"
        for name, module in plain.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    # SyncBN, for which batch norms are exchanged in several processes, leaves them alone.
    synced = torch.nn.SyncBatchNorm.convert_sync_batchnorm(frozen).visible
    assert not [m for m in synced.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    with pytest.raises(ValueError, match=r"FREEZE_NORM is True, but no stream"):
        build(*NO_NORMS, "MODEL.PAIR.FREEZE_NORM", "True")


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


@pytest.mark.parametrize(
    ("read", "contrast", "auxiliary"),
    [("res2", "", "mscan_t"), ("res3", "SMMCL", "mscan_t"), ("res3", "", "")],
)
def test_what_lies_after_the_last_feature_read_is_not_built(read, contrast, auxiliary) -> None:
    backbone = build(
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", f'["{read}"]', "MODEL.CONTRAST.NAME", contrast),
        *("MODEL.PAIR.AUXILIARY.NAME", auxiliary),
    )
    features = backbone.train()(*images())
    assert set(features) == set(backbone.output_shape())
    sum(feature.sum() for feature in features.values()).backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None]
    assert ("res5_auxiliary" in features) == bool(contrast)


def test_no_stream_and_an_unknown_feature_are_refused() -> None:
    with pytest.raises(ValueError, match="both empty"):
        build("MODEL.PAIR.VISIBLE.NAME", "", "MODEL.PAIR.AUXILIARY.NAME", "")
    with pytest.raises(ValueError, match="IN_FEATURES"):
        build("MODEL.SEM_SEG_HEAD.IN_FEATURES", '["p2", "p3"]')
    with pytest.raises(KeyError, match="Fusio"):
        build("MODEL.FUSION.NAME", "Fusio")
