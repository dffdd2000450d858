"""The whole network against the authors' numbers: same weights, same inputs, same results."""

import copy
import pathlib
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import smmcl.engine.trainer  # noqa: F401  registers the parts
from smmcl.config import build_config
from smmcl.d2 import build_backbone, build_sem_seg_head
from smmcl.engine.solver import build_optimizer
from smmcl.modeling.contrastive.build import build_contrast
from smmcl.modeling.contrastive.loss import contrastive_losses
from smmcl.modeling.layers.resize import resize
from smmcl.modeling.streams.base import build_stream
from smmcl.weights.convert import AUTHORS

HERE = pathlib.Path(__file__).resolve().parents[1] / "golden"
RELEASED = HERE.parents[1] / "configs/released/llrgbd_mscanb.yaml"
LOSSES = ("total", "ce", "cross", "visible", "auxiliary")


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value that the recipe gives to the tensor with this name of the authors'."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return torch.zeros((), dtype=torch.int64)
    if last == "running_var":
        return torch.from_numpy(0.5 + rng.random_sample(shape)).float()
    value = torch.from_numpy(rng.standard_normal(shape))
    if last == "bias":
        value = 0.05 * value
    elif last == "running_mean" or last.startswith("layer_scale"):
        value = 0.1 * value
    elif len(shape) == 1:
        value = 1 + 0.1 * value
    else:
        value = value / np.sqrt(np.prod(shape[1:]))
    return value.float()


