"""The contrastive loss of the paper, Eqs. 3 to 6, over sampled views.

For anchors a and keys b of length 1 with labels y, and s_ij = a_i . b_j / t, one term is

    L(a, b) = 1/N sum_i 1/|P_i| sum_{p in P_i} -log( e^s_ip / (e^s_ip + Z_i) )
    Z_i = sum_{n: y_n != y_i} e^s_in

Eqs. 3 and 4: L(visible, auxiliary). Eqs. 5 and 6: L(visible, visible) and L(auxiliary, auxiliary).
P_i are keys with the label of anchor i. blocks.py computes the mean over i and its gradient.

Shape shorthand in this module:
    N: views     D: embedding size     R: some of the anchors     M: the keys near them
"""

from collections.abc import Collection

import torch
from torch import Tensor

from smmcl.modeling.contrastive.blocks import mean_over_anchors

TERMS = ("cross", "visible", "auxiliary")
POSITIVES = ("all", "other_place", "other_index")
# Z / e^s reaches N e^(2 / t): float32 holds it down to the first temperature, float64 to the other.
FLOAT32_TEMPERATURE, LOWEST_TEMPERATURE = 0.03, 0.003


def anchor_losses(similarity: Tensor, is_same: Tensor, is_positive: Tensor, far: Tensor) -> Tensor:
    """1/|P_i| sum_{p in P_i} -log( e^s_ip / (e^s_ip + Z_i) ) = log(1 + Z_i / e^s_ip), (R,).

    For the M keys near each anchor, (R, M). All others are negatives: `far` is their sum of e^s.
    """
    exponentials = similarity.exp()  # (R, M)
    mass = far + exponentials.masked_fill(is_same, 0).sum(1, keepdim=True)  # (R, 1)
    odds = mass * exponentials.masked_fill(~is_positive, torch.inf).reciprocal()  # (R, M)
    return odds.log1p().sum(1) / is_positive.sum(1).clamp_min(1)  # (R,)


def contrastive_losses(
    visible: Tensor,
    auxiliary: Tensor,
    labels: Tensor,
    *,
    terms: Collection[str] = TERMS,
    cross_temperature: float = 0.1,
    intra_temperature: float = 0.1,
    positives: str = "all",
    is_symmetric: bool = False,
    cells: tuple[Tensor, Tensor] | None = None,
    block_size: int | None = None,
) -> dict[str, Tensor]:
    """The cross-modal and the two intra-modal terms by name, each differentiable once.

    Anchors without positives add 0. Without negatives or views a term is 0, attached to the graph.

    Args:
        visible, auxiliary: (N, D) embeddings of any length, float32 or float64, without autocast.
        labels: (N,) int64 on the CPU, of both. Ascending labels save a copy of the embeddings.
        positives: P_i of the cross-modal term: "all" keys of the label, those of another index
            ("other_index", the authors' code) or those of another place ("other_place", Eq. 4 to
            the letter) given the `cells` of both, (N,). Intra-modal: those of another index.
        is_symmetric: the cross-modal term is the mean of L(visible, auxiliary) and the converse.
        block_size: most anchors computed at a time; by default 512, on accelerators 2048.
    """
    _check(visible, terms, positives, cells, cross_temperature, intra_temperature)
    order, index = labels.argsort(stable=True), torch.arange(len(labels))  # (N,)
    if not torch.equal(order, index):
        labels, visible, auxiliary = labels[order], visible[order], auxiliary[order]
        cells = cells and (cells[0][order], cells[1][order])
    own = (index, index)
    places = {"all": (index, ~index), "other_place": cells, "other_index": own}[positives]
    visible, auxiliary = normalize(visible), normalize(auxiliary)
    block_size = block_size or (512 if visible.device.type == "cpu" else 2048)

    def term(places: tuple[Tensor, Tensor], temperature: float, *views: Tensor) -> Tensor:
        dtype = torch.float64 if temperature < FLOAT32_TEMPERATURE else visible.dtype
        return mean_over_anchors(
            anchor_losses, *(part.to(dtype) for part in views), labels=labels, places=places,
            temperature=temperature, block_size=block_size,
        ).to(visible.dtype)  # fmt: skip

    losses = {}
    if "cross" in terms:  # Eqs. 3 and 4
        losses["cross"] = term(places, cross_temperature, visible, auxiliary)
        if is_symmetric:
            converse = term(places[::-1], cross_temperature, auxiliary, visible)
            losses["cross"] = (losses["cross"] + converse) / 2
    for name, views in {"visible": visible, "auxiliary": auxiliary}.items():  # Eqs. 5 and 6
        if name in terms:
            losses[name] = term(own, intra_temperature, views)
    return losses


def normalize(embeddings: Tensor) -> Tensor:
    """(N, D) divided by the length or 1e-12, whichever is larger, whatever the entries."""
    largest = embeddings.detach().abs().amax(1, keepdim=True).clamp_min(1e-12)  # (N, 1)
    scaled = embeddings / largest  # (N, D), whose squares cannot overflow
    length = scaled.norm(dim=1, keepdim=True)  # (N, 1), at least 1 unless all entries are tiny
    # Not clamp_min(1): a single entry has length 1, where torch 2.15 gives clamps no gradient.
    return scaled / length.where(length >= 1, 1.0)  # (N, D)


def _check(
    embeddings: Tensor, terms: Collection[str], positives: str, cells: object, *temperatures: float
) -> None:
    for names, choices in (([positives], POSITIVES), (terms, TERMS)):
        if unknown := set(names) - set(choices):
            raise KeyError(f"{min(unknown)!r} is none of the choices {', '.join(choices)}.")
    if positives == "other_place" and cells is None:
        raise ValueError("positives 'other_place' needs the cells of the views, but they are None.")
    if not all(temperature >= LOWEST_TEMPERATURE for temperature in temperatures):
        limit = f"must be {LOWEST_TEMPERATURE} or more, so that exp(2 / temperature) stays finite"
        raise ValueError(f"The temperatures are {temperatures}, but {limit}. Raise them.")
    is_autocast = torch.is_autocast_enabled(embeddings.device.type)
    if is_autocast or embeddings.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"The embeddings are {embeddings.dtype}, autocast is {'on' if is_autocast else 'off'}, "
            "but the loss needs float32 or float64 and no autocast: see ContrastiveBranch.forward."
        )
