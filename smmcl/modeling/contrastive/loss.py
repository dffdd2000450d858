"""The contrastive loss of paper Eqs. 3-6: cross-modal and intra-modal terms over sampled views.

For L2-normalised anchors a and keys b with labels y and s_ij = a_i . b_j / t,

    L(a, b) = 1/N sum_i 1/|P_i| sum_{p in P_i} log(1 + Z_i / e^s_ip)
    Z_i = sum_{n: y_n != y_i} e^s_in

sets each positive p against itself and all negatives n. How it is computed, exactly and without
any N x N matrix, stands in panels.py.

Shape shorthand in this module:
    N: views     D: embedding size
"""

from collections.abc import Collection

import torch

from smmcl.modeling.contrastive.panels import Panels, Runs

TERMS = ("cross", "visible", "auxiliary")
POSITIVES = ("all", "other_place", "other_index")

# Z / e^s reaches N e^(2 / t): below the first temperature it needs float64, whose end is the other.
FLOAT32_TEMPERATURE = 0.03
LOWEST_TEMPERATURE = 0.003


def contrastive_losses(
    visible: torch.Tensor,
    auxiliary: torch.Tensor,
    labels: torch.Tensor,
    *,
    terms: Collection[str] = TERMS,
    cross_temperature: float = 0.1,
    intra_temperature: float = 0.1,
    positives: str = "all",
    is_symmetric: bool = False,
    cells: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """The cross-modal term L(visible, auxiliary) and the two intra-modal terms L(a, a).

    An anchor without positives contributes 0 and stays in the mean; without negatives, and
    without views, a term is 0. Zeros are attached to the graph. Not twice differentiable.

    Args:
        visible: (N, D) embeddings of any length. Lower precisions than float32 are raised to it,
            and autocast does not apply.
        auxiliary: (N, D); view j has the label of visible view j.
        labels: (N,) int64 on the CPU. If they ascend, the embeddings need not be reordered.
        terms: those to compute, of TERMS.
        cross_temperature, intra_temperature: t; intra-modal P_i leave out the anchor itself.
        positives: which keys of an anchor's label are P_i in the cross-modal term: "all", those of
            another place ("other_place", Eq. 4 to the letter), or those of another index in the
            list ("other_index", the authors' code).
        is_symmetric: the cross-modal term is the mean of L(visible, auxiliary) and the converse.
        cells: the places of the visible and of the auxiliary views, (N,) each, for "other_place".

    Returns:
        A scalar for each of `terms`.
    """
    _check(terms, positives, cells, cross_temperature, intra_temperature)
    order = labels.argsort(stable=True)  # (N,)
    if not torch.equal(order, torch.arange(len(order))):
        labels = labels[order]
        visible, auxiliary = visible[order], auxiliary[order]  # (N, D)
        cells = cells and (cells[0][order], cells[1][order])
    cells = cells and tuple(cell.to(visible.device, non_blocking=True) for cell in cells)
    runs = Runs.of(labels, visible.device)
    index = torch.arange(len(labels), device=visible.device)  # (N,)
    places = {"all": None, "other_index": (index, index), "other_place": cells}[positives]
    losses = {}
    with torch.autocast(visible.device.type, enabled=False):
        visible, auxiliary = normalize(visible), normalize(auxiliary)
        for term in terms:
            if term == "cross":
                loss = _Term.apply(visible, auxiliary, runs, places, cross_temperature)
                if is_symmetric:
                    converse = places and places[::-1]
                    back = _Term.apply(auxiliary, visible, runs, converse, cross_temperature)
                    loss = (loss + back) / 2
            else:
                anchors = visible if term == "visible" else auxiliary
                loss = _Term.apply(anchors, None, runs, (index, index), intra_temperature)
            losses[term] = loss
    return losses


def _check(
    terms: Collection[str],
    positives: str,
    cells: tuple[torch.Tensor, torch.Tensor] | None,
    *temperatures: float,
) -> None:
    for name, choices in ((positives, POSITIVES), *((term, TERMS) for term in terms)):
        if name not in choices:
            raise KeyError(f"{name!r} is none of the choices {', '.join(choices)}.")
    if positives == "other_place" and cells is None:
        raise ValueError("positives 'other_place' needs the cells of the views, but they are None.")
    for temperature in temperatures:
        if not temperature >= LOWEST_TEMPERATURE:
            raise ValueError(
                f"temperature is {temperature}, but exp(2 / temperature) must stay a float64: "
                f"set it to {LOWEST_TEMPERATURE} or more."
            )


def normalize(embeddings: torch.Tensor) -> torch.Tensor:
    """Embeddings of length 1 in float32, or float64 as they came.

    Equal to dividing by the length or 1e-12, whichever is larger, but dividing by the largest
    entry first: the square of an entry beyond 1e19 leaves float32.
    """
    embeddings = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    largest = embeddings.detach().abs().amax(1, keepdim=True).clamp_min(1e-12)  # (N, 1)
    scaled = embeddings / largest  # (N, D)
    length = scaled.norm(dim=1, keepdim=True)  # (N, 1), at least 1 unless all entries are tiny
    # Not clamp_min(1): a single entry has length 1, where torch 2.15 gives clamps no gradient.
    return scaled / length.where(length >= 1, 1.0)  # (N, D)


class _Term(torch.autograd.Function):
    """L(a, b), or L(a, a) where keys are None, and its gradient."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        anchors: torch.Tensor,
        keys: torch.Tensor | None,
        runs: Runs,
        places: tuple[torch.Tensor, torch.Tensor] | None,
        temperature: float,
    ) -> torch.Tensor:
        dtype = anchors.dtype
        raised = torch.float64 if temperature < FLOAT32_TEMPERATURE else dtype
        anchors = anchors.detach().to(raised)
        keys = anchors if keys is None else keys.detach().to(raised)
        panels = Panels(anchors, keys, runs, places, temperature)
        gradients = [panels.grad_anchors]
        if keys is anchors:
            panels.run_symmetric()
        else:
            panels.run()
            gradients.append(panels.grad_keys)
        ctx.save_for_backward(*(gradient.div_(temperature).to(dtype) for gradient in gradients))
        return panels.loss.to(dtype)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, scale: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        # Gradients computed in forward are constants here: their derivative would be wrong.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The contrastive loss has no second derivative, but backward runs with "
                "create_graph=True. Leave it out, or set MODEL.CONTRAST.NAME to ''."
            )
        gradients = [scale * gradient for gradient in ctx.saved_tensors]
        return *gradients, *[None] * (5 - len(gradients))
