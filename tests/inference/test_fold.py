"""The folded copy computes the same as the model, and leaves the model alone."""

import copy
import pathlib

import pytest
import torch
from torch import nn

from smmcl.config import build_config
from smmcl.engine.trainer import Trainer
from smmcl.inference.fold import fold
from smmcl.modeling.head.mlp_head import MLPHead
from smmcl.modeling.layers.cpu import MixConv
from smmcl.modeling.layers.norm import FrozenNorm, freeze_norms
from smmcl.modeling.streams.base import build_stream
from smmcl.modeling.streams.mscan import Block

ROOT = pathlib.Path(__file__).resolve().parents[2]


def shake(module: nn.Module) -> nn.Module:
    """Weights and statistics as after training: nothing is 0 or 1 any more."""
    torch.manual_seed(0)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if name.endswith("running_var"):
            value.data.uniform_(0.5, 2.0)
        elif value.ndim == 1:
            value.data.add_(0.3 * torch.randn(value.shape))
    return module.eval()


def test_by_hand() -> None:
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    for parameter, value in ((conv.weight, 3), (conv.bias, 1), (norm.weight, 2), (norm.bias, 5)):
        nn.init.constant_(parameter, value)
    norm.running_mean.fill_(4)
    norm.running_var.fill_(16)
    folded = fold(nn.Sequential(conv, norm))
    # 2 * (3 x + 1 - 4) / 4 + 5 = 1.5 x + 3.5
    assert isinstance(folded[0], nn.Identity)
    assert (folded[1].weight.item(), folded[1].bias.item()) == (1.5, 3.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("activation", [nn.GELU(), nn.ReLU6(inplace=True)], ids=["GELU", "ReLU6"])
def test_an_activation_within_its_convolution(activation: nn.Module, dtype: torch.dtype) -> None:
    layers = shake(nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), activation))
    with torch.no_grad():
        layers[1].bias[::2] += 6  # so that ReLU6 meets its upper bound
    feature = torch.randn(2, 8, 9, 12).to(dtype)
    folded = fold(layers, dtype=dtype)
    assert [type(layer).__name__ for layer in folded] == ["Identity", "Identity", "PackedConv"]
    low = torch.float64 if dtype == torch.float64 else torch.bfloat16
    with torch.inference_mode():
        wanted = layers.double()(feature.double())
        conv = copy.deepcopy(folded[2]).double()
        conv.activation = nn.Identity()
        for parameter in conv.parameters():
            parameter.abs_()
        sizes = conv(feature.double().abs())  # of all terms of each sum, without their signs
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float64):
            got = folded(feature)
        assert got.dtype == low
        for output, used in ((folded(feature), dtype), (got, low)):
            # Weights, inputs and the result round to the type, the sum's terms to float32. The
            # steepest slope of a GELU is 1.13.
            terms = conv.weight[0].numel() * torch.finfo(torch.float32).eps
            bound = 1.13 * (2 * torch.finfo(used).eps + terms) * sizes
            assert ((output.double() - wanted).abs() < bound).all()


@pytest.mark.parametrize("groups", [1, 8])
def test_a_packed_weight_serves_every_size_and_follows_its_parameter(groups: int) -> None:
    packed = fold(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=groups)))[0]
    plain = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
    plain.load_state_dict(packed.state_dict())
    for size in ((1, 8, 6, 7), (3, 8, 1, 2), (2, 8, 33, 40)):
        feature = torch.randn(size)
        with torch.inference_mode():
            torch.testing.assert_close(packed(feature), plain(feature))
    torch.testing.assert_close(copy.deepcopy(packed)(feature), plain(feature))
    with torch.no_grad():
        for module in (packed, plain):
            module.weight.mul_(2)
        torch.testing.assert_close(packed(feature), plain(feature))
    packed(feature.requires_grad_()).sum().backward()
    assert feature.grad.abs().sum() > 0


def test_a_norm_behind_an_activation_stays() -> None:
    layers = shake(nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU6(), nn.BatchNorm2d(4)))
    feature = 9 * torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(fold(layers)(feature), layers(feature))


def test_the_mix_of_the_mlp_head_is_taken_once() -> None:
    head = shake(
        MLPHead(
            in_features=["res2", "res3"], in_channels=[3, 5], channels=8, num_classes=4,
            dropout=0.1, ignore_value=255,
        )
    ).double()  # fmt: skip
    features = {"res2": torch.randn(2, 3, 8, 9).double(), "res3": torch.randn(2, 5, 4, 5).double()}
    folded = fold(fold(head, dtype=torch.float64), dtype=torch.float64)
    torch.testing.assert_close(folded(features)[0], head(features)[0])
    assert not [module for module in folded.modules() if isinstance(module, MixConv)]


@pytest.mark.parametrize(
    "name", ["mscan_t", "mscan_s", "resnet18", "resnet50", "mit_b0", "efficientnet_lite0"]
)
@pytest.mark.parametrize("is_frozen", [False, True])
def test_streams_give_the_same(name, is_frozen: bool) -> None:
    stream = shake(build_stream(name)).double()
    if is_frozen:
        freeze_norms(stream)
    image = torch.randn(1, 3, 64, 72).double()
    state = {key: value.clone() for key, value in stream.state_dict().items()}
    folded = fold(fold(stream, dtype=torch.float64), dtype=torch.float64)  # the second does nothing
    with torch.inference_mode():
        for wanted, got in zip(stream(image), folded(image), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    for key, value in stream.state_dict().items():
        assert torch.equal(value, state[key]), key
    norms = [
        module for module in folded.modules() if isinstance(module, (nn.BatchNorm2d, FrozenNorm))
    ]
    blocks = sum(isinstance(module, Block) for module in stream.modules())
    assert len(norms) == blocks  # those on the shortcuts of MSCAN's attention


def test_the_model_rounds_no_worse_than_before() -> None:
    torch.manual_seed(0)
    cfg = build_config(str(ROOT / "configs/synthetic_night.yaml"), ["MODEL.DEVICE", "cpu"])
    model = shake(Trainer.build_model(cfg))
    keys = ("image", "auxiliary")
    pairs = [{key: 255 * torch.rand(3, 64, 96) for key in keys} for _ in range(9)]
    rough = fold(model, dtype=torch.bfloat16)
    networks = {"plain": model, "folded": fold(model), "bfloat16": rough}
    with torch.inference_mode():
        exact = copy.deepcopy(model).double()(pairs)
        errors = {}
        for is_rough in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=is_rough):
                for name in ("plain", "bfloat16" if is_rough else "folded"):
                    of_pairs = [
                        (output["sem_seg"] - wanted["sem_seg"]).square().mean().sqrt()
                        for output, wanted in zip(networks[name](pairs), exact, strict=True)
                    ]
                    errors[name, is_rough] = torch.stack(of_pairs).median().item()
    # What bfloat16 makes of its rounding, float32 makes of its own, but that it also sums in it.
    sums = max(m.weight[0].numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    rounding = torch.finfo(torch.float32).eps / torch.finfo(torch.bfloat16).eps
    assert errors["plain", False] < sums**0.5 * rounding * errors["plain", True]
    # Of one pair the ratio of two roundings lies between 0.6 and 1.7, so medians are compared.
    assert errors["folded", False] < 1.5 * errors["plain", False]
    assert errors["bfloat16", True] < 1.5 * errors["plain", True]
