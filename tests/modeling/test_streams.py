"""What every stream promises, for every name in the table."""

import math

import pytest
import torch

from smmcl.modeling.backbone.streams import STREAMS, build_stream

SMALL = [name for name in STREAMS if name.endswith(("_t", "_b0", "18"))]


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
    stream = build_stream(name).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            stream(images)[-1][1:], stream(images[1:])[-1], atol=1e-5, rtol=1e-5
        )


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"mscan_z.*mscan_t, mscan_s"):
        build_stream("mscan_z")