def images(seed: int, n: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    rng = np.random.RandomState(seed)
    visible = torch.from_numpy(rng.standard_normal((n, 3, height, width))).float().double()
    auxiliary = torch.from_numpy(rng.standard_normal((n, 1, height, width))).float().double()
    return visible, auxiliary.expand(-1, 3, -1, -1)


class Network(nn.Module):
    """The model of the released config, its forward giving all that the references state."""

    def __init__(self, *, stream: str = "mscan_b", num_classes: int = 14) -> None:
        super().__init__()
        self.cfg = build_config(str(RELEASED), [
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES", num_classes,
            "MODEL.PAIR.VISIBLE.NAME", stream, "MODEL.PAIR.AUXILIARY.NAME", stream,
            # The references are without these draws.
            "MODEL.PAIR.VISIBLE.DROP_PATH_RATE", 0.0, "MODEL.PAIR.AUXILIARY.DROP_PATH_RATE", 0.0,
            "MODEL.SEM_SEG_HEAD.DROPOUT", 0.0,
        ])  # fmt: skip
        self.backbone = build_backbone(self.cfg)
        self.sem_seg_head = build_sem_seg_head(self.cfg, self.backbone.output_shape())
        self.contrast = build_contrast(self.cfg, self.backbone.output_shape())

    def forward(self, visible: Tensor, auxiliary: Tensor, bases: Tensor) -> dict[str, Tensor]:
        """Everything the references state, under their names."""
        features = self.backbone(visible, auxiliary)
        fused = [features[name] for name in self.sem_seg_head.in_features]
        logits = self.sem_seg_head.layers(fused, bases=bases)
        maps = {
            "logits_lowres": logits,
            "logits": resize(logits, visible.shape[-2:]),
        }
        for name, side in (("color_fea", "visible"), ("other_fea", "auxiliary")):
            maps[name] = self.contrast.projectors[side](features[f"res5_{side}"])
        maps["logits_sub"] = maps["logits"][:, :, 3::8, 5::8]
        for i in (2, 3, 4):
            maps[f"fused{i}"] = features[f"res{i + 1}"]
            maps[f"corner/backbone.fconv{i}"] = features[f"res{i + 1}"][:, :8, :3, :3]
        for i in (1, 2, 3, 4):
            for side, suffix in (("visible", ""), ("auxiliary", "_other")):
                tokens = features[f"res{i + 1}_{side}"].flatten(2).mT  # (N, H * W, C)
                maps[f"corner/backbone.norm{suffix}{i}"] = tokens[:, :8, :8]
        return maps


@pytest.fixture(scope="module")
def network() -> Network:
    """The recipe's weights, renamed from the authors' names; tests change copies alone.

    In float64, whose rounding is far below what the references are held to on every processor.
    """
    network = Network().eval().double()
    own = network.state_dict()
    state = {}
    for name in np.load(HERE / "keys_mscan_b_c14.npz")["keys"].tolist():
        ours = AUTHORS.to_ours(name)
        if not name.startswith("backbone.fconv1."):  # read by no head, so not built
            state[ours] = filled(name, tuple(own[ours].shape))
    network.load_state_dict(state)
    return network


def test_names_map_one_to_one_and_the_recipe_fills_as_stated() -> None:
    keys = np.load(HERE / "keys_mscan_b_c14.npz")
    names = keys["keys"].tolist()
    with torch.device("meta"):
        own = {name: tuple(value.shape) for name, value in Network().state_dict().items()}
    shapes = [tuple(size for size in shape if size >= 0) for shape in keys["shapes"].tolist()]
    ours = dict(zip(map(AUTHORS.to_ours, names), shapes, strict=True))
    assert len(ours) == len(names) == 1782
    unread = {"backbone.fusions.0.fuse.weight", "backbone.fusions.0.fuse.bias"}
    assert {name: shape for name, shape in ours.items() if name not in unread} == own
    for i in range(0, len(names), 31):
        value = filled(names[i], ours[AUTHORS.to_ours(names[i])])
        assert value.double().sum().item() == pytest.approx(keys["fill_sum"][i], abs=1e-9)


@pytest.mark.parametrize("case", ["A", "B", "C"])
def test_evaluation(network: Network, case: str) -> None:
    check_evaluation(network, "model_mscan_b_c14_eval.npz", case)


def test_evaluation_with_nine_classes(network: Network) -> None:
    network = copy.deepcopy(network)
    classifier = nn.Conv2d(512, 9, 1, dtype=torch.float64)
    for name, parameter in classifier.named_parameters():
        parameter.data = filled(f"decode_head.conv_seg.{name}", tuple(parameter.shape)).double()
    network.sem_seg_head.classifier[1] = classifier
    check_evaluation(network, "model_mscan_b_c9_eval.npz", "A")


def check_evaluation(network: Network, name: str, case: str) -> None:
    reference, prefix = np.load(HERE / name), f"{case}/f64/"
    shape = reference[f"{case}/input_seed_nhw"].tolist()
    bases = torch.from_numpy(np.load(HERE / "nmf_bases.npz")[f"b{shape[1]}"])
    with torch.no_grad():
        maps = network(*images(*shape), bases)
    stated = [key.removeprefix(prefix) for key in reference if key.startswith(prefix)]
    checked = [key for key in stated if key in maps]
    assert {"logits_lowres", "color_fea", "other_fea"} < set(checked)
    for key in checked:
        difference = (maps[key] - torch.from_numpy(reference[prefix + key])).abs().max().item()
        assert difference < 1e-9, key
    assert np.array_equal(maps["logits"].argmax(1).numpy(), reference[f"{prefix}argmax"])


def training_losses(network: Network, reference: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Losses of one forward pass over the references' batch, with their views and bases."""
    bases = torch.from_numpy(np.load(HERE / "nmf_bases.npz")["b2"])
    maps = network(*images(11, 2, 128, 160), bases)
    labels = torch.from_numpy(reference["label"]).long()
    views = [
        torch.from_numpy(reference[name] + 20 * reference["batch_ids"][:, None]).flatten()
        for name in ("vis_idx", "aux_idx")  # cells of the 4x5 maps
    ]
    embeddings = [
        maps[name].permute(0, 2, 3, 1).flatten(0, 2)[cells]
        for name, cells in zip(("color_fea", "other_fea"), views, strict=True)
    ]  # (M, D) each
    classes = torch.from_numpy(reference["classes"]).repeat_interleave(5)  # (M,)
    contrast = contrastive_losses(*embeddings, classes, **network.contrast.loss)
    ce = F.cross_entropy(maps["logits"], labels, ignore_index=255)
    total = ce + sum(weight * contrast[term] for term, weight in network.contrast.weights.items())
    return {"total": total, "ce": ce, **contrast}


def test_training_step(network: Network) -> None:
    reference = np.load(HERE / "model_mscan_b_c14_train.npz")
    network = copy.deepcopy(network).train()
    losses = training_losses(network, reference)
    values = [losses[name].item() for name in LOSSES]
    assert values == pytest.approx(reference["f64/loss_total_ce_cm_vis_aux"], rel=1e-9)

    losses["total"].backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    names, norms = reference["param_names"].tolist(), reference["f64/grad_l2"]
    starts = reference["f64/grad_head4"]
    for name, is_none, norm, start in zip(
        names, reference["f64/grad_is_none"], norms, starts, strict=True
    ):
        if is_none:
            assert name.startswith("backbone.fconv1.")
        elif norm > 1e-12:  # a bias in front of a batch norm has rounding for a gradient
            gradient = gradients[AUTHORS.to_ours(name)]
            assert gradient.norm().item() == pytest.approx(norm, rel=1e-8), name
            ours = gradient.flatten()[:4].tolist()
            assert ours == pytest.approx(start[: len(ours)], abs=1e-8 * norm), name
    buffers = dict(network.named_buffers())
    for name, total in zip(
        reference["buffer_names"].tolist(), reference["f64/buffer_sum_after"], strict=True
    ):
        own = buffers[AUTHORS.to_ours(name)].double().sum().item()
        assert own == pytest.approx(total, rel=1e-9, abs=1e-9), name


@pytest.mark.slow
def test_trajectory(network: Network) -> None:
    """Six steps of AdamW in the authors' groups, which leave the layer scales out."""
    reference = np.load(HERE / "model_mscan_b_c14_train.npz")
    network = copy.deepcopy(network).train()
    optimizer = build_optimizer(network.cfg, network)
    for lr, stated in zip(
        reference["traj_lr_used"].tolist(), reference["f64/traj_loss"], strict=True
    ):
        losses = training_losses(network, reference)
        assert [losses[name].item() for name in LOSSES] == pytest.approx(stated, abs=1e-9)
        optimizer.zero_grad()
        losses["total"].backward()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()


@pytest.mark.parametrize(
    ("stream", "num_classes", "parameters", "flops"),
    # As stated by the references. Theirs count the first fusion, which nothing reads, too.
    [
        ("mscan_b", 14, 72_888_722, 150_784_831_488),
        ("mscan_b", 40, 72_902_060, None),
        pytest.param("mscan_l", 14, 109_606_802, 247_902_117_888, marks=pytest.mark.slow),
    ],
)
def test_parameters_and_multiply_adds(
    stream: str, num_classes: int, parameters: int, flops: int | None
) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes alone are computed
        network = Network(stream=stream, num_classes=num_classes).eval()
        assert sum(p.numel() for p in network.parameters()) == parameters - 8_256
        if flops is not None:
            image, bases = torch.empty(1, 3, 480, 640), torch.empty(512, 64)
            with FlopCounterMode(display=False) as counter:
                network(image, image, bases)
            first_fusion = 2 * (120 * 160) * 128 * 64
            assert counter.get_total_flops() == flops - first_fusion


def test_initial_distributions() -> None:
    torch.manual_seed(0)
    own = Network().state_dict()
    stated = np.load(HERE / "init_stats_mscan_b_c14.npz")
    for name, (mean, std, low, high) in zip(
        stated["names"].tolist(), stated["mean_std_min_max"], strict=True
    ):
        if name.startswith("backbone.fconv1."):
            continue
        value = own[AUTHORS.to_ours(name)]
        if low == high:
            assert torch.equal(value, torch.full_like(value, low)), name
            continue
        # Two samples of n values: standard deviations differ by std / sqrt(n) on average.
        slack = 5 / np.sqrt(value.numel())
        assert value.std(unbiased=False).item() == pytest.approx(std, rel=slack), name
        assert value.mean().item() == pytest.approx(mean, abs=1.5 * slack * std), name


def test_drop_path_rates() -> None:
    stated = np.load(HERE / "init_stats_mscan_b_c14.npz")
    with torch.device("meta"):
        stream = build_stream("mscan_b", drop_path_rate=0.2)
    for name, rate in zip(stated["drop_path_names"].tolist(), stated["drop_path"], strict=True):
        if "_other" not in name:
            ours = AUTHORS.to_ours(name).removeprefix("backbone.visible.")
            assert stream.get_submodule(ours).rate == pytest.approx(rate, abs=1e-7)
    assert len(stated["drop_path_names"]) == 2 * (3 + 3 + 12 + 3 - 1)
