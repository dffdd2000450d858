"""The contrastive loss of paper Eqs. 3-6: exact, in memory that grows with N and not with N * N.

For L2-normalised anchors a and keys b with labels y and s_ij = a_i . b_j / t,

    L(a, b) = 1/N sum_i 1/|P_i| sum_{p in P_i} log(1 + Z_i / e^s_ip)
    Z_i = sum_{n: y_n != y_i} e^s_in

sets each positive p against itself and all negatives n. Cosines are bounded, so no maximum needs
to be taken off before e^s, and all that follows is rational in e^s. Value and gradient,

    dL/ds_ip = -q_ip = -1/(N |P_i|) Z_i / (Z_i + e^s_ip)        dL/ds_in = e^s_in / Z_i sum_p q_ip

are computed together, panel by panel of rows; backward only multiplies.

Shape shorthand in this module:
    N: views     D: embedding size     R: rows of a panel     M: keys that face them
"""

import bisect
import dataclasses
from collections.abc import Collection, Iterator

import torch

TERMS = ("cross", "visible", "auxiliary")
POSITIVES = ("all", "other_place", "other_index")

# Largest panel of exponentials; with masks and weights on top the workspace is below 32 MiB.
PANEL_BYTES = 8 * 2**20
# Rows whose positives are handled together, where their labels allow.
GROUP_ROWS = 128
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
        cross_temperature: t of the cross-modal term.
        intra_temperature: t of the intra-modal terms, whose P_i leaves out the anchor itself.
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
    runs = _Runs.of(labels, visible.device)
    index = torch.arange(len(labels), device=visible.device)  # (N,)
    with torch.autocast(visible.device.type, enabled=False):
        units = {"visible": normalize(visible), "auxiliary": normalize(auxiliary)}
        losses = {
            term: _Term.apply(units[term], None, runs, (index, index), intra_temperature)
            for term in terms
            if term != "cross"
        }
        if "cross" in terms:
            places = {"all": None, "other_index": (index, index), "other_place": cells}[positives]
            losses["cross"] = _cross(units, runs, places, cross_temperature, is_symmetric)
    return losses


def _cross(
    units: dict[str, torch.Tensor],
    runs: "_Runs",
    places: tuple[torch.Tensor, torch.Tensor] | None,
    temperature: float,
    is_symmetric: bool,
) -> torch.Tensor:
    visible, auxiliary = units["visible"], units["auxiliary"]
    loss = _Term.apply(visible, auxiliary, runs, places, temperature)
    if not is_symmetric:
        return loss
    converse = places and places[::-1]
    return (loss + _Term.apply(auxiliary, visible, runs, converse, temperature)) / 2


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
    return scaled / scaled.norm(dim=1, keepdim=True).clamp_min(1)  # (N, D)


