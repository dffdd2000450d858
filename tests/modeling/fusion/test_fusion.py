"""Exchange between the streams: Eqs. 1 and 2 by hand, by loop, and for unequal widths."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.modeling.fusion.cross_modal import CrossModalModulation
from smmcl.modeling.fusion.plain import PlainSum


def zeroed(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_modulation_by_hand() -> None:
    # All weights zero: S = sigmoid(ln 3) = 3/4 and k = sigmoid(0) = 1/2 by their last biases.
    fusion = zeroed(CrossModalModulation(2, 2, fused_width=1, scale=0.5)).double()
    nn.init.constant_(fusion.spatial[4].bias, math.log(3))
    nn.init.ones_(fusion.fuse.weight)
    visible = torch.tensor([1.0, 2.0]).double().reshape(1, 2, 1, 1)
    auxiliary = torch.tensor([8.0, -8.0]).double().reshape(1, 2, 1, 1)
    new_visible, new_auxiliary, fused = fusion(visible, auxiliary)
    # 1 + (3/4 + 1/2) / 2 * 8 = 6 and 2 - 5 = -3; both directions read the old pair.
    assert new_visible.flatten().tolist() == pytest.approx([6, -3], rel=1e-12)
    assert new_auxiliary.flatten().tolist() == pytest.approx([8.625, -6.75], rel=1e-12)
    assert fused.item() == pytest.approx(6 - 3 + 8.625 - 6.75, rel=1e-12)


@pytest.mark.parametrize(("v", "a", "c"), [(4, 4, 4), (8, 8, 4), (6, 3, 4)])
def test_modulation_equals_a_loop_over_the_equations(v: int, a: int, c: int) -> None:
    torch.manual_seed(0)
    fusion = CrossModalModulation(v, a, fused_width=5, scale=0.7).double()
    visible = torch.randn(2, v, 3, 4).double()
    auxiliary = torch.randn(2, a, 3, 4).double()
    new_visible, new_auxiliary, fused = fusion(visible, auxiliary)

    def mlp(layers: nn.Sequential, vector: Tensor) -> Tensor:
        for conv in (layers[0], layers[2]):
            vector = F.gelu(conv.weight[:, :, 0, 0] @ vector + conv.bias)
        return torch.sigmoid(layers[4].weight[:, :, 0, 0] @ vector + layers[4].bias)

    def convolved(conv: nn.Module, vector: Tensor) -> Tensor:
        if isinstance(conv, nn.Identity):
            return vector
        return conv.weight[:, :, 0, 0] @ vector + conv.bias

    for n in range(2):
        both = torch.cat((visible[n], auxiliary[n]))
        k = mlp(fusion.channel, torch.cat((both.mean((1, 2)), both.amax((1, 2)))))
        assert k.numel() == (v if v == a else v + a)
        for i, j in ((i, j) for i in range(3) for j in range(4)):
            S = mlp(fusion.spatial, both[:, i, j])
            vis, aux = visible[n, :, i, j], auxiliary[n, :, i, j]
            vis_from = convolved(fusion.to_visible, aux)
            aux_from = convolved(fusion.to_auxiliary, vis)
            vis = vis + 0.7 * S * vis_from + 0.7 * k[:v] * vis_from
            aux = aux + 0.7 * S * aux_from + 0.7 * k[-a:] * aux_from
            torch.testing.assert_close(new_visible[n, :, i, j], vis)
            torch.testing.assert_close(new_auxiliary[n, :, i, j], aux)
            expected = convolved(fusion.fuse, torch.cat((vis, aux)))
            torch.testing.assert_close(fused[n, :, i, j], expected)


def test_paper_widths_have_the_paper_s_parameters() -> None:
    fusions = [CrossModalModulation(c, c, fused_width=c, scale=0.5) for c in (64, 128, 320, 512)]
    assert sum(numel(fusion.fuse) for fusion in fusions) == 771_072
    assert sum(numel(fusion) for fusion in fusions) == 16_956_420 + 771_072


def test_wide_streams_keep_the_hidden_widths() -> None:
    fusion = CrossModalModulation(256, 256, fused_width=64, scale=0.5)
    assert [fusion.spatial[i].out_channels for i in (0, 2, 4)] == [128, 128, 1]
    assert [fusion.channel[i].out_channels for i in (0, 2, 4)] == [256, 256, 256]
    assert fusion.fuse.out_channels == 64


def test_scale_zero_is_no_exchange() -> None:
    visible, auxiliary = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    fusion = CrossModalModulation(4, 4, fused_width=4, scale=0.0)
    new_visible, new_auxiliary, _ = fusion(visible, auxiliary)
    torch.testing.assert_close(new_visible, visible, rtol=0, atol=0)
    torch.testing.assert_close(new_auxiliary, auxiliary, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [CrossModalModulation, PlainSum])
@pytest.mark.parametrize(("v", "a"), [(4, 4), (6, 3)])
def test_every_parameter_gets_a_gradient_and_unread_fusion_is_not_built(
    kind: type[nn.Module], v: int, a: int
) -> None:
    fusion = kind(v, a, fused_width=4)
    visible, auxiliary = torch.randn(2, v, 5, 7), torch.randn(2, a, 5, 7)
    maps = fusion(visible, auxiliary)
    assert [tuple(m.shape) for m in maps] == [(2, v, 5, 7), (2, a, 5, 7), (2, 4, 5, 7)]
    if list(fusion.parameters()):
        sum(m.square().sum() for m in maps).backward()
    assert all(parameter.grad is not None for parameter in fusion.parameters())

    unread = kind(v, a, fused_width=4, is_read=False)
    assert unread(visible, auxiliary)[2] is None
    assert numel(unread) < numel(fusion) or numel(fusion) == 0


def test_plain_sum_by_hand() -> None:
    visible, auxiliary = torch.randn(2, 1, 3, 2, 2).double()
    fusion = PlainSum(3, 3, fused_width=3)
    new_visible, new_auxiliary, fused = fusion(visible, auxiliary)
    assert new_visible is visible
    assert new_auxiliary is auxiliary
    assert torch.equal(fused, visible + auxiliary)
    assert numel(fusion) == 0

    fusion = zeroed(PlainSum(3, 2, fused_width=3)).double()
    nn.init.ones_(fusion.project_auxiliary.weight)
    auxiliary = torch.full((1, 2, 2, 2), 1.5).double()
    torch.testing.assert_close(fusion(visible, auxiliary)[2], visible + 3)
