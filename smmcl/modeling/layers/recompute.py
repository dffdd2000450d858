"""Activation checkpointing: blocks that are computed a second time in the backward pass."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Recomputed(nn.Sequential):
    """Blocks whose inner maps are not kept but computed a second time in backward.

    Losses, gradients and random draws are those of the plain blocks: the second pass draws what
    the first drew, and batch norm does not count the batch again.
    """

    def forward(self, feature: Tensor) -> Tensor:
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