@dataclasses.dataclass(frozen=True)
class _Runs:
    """Views in the order of their labels, so that equal labels are a window and not a mask.

    Attributes:
        labels: (N,) ascending, on the device of the embeddings.
        bounds: where each label begins, and N.
    """

    labels: torch.Tensor
    bounds: list[int]

    @classmethod
    def of(cls, labels: torch.Tensor, device: torch.device) -> "_Runs":
        sizes = torch.unique_consecutive(labels, return_counts=True)[1]
        return cls(labels.to(device, non_blocking=True), [0, *sizes.cumsum(0).tolist()])

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """First key, and the one after the last, that share a label with rows start to stop."""
        low = self.bounds[bisect.bisect_right(self.bounds, start) - 1]
        return low, self.bounds[bisect.bisect_left(self.bounds, stop)]

    def groups(self, start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
        """Rows start to stop in pieces of at most `rows`, cut between labels where possible."""
        while start < stop:
            end = min(start + rows, stop)
            between = self.bounds[bisect.bisect_right(self.bounds, end) - 1]
            end = between if between > start else end
            yield start, end
            start = end


class _Term(torch.autograd.Function):
    """L(a, b), or L(a, a) where keys are None, and its gradient."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        anchors: torch.Tensor,
        keys: torch.Tensor | None,
        runs: _Runs,
        places: tuple[torch.Tensor, torch.Tensor] | None,
        temperature: float,
    ) -> torch.Tensor:
        dtype = anchors.dtype
        raised = torch.float64 if temperature < FLOAT32_TEMPERATURE else dtype
        anchors = anchors.detach().to(raised)
        keys = anchors if keys is None else keys.detach().to(raised)
        panels = _Panels(anchors, keys, runs, places, temperature, any(ctx.needs_input_grad))
        if keys is anchors:
            panels.run_symmetric()
        else:
            panels.run()
        ctx.save_for_backward(*(gradient.to(dtype) for gradient in panels.gradients()))
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


class _Panels:
    """The passes over the panels of one term, and what they accumulate."""

    def __init__(
        self,
        anchors: torch.Tensor,
        keys: torch.Tensor,
        runs: _Runs,
        places: tuple[torch.Tensor, torch.Tensor] | None,
        temperature: float,
        has_gradient: bool,
    ) -> None:
        self.anchors, self.keys, self.runs, self.places = anchors, keys, runs, places
        self.temperature, self.has_gradient = temperature, has_gradient
        self.loss = anchors.new_zeros(())
        self.mass = anchors.new_zeros(len(anchors))  # (N,) Z_i
        self.pull = anchors.new_zeros(len(anchors))  # (N,) sum_p q_ip
        self.grad_anchors = torch.zeros_like(anchors)  # (N, D), without the factor 1 / t
        self.grad_keys = self.grad_anchors if keys is anchors else torch.zeros_like(keys)
        self.entries = PANEL_BYTES // anchors.element_size()
        size = min(len(anchors) ** 2, max(self.entries, len(anchors)))
        self.buffer = anchors.new_empty(size)

    def gradients(self) -> list[torch.Tensor]:
        if not self.has_gradient:
            return []
        distinct = [self.grad_anchors, self.grad_keys][: 1 if self.keys is self.anchors else 2]
        return [gradient.div_(self.temperature) for gradient in distinct]

    def run(self) -> None:
        """All keys face each panel: its masses are complete at once."""
        for start, stop in self.panels(is_triangular=False):
            exponentials = self.negatives(start, stop, 0)  # (R, N)
            self.mass[start:stop] = exponentials.sum(1)
            self.attract(start, stop)
            if self.has_gradient:
                exponentials.mul_(self.repulsion(start, stop)[:, None])
                self.grad_anchors[start:stop].addmm_(exponentials, self.keys)
                self.grad_keys.addmm_(exponentials.t(), self.anchors[start:stop])

    def run_symmetric(self) -> None:
        """s_ij = s_ji: panels hold j >= start only, and each entry serves both of its rows."""
        panels = list(self.panels(is_triangular=True))
        for start, stop in panels:
            exponentials = self.negatives(start, stop, start)  # (R, N - start)
            self.mass[start:stop] += exponentials.sum(1)
            self.mass[stop:] += exponentials[:, stop - start :].sum(0)
        self.attract(0, len(self.anchors))
        if not self.has_gradient:
            return
        repulsion = self.repulsion(0, len(self.anchors))  # (N,)
        for start, stop in panels:
            if len(panels) > 1:
                exponentials = self.negatives(start, stop, start)  # (R, N - start)
            exponentials.mul_(repulsion[start:stop, None] + repulsion[start:])
            self.grad_anchors[start:stop].addmm_(exponentials, self.keys[start:])
            self.grad_anchors[stop:].addmm_(
                exponentials[:, stop - start :].t(), self.anchors[start:stop]
            )

    def panels(self, *, is_triangular: bool) -> Iterator[tuple[int, int]]:
        """Rows start to stop, as many as fit the buffer."""
        num_views = len(self.anchors)
        start = 0
        while start < num_views:
            columns = num_views - start if is_triangular else num_views
            stop = min(start + max(self.entries // columns, 1), num_views)
            yield start, stop
            start = stop

    def exponentials(self, start: int, stop: int, low: int, high: int) -> torch.Tensor:
        """e^s of anchors start to stop and keys low to high, (R, M)."""
        anchors, keys = self.anchors[start:stop], self.keys[low:high]
        return torch.mm(anchors / self.temperature, keys.t()).exp_()

    def negatives(self, start: int, stop: int, first: int) -> torch.Tensor:
        """e^s of anchors start to stop and keys from `first` on, 0 where the labels are equal."""
        low, high = self.runs.window(start, stop)
        low = max(low, first)
        exponentials = self.exponentials(start, stop, first, len(self.keys))
        labels = self.runs.labels
        is_same = labels[start:stop, None] == labels[low:high]
        exponentials[:, low - first : high - first].masked_fill_(is_same, 0)
        return exponentials

    def attract(self, start: int, stop: int) -> None:
        """The positives of anchors start to stop: their loss, pull and share of the gradient."""
        for first, last in self.runs.groups(start, stop, GROUP_ROWS):
            low, high = self.runs.window(first, last)
            exponentials = self.exponentials(first, last, low, high)  # (R, M)
            is_positive = self.runs.labels[first:last, None] == self.runs.labels[low:high]
            if self.places is not None:
                is_positive &= self.places[0][first:last, None] != self.places[1][low:high]
            weight = is_positive.to(exponentials.dtype)  # (R, M)
            weight.div_(weight.sum(1, keepdim=True).clamp_min(1) * len(self.anchors))
            odds = self.mass[first:last, None] / exponentials  # (R, M)
            self.loss += torch.sum(odds.log1p() * weight)
            weight = odds.div_(odds + 1).mul_(weight)  # (R, M) q_ip
            self.pull[first:last] = weight.sum(1)
            self.grad_anchors[first:last].addmm_(weight, self.keys[low:high], alpha=-1)
            self.grad_keys[low:high].addmm_(weight.t(), self.anchors[first:last], alpha=-1)

    def repulsion(self, start: int, stop: int) -> torch.Tensor:
        """What each unit of e^s of the negatives of anchors start to stop weighs."""
        smallest = torch.finfo(self.mass.dtype).tiny
        return self.pull[start:stop] / self.mass[start:stop].clamp_min(smallest)
