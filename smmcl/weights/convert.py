"""Published weights under our names, every tensor accounted for."""

import logging
import re
from typing import Any

from torch import Tensor

from smmcl.modeling.streams import mscan
from smmcl.modeling.streams.base import STREAM_REGISTRY, Stream
from smmcl.modeling.streams.names import Names, Publisher
from smmcl.weights.files import read_file, tensors_in

# Of our streams, and of those made of Detectron2's modules.
FIRST_CONVOLUTIONS = ("stages.0.embed.0.weight", "stages.0.0.conv1.weight")
MIN_SHARE = 0.95  # of a stream's tensors, and of their values, that a file has to fill

logger = logging.getLogger(__name__)


AUTHORS = Names(
    *((f"backbone.{theirs}", f"backbone.visible.{ours}") for theirs, ours in mscan.NAMES.rules),
    *(
        (re.sub(r"^(\w+?)(\d|\{1\})", r"backbone.\1_other\2", theirs), f"backbone.auxiliary.{ours}")
        for theirs, ours in mscan.NAMES.rules
    ),
    ("backbone.module{1}.Spatial.encode.", "backbone.fusions.{}.spatial."),
    ("backbone.module{1}.Channel.encode.", "backbone.fusions.{}.channel."),
    ("backbone.fconv{1}.fusion_conv.0.", "backbone.fusions.{}.fuse."),
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


def load_stream(stream: Stream, path: str, *, name: str) -> None:
    """Fills a stream from a published ImageNet file and logs what fitted and what did not.

    A first convolution of another number of input channels is summed over them, which is what it
    does to a gray image, then repeated for each of the stream's channels and divided by their
    number. All streams read RGB pixels normalized by ImageNet's statistics, EfficientNet-Lite by
    (x - 127) / 128.

    Args:
        stream: as `build_stream` gives it.
        path: of the file, or its URL; `detectron2://` is the model zoo of Detectron2.
        name: of the stream, for the log and errors.
    """
    data = read_file(path)
    state = {
        theirs.removeprefix("backbone."): value for theirs, value in tensors_in(data, path).items()
    }
    publisher = _recognize(stream, state, data, path, name=name)
    state = publisher.prepare(state) if publisher.prepare else state
    own = stream.state_dict()
    filled, unexpected = _fitting(state, publisher.names, own)
    classifier = [key for key in unexpected if re.fullmatch(publisher.classifier, key)]
    unexpected = [key for key in unexpected if key not in classifier]
    # Momentum does not use this counter, and files of before 2018 are without it.
    wanted = {key for key in own if not key.endswith("num_batches_tracked")}
    missing = sorted(wanted - set(filled))
    num_values = sum(own[key].numel() for key in wanted)
    by_value = 1 - sum(own[key].numel() for key in missing) / num_values
    share = min(by_value, 1 - len(missing) / len(wanted))  # norms are many tensors, few values
    logger.log(
        logging.WARNING if missing or unexpected else logging.INFO,
        f"{name} from {path} ({publisher.title}): {len(filled)} tensors matched, {by_value:.2%} of "
        f"the values; missing: {_listed(missing)}; unexpected: {_listed(unexpected)}; left out, of "
        f"the classifier: {_listed(classifier)}",
    )
    if share < MIN_SHARE:
        raise ValueError(
            f"{path} ({publisher.title}) fills {share:.1%} of the {name}, less than "
            f"{MIN_SHARE:.0%}; not {_listed(missing[:3])}, among others. Name the file of this "
            "very network, or '' to start from random weights."
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
    logger.info(f"{len(model)} tensors converted; kept under 'unused': {_listed([*unused])}")
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
        f"{len(model)} tensors converted; without a name there, left out: {_listed(lost)}",
    )
    _check_any(model, path, publisher="ours, with MSCAN streams and HamHead,")
    return {"model": {**model, **data.get("unused", {})}}


def _recognize(
    stream: Stream, state: dict[str, Tensor], data: dict[str, Any], path: str, *, name: str
) -> Publisher:
    """Whose file it is, by a name in it; a file for another stream is refused."""
    known = {p.title: p for _, kind in STREAM_REGISTRY for p in kind.publishers}
    fitting = {p.title: p for p in stream.publishers}
    wanted = f"The {name} reads {' and '.join(fitting) or 'no published files'}"
    found = next((p for p in {**known, **fitting}.values() if p.mark in state), None)
    if found is None:
        raise ValueError(
            f"{path} has tensors named {_listed([*state][:9])}, and so on, which is none of "
            f"{', '.join(known)}. {wanted}: name such a file."
        )
    if found.author and data.get("__author__") != found.author:
        raise ValueError(
            f"{path} is a ResNet by {data.get('__author__')}, not by {found.author}, so its stride "
            "may be in the 1x1 convolutions and its pixels others. Use torchvision's file, for "
            "instance https://download.pytorch.org/models/resnet101-63fe2227.pth."
        )
    if found.title not in fitting:
        raise ValueError(
            f"{path} is of {found.title}. {wanted}: name such a file, or in MODEL.PAIR the stream "
            "that the file belongs to (MSRA's files belong to resnet50_msra and resnet101_msra)."
        )
    return found


def _fitting(
    state: dict[str, Tensor], names: Names, own: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """What of a file has the names and shapes of a stream, by our names, and the rest by theirs."""
    filled, unexpected = {}, []
    for theirs, value in state.items():
        ours = names.to_ours(theirs)
        if ours in FIRST_CONVOLUTIONS and value.dim() == 4:
            value = _with_channels(value, own[ours].shape[1])
        if ours in own and own[ours].shape == value.shape:
            filled[ours] = value
        else:
            unexpected.append(theirs)
    return filled, unexpected


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
