"""What every stream promises, for every name in the table."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.modeling.layers.recompute import recompute_blocks
from smmcl.modeling.streams.base import STREAM_REGISTRY, build_stream

SMALL = [name for name, _ in STREAM_REGISTRY if name.endswith(("_t", "_b0", "18", "_lite0"))]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_four_maps_of_the_stated_widths_and_strides(name: str, in_channels: int) -> None:
    stream = build_stream(name, in_channels=in_channels).eval()
    height, width = 70, 90  # not multiples of 32: sizes are rounded up
    feature = image = torch.randn(1, in_channels, height, width)
    with torch.no_grad():
        maps = stream(image)
        for stage, stage_map in zip(stream.stages, maps, strict=True):
            feature = stage(feature)
            torch.testing.assert_close(feature, stage_map)
    assert [tuple(stage_map.shape) for stage_map in maps] == [
        (1, channels, math.ceil(height / stride), math.ceil(width / stride))
        for channels, stride in zip(stream.widths, stream.strides, strict=True)
    ]


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    stream = build_stream(name).train()
    stream(torch.randn(2, 3, 64, 64))[-1].square().sum().backward()
    reached = {n for n, p in stream.named_parameters() if p.grad is not None}
    unread = {f"stages.{m}.norm." for m in range(3)}
    assert all(n in reached or n.startswith(tuple(unread)) for n, _ in stream.named_parameters())


@pytest.mark.parametrize("name", SMALL)
def test_images_do_not_depend_on_their_batch(name: str) -> None:
    stream = build_stream(name).eval().double()
    images = torch.randn(2, 3, 64, 96).double()
    with torch.no_grad():
        torch.testing.assert_close(stream(images)[-1][1:], stream(images[1:])[-1])


@pytest.mark.parametrize("name", SMALL)
def test_recomputed_blocks_give_the_same_bits_from_less_memory(name: str) -> None:
    rate = {} if name.startswith("resnet") else {"drop_path_rate": 0.5}
    results = []
    for is_recomputed in (False, True):
        torch.manual_seed(0)
        stream = build_stream(name, **rate).train()
        if is_recomputed:
            recompute_blocks(stream)
        kept = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.nbytes if tensor.dim() > 2 else 0
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = stream(torch.randn(2, 3, 64, 64))[-1].square().sum()
        loss.backward()
        gradients = {n: p.grad for n, p in stream.named_parameters() if p.grad is not None}
        results.append((kept, gradients | stream.state_dict() | {"draw": torch.rand(1)}))
    (kept, plain), (kept_recomputed, recomputed) = results
    assert kept_recomputed < 0.4 * kept
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[key], recomputed[key]) for key in plain)


@pytest.mark.parametrize("name", SMALL)
def test_layout_and_autocast_change_rounding_alone(name: str) -> None:
    stream = build_stream(name).eval()  # statistics of 8 cells magnify any rounding
    image = torch.randn(2, 3, 64, 64)
    gradients = []
    for layout, is_rough in (
        (torch.contiguous_format, False),
        (torch.channels_last, False),
        (torch.channels_last, True),
    ):
        stream.zero_grad()
        stream.to(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_rough):
            maps = stream(image.contiguous(memory_format=layout))
        weights = torch.linspace(-1, 1, maps[3].numel()).view_as(maps[3])
        (maps[3].float() * weights).sum().backward()
        found = [p.grad.flatten() for p in stream.parameters() if p.grad is not None]
        gradients.append(torch.cat(found))
    exact, other, rough = gradients
    assert F.cosine_similarity(exact, other, dim=0) > 1 - 1e-4
    assert F.cosine_similarity(exact, rough, dim=0) > 0.9


def test_a_stream_without_blocks_cannot_be_recomputed() -> None:
    stream = nn.Module()
    stream.stages = nn.ModuleList([nn.Conv2d(1, 1, 1)])
    with pytest.raises(ValueError, match=r"no nn\.Sequential `blocks`.*MODEL\.PAIR\.RECOMPUTE"):
        recompute_blocks(stream)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"mscan_z.*mscan_t, mscan_s"):
        build_stream("mscan_z")
