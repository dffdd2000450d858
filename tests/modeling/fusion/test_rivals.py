"""The rival fusions against numbers of their authors' code: same weights, inputs and results."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smmcl.modeling.fusion.add_to_visible import AddToVisible
from smmcl.modeling.fusion.base import Fusion
from smmcl.modeling.fusion.channel_exchange import ChannelExchangeAdapter, penalized
from smmcl.modeling.fusion.cmx import CMX
from smmcl.modeling.fusion.sa_gate import SAGate
from smmcl.modeling.fusion.se_add import SEAdd
from smmcl.modeling.fusion.token_fusion import TokenFusionAdapter, exchange
from smmcl.modeling.streams.names import Names

WIDTHS = (64, 128, 320, 512)
DTYPES = {"f64": torch.float64, "f32": torch.float32}
Numbers = Mapping[str, np.ndarray]

NAMES = Names(
    ("backbone.FRMs.0.channel_weights.mlp.", "channel."),
    ("backbone.FRMs.0.spatial_weights.mlp.", "spatial."),
    ("backbone.FFMs.0.cross.channel_proj{1}.", "fuse.project.{}."),
    ("backbone.FFMs.0.cross.cross_attn.kv{1}.", "fuse.key_value.{}."),
    ("backbone.FFMs.0.cross.end_proj{1}.", "fuse.merge.{}."),
    ("backbone.FFMs.0.cross.norm{1}.", "fuse.norms.{}."),
    ("backbone.FFMs.0.channel_emb.residual.", "fuse.shortcut."),
    ("backbone.FFMs.0.channel_emb.channel_embed.", "fuse.mix."),
    ("backbone.FFMs.0.channel_emb.norm.", "fuse.norm."),
    ("backbone.sagates.0.fsp_rgb.filter.fc.0.", "gate_visible.1."),
    ("backbone.sagates.0.fsp_rgb.filter.fc.2.", "gate_visible.3."),
    ("backbone.sagates.0.fsp_hha.filter.fc.0.", "gate_auxiliary.1."),
    ("backbone.sagates.0.fsp_hha.filter.fc.2.", "gate_auxiliary.3."),
    ("backbone.sagates.0.gate_rgb.", "0:weigh."),  # the first row of ours
    ("backbone.sagates.0.gate_hha.", "1:weigh."),
    ("encoder.score_predictor.0.score_nets.", "predictors."),
    ("layer1.0.bn2.bn_", "norms."),
    ("se_layer1.se_rgb.fc.0.", "gate_visible.1."),
    ("se_layer1.se_rgb.fc.2.", "gate_visible.3."),
    ("se_layer1.se_depth.fc.0.", "gate_auxiliary.1."),
    ("se_layer1.se_depth.fc.2.", "gate_auxiliary.3."),
)


def find(tensors: Mapping[str, Tensor], theirs: str) -> Tensor:
    """The tensor of ours, or its row, that has the authors' name."""
    row, _, ours = NAMES.to_ours(theirs).rpartition(":")
    return tensors[ours][int(row) : int(row) + 1] if row else tensors[ours]


def cases(numbers: Numbers, beginning: str) -> Iterator[tuple[str, str, torch.dtype]]:
    """Case, mode and precision of all that begin so; there must be some."""
    pattern = re.compile(rf"({beginning}[^/]*)/(eval|train)/(f64|f32)/loss")
    found = [match.groups() for name in numbers if (match := pattern.fullmatch(name))]
    assert found, beginning
    return iter(found)


