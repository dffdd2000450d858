"""Streams of shared weights: the authors' numbers of a block, and what such a pair promises."""

import copy
import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smmcl.config import build_config
from smmcl.engine.trainer import Trainer, load_streams
from smmcl.inference.export import FromPixels, TensorSegmentor, compare, export_program
from smmcl.inference.fold import fold
from smmcl.modeling.backbone.shared import (
    NORMS,
    ChannelExchange,
    exchange_channels,
    exchange_tokens,
    share_weights,
)
from smmcl.modeling.fusion.channel_exchange import kept_channels
from smmcl.modeling.head.ensemble import EnsembleHead
from smmcl.modeling.streams import mit, resnet
from smmcl.modeling.streams.base import STREAM_REGISTRY, Stream, build_stream, register_sizes
from smmcl.modeling.streams.names import Names

NETWORKS = {"few_mit": "TokenFusion", "few_basic": "ChannelExchange", "few": "ChannelExchange"}
DTYPES = {"f64": torch.float64, "f32": torch.float32}

# The authors' names of a block, after its own and without the number of the modality.
NAMES = Names(
    ("norm{0}.", "norm{}."),
    ("attn.q.", "attention.query."),
    ("attn.kv.", "attention.key_value."),
    ("attn.proj.", "attention.project."),
    ("attn.sr.", "attention.reduce.0."),
    ("attn.norm.", "attention.reduce.1."),
    ("mlp.fc1.", "mlp.expand."),
    ("mlp.dwconv.dwconv.", "mlp.depthwise."),
    ("mlp.fc2.", "mlp.reduce."),
    ("conv{1}.", "layers.{}.0."),
    ("bn{1}.", "layers.{}.1."),
    ("downsample.", "shortcut."),
)


@pytest.fixture(scope="module", autouse=True)
def _small_streams() -> None:
    if "few" in STREAM_REGISTRY:
        return
    widths = {"widths": (16, 32, 80, 128), "depths": (1, 1, 1, 1)}
    register_sizes({"few_mit": widths})(mit.MiT)
    register_sizes({"few_basic": {**widths, "kernels": resnet.BASIC}})(resnet.ResNet)
    register_sizes({"few": {**widths, "kernels": resnet.BOTTLENECK}})(resnet.ResNet)


def twins(block: nn.Module) -> tuple[nn.Module, nn.Module]:
    return block, share_weights(block)


def find(blocks: tuple[nn.Module, nn.Module], theirs: str) -> Tensor:
    """Ours of the tensor "encoder.block1.0.norm1.ln_1.weight" or "layer2.0.conv1.module.weight"."""
    name = re.sub(r"^(encoder\.block1|layer\d)\.\d\.", "", theirs)
    side = re.search(r"\.(?:ln|bn)_(\d)", name)
    name = re.sub(r"\.(ln|bn)_\d|\.module", "", name)
    state = blocks[int(side[1]) if side else 0].state_dict()
    return state[NAMES.to_ours(name)]


def near(ours: Tensor, wanted: np.ndarray, *, is_exact: bool, size: bool = False) -> None:
    """To 1e-10 or 1e-5, of sizes relative."""
    tolerance = 1e-10 if is_exact else 1e-5
    tolerances = {"rtol": 2 * tolerance * size, "atol": tolerance * (not size)}
    wanted = torch.from_numpy(np.asarray(wanted)).to(ours.dtype)
    torch.testing.assert_close(ours.detach(), wanted, **tolerances)


