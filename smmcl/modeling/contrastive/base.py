"""What all contrastive branches share: the registry, float32, labels and features of one size.

Shape shorthand in this module:
    N: images in the batch     C: channels     H, W: image height and width
    h, w: feature height and width
"""

from collections.abc import Mapping, Sequence

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from smmcl.d2 import ShapeSpec
from smmcl.modeling.contrastive.sampling import shrink_labels

CONTRAST_REGISTRY = Registry("CONTRAST")
CONTRAST_REGISTRY.__doc__ = """
Contrastive branches, built as `branch(cfg, input_shape)` from their `from_config`. A
`ContrastiveBranch` is one, and so is any module with the same `forward`.
"""


class ContrastiveBranch(nn.Module):
    """A branch that exists in training only. Subclasses set `in_features` and define `losses`."""

    in_features: Mapping[str, str]  # names of the features, by "visible" and "auxiliary"

    def forward(
        self, features: Mapping[str, Tensor], labels: Tensor, seeds: list[int]
    ) -> dict[str, Tensor]:
        """Losses in the precision of the parameters, float32, under any autocast.

        Lower precisions cannot hold the exponentials of similarities.

        Args:
            features: by name, (N, C, h, w) each.
            labels: (N, H, W) int64 at the resolution of the images, on the CPU.
            seeds: one per image, for what is drawn from it.

        Returns:
            "loss_contrast_..." weighted, under the same names in every process and attached to all
            parameters.
        """
        parameter = next(self.parameters())
        with torch.autocast(parameter.device.type, enabled=False):
            maps = {
                stream: features[name].to(parameter.dtype)
                for stream, name in self.in_features.items()
            }
            size = next(iter(maps.values())).shape[-2:]
            return self.losses(maps, shrink_labels(labels, size=size), seeds)

    def losses(
        self, maps: dict[str, Tensor], labels: Tensor, seeds: list[int]
    ) -> dict[str, Tensor]:
        """Like `forward`, with features by stream and labels of their size, (N, h, w)."""
        raise NotImplementedError


def check_features(names: Sequence[str], input_shape: Mapping[str, ShapeSpec]) -> list[int]:
    """Channels of the visible and the auxiliary feature, which must exist and share a stride."""
    missing = [name for name in names if name not in input_shape]
    if missing or len(names) != 2:
        raise ValueError(
            f"MODEL.SMMCL.IN_FEATURES is {list(names)}, but must name one visible and one "
            f"auxiliary feature of {sorted(input_shape)}. A backbone of one stream has none of "
            "them: set MODEL.CONTRAST.NAME to ''."
        )
    if input_shape[names[0]].stride != input_shape[names[1]].stride:
        raise ValueError(
            f"MODEL.SMMCL.IN_FEATURES is {list(names)}, of strides "
            f"{[input_shape[name].stride for name in names]}. Name two features of one stage."
        )
    return [input_shape[name].channels for name in names]