class Checker:
    """Holds a fusion's outputs, loss, gradients and running statistics against the numbers."""

    def __init__(self, numbers: Numbers, fill: Callable, draw_maps: Callable) -> None:
        self.numbers, self.fill, self.draw_maps = numbers, fill, draw_maps

    def __call__(
        self,
        build: Callable[[int, str], Fusion],
        beginning: str,
        *,
        tweak: Callable = lambda fusion, numbers, width: None,
    ) -> None:
        """
        Args:
            build: a fusion of a width, by the name of its case.
            beginning: of the cases.
            tweak: changes the fusion once the recipe has filled it.
        """
        for case, mode, precision in cases(self.numbers, beginning):
            seed, n, *widths, height, width = self.numbers[f"{case}/seed_nvahw"].tolist()
            fusion = build(widths[0], case)
            self.fill(self.numbers, case, partial(find, fusion.state_dict()))
            dtype = DTYPES[precision]
            fusion.to(dtype).train(mode == "train")
            tweak(fusion, self.numbers, widths[0])
            maps = self.draw_maps(seed, *((n, c, height, width) for c in widths), dtype=dtype)
            self.compare(fusion, maps, case=case, place=f"{case}/{mode}/{precision}")

    def compare(self, fusion: Fusion, maps: list[Tensor], *, case: str, place: str) -> None:
        maps = [(m.abs() if case.endswith("nonneg") else m).requires_grad_() for m in maps]
        outputs = fusion(*maps)
        loss = sum(output.square().sum() for output in outputs)
        loss.backward()
        is_exact = place.endswith("f64")
        near = partial(self.near, place, atol=1e-10 if is_exact else 1e-5)
        near_in_size = partial(self.near, place, rtol=1e-10 if is_exact else 2e-5)
        self.near(place, "loss", loss, rtol=1e-12 if is_exact else 1e-6)
        for name, output in zip(("vis", "aux", "fused"), outputs, strict=True):
            if f"{place}/{name}" in self.numbers:
                near(name, output)
            elif f"{place}/{name}_sub" in self.numbers:
                near(f"{name}_sub", output[:, :, ::3, ::4])
        for name, feature in zip(("vis", "aux"), maps, strict=True):
            near_in_size(f"grad_{name}_l2", feature.grad.norm())
        if is_exact:
            self.compare_weights(fusion, case=case, place=place)

    def compare_weights(self, fusion: Fusion, *, case: str, place: str) -> None:
        gradients = {name: parameter.grad for name, parameter in fusion.named_parameters()}
        names = self.numbers[f"{case}/param_names"].tolist()
        for name, wanted in zip(names, self.numbers[f"{place}/param_grad_l2"], strict=True):
            # Of a bias in front of a batch norm nothing but rounding is left.
            assert find(gradients, name).norm().item() == pytest.approx(wanted, rel=1e-9, abs=1e-9)
        for name in (name for name in self.numbers if name.startswith(f"{place}/bn_after/")):
            theirs = name.removeprefix(f"{place}/")
            ours = find(dict(fusion.named_buffers()), theirs.removeprefix("bn_after/"))
            self.near(place, theirs, ours, atol=1e-10)

    def near(
        self, place: str, name: str, ours: Tensor, *, rtol: float = 0, atol: float = 0
    ) -> None:
        name = f"{place}/{name}"
        wanted = torch.from_numpy(np.asarray(self.numbers[name])).to(ours.dtype)
        torch.testing.assert_close(
            ours.detach(), wanted, rtol=rtol, atol=atol, msg=lambda message: f"{name}: {message}"
        )


@pytest.fixture
def check(numbers: Numbers, fill: Callable, draw_maps: Callable) -> Checker:
    return Checker(numbers, fill, draw_maps)


