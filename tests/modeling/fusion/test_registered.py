"""What every fusion promises: a new one is tested because it is registered."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import smmcl.modeling.fusion  # noqa: F401  registers the fusions
from smmcl.config import build_config
from smmcl.engine.trainer import Trainer
from smmcl.inference.export import export_program
from smmcl.inference.fold import fold
from smmcl.modeling.backbone.pair import PairBackbone
from smmcl.modeling.fusion.base import FUSION_REGISTRY, Fusion
from smmcl.modeling.streams.base import Stream

KINDS = [kind for _, kind in FUSION_REGISTRY]
WIDTHS = [(16, 16, 16), (20, 20, 16), (24, 18, 16)]  # v, a, c
OVERRIDES = [
    "MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NAME", "MLPHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res3', 'res5']",
    # Of other widths.
    "MODEL.PAIR.VISIBLE.NAME", "mit_b0", "MODEL.PAIR.AUXILIARY.NAME", "resnet18",
]  # fmt: skip


def build(kind: type[Fusion], v: int, a: int, c: int, **settings: bool) -> Fusion:
    torch.manual_seed(0)
    cfg = build_config("Base-SMMCL.yaml")
    return kind(v, a, fused_width=c, **settings, **kind.from_config(cfg, stage=2))


def maps(v: int, a: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, c, 5, 7, generator=generator) for c in (v, a))


def without_gradient(module: nn.Module, loss: Tensor) -> list[str]:
    module.zero_grad(set_to_none=True)
    if loss.requires_grad:
        loss.backward()
    return [name for name, parameter in module.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("v", "a", "c"), WIDTHS)
def test_shapes_and_gradients(kind: type[Fusion], v: int, a: int, c: int) -> None:
    fusion = build(kind, v, a, c)
    outputs = fusion(*maps(v, a))
    assert [tuple(m.shape) for m in outputs] == [(2, v, 5, 7), (2, a, 5, 7), (2, c, 5, 7)]
    terms = fusion.regularization()
    assert all(name.startswith("loss_") and term.ndim == 0 for name, term in terms.items())
    # Nothing but the head reads the last stage: its fused feature has to reach every weight.
    assert not without_gradient(fusion, outputs[2].square().sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("v", "a", "c"), WIDTHS)
def test_what_no_head_reads_is_not_built(kind: type[Fusion], v: int, a: int, c: int) -> None:
    fusion, read = build(kind, v, a, c, is_read=False), build(kind, v, a, c)
    visible, auxiliary, fused = fusion(*maps(v, a))
    assert fused is None
    assert not without_gradient(fusion, visible.square().sum() + auxiliary.square().sum())
    read.load_state_dict({**read.state_dict(), **fusion.state_dict()})
    for ours, others in zip((visible, auxiliary), read(*maps(v, a))[:2], strict=True):
        torch.testing.assert_close(ours, others)


@pytest.mark.parametrize("kind", KINDS)
def test_both_maps_reach_the_fused_feature(kind: type[Fusion]) -> None:
    inputs = [m.requires_grad_() for m in maps(24, 18)]
    build(kind, 24, 18, 16)(*inputs)[2].square().sum().backward()
    assert all(m.grad.abs().sum() > 0 for m in inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_rounds_and_no_more(kind: type[Fusion]) -> None:
    fusion = build(kind, 24, 18, 16).eval()
    exact = fusion(*maps(24, 18))
    with torch.autocast("cpu", torch.bfloat16):
        rough = fusion(*maps(24, 18))
    for output, wanted in zip(rough, exact, strict=True):
        error = (output.float() - wanted).square().mean().sqrt()
        # A dozen roundings by 1/256 in a row, and sums of them.
        assert error < 0.05 * wanted.square().mean().sqrt()


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_model_trains_every_weight(kind: type[Fusion]) -> None:
    torch.manual_seed(0)
    overrides = [*OVERRIDES, "MODEL.FUSION.NAME", kind.__name__]
    model = Trainer.build_model(build_config("synthetic_night.yaml", overrides)).train()
    inputs = [
        {
            "image": 255 * torch.rand(3, 64, 96),
            "auxiliary": 255 * torch.rand(3, 64, 96),
            # Two classes, each wide enough for views at every stage.
            "sem_seg": torch.arange(96).expand(64, -1) // 48,
            "view_seed": seed,
        }
        for seed in range(2)
    ]
    losses = model(inputs)
    assert {"loss_sem_seg", "loss_contrast_cross"} <= set(losses)
    total = sum(losses.values())
    assert total.isfinite()
    assert not without_gradient(model, total)


def tiny_stream(*widths: int) -> Stream:
    stages = [nn.Conv2d(*pair, 3, stride=2, padding=1) for pair in pairwise((3, *widths))]
    stages[0].stride = (4, 4)
    return Stream(stages, widths=widths)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_and_a_folded_backbone_compute_the_same(kind: type[Fusion]) -> None:
    torch.manual_seed(0)
    streams = tiny_stream(16, 16, 24, 32), tiny_stream(16, 24, 24, 40)
    widths = zip(*(stream.widths for stream in streams), strict=True)
    backbone = PairBackbone(
        visible=streams[0],
        auxiliary=streams[1],
        fusions=[build(kind, v, a, 16, is_read=i > 0) for i, (v, a) in enumerate(widths)],
    ).eval()
    for module in backbone.modules():  # as after training: no statistics are 0 or 1
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    program = export_program(backbone, auxiliary_channels=3).module()
    pair = torch.randn(2, 1, 3, 71, 130)
    with torch.inference_mode():
        torch.testing.assert_close(program(*pair), backbone(*pair))
        exact = backbone.double()(*pair.double())
        torch.testing.assert_close(fold(backbone, dtype=torch.float64)(*pair.double()), exact)
