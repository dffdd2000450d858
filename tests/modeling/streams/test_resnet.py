"""ResNets: sizes, a bottleneck by hand, equality with an independent implementation."""

import re

import pytest
import torch

from smmcl.modeling.streams.base import build_stream
from smmcl.modeling.streams.resnet import BASIC, BOTTLENECK, TORCHVISION, Residual


def to_torchvision_from_transformers(name: str) -> str:
    for pattern, replacement in [
        (r"^embedder\.embedder\.convolution\.", "conv1."),
        (r"^embedder\.embedder\.normalization\.", "bn1."),
        (r"^encoder\.stages\.(\d)\.layers\.", lambda m: f"layer{int(m[1]) + 1}."),
        (r"\.layer\.(\d)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}."),
        (r"\.layer\.(\d)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}."),
        (r"\.shortcut\.convolution\.", ".downsample.0."),
        (r"\.shortcut\.normalization\.", ".downsample.1."),
    ]:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize(
    ("name", "parameters"),
    # torchvision's published counts less the classifier's 512 or 2048 times 1000 plus 1000.
    [
        ("resnet18", 11_689_512 - 513_000),
        ("resnet34", 21_797_672 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
        ("resnet101", 44_549_160 - 2_049_000),
        ("resnet152", 60_192_808 - 2_049_000),
    ],
)
def test_parameter_counts(name: str, parameters: int) -> None:
    with torch.device("meta"):
        stream = build_stream(name)
    assert sum(parameter.numel() for parameter in stream.parameters()) == parameters


def test_stride_is_in_the_first_3x3_convolution() -> None:
    strides = {
        kernels: [layer[0].stride[0] for layer in Residual(8, 16, kernels=kernels, stride=2).layers]
        for kernels in (BASIC, BOTTLENECK)
    }
    assert strides == {BASIC: [2, 1], BOTTLENECK: [1, 2, 1]}


def test_residual_of_zero_convolutions_is_the_rectified_input() -> None:
    block = Residual(8, 8, kernels=BOTTLENECK, stride=1).eval()
    for layer in block.layers:
        torch.nn.init.zeros_(layer[0].weight)
    feature = torch.randn(1, 8, 3, 4)
    assert torch.equal(block(feature), feature.relu())


def test_drop_path_is_refused() -> None:
    with pytest.raises(ValueError, match="have no drop path"):
        build_stream("resnet18", drop_path_rate=0.2)


@pytest.mark.parametrize(
    ("name", "depths", "layer_type"),
    [("resnet18", [2, 2, 2, 2], "basic"), ("resnet50", [3, 4, 6, 3], "bottleneck")],
)
def test_equals_transformers(name: str, depths: list[int], layer_type: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    stream = build_stream(name).eval()
    config = transformers.ResNetConfig(
        depths=depths, hidden_sizes=list(stream.widths), layer_type=layer_type
    )
    other = transformers.ResNetModel(config).eval()
    for norm in (m for m in other.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
        torch.nn.init.normal_(norm.running_mean, std=0.1)
        torch.nn.init.normal_(norm.bias, std=0.1)
        torch.nn.init.uniform_(norm.weight, 0.2, 0.6)  # keeps values near one over 16 blocks
    stream.load_state_dict(
        {
            TORCHVISION.to_ours(to_torchvision_from_transformers(k)): v
            for k, v in other.state_dict().items()
        }
    )
    stream, other, image = stream.double(), other.double(), torch.randn(1, 3, 70, 90).double()
    with torch.no_grad():
        expected = other(image, output_hidden_states=True).hidden_states[1:]
        for ours, theirs in zip(stream(image), expected, strict=True):
            assert 0.1 < theirs.std() < 10
            torch.testing.assert_close(ours, theirs)
