"""What every stream promises: four stages, a name in the registry, and its publishers' names.

Shape shorthand in this module:
    N: images in the batch     C: channels      H, W: height and width of the image
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

from fvcore.common.registry import Registry
from torch import Tensor, nn

from smmcl.modeling.streams.names import Publisher

STREAM_REGISTRY = Registry("STREAM")
STREAM_REGISTRY.__doc__ = """
Networks that one image of a pair goes through: subclasses of `Stream`, called with `in_channels`
and what their `from_config` returns. MODEL.PAIR.VISIBLE.NAME and .AUXILIARY.NAME choose from it.
"""


class Stream(nn.Module):
    """One backbone of the pair: four stages, each a module from the last stage's map to its own.

    The pair runs the stages one at a time, with a fusion after each; calling the stream runs all
    four without one.
    """

    strides = (4, 8, 16, 32)
    publishers: tuple[Publisher, ...] = ()  # whose ImageNet files fit it

    def __init__(self, stages: Iterable[nn.Module], *, widths: tuple[int, int, int, int]) -> None:
        """
        Args:
            stages: four modules; stage m maps (N, widths[m - 1], ...) to the normalized map
                (N, widths[m], H / strides[m], W / strides[m]), sizes rounded up.
            widths: channels of the four maps.
        """
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.widths = tuple(widths)

    @classmethod
    def from_config(cls, cfg: Any, *, role: str) -> dict[str, Any]:
        """Keyword arguments for a role, "VISIBLE" or "AUXILIARY"."""
        return {"drop_path_rate": cfg.MODEL.PAIR[role].DROP_PATH_RATE}

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps an image (N, C, H, W) to the four stages' maps, finest first."""
        maps = []
        feature = image
        for stage in self.stages:
            feature = stage(feature)
            maps.append(feature)
        return maps


def register_sizes(sizes: dict[str, dict[str, Any]]) -> Callable[[type[Stream]], type[Stream]]:
    """Class decorator: registers a stream under each name, with the arguments that belong to it."""

    def register(cls: type[Stream]) -> type[Stream]:
        for name, size in sizes.items():
            members = {
                "__doc__": cls.__doc__,
                "__module__": cls.__module__,
                "__init__": functools.partialmethod(cls.__init__, **size),
            }
            STREAM_REGISTRY.register(type(name, (cls,), members))
        return cls

    return register


def find_stream(name: str) -> type[Stream]:
    """The stream class of that name."""
    if name not in STREAM_REGISTRY:
        known = ", ".join(known for known, _ in STREAM_REGISTRY)
        raise KeyError(f"no stream is named '{name}'. Choose one of: {known}.")
    return STREAM_REGISTRY.get(name)


def build_stream(name: str, **arguments: Any) -> Stream:
    """Builds the stream of that name, its weights drawn from torch's global generator."""
    return find_stream(name)(**arguments)
