"""The projector (Section 3.2): features of a stage become embeddings."""

from torch import nn

from smmcl.modeling.layers.cpu import PointConv
from smmcl.modeling.layers.init import init_encoder


class Projector(nn.Sequential):
    """Two hidden 1x1 layers and a linear one; the norm follows the activation."""

    def __init__(self, channels: int, hidden_dim: int, embed_dim: int) -> None:
        super().__init__(
            PointConv(channels, hidden_dim),
            nn.GELU(),
            nn.BatchNorm2d(hidden_dim),
            PointConv(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.BatchNorm2d(hidden_dim),
            PointConv(hidden_dim, embed_dim),
        )
        init_encoder(self)
