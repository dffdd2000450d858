"""One term of the contrastive loss and its gradient, panel by panel of its similarity matrix.

Cosines are bounded, so no maximum needs to be taken off before e^s, and all that follows is
rational in e^s:

    value    1/(N |P_i|) log(1 + Z_i / e^s_ip)               over positives p
    pull     q_ip = 1/(N |P_i|) Z_i / (Z_i + e^s_ip) = -dL/ds_ip
    push     dL/ds_in = e^s_in / Z_i sum_p q_ip              over negatives n

Memory grows with N and not with N * N. Labels ascend, so what is equal is a window and not a mask.
The gradient comes with the value, which is cheaper than to come back for it.

Shape shorthand in this module:
    N: views     D: embedding size     R: rows of a panel     M: keys that face them
"""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch

# Largest panel of exponentials. There are two, and the temporaries of a group of positives are at
# most a quarter of a panel each: the workspace is below 32 MiB.
PANEL_BYTES = 8 * 2**20
# Most rows of a panel on a CPU, by its caches; times 8 on accelerators, which want few and large
# kernels.
PANEL_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Runs:
    """Views in the order of their labels."""

    labels: torch.Tensor  # (N,) ascending, on the device of the embeddings
    bounds: list[int]  # where each label begins, and N

    @classmethod
    def of(cls, labels: torch.Tensor, device: torch.device) -> "Runs":
        sizes = torch.unique_consecutive(labels, return_counts=True)[1]
        return cls(labels.to(device, non_blocking=True), [0, *sizes.cumsum(0).tolist()])

    @property
    def longest(self) -> int:
        return max((b - a for a, b in itertools.pairwise(self.bounds)), default=0)

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


class Window(NamedTuple):
    """The part of a panel where labels can be equal, each (R, M)."""

    rows: slice  # its anchors
    keys: slice
    view: torch.Tensor  # of the panel, 0 where labels are equal
    positives: torch.Tensor  # e^s of the positives, infinity elsewhere
    is_positive: torch.Tensor