def test_token_fusion_s_block(numbers: Mapping, fill: Callable, draw_maps: Callable) -> None:
    cases = {match[0] for name in numbers if (match := re.match(r"tokenfusion/block/\w+", name))}
    assert cases
    for case, precision in ((case, precision) for case in cases for precision in DTYPES):
        place, dtype = f"{case}/{precision}", DTYPES[precision]
        if f"{place}/loss" not in numbers:
            continue
        width, heads, reduction, *size = numbers[f"{case}/cfg_c_heads_sr_h_w"].tolist()
        block = mit.Block(width, num_heads=heads, reduction=reduction, drop_path_rate=0.0)
        if reduction > 1:
            block.attention.reduce[1].eps = 1e-6  # theirs; SegFormer's and ours is 1e-5
        blocks = twins(block)
        fill(numbers, case, lambda name, blocks=blocks: find(blocks, name))
        for one in blocks:
            one.to(dtype)
        seed, _ = numbers[f"{case}/seed_mask"].tolist()
        maps = [m.requires_grad_() for m in draw_maps(seed, *[(2, width, *size)] * 2, dtype=dtype)]
        scores = [
            torch.from_numpy(numbers[f"{case}/mask_{side}"]).to(dtype).reshape(2, *size, 1)
            for side in ("vis", "aux")
        ]
        tokens = [m.permute(0, 2, 3, 1) for m in maps]
        outputs = exchange_tokens(blocks, tokens, scores, threshold=0.02)
        outputs = [m.permute(0, 3, 1, 2) for m in outputs]
        loss = sum(m.square().sum() for m in outputs)
        loss.backward()
        is_exact = precision == "f64"
        near(loss, numbers[f"{place}/loss"], is_exact=is_exact, size=True)
        for side, output, feature in zip(("vis", "aux"), outputs, maps, strict=True):
            for key, value in ((side, output), (f"{side}_sub", output[:, :, ::3, ::4])):
                if f"{place}/{key}" in numbers:
                    near(value, numbers[f"{place}/{key}"], is_exact=is_exact)
            grad = feature.grad.norm()
            near(grad, numbers[f"{place}/grad_{side}_l2"], is_exact=is_exact, size=True)


def test_cen_s_bottleneck(numbers: Mapping, fill: Callable, draw_maps: Callable) -> None:
    pattern = re.compile(r"(cen/bottleneck/\w+)/(eval|train)/(f64|f32)/loss")
    found = [match.groups() for name in numbers if (match := pattern.fullmatch(name))]
    assert found
    for case, mode, precision in found:
        place, dtype = f"{case}/{mode}/{precision}", DTYPES[precision]
        in_width, planes, stride, *size = numbers[f"{case}/cfg_in_planes_stride_h_w"].tolist()
        kernels = {"kernels": resnet.BOTTLENECK, "stride": stride}
        blocks = twins(resnet.Residual(in_width, 4 * planes, **kernels))
        fill(numbers, case, lambda name, blocks=blocks: find(blocks, name))
        scales = [block.layers[1][1].weight for block in blocks]
        for i, scale in enumerate(scales):
            scale.data.copy_(torch.from_numpy(numbers[f"cen/gamma{i}_w{planes}"]))
        for block in blocks:
            block.to(dtype).train(mode == "train")
        shapes = [(2, in_width, *size)] * 2
        maps = draw_maps(int(numbers[f"{case}/seed"]), *shapes, dtype=dtype)
        maps = [m.abs().requires_grad_() for m in maps]
        keeps = kept_channels(scales, threshold=0.02, all_channels=True)
        outputs = exchange_channels(blocks, maps, keeps)
        loss = sum(m.square().sum() for m in outputs)
        loss.backward()
        is_exact = precision == "f64"
        near(loss, numbers[f"{place}/loss"], is_exact=is_exact, size=True)
        for i, (side, output) in enumerate(zip(("vis", "aux"), outputs, strict=True)):
            if f"{place}/{side}" in numbers:
                near(output, numbers[f"{place}/{side}"], is_exact=is_exact)
            grad = maps[i].grad.norm()
            near(grad, numbers[f"{place}/grad_{side}_l2"], is_exact=is_exact, size=True)
            if is_exact:
                wanted = torch.from_numpy(numbers[f"{place}/grad_gamma{i}"])
                torch.testing.assert_close(scales[i].grad, wanted, rtol=1e-10, atol=1e-10)
        for name in (name for name in numbers if name.startswith(f"{place}/bn_after/")):
            near(find(blocks, name.rpartition("/")[2]), numbers[name], is_exact=is_exact)


class GivenLogits(nn.Module):
    """Stands for a head: gives the logits that it is given, and the cross-entropy of each."""

    in_features, ignore_value = ("res5",), 255

    def layers(self, features: list[Tensor]) -> Tensor:
        return features[0]

    def loss(self, logits: Tensor, targets: Tensor, divisor: Tensor | None) -> Tensor:
        logits = nn.functional.interpolate(logits, targets.shape[-2:], mode="bilinear")
        return nn.functional.cross_entropy(logits, targets, ignore_index=self.ignore_value)


