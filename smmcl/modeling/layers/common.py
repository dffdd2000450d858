"""What the streams share: the promise of four stages, the norm over channels, drop path.

Shape shorthand in this module:
    N: images in the batch     C: channels      H, W: feature height and width
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Stream(nn.Module):
    """One backbone of the pair: four stages, each a module from the last stage's map to its own.

    The pair runs the stages one at a time, with the exchange between the streams after each;
    calling the stream runs all four without exchange.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, stages: Iterable[nn.Module], *, widths: tuple[int, int, int, int]) -> None:
        """
        Args:
            stages: four modules; stage m maps (N, widths[m - 1], ...) to the normalised map
                (N, widths[m], H / strides[m], W / strides[m]), sizes rounded up.
            widths: channels of the four maps.
        """
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.widths = tuple(widths)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Map an image (N, C, H, W) to the four stages' maps, finest first."""
        maps = []
        feature = image
        for stage in self.stages:
            feature = stage(feature)
            maps.append(feature)
        return maps


class Recomputed(nn.Sequential):
    """Blocks whose inner maps are not kept but computed a second time in backward.

    Losses, gradients and random draws are those of the plain blocks: the second pass draws what
    the first drew, and batch norm does not count the batch again.
    """

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(feature)
        for block in self:
            feature = checkpoint(
                block,
                feature,
                use_reentrant=False,
                context_fn=lambda block=block: (contextlib.nullcontext(), _uncounted(block)),
            )
        return feature


def recompute_blocks(stream: nn.Module) -> None:
    """Makes all blocks of a stream `Recomputed`; the names of its parameters stay."""
    for stage in stream.stages:
        if not isinstance(getattr(stage, "blocks", None), nn.Sequential):
            raise ValueError(
                f"the stages of {type(stream).__name__} have no nn.Sequential `blocks` to "
                "recompute. Set MODEL.PAIR.RECOMPUTE to False, or name them so."
            )
        stage.blocks = Recomputed(*stage.blocks)


@contextlib.contextmanager
def _uncounted(block: nn.Module) -> Iterator[None]:
    """Keeps the running statistics of batch norms as they are."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, num_batches_tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map (N, C, H, W), at each place for itself."""

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        # The permutations only relabel strides; a channels-last map is normalised without a copy.
        feature = feature.permute(0, 2, 3, 1)  # (N, H, W, C)
        feature = F.layer_norm(feature, self.normalized_shape, self.weight, self.bias, self.eps)
        return feature.permute(0, 3, 1, 2)  # (N, C, H, W)


class GELU(nn.Module):
    """The exact GELU; at inference it writes over its input, which must be nobody else's."""

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            return F.gelu(feature)
        return torch.ops.aten.gelu_(feature)


def overwrite(
    operation: Callable[..., torch.Tensor], feature: torch.Tensor, update: torch.Tensor
) -> torch.Tensor:
    """operation(feature, update); at inference it writes over `update`, which nobody may need.

    Maps are tens of MB, and asking the system for new memory takes longer than to add them.
    """
    wider = torch.promote_types(feature.dtype, update.dtype)
    is_kept = torch.is_grad_enabled() or wider != update.dtype
    return operation(feature, update, out=None if is_kept else update)


class DropPath(nn.Module):
    """Drops a residual branch for some images of the batch, in training only (stochastic depth).

    Each call draws for itself, so the two streams and the two branches of a block drop
    independently. What is kept is scaled by 1 / (1 - rate), such that the expected output equals
    the one at evaluation.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop path rate is {rate}, but must be at least 0 and below 1.")
        self.rate = rate

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        weights = self.draw(branch)
        return branch if weights is None else branch * weights.to(branch.dtype)

    def draw(self, branch: torch.Tensor) -> torch.Tensor | None:
        """What `forward` multiplies by, (N, 1, 1, 1): 0 for the dropped images; None for all 1."""
        if not self.training or self.rate == 0:
            return None
        shape = (branch.shape[0],) + (1,) * (branch.dim() - 1)
        dtype = torch.promote_types(branch.dtype, torch.float32)
        return branch.new_empty(shape, dtype=dtype).bernoulli_(1 - self.rate) / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def drop_path_rates(depths: tuple[int, ...], *, last: float) -> list[list[float]]:
    """Rates that rise linearly over all blocks, from 0 at the first to `last`, grouped by stage."""
    total = sum(depths)
    rates = iter(last * i / max(total - 1, 1) for i in range(total))
    return [[next(rates) for _ in range(depth)] for depth in depths]
