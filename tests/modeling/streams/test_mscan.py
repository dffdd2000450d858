"""MSCAN: its attention by loop, its sizes, drop path."""

import pytest
import torch
import torch.nn.functional as F

from smmcl.modeling.layers.drop_path import DropPath, drop_path_rates
from smmcl.modeling.layers.norm import ChannelNorm
from smmcl.modeling.streams.base import build_stream
from smmcl.modeling.streams.mscan import Block, StripAttention


@pytest.mark.parametrize(
    ("name", "millions"),
    # The SegNeXt paper's Table 2, with a classifier of 1000 classes on the last stage.
    [("mscan_t", 4.2), ("mscan_s", 14.0), ("mscan_b", 26.8), ("mscan_l", 45.2)],
)
def test_parameter_counts(name: str, millions: float) -> None:
    with torch.device("meta"):
        stream = build_stream(name)
    count = sum(parameter.numel() for parameter in stream.parameters())
    assert (count + 1001 * stream.widths[-1]) / 1e6 == pytest.approx(millions, abs=0.06)


def test_strip_attention_equals_a_loop_over_the_strips() -> None:
    torch.manual_seed(0)
    attention = StripAttention(2).double()
    feature = torch.randn(1, 2, 23, 25).double()
    value = F.gelu(attention.project_in(feature))
    local = attention.local(value)
    surroundings = local.clone()
    for (row, column), length in zip(attention.strips, (7, 11, 21), strict=True):
        assert row.kernel_size == (1, length)
        along = torch.zeros_like(local)
        padded = F.pad(local, (length // 2, length // 2))
        for i in range(length):
            along += row.weight[:, :, :, i : i + 1].view(2, 1, 1) * padded[..., i : i + 25]
        along += row.bias[:, None, None]
        across = torch.zeros_like(local)
        padded = F.pad(along, (0, 0, length // 2, length // 2))
        for i in range(length):
            across += column.weight[:, :, i].view(2, 1, 1) * padded[..., i : i + 23, :]
        surroundings += across + column.bias[:, None, None]
    expected = attention.project_out(attention.mix(surroundings) * value) + feature
    torch.testing.assert_close(attention(feature), expected)


def test_block_without_layer_scale_is_the_identity() -> None:
    block = Block(4, expansion=2, drop_path_rate=0.0)
    torch.nn.init.zeros_(block.layer_scale_1)
    torch.nn.init.zeros_(block.layer_scale_2)
    feature = torch.randn(2, 4, 6, 5)
    torch.testing.assert_close(block(feature), feature, rtol=0, atol=0)


def test_stage_outputs_are_normalized_over_channels() -> None:
    for stage_map in build_stream("mscan_t").eval().double()(torch.randn(1, 3, 64, 64).double()):
        mean = stage_map.mean(1)
        torch.testing.assert_close(mean, torch.zeros_like(mean))
        assert stage_map.var(1, unbiased=False).mean().item() == pytest.approx(1, abs=1e-2)


def test_channel_norm_equals_the_formula_and_keeps_channels_last() -> None:
    norm = ChannelNorm(3).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    feature = torch.randn(2, 3, 4, 5).double().to(memory_format=torch.channels_last)
    std, mean = torch.std_mean(feature, dim=1, keepdim=True, unbiased=False)
    expected = (feature - mean) / (std.square() + 1e-5).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(feature), expected)
    assert norm(feature).is_contiguous(memory_format=torch.channels_last)


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    branch = drop(torch.ones(4000, 2, 3))
    per_image = branch[:, 0, 0]
    assert torch.equal(branch, per_image[:, None, None].expand_as(branch))
    assert per_image.unique().tolist() == pytest.approx([0, 4 / 3])
    assert per_image.mean().item() == pytest.approx(1, abs=0.03)
    assert not torch.equal(drop(torch.ones(4000, 1)), drop(torch.ones(4000, 1)))


def test_drop_path_is_the_identity_at_evaluation_and_at_rate_zero() -> None:
    branch = torch.randn(3, 2, 1, 1)
    assert DropPath(0.5).eval()(branch) is branch
    assert DropPath(0.0).train()(branch) is branch
    with pytest.raises(ValueError, match="below 1"):
        DropPath(1.0)


def test_drop_path_rates_rise_over_all_blocks() -> None:
    rates = drop_path_rates((1, 2, 1, 1), last=0.2)
    assert [len(stage) for stage in rates] == [1, 2, 1, 1]
    assert [rate for stage in rates for rate in stage] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    stream = build_stream("mscan_t", drop_path_rate=0.2)
    assert stream.stages[0].blocks[0].drop_path.rate == 0
    assert stream.stages[3].blocks[1].drop_path.rate == pytest.approx(0.2)
