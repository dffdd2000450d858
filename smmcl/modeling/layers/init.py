"""Weight initialization of all the networks: one function for encoders, one for decoders."""

import math

from torch import nn


def init_encoder(module: nn.Module) -> None:
    """Initialize streams, fusions and projectors in place, as MSCAN, MiT and ResNet all do.

    Convolutions N(0, 2 / fan_out) with fan_out = kernel area * output channels / groups, linear
    layers a normal of std 0.02, biases 0, norms the identity. Bare parameters such as layer scales
    keep the value their owner gave them.

    A convolution with one output, as the last of the spatial coefficients, so starts at std sqrt(2)
    and the sigmoid behind it saturated. The authors' networks start there too.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels / layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            _zero_bias(layer)
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            _zero_bias(layer)
        elif isinstance(layer, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)):
            layer.reset_parameters()


def init_decoder(module: nn.Module) -> None:
    """Initialize a head in place: convolutions kaiming-normal over fan_in for ReLU, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            _zero_bias(layer)


def _zero_bias(layer: nn.Conv2d | nn.Linear) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
