"""A head of your own: --config-file FILE IMPORTS "['examples/own_head.py']" \
MODEL.SEM_SEG_HEAD.NAME SummedHead"""

from torch import Tensor, nn

from smmcl.d2 import SEM_SEG_HEADS_REGISTRY
from smmcl.modeling.head.base import SemSegHead
from smmcl.modeling.layers.resize import resize


@SEM_SEG_HEADS_REGISTRY.register()
class SummedHead(SemSegHead):
    """Projects every fused feature to the same channels, sums them at the finest size, classifies.

    The base class has Detectron2's interface: it is built as `head(cfg, input_shape)` and maps
    (features, targets) to (logits, losses). It adds the classifier and the cross-entropy.
    """

    def build(self, in_channels: list[int], channels: int) -> None:
        self.projections = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)

    def layers(self, features: list[Tensor]) -> Tensor:
        """Maps features (N, C, ., .), finest first, to logits (N, K, h, w)."""
        size = features[0].shape[-2:]
        total = 0
        for feature, project in zip(features, self.projections, strict=True):
            total = total + resize(project(feature), size)  # (N, channels, h, w)
        return self.classifier(total.relu())  # (N, K, h, w)