class Panels:
    """The passes over the panels of one term, and what they accumulate."""

    def __init__(
        self,
        anchors: torch.Tensor,
        keys: torch.Tensor,
        runs: Runs,
        places: tuple[torch.Tensor, torch.Tensor] | None,
        temperature: float,
    ) -> None:
        """
        Args:
            anchors, keys: (N, D), of length 1; the same tensor for an intra-modal term.
            runs: labels of both.
            places: of the anchors and of the keys, (N,) each: no key is a positive of an anchor of
                its own place. None leaves no key out.
            temperature: t.
        """
        self.anchors, self.keys, self.runs, self.places = anchors, keys, runs, places
        self.temperature = temperature
        self.loss = anchors.new_zeros(())
        # (N,) each: 1 / (N |P_i|), Z_i and sum_p q_ip.
        self.share, self.mass, self.pull = anchors.new_zeros(3, len(anchors))
        self.grad_anchors = torch.zeros_like(anchors)  # (N, D), without the factor 1 / t
        self.grad_keys = self.grad_anchors if keys is anchors else torch.zeros_like(keys)
        # Panels reuse one memory: fresh pages cost as much as the product that fills them.
        self.entries = PANEL_BYTES // anchors.element_size()
        size = min(len(anchors) ** 2, max(self.entries, len(anchors)))
        self.buffer, self.scratch = anchors.new_empty(2, size)
        self.panel_rows = PANEL_ROWS if anchors.device.type == "cpu" else 8 * PANEL_ROWS
        widest = max(runs.longest, self.panel_rows)
        self.group_rows = max(min(self.panel_rows, self.entries // 4 // widest), 1)

    def run(self) -> None:
        """All keys face each panel: its masses are complete at once."""
        for start, stop, _ in self.panels(is_triangular=False):
            panel, windows = self.negatives(start, stop, 0, self.buffer)  # (R, N)
            self.mass[start:stop] = panel.sum(1)
            pulls = [self.attract(window) for window in windows]
            panel.mul_(self.repulsion(start, stop)[:, None])
            for window, pull in zip(windows, pulls, strict=True):
                window.view.sub_(pull)
            self.grad_anchors[start:stop].addmm_(panel, self.keys)
            self.grad_keys.addmm_(panel.t(), self.anchors[start:stop])

    def run_symmetric(self) -> None:
        """Where s_ij = s_ji, panels hold j >= start only and each entry serves both its rows."""
        panels = list(self.panels(is_triangular=True))
        kept = {}  # by offset: as many as there are panels if the buffer has room for all
        for start, stop, offset in panels:
            kept[offset] = self.negatives(start, stop, start, self.buffer[offset:])
            panel, _ = kept[offset]  # (R, N - start)
            self.mass[start:stop] += panel.sum(1)
            self.mass[stop:] += panel[:, stop - start :].sum(0)
        for first, last in self.runs.groups(0, len(self.anchors), self.group_rows):
            low, high = self.runs.window(first, last)
            view = self.exponentials(first, last, low, high, self.scratch)  # (R, M)
            self.attract(self.window(view, first, last, low, high))
        repulsion = self.repulsion(0, len(self.anchors))  # (N,)
        for start, stop, offset in panels:
            if len(kept) < len(panels):
                kept[offset] = self.negatives(start, stop, start, self.buffer[offset:])
            panel, windows = kept[offset]  # (R, N - start)
            both = self.scratch[: panel.numel()].view_as(panel)
            torch.add(repulsion[start:stop, None], repulsion[start:], out=both)
            panel.mul_(both)
            for window in windows:
                window.view.sub_(self.mutual_pull(window))
            self.grad_anchors[start:stop].addmm_(panel, self.keys[start:])
            self.grad_anchors[stop:].addmm_(panel[:, stop - start :].t(), self.anchors[start:stop])

    def panels(self, *, is_triangular: bool) -> Iterator[tuple[int, int, int]]:
        """Rows start to stop of each panel, and where in the buffer there is room for it."""
        num_views = len(self.anchors)
        start = offset = 0
        while start < num_views:
            columns = num_views - start if is_triangular else num_views
            rows = max(min(self.entries // columns, self.panel_rows), 1)
            stop = min(start + rows, num_views)
            if offset + (stop - start) * columns > len(self.buffer):
                offset = 0
            yield start, stop, offset
            offset += (stop - start) * columns
            start = stop

    def exponentials(
        self, start: int, stop: int, low: int, high: int, memory: torch.Tensor
    ) -> torch.Tensor:
        """e^s of anchors start to stop and keys low to high, (R, M)."""
        anchors, keys = self.anchors[start:stop], self.keys[low:high]
        panel = memory[: len(anchors) * len(keys)].view(len(anchors), len(keys))
        return panel.addmm_(anchors, keys.t(), beta=0, alpha=1 / self.temperature).exp_()

    def negatives(
        self, start: int, stop: int, first: int, memory: torch.Tensor
    ) -> tuple[torch.Tensor, list[Window]]:
        """Panel of anchors start to stop and keys from `first` on, its positives taken out.

        Returns:
            (R, M) e^s of the negatives, 0 elsewhere, and the windows with the positives.
        """
        panel = self.exponentials(start, stop, first, len(self.keys), memory)  # (R, M)
        windows = []
        for top, bottom in self.runs.groups(start, stop, self.group_rows):
            low, high = self.runs.window(top, bottom)
            low = max(low, first)
            view = panel[top - start : bottom - start, low - first : high - first]
            windows.append(self.window(view, top, bottom, low, high))
        return panel, windows

    def window(self, view: torch.Tensor, top: int, bottom: int, low: int, high: int) -> Window:
        is_same = self.runs.labels[top:bottom, None] == self.runs.labels[low:high]
        is_positive = is_same
        if self.places is not None:
            is_positive = is_same & (self.places[0][top:bottom, None] != self.places[1][low:high])
        # Infinitely likely ones cost nothing and are not pulled.
        positives = view.masked_fill(~is_positive, torch.inf)
        view.masked_fill_(is_same, 0)
        return Window(slice(top, bottom), slice(low, high), view, positives, is_positive)

    def attract(self, window: Window) -> torch.Tensor:
        """Adds the loss of the anchors of a window, which holds all their positives.

        Returns:
            (R, M) q_ip, in the memory of the window's positives.
        """
        rows, positives = window.rows, window.positives
        count = window.is_positive.sum(1, dtype=positives.dtype).clamp_min(1)  # (R,)
        self.share[rows] = count.mul_(len(self.anchors)).reciprocal_()
        odds = positives.reciprocal_().mul_(self.mass[rows, None])  # (R, M) Z_i / e^s_ip
        self.loss += self.share[rows] @ odds.log1p().sum(1)
        pull = odds.div_(odds + 1).mul_(self.share[rows, None])  # (R, M)
        self.pull[rows] = pull.sum(1)
        return pull

    def mutual_pull(self, window: Window) -> torch.Tensor:
        """q_ip + q_pi of a window of an intra-modal term, (R, M)."""
        strength = self.share * self.mass  # (N,)
        mass_of_rows, mass_of_keys = self.mass[window.rows, None], self.mass[window.keys]
        pull = strength[window.rows, None] / (mass_of_rows + window.positives)
        return pull.add_(strength[window.keys] / (mass_of_keys + window.positives))

    def repulsion(self, start: int, stop: int) -> torch.Tensor:
        """What each unit of e^s of the negatives of anchors start to stop weighs."""
        smallest = torch.finfo(self.mass.dtype).tiny
        return self.pull[start:stop] / self.mass[start:stop].clamp_min(smallest)
