"""Published weights under our names, every tensor accounted for."""

import logging
import re
from typing import Any

import torch
from torch import Tensor, nn

from smmcl.weights.files import read_file, tensors_in

FIRST_CONVOLUTION = "stages.0.embed.0.weight"  # of every stream
MIN_SHARE = 0.95  # of a stream's tensors, and of their values, that a file has to fill

logger = logging.getLogger(__name__)


class Names:
    """Names of a publisher's tensors and ours, by their beginnings; the first rule that fits holds.

    `{1}` in a publisher's name is a number counted from 1, `{0}` from 0 and `{2}` from 2; the
    number is counted from 0 at the `{}` in ours.
    """

    def __init__(self, *rules: tuple[str, str]) -> None:
        self.rules = rules

    def to_ours(self, name: str) -> str | None:
        """Our name; None where no rule fits."""
        for theirs, ours in self.rules:
            pattern = re.sub(r"\\{\d\\}", r"(\\d+)", re.escape(theirs))
            if found := re.match(pattern, name):
                starts = re.findall(r"\{(\d)\}", theirs)
                numbers = [int(n) - int(s) for n, s in zip(found.groups(), starts, strict=True)]
                return ours.format(*numbers) + name[found.end() :]
        return None

    def to_theirs(self, name: str) -> str | None:
        """The publisher's name; None where no rule fits."""
        for theirs, ours in self.rules:
            if found := re.match(re.escape(ours).replace(r"\{\}", r"(\d+)"), name):
                starts = re.findall(r"\{(\d)\}", theirs)
                numbers = [int(n) + int(s) for n, s in zip(found.groups(), starts, strict=True)]
                template = re.sub(r"\{\d\}", "{}", theirs)
                return template.format(*numbers) + name[found.end() :]
        return None


