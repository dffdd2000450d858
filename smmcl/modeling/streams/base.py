"""All streams by name: the one table from which the pair's two backbones are chosen."""

from collections.abc import Callable
from functools import partial

from smmcl.modeling.layers.common import Stream
from smmcl.modeling.streams import mit, mscan, resnet

STREAMS: dict[str, Callable[..., Stream]] = {
    **{name: partial(mscan.MSCAN, **size) for name, size in mscan.SIZES.items()},
    **{name: partial(mit.MiT, **size) for name, size in mit.SIZES.items()},
    **{name: partial(resnet.ResNet, **size) for name, size in resnet.SIZES.items()},
}


def build_stream(name: str, *, in_channels: int = 3, drop_path_rate: float = 0.0) -> Stream:
    """Build the stream of that name, its weights drawn from torch's global generator.

    `drop_path_rate` is that of the last block; see `DropPath`.
    """
    if name not in STREAMS:
        raise KeyError(f"no stream is named '{name}'. Choose one of: {', '.join(STREAMS)}.")
    return STREAMS[name](in_channels=in_channels, drop_path_rate=drop_path_rate)