def numel(module: nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def square(kind: type[Fusion], **settings: object) -> Callable[[int, str], nn.Module]:
    return lambda width, case: kind(width, width, fused_width=width, **settings)


def test_cmx(check: Checker) -> None:
    def build(width: int, case: str) -> nn.Module:
        return CMX(width, width, fused_width=width, max_heads=int(case[-1]))

    check(build, "cmx/w")


def test_sa_gate(check: Checker) -> None:
    check(square(SAGate, relu=True), "sagate/w")


def test_sa_gate_without_relu_is_the_published_one_on_a_resnet(check: Checker) -> None:
    check(square(SAGate), r"sagate/w\d+_6x8_nonneg")
    fusion = SAGate(16, 16, fused_width=16)
    visible, auxiliary = torch.randn(2, 1, 16, 3, 3)
    new_visible, _, merged = fusion(visible, auxiliary)
    torch.testing.assert_close(new_visible, (visible + merged) / 2)
    assert (new_visible < 0).any()


def test_token_fusion_adapter(check: Checker) -> None:
    def build(width: int, case: str) -> nn.Module:
        threshold = {"002": 0.02, "050": 0.5}[case[-3:]]
        return TokenFusionAdapter(width, width, fused_width=width, threshold=threshold)

    check(build, "tokenfusion/adapter/w")


def test_a_score_at_the_threshold_keeps_its_own(numbers: Numbers) -> None:
    arrays = {
        name.rpartition("/")[2]: torch.from_numpy(np.asarray(value))
        for name, value in numbers.items()
        if name.startswith("tokenfusion/exchange/")
    }
    own = [arrays["token0"], arrays["token1"]]
    scores = [arrays["score0"], arrays["score1"]]
    results = exchange(own, own[::-1], [score[..., None] >= 0.02 for score in scores])
    for i, result in enumerate(results):
        assert torch.equal(result, arrays[f"out{i}"])
    adapter = TokenFusionAdapter(4, 4, fused_width=4, sparsity_weight=12.0)
    adapter.scores = scores
    # The released term is the sum of twelve scores.
    term = adapter.regularization()["loss_sparsity"].item()
    assert term == pytest.approx(arrays["l1"].item(), abs=1e-12, rel=0)


def set_scales(fusion: nn.Module, numbers: Numbers, width: int) -> None:
    """Those of the reference, of which some are below the threshold."""
    for i, norm in enumerate(fusion.norms):
        norm.weight.data.copy_(torch.from_numpy(numbers[f"cen/gamma{i}_w{width}"]))


def test_channel_exchange_adapter(check: Checker) -> None:
    build = square(ChannelExchangeAdapter, all_channels=True)
    check(build, "cen/adapter/w", tweak=set_scales)


def test_only_the_penalized_half_of_the_channels_is_exchanged() -> None:
    fusion = ChannelExchangeAdapter(4, 4, fused_width=4).eval()
    for norm in fusion.norms:
        nn.init.zeros_(norm.weight)  # so all channels are worth nothing
    nn.init.constant_(fusion.norms[1].bias, 7.0)
    maps = torch.zeros(2, 1, 4, 1, 1)
    visible, auxiliary, fused = (m.flatten().tolist() for m in fusion(*maps))
    assert visible == [7, 7, 0, 0]
    assert auxiliary == [7, 7, 0, 0]
    assert fused == [7, 7, 0, 0]


def test_penalty_of_scales(numbers: Numbers) -> None:
    scales = [
        [
            torch.from_numpy(numbers[f"cen/sparsity/gamma_{side}_{i}"]).requires_grad_()
            for side in ("vis", "aux")
        ]
        for i in range(3)
    ]
    total = sum(half.abs().sum() for layer in scales for half in penalized(layer))
    assert total.item() == pytest.approx(float(numbers["cen/sparsity/released"]), abs=1e-10)
    total.backward()
    for i, layer in enumerate(scales):
        for side, scale in zip(("vis", "aux"), layer, strict=True):
            assert scale.grad.tolist() == numbers[f"cen/sparsity/grad_{side}_{i}"].tolist()


def test_sums(check: Checker) -> None:
    check(square(AddToVisible), "sums/rtfnet/w")
    check(square(SEAdd), "sums/esanet/w")


def test_numbers_of_parameters() -> None:
    def counts(kind: type[Fusion], widths: tuple[int, ...] = WIDTHS) -> list[int]:
        with torch.device("meta"):
            return [numel(kind(c, c, fused_width=c)) for c in widths]

    with torch.device("meta"):
        read = [CMX(c, c, fused_width=c, max_heads=8) for c in WIDTHS]
    assert [numel(f) - numel(f.fuse) for f in read] == [107_074, 427_138, 2_665_282, 6_820_354]
    assert [numel(f.fuse) for f in read] == [71_296, 281_856, 1_749_120, 4_469_760]
    assert counts(SAGate) == [1_930, 6_930, 40_362, 101_442]
    assert sum(counts(SAGate, (256, 512, 1024, 2048))) == 2_112_488
    assert counts(TokenFusionAdapter) == [13_860, 54_340, 335_524, 856_324]
    assert sum(counts(ChannelExchangeAdapter)) == 4_096
    assert counts(AddToVisible) == [0, 0, 0, 0]
    assert counts(SEAdd) == [1_160, 4_368, 26_280, 66_624]