def test_the_ensemble_and_its_losses(numbers: Mapping) -> None:
    arrays = {
        name.removeprefix("cen/ensemble/"): torch.from_numpy(np.asarray(value))
        for name, value in numbers.items()
        if name.startswith("cen/ensemble/")
    }
    targets = arrays["label"].long()
    for i, alpha in enumerate(arrays["alpha"]):
        head = EnsembleHead(GivenLogits()).double()
        head.alpha.data.copy_(alpha)
        features = {
            "res5_visible": arrays["logits_vis"].clone().requires_grad_(),
            "res5_auxiliary": arrays["logits_aux"].clone().requires_grad_(),
        }
        _, losses = head(features, targets)
        names = ("loss_sem_seg_visible", "loss_sem_seg_auxiliary", "loss_sem_seg")
        for name, wanted in zip(names, arrays[f"a{i}/losses_vis_aux_ens"], strict=True):
            assert losses[name].item() == pytest.approx(wanted.item(), abs=1e-10)
        sum(losses.values()).backward()
        near(head.alpha.grad, arrays[f"a{i}/grad_alpha"].numpy(), is_exact=True)
        for stream, side in (("visible", "vis"), ("auxiliary", "aux")):
            size = features[f"res5_{stream}"].grad.norm().item()
            assert size == pytest.approx(arrays[f"a{i}/grad_{side}_l2"].item(), rel=1e-10)
        logits, nothing = head.eval()(features)
        near(logits, arrays[f"a{i}/logits_ens"].numpy(), is_exact=True)
        assert not nothing


def numel(*modules: nn.Module) -> int:
    """Parameters, each once."""
    return sum(p.numel() for p in {p for module in modules for p in module.parameters()})


@pytest.mark.parametrize(
    ("name", "second_norms"),
    [("mit_b2", 25_984), ("mit_b3", 49_024), ("resnet50", 53_120), ("resnet101", 105_344),
     ("resnet152", 151_424)],
)  # fmt: skip
def test_only_the_norms_are_there_twice(name: str, second_norms: int) -> None:
    with torch.device("meta"):
        visible = build_stream(name)
        auxiliary = share_weights(visible)
    assert numel(visible, auxiliary) - numel(visible) == second_norms
    for one, other in zip(visible.modules(), auxiliary.modules(), strict=True):
        pairs = zip(one.parameters(recurse=False), other.parameters(recurse=False), strict=True)
        assert all((a is b) != isinstance(one, NORMS) for a, b in pairs)


def test_token_fusion_is_as_large_as_its_authors() -> None:
    """Predictors by stage, and the whole network of MiT-B2 with 40 classes."""
    cfg = build_config("rivals/tokenfusion_mitb2_nyudv2.yaml", ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = Trainer.build_model(cfg)
    predictors = [numel(fusion) for fusion in model.backbone.fusions]
    assert predictors == [13_860, 54_340, 335_524, 856_324]
    assert numel(model) == 26_018_426


def config(network: str, *overrides: object):
    return build_config("synthetic_night.yaml", [
        "MODEL.BACKBONE.NAME", "build_shared_backbone", "MODEL.FUSION.NAME", NETWORKS[network],
        "MODEL.PAIR.VISIBLE.NAME", network, "MODEL.PAIR.AUXILIARY.NAME", network,
        "MODEL.FUSION.THRESHOLD", 0.5, "MODEL.SEM_SEG_HEAD.NAME", "MLPHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res3", "res5"], *overrides,
    ])  # fmt: skip


def build(network: str, *overrides: object) -> nn.Module:
    """A model of which some places or channels are exchanged and others not."""
    torch.manual_seed(0)
    model = Trainer.build_model(config(network, *overrides))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
        elif isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.bias, std=0.3)  # else all scores are close to a half
    return model


def pairs(seed: int = 0) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": 255 * torch.rand(3, 64, 96, generator=generator),
            "auxiliary": 255 * torch.rand(3, 64, 96, generator=generator),
            "sem_seg": torch.arange(96).expand(64, -1) // 48,
            "view_seed": i,
        }
        for i in range(2)
    ]


@pytest.mark.parametrize("network", NETWORKS)
def test_training_reaches_every_weight_and_leaves_a_model_that_can_be_copied(network: str) -> None:
    model = build(network).train()
    losses = model(pairs())
    assert {"loss_sem_seg", "loss_sem_seg_visible", "loss_sem_seg_auxiliary", "loss_sparsity",
            "loss_contrast_cross"} <= set(losses)  # fmt: skip
    assert 0 < losses["loss_sparsity"].item() < 1
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    twin = copy.deepcopy(model)
    assert numel(twin) == numel(model)
    model.eval(), twin.eval()
    with torch.inference_mode():
        for one, other in zip(model(pairs()), twin(pairs()), strict=True):
            assert torch.equal(one["sem_seg"], other["sem_seg"])


