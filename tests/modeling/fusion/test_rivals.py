"""The rival fusions against numbers of their authors' code: same weights, inputs and results.

A few cases are in tests/golden; all of them are held against where the reference numbers are.
"""

import pathlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping

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

HERE = pathlib.Path(__file__).resolve().parents[2] / "golden" / "rivals.npz"
FILES = ("cmx", "sagate", "tokenfusion", "cen", "sums")
WIDTHS = (64, 128, 320, 512)
DTYPES = {"f64": torch.float64, "f32": torch.float32}
OUTPUTS = ("vis", "aux", "fused")
Numbers = Mapping[str, np.ndarray]

# Beginnings of the authors' names, as patterns, and ours.
NAMES = {
    r"backbone\.FRMs\.0\.(channel|spatial)_weights\.mlp\.": r"\1.",
    r"backbone\.FFMs\.0\.cross\.channel_proj(\d)\.": r"fuse.project.\1.",
    r"backbone\.FFMs\.0\.cross\.cross_attn\.kv(\d)\.": r"fuse.key_value.\1.",
    r"backbone\.FFMs\.0\.cross\.end_proj(\d)\.": r"fuse.merge.\1.",
    r"backbone\.FFMs\.0\.cross\.norm(\d)\.": r"fuse.norms.\1.",
    r"backbone\.FFMs\.0\.channel_emb\.residual\.": "fuse.shortcut.",
    r"backbone\.FFMs\.0\.channel_emb\.channel_embed\.": "fuse.mix.",
    r"backbone\.FFMs\.0\.channel_emb\.norm\.": "fuse.norm.",
    r"backbone\.sagates\.0\.fsp_rgb\.filter\.fc\.0\.": "gate_visible.1.",
    r"backbone\.sagates\.0\.fsp_rgb\.filter\.fc\.2\.": "gate_visible.3.",
    r"backbone\.sagates\.0\.fsp_hha\.filter\.fc\.0\.": "gate_auxiliary.1.",
    r"backbone\.sagates\.0\.fsp_hha\.filter\.fc\.2\.": "gate_auxiliary.3.",
    r"backbone\.sagates\.0\.gate_rgb\.": "weigh.0:",  # the first row of ours
    r"backbone\.sagates\.0\.gate_hha\.": "weigh.1:",
    r"encoder\.score_predictor\.0\.score_nets\.": "predictors.",
    r"layer1\.0\.bn2\.bn_": "norms.",
    r"se_layer1\.se_rgb\.fc\.0\.": "gate_visible.1.",
    r"se_layer1\.se_rgb\.fc\.2\.": "gate_visible.3.",
    r"se_layer1\.se_depth\.fc\.0\.": "gate_auxiliary.1.",
    r"se_layer1\.se_depth\.fc\.2\.": "gate_auxiliary.3.",
}


def to_ours(theirs: str) -> str:
    for pattern, ours in NAMES.items():
        if re.match(pattern, theirs):
            ours = re.sub(f"{pattern}", ours, theirs)
            # Streams are counted from 0 in lists of ours, from 1 in CMX.
            counted = re.match(r"(fuse\.(?:project|key_value|merge|norms)\.)(\d)(.*)", ours)
            return f"{counted[1]}{int(counted[2]) - 1}{counted[3]}" if counted else ours
    raise KeyError(theirs)


def find(tensors: Mapping[str, Tensor], theirs: str) -> Tensor:
    """The tensor of ours, or its row, that has the authors' name."""
    stem, row, last = re.fullmatch(r"(.*?)(?:\.(\d):)?([\w.]*)", to_ours(theirs)).groups()
    if row is None:
        return tensors[stem + last]
    return tensors[f"{stem}.{last}"][int(row) : int(row) + 1]


def filled(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value that the recipe gives to the tensor with this name of the authors'."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    last = name.rpartition(".")[2]
    if last == "running_var":
        return (0.5 + rng.random_sample(shape)).astype(np.float32)
    value = rng.standard_normal(shape)
    if last == "running_mean":
        value = 0.1 * value
    elif last == "bias":
        value = 0.05 * value
    elif len(shape) == 1:
        value = 1 + 0.1 * value
    else:
        value = value / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)


@pytest.fixture(scope="module", params=["here", "all"])
def numbers(request: pytest.FixtureRequest) -> Numbers:
    """Arrays by names such as "cmx/w16_6x8_h2/eval/f64/vis"."""
    if request.param == "here":
        with np.load(HERE) as file:
            return {name: file[name] for name in file.files}
    folder = request.getfixturevalue("golden")
    arrays = {}
    for part in FILES:
        with np.load(folder / f"rival_{part}.npz") as file:
            arrays |= {f"{part}/{name}": file[name] for name in file.files}
    return arrays


def cases(numbers: Numbers, beginning: str) -> Iterator[tuple[str, str, torch.dtype]]:
    """Case, mode and precision of all that begin so; there must be some."""
    pattern = re.compile(rf"({beginning}[^/]*)/(eval|train)/(f64|f32)/loss")
    found = [match.groups() for name in numbers if (match := pattern.fullmatch(name))]
    assert found, beginning
    return iter(found)


def fill(module: nn.Module, numbers: Numbers, case: str) -> nn.Module:
    """The recipe's weights, whose sums the file states."""
    state = module.state_dict()
    for i, name in enumerate(numbers[f"{case}/weight_names"].tolist()):
        if name.endswith("num_batches_tracked"):
            continue
        shape = tuple(map(int, re.findall(r"\d+", str(numbers[f"{case}/weight_shapes"][i]))))
        value = filled(name, shape)
        assert value.sum(dtype=np.float64) == pytest.approx(numbers[f"{case}/fill_sum"][i])
        own = find(state, name)
        own.copy_(torch.from_numpy(value).reshape(own.shape))
    module.load_state_dict(state)
    return module