SHARED = (  # by MSCAN and MiT
    ("patch_embed{1}.proj.", "stages.{}.embed.0."),
    ("patch_embed{1}.norm.", "stages.{}.embed.1."),
    ("norm{1}.", "stages.{}.norm."),
    ("block{1}.{0}.mlp.fc1.", "stages.{}.blocks.{}.mlp.expand."),
    ("block{1}.{0}.mlp.dwconv.dwconv.", "stages.{}.blocks.{}.mlp.depthwise."),
    ("block{1}.{0}.mlp.dwconv.", "stages.{}.blocks.{}.mlp.depthwise."),  # OpenMMLab's copies
    ("block{1}.{0}.mlp.fc2.", "stages.{}.blocks.{}.mlp.reduce."),
    ("block{1}.{0}.", "stages.{}.blocks.{}."),
)
MSCAN = Names(
    ("patch_embed1.proj.{0}.", "stages.0.embed.{}."),
    ("block{1}.{0}.attn.proj_1.", "stages.{}.blocks.{}.attention.project_in."),
    ("block{1}.{0}.attn.proj_2.", "stages.{}.blocks.{}.attention.project_out."),
    ("block{1}.{0}.attn.spatial_gating_unit.conv0.", "stages.{}.blocks.{}.attention.local."),
    ("block{1}.{0}.attn.spatial_gating_unit.conv3.", "stages.{}.blocks.{}.attention.mix."),
    (
        "block{1}.{0}.attn.spatial_gating_unit.conv{0}_{1}.",
        "stages.{}.blocks.{}.attention.strips.{}.{}.",
    ),
    *SHARED,
)
MIT = Names(
    ("block{1}.{0}.attn.q.", "stages.{}.blocks.{}.attention.query."),
    ("block{1}.{0}.attn.kv.", "stages.{}.blocks.{}.attention.key_value."),
    ("block{1}.{0}.attn.proj.", "stages.{}.blocks.{}.attention.project."),
    ("block{1}.{0}.attn.sr.", "stages.{}.blocks.{}.attention.reduce.0."),
    ("block{1}.{0}.attn.norm.", "stages.{}.blocks.{}.attention.reduce.1."),
    *SHARED,
)
TORCHVISION = Names(
    ("conv1.", "stages.0.embed.0."),
    ("bn1.", "stages.0.embed.1."),
    ("layer{1}.{0}.conv{1}.", "stages.{}.blocks.{}.layers.{}.0."),
    ("layer{1}.{0}.bn{1}.", "stages.{}.blocks.{}.layers.{}.1."),
    ("layer{1}.{0}.downsample.", "stages.{}.blocks.{}.shortcut."),
)
DETECTRON2 = Names(
    ("stem.conv1.norm.", "stages.0.embed.1."),
    ("stem.conv1.", "stages.0.embed.0."),
    ("res{2}.{0}.conv{1}.norm.", "stages.{}.blocks.{}.layers.{}.1."),
    ("res{2}.{0}.conv{1}.", "stages.{}.blocks.{}.layers.{}.0."),
    ("res{2}.{0}.shortcut.norm.", "stages.{}.blocks.{}.shortcut.1."),
    ("res{2}.{0}.shortcut.", "stages.{}.blocks.{}.shortcut.0."),
)
AUTHORS = Names(
    *((f"backbone.{theirs}", f"backbone.visible.{ours}") for theirs, ours in MSCAN.rules),
    *(
        (re.sub(r"^(\w+?)(\d|\{1\})", r"backbone.\1_other\2", theirs), f"backbone.auxiliary.{ours}")
        for theirs, ours in MSCAN.rules
    ),
    ("backbone.module{1}.Spatial.encode.", "backbone.exchanges.{}.spatial."),
    ("backbone.module{1}.Channel.encode.", "backbone.exchanges.{}.channel."),
    ("backbone.fconv{1}.fusion_conv.0.", "backbone.exchanges.{}.fuse."),
    ("backbone.projector_color.project.", "contrast.projectors.visible."),
    ("backbone.projector_other.project.", "contrast.projectors.auxiliary."),
    ("decode_head.conv_seg.", "sem_seg_head.classifier.1."),
    ("decode_head.squeeze.conv.", "sem_seg_head.squeeze.0."),
    ("decode_head.squeeze.gn.", "sem_seg_head.squeeze.1."),
    ("decode_head.align.conv.", "sem_seg_head.align.0."),
    ("decode_head.align.gn.", "sem_seg_head.align.1."),
    ("decode_head.hamburger.ham_in.conv.", "sem_seg_head.hamburger.conv_in."),
    ("decode_head.hamburger.ham_out.conv.", "sem_seg_head.hamburger.conv_out."),
)
# Caffe2's names, which MSRA's ResNets have, in Detectron2's words.
CAFFE2 = (
    (r"^(res_)?conv1_", "stem.conv1_"),
    (r"^(res\d)_(\d+)_branch1_", r"\1.\2.shortcut_"),
    *((rf"^(res\d)_(\d+)_branch2{abc}_", rf"\1.\2.conv{i}_") for i, abc in enumerate("abc", 1)),
    (r"_bn_", ".norm_"),
    (r"_(w|gamma)$", ".weight"),
    (r"_beta$", ".bias"),
    (r"_(running_(mean|var))$", r".\1"),
)
MSRA = "MSRA's ResNet"
# What each publisher calls its files, and a name that only its files have.
PUBLISHERS = {
    "SegNeXt's MSCAN": (MSCAN, "patch_embed1.proj.0.weight"),
    "SegFormer's MiT": (MIT, "block1.0.attn.q.weight"),
    "torchvision's ResNet": (TORCHVISION, "layer1.0.conv1.weight"),
    "Detectron2's ResNet": (DETECTRON2, "res2.0.conv1.weight"),
    MSRA: (DETECTRON2, "res2_0_branch2a_w"),
}
CLASSIFIER = re.compile(r"(head|fc|stem\.fc)\.(weight|bias)|fc1000(\.weight|_b)")
PIXEL_STD = (58.395, 57.12, 57.375)  # of ImageNet's pixels, RGB


def load_stream(stream: nn.Module, path: str, *, name: str) -> None:
    """Fills a stream from a published ImageNet file and logs what fitted and what did not.

    A first convolution of another number of input channels is summed over them, which is what it
    does to a grey image, then repeated for each of the stream's channels and divided by their
    number. All streams read RGB pixels normalised by ImageNet's statistics.

    Args:
        stream: as `build_stream` gives it.
        path: of the file, or its URL; `detectron2://` is the model zoo of Detectron2.
        name: of the stream, for the log and errors.
    """
    data = read_file(path)
    state = {
        theirs.removeprefix("backbone."): value for theirs, value in tensors_in(data, path).items()
    }
    publisher, names = _recognise(state, data, path)
    if publisher == MSRA:
        state = _from_caffe2(state)
    if getattr(stream, "stride_in_1x1", False) != (publisher == MSRA):
        raise ValueError(
            f"{path} ({publisher}) is not for the {name}: the files by MSRA, which have their "
            "stride in the 1x1 convolutions, fit the streams named _msra, and no others do."
        )
    own = stream.state_dict()
    filled, unexpected = _fitting(state, names, own)
    # Momentum does not use this counter, and files of before 2018 are without it.
    wanted = {key for key in own if not key.endswith("num_batches_tracked")}
    missing = sorted(wanted - set(filled))
    num_values = sum(own[key].numel() for key in wanted)
    by_value = 1 - sum(own[key].numel() for key in missing) / num_values
    share = min(by_value, 1 - len(missing) / len(wanted))  # norms are many tensors, few values
    logger.log(
        logging.WARNING if missing or unexpected else logging.INFO,
        "%s from %s (%s): %d tensors matched, %.2f%% of the values; missing: %s; unexpected: %s",
        *(name, path, publisher, len(filled), 100 * by_value),
        *(_listed(missing), _listed(unexpected)),
    )
    if share < MIN_SHARE:
        raise ValueError(
            f"{path} ({publisher}) fills {share:.1%} of the {name}, less than {MIN_SHARE:.0%}; not "
            f"{_listed(missing[:3])}, among others. Name the file of this very network, or '' to "
            "start from random weights."
        )
    stream.load_state_dict({**own, **filled})


