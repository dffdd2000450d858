"""The contrastive loss and its gradient, one block of anchors at a time, in memory linear in N.

Labels ascend, so the keys of a block's labels lie side by side. These *near* keys go through the
formula of the loss and autograd. All *far* keys are negatives: they only add e^s to the mass Z. A
symmetric term, whose keys are its anchors, computes only the far keys behind each block.

Shape shorthand in this module:
    N: views     D: embedding size     R: anchors of a block     M: its near keys     F: far keys
"""

import itertools
import math
from collections import namedtuple
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

KEPT_BYTES = 48 * 2**20  # a symmetric term computes its exponentials twice if they do not fit


def mean_over_anchors(
    anchor_losses: Callable[..., Tensor],
    *views: Tensor,
    labels: Tensor,
    places: tuple[Tensor, Tensor],
    temperature: float,
    block_size: int,
) -> Tensor:
    """Mean of the losses of all anchors, with s_ij = a_i . b_j / temperature. Differentiable once.

    Args:
        anchor_losses: maps s of near keys, which of these have the label of the anchor, which are
            its positives (R, M) each, and the mass of its far keys (R, 1) to losses (R,).
        views: anchors a and keys b, (N, D) each, of length 1; one tensor if they are the same.
        labels: (N,) on the CPU, ascending. Keys of another label are negatives.
        places: of anchors and keys, (N,) each. Keys of one label and another place are positives.
        block_size: most anchors in a block, so at most block_size * N exponentials.
    """
    blocks = list(_blocks(labels, block_size))
    with torch.no_grad():
        term = _Term(anchor_losses, views, labels, places, temperature)
        # The gradient of a symmetric block needs the masses of all far keys, another only its own.
        for group in [blocks] if term.is_symmetric else [[block] for block in blocks]:
            for block in group:
                term.add_loss(block)
            for block in group:
                term.add_gradient(block)
    return _WithGradients.apply(term.loss, term.gradients, *views)


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, loss: Tensor, gradients: list[Tensor], *_: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, scale: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # the gradients are constants: their derivative would be wrong
            raise RuntimeError(
                "The contrastive loss has no second derivative, but backward runs with "
                "create_graph=True. Leave it out, or set MODEL.CONTRAST.NAME to ''."
            )
        return None, None, *(scale * gradient for gradient in ctx.saved_tensors)


_Block = namedtuple("_Block", "start stop low high")  # anchors start to stop, near keys low to high


def _blocks(labels: Tensor, size: int) -> Iterator[_Block]:
    """One label each, cut evenly if it is longer than `size`; some short labels together."""
    ends = torch.unique_consecutive(labels, return_counts=True)[1].cumsum(0).tolist()
    low = 0
    for high, following in itertools.zip_longest(ends, ends[1:], fillvalue=math.inf):
        if following - low > size / 3:  # near keys take longer than far ones
            parts = math.ceil((high - low) / size)
            cuts = [low + part * (high - low) // parts for part in range(parts + 1)]
            yield from (_Block(*pair, low, high) for pair in itertools.pairwise(cuts))
            low = high


class _Term:
    """What the blocks add up to: the loss and its gradients."""

    def __init__(
        self,
        anchor_losses: Callable[..., Tensor],
        views: tuple[Tensor, ...],
        labels: Tensor,
        places: tuple[Tensor, Tensor],
        temperature: float,
    ) -> None:
        self.is_symmetric = len(views) == 1
        anchors, self.keys = views[0], views[-1]  # (N, D)
        self.queries = anchors / temperature  # (N, D)
        indices = (part.to(anchors.device, non_blocking=True) for part in (labels, *places))
        self.labels, *self.places = indices  # (N,) each
        self.anchor_losses, self.temperature = anchor_losses, temperature
        self.loss = anchors.new_zeros(())
        self.mass, self.push = anchors.new_zeros(2, len(anchors), 1)  # Z of far keys, dL/dZ
        self.gradients = [torch.zeros_like(part) for part in views]  # (N, D) each
        self.kept = {}
        is_small = len(anchors) ** 2 // 2 * anchors.itemsize <= KEPT_BYTES
        self.is_kept = is_small or not self.is_symmetric

    def far_exponentials(self, block: _Block) -> list[tuple[slice, Tensor]]:
        """Far keys and their e^s (R, F): those before the block, if it needs them, those behind."""
        far = [slice(0, block.low), slice(block.high, len(self.keys))][self.is_symmetric :]
        queries = self.queries[block.start : block.stop]  # (R, D)
        return [(columns, torch.mm(queries, self.keys[columns].t()).exp_()) for columns in far]

    def add_loss(self, block: _Block) -> None:
        """The loss of a block, its dL/dZ, and the gradient that comes from near keys."""
        rows, near = slice(block.start, block.stop), slice(block.low, block.high)
        parts = self.far_exponentials(block)
        for columns, part in parts:  # (R, F)
            self.mass[rows] += part.sum(1, keepdim=True)  # (R, 1)
            if self.is_symmetric:
                self.mass[columns] += part.sum(0)[:, None]  # (F, 1)
        if self.is_kept:
            self.kept[block] = parts
        is_same = self.labels[rows, None] == self.labels[near]  # (R, M)
        is_positive = is_same & (self.places[0][rows, None] != self.places[1][near])  # (R, M)
        similarity = torch.mm(self.queries[rows], self.keys[near].t()).requires_grad_()  # (R, M)
        mass = self.mass[rows].clone().requires_grad_()  # (R, 1)
        with torch.enable_grad():
            losses = self.anchor_losses(similarity, is_same, is_positive, mass)  # (R,)
            loss = losses.sum() / len(self.queries)
        pull, self.push[rows] = torch.autograd.grad(loss, (similarity, mass))  # (R, M), (R, 1)
        self.loss += loss.detach()
        self.add_products(pull, rows, near)

    def add_gradient(self, block: _Block) -> None:
        """The gradient that comes from far keys."""
        rows = slice(block.start, block.stop)
        for columns, part in self.kept.pop(block, None) or self.far_exponentials(block):
            others = self.push[columns, 0] if self.is_symmetric else 0  # (F,)
            self.add_products(part.mul_(self.push[rows] + others), rows, columns)  # (R, F)

    def add_products(self, gradient: Tensor, rows: slice, columns: slice) -> None:
        """Passes the gradient of some similarities on to their anchors and keys."""
        anchors, keys = self.gradients[0][rows], self.gradients[-1][columns]
        if self.is_symmetric and rows == columns:
            anchors.addmm_(gradient + gradient.t(), self.queries[rows])
        else:
            anchors.addmm_(gradient, self.keys[columns], alpha=1 / self.temperature)
            keys.addmm_(gradient.t(), self.queries[rows])