def pair(numbers: Numbers, case: str, dtype: torch.dtype) -> list[Tensor]:
    seed, n, *widths, height, width = numbers[f"{case}/seed_nvahw"].tolist()
    rng = np.random.RandomState(seed)
    maps = [rng.standard_normal((n, c, height, width)).astype(np.float32) for c in widths]
    if case.endswith("nonneg"):
        maps = [np.abs(m) for m in maps]
    return [torch.from_numpy(m).to(dtype).requires_grad_() for m in maps]


def check(
    build: Callable[[int, str], nn.Module], numbers: Numbers, beginning: str, **tweaks: Callable
) -> None:
    """Holds outputs, loss, gradients and running statistics of all cases against the numbers."""
    for case, mode, precision in cases(numbers, beginning):
        width = int(numbers[f"{case}/seed_nvahw"][2])
        fusion = fill(build(width, case), numbers, case).to(DTYPES[precision])
        if "tweak" in tweaks:
            tweaks["tweak"](fusion, numbers, width)
        fusion.train(mode == "train")
        inputs = pair(numbers, case, DTYPES[precision])
        outputs = fusion(*inputs)
        loss = sum(output.square().sum() for output in outputs)
        loss.backward()
        place = f"{case}/{mode}/{precision}"
        exact = precision == "f64"
        absolute, relative = (1e-10, 1e-10) if exact else (1e-5, 2e-5)

        def near(
            ours: Tensor, name: str, *, rtol: float = 0, atol: float = absolute, at: str = place
        ) -> None:
            wanted = torch.from_numpy(np.asarray(numbers[f"{at}/{name}"])).to(ours.dtype)
            torch.testing.assert_close(
                ours.detach(), wanted, rtol=rtol, atol=atol, msg=lambda m: f"{at}/{name}: {m}"
            )

        near(loss, "loss", rtol=1e-12 if exact else 1e-6, atol=0)
        for name, output in zip(OUTPUTS, outputs, strict=True):
            if f"{place}/{name}" in numbers:
                near(output, name)
            elif f"{place}/{name}_sub" in numbers:
                near(output[:, :, ::3, ::4], f"{name}_sub")
        for name, feature in zip(OUTPUTS, inputs, strict=False):
            near(feature.grad.norm(), f"grad_{name}_l2", rtol=relative, atol=0)
            if f"{place}/grad_{name}" in numbers:
                near(feature.grad, f"grad_{name}", atol=1e-9 if exact else 1e-3)
        if exact:
            check_weights(fusion, numbers, case, place)


def check_weights(fusion: nn.Module, numbers: Numbers, case: str, place: str) -> None:
    gradients = {name: parameter.grad for name, parameter in fusion.named_parameters()}
    names = numbers[f"{case}/param_names"].tolist()
    for name, wanted in zip(names, numbers[f"{place}/param_grad_l2"].tolist(), strict=True):
        # Of a bias in front of a batch norm nothing but rounding is left.
        assert find(gradients, name).norm().item() == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    for name in numbers:
        if name.startswith(f"{place}/bn_after/"):
            ours = find(dict(fusion.named_buffers()), name.rpartition("/")[2])
            torch.testing.assert_close(ours, torch.from_numpy(numbers[name]), rtol=0, atol=1e-10)


def numel(module: nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def square(kind: type[Fusion], **settings: object) -> Callable[[int, str], nn.Module]:
    return lambda width, case: kind(width, width, fused_width=width, **settings)


def test_cmx(numbers: Numbers) -> None:
    def build(width: int, case: str) -> nn.Module:
        return CMX(width, width, fused_width=width, max_heads=int(case[-1]))

    check(build, numbers, "cmx/w")


def test_sa_gate(numbers: Numbers) -> None:
    check(square(SAGate, relu=True), numbers, "sagate/w")


def test_sa_gate_without_relu_is_the_published_one_on_a_resnet(numbers: Numbers) -> None:
    check(square(SAGate), numbers, r"sagate/w\d+_6x8_nonneg")
    fusion = SAGate(16, 16, fused_width=16)
    visible, auxiliary = torch.randn(2, 1, 16, 3, 3)
    new_visible, _, merged = fusion(visible, auxiliary)
    torch.testing.assert_close(new_visible, (visible + merged) / 2)
    assert (new_visible < 0).any()


def test_token_fusion_adapter(numbers: Numbers) -> None:
    def build(width: int, case: str) -> nn.Module:
        threshold = {"002": 0.02, "050": 0.5}[case[-3:]]
        return TokenFusionAdapter(width, width, fused_width=width, threshold=threshold)

    check(build, numbers, "tokenfusion/adapter/w")


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
    assert adapter.regularization()["loss_sparsity"].item() == pytest.approx(arrays["l1"].item())


def set_scales(fusion: nn.Module, numbers: Numbers, width: int) -> None:
    """Those of the reference, of which some are below the threshold."""
    for i, norm in enumerate(fusion.norms):
        norm.weight.data.copy_(torch.from_numpy(numbers[f"cen/gamma{i}_w{width}"]))


def test_channel_exchange_adapter(numbers: Numbers) -> None:
    build = square(ChannelExchangeAdapter, all_channels=True)
    check(build, numbers, "cen/adapter/w", tweak=set_scales)


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


def test_sums(numbers: Numbers) -> None:
    check(square(AddToVisible), numbers, "sums/rtfnet/w")
    check(square(SEAdd), numbers, "sums/esanet/w")


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