def convert_from_authors(data: dict[str, Any], path: str) -> dict[str, dict[str, Tensor]]:
    """Our checkpoint of the authors' one.

    Returns:
        "model", and "unused": by the authors' names, what no network here has, such as their
        first fusion, which nothing reads.
    """
    model, unused = {}, {}
    for theirs, value in tensors_in(data, path).items():
        ours = None if theirs.startswith("backbone.fconv1.") else AUTHORS.to_ours(theirs)
        if ours:
            model[ours] = value
        else:
            unused[theirs] = value
    logger.info("%d tensors converted; kept under 'unused': %s", len(model), _listed([*unused]))
    _check_any(model, path, publisher="the authors'")
    return {"model": model, "unused": unused}


def convert_to_authors(data: dict[str, Any], path: str) -> dict[str, dict[str, Tensor]]:
    """The authors' checkpoint of ours, with what `convert_from_authors` had put aside."""
    model, lost = {}, []
    for ours, value in tensors_in(data, path).items():
        if theirs := AUTHORS.to_theirs(ours):
            model[theirs] = value
        else:
            lost.append(ours)
    logger.log(
        logging.WARNING if lost else logging.INFO,
        "%d tensors converted; without a name there, left out: %s",
        len(model),
        _listed(lost),
    )
    _check_any(model, path, publisher="ours, with MSCAN streams and HamHead,")
    return {"model": {**model, **data.get("unused", {})}}


def _recognise(state: dict[str, Tensor], data: dict[str, Any], path: str) -> tuple[str, Names]:
    for publisher, (names, mark) in PUBLISHERS.items():
        if mark not in state:
            continue
        if mark.startswith("res2.") and data.get("__author__") != "torchvision":
            raise ValueError(
                f"{path} is a ResNet by {data.get('__author__')}, not by torchvision, so its "
                "stride may be in the 1x1 convolutions and its pixels others. Use torchvision's "
                "file, for instance https://download.pytorch.org/models/resnet101-63fe2227.pth."
            )
        return publisher, names
    raise ValueError(
        f"{path} has tensors named {_listed([*state])}, which is none of {', '.join(PUBLISHERS)}. "
        "Name an ImageNet file of one of them."
    )


def _fitting(
    state: dict[str, Tensor], names: Names, own: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """What of a file has the names and shapes of a stream, by our names, and the rest by theirs."""
    filled, unexpected = {}, []
    for theirs, value in state.items():
        ours = names.to_ours(theirs)
        if ours == FIRST_CONVOLUTION and value.dim() == 4:
            value = _with_channels(value, own[ours].shape[1])
        if ours in own and own[ours].shape == value.shape:
            filled[ours] = value
        elif not CLASSIFIER.fullmatch(theirs):
            unexpected.append(theirs)
    return filled, unexpected


def _from_caffe2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet by MSRA in Detectron2's names, its first convolution for normalised RGB pixels."""
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in CAFFE2:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    stem = renamed["stem.conv1.weight"]  # (64, 3, 7, 7), for BGR pixels that nothing divides
    renamed["stem.conv1.weight"] = stem.flip(1) * torch.tensor(PIXEL_STD).view(3, 1, 1)
    return renamed


def _with_channels(weight: Tensor, num_channels: int) -> Tensor:
    """A convolution's weight (out, in, h, w) for another number of input channels."""
    if weight.shape[1] == num_channels:
        return weight
    summed = weight.sum(dim=1, keepdim=True)  # (out, 1, h, w)
    return summed.repeat(1, num_channels, 1, 1) / num_channels  # (out, num_channels, h, w)


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "none"


def _check_any(model: dict[str, Tensor], path: str, *, publisher: str) -> None:
    if not model:
        raise ValueError(f"{path} is no checkpoint of {publisher} networks. Check the direction.")
