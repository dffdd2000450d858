"""A stream of your own: --config-file FILE IMPORTS "['examples/own_stream.py']" \
MODEL.PAIR.VISIBLE.NAME PlainConvs MODEL.PAIR.VISIBLE.WEIGHTS ''"""

from typing import Any

from torch import nn

from smmcl.modeling.streams.base import STREAM_REGISTRY, Stream


@STREAM_REGISTRY.register()
class PlainConvs(Stream):
    """Four stages of strided convolutions."""

    def __init__(self, *, in_channels: int = 3, width: int = 32) -> None:
        widths = (width, 2 * width, 4 * width, 8 * width)
        stages, previous = [], in_channels
        for stage, channels in enumerate(widths):
            stride = 4 if stage == 0 else 2  # strides 4, 8, 16, 32 in total
            stages.append(
                nn.Sequential(
                    nn.Conv2d(previous, channels, 7, stride=stride, padding=3, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                    nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(channels),
                )
            )
            previous = channels
        super().__init__(stages, widths=widths)

    @classmethod
    def from_config(cls, cfg: Any, *, role: str) -> dict[str, Any]:
        """This stream has no drop path, so it leaves DROP_PATH_RATE unread."""
        return {}