@pytest.mark.parametrize("network", NETWORKS)
def test_the_streams_take_from_each_other_below_the_threshold_only(network: str) -> None:
    for threshold, hears in ((-1.0, False), (0.5, True)):
        model = build(network, "MODEL.FUSION.THRESHOLD", threshold).eval()
        images = torch.randn(3, 1, 3, 64, 96)
        with torch.inference_mode():
            before = model.backbone(images[0], images[1])["res5_visible"]
            after = model.backbone(images[0], images[2])["res5_visible"]
        assert torch.equal(before, after) != hears


@pytest.mark.parametrize("network", NETWORKS)
def test_a_folded_model_computes_the_same(network: str) -> None:
    model = build(network).eval().double()
    with torch.inference_mode():
        wanted = model(pairs())
        for one, other in zip(wanted, fold(model, dtype=torch.float64)(pairs()), strict=True):
            torch.testing.assert_close(other["sem_seg"], one["sem_seg"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "network", ["few_basic", "few", pytest.param("few_mit", marks=pytest.mark.slow)]
)
def test_an_exported_model_computes_the_same(network: str) -> None:
    model = build(network).eval().double()
    network = FromPixels(TensorSegmentor(model), model=model).eval()
    program = export_program(network, auxiliary_channels=3).module()
    pair = 255 * torch.rand(2, 1, 3, 71, 130)
    with torch.inference_mode():
        difference, share = compare(network(*pair), program(*pair))
    assert difference < 1e-9
    assert share == 1


@pytest.mark.parametrize("network", NETWORKS)
def test_published_weights_fill_both_streams(network: str, tmp_path) -> None:
    theirs = build_stream(network)
    (names, *_) = (publisher.names for publisher in theirs.publishers)
    state = {names.to_theirs(name): value for name, value in theirs.state_dict().items()}
    torch.save(state, tmp_path / "file.pth")
    file = str(tmp_path / "file.pth")
    model = build(network)
    filled = config(network, "MODEL.PAIR.VISIBLE.WEIGHTS", file,
                    "MODEL.PAIR.AUXILIARY.WEIGHTS", file)  # fmt: skip
    load_streams(filled, model)
    for stream in (model.backbone.visible, model.backbone.auxiliary):
        assert isinstance(stream, Stream)
        for name, value in stream.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_what_does_not_fit_is_refused() -> None:
    for overrides, error in (
        (["MODEL.PAIR.AUXILIARY.NAME", "mit_b0"], "same values"),
        (["MODEL.AUXILIARY.PIXEL_MEAN", [1.0], "MODEL.AUXILIARY.PIXEL_STD", [1.0]], "3 channels"),
        (["MODEL.PAIR.RECOMPUTE", True], "RECOMPUTE"),
        (["MODEL.FUSION.NAME", "CMX"], "TokenFusion and ChannelExchange"),
        (["MODEL.FUSION.NAME", "ChannelExchange"], "inside the blocks of a ResNet"),
        (["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res3"]], "IN_FEATURES"),
    ):
        with pytest.raises(ValueError, match=error):
            Trainer.build_model(config("few_mit", *overrides))


def test_channels_of_a_stage_by_hand() -> None:
    """Scales of 0 in the penalized halves: each stream's branch has the other's bias there."""
    stages = [stream.stages[0] for stream in (build_stream("resnet18"), build_stream("resnet18"))]
    for i, stage in enumerate(stages):
        for block in stage.blocks:
            nn.init.zeros_(block.layers[0][1].weight)
            nn.init.constant_(block.layers[0][1].bias, float(i + 1))
    fusion = ChannelExchange(*stages, threshold=0.02, all_channels=False)
    seen = []
    for stage in stages:
        stage.eval().blocks[0].layers[1].register_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[0][0, :, 0, 0])
        )
    fusion(stages, torch.randn(2, 1, 3, 64, 64))
    assert seen[0].tolist() == [2.0] * 32 + [1.0] * 32
    assert seen[1].tolist() == [2.0] * 32 + [1.0] * 32
