"""What the training log says about the contrast, so that a user sees whether it works."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from smmcl.d2 import get_event_storage, has_event_storage
from smmcl.modeling.contrastive.loss import normalize
from smmcl.modeling.contrastive.sampling import Views

logger = logging.getLogger(__name__)

PERIOD = 20  # iterations between two looks at the embeddings, which wait for the device
WINDOW = 100  # iterations over which poor batches are counted
NUM_UNIFORMITY_VIEWS = 512  # of a stream, among which uniformity is measured


class Diagnostics:
    """Logs scalars `contrast/...` if an event storage is open, and warns of poor batches.

    * num_sets, views_per_set: S and V of the sampling
    * positive_share: of all pairs of views, those with equal labels
    * positive_similarity, negative_similarity: mean cosine of visible and auxiliary views with
      equal and with different labels
    * alignment: mean squared distance of a visible and an auxiliary view of one set, 0..4
    * uniformity: log of the mean of exp(-2 d^2) over pairs of a stream's views, 0 (all in one
      place) down to about -4 (Wang & Isola, ICML 2020)
    """

    def __init__(self, min_views: int) -> None:
        self.min_views = min_views
        self.num_seen = self.num_poor = 0

    def record(self, views: Views, embeddings: Mapping[str, Tensor], *, num_cells: int) -> None:
        """`embeddings` are (M, D), of one stream or both, from feature maps of `num_cells`."""
        if not has_event_storage():
            return
        storage = get_event_storage()
        sizes = torch.unique_consecutive(views.labels, return_counts=True)[1].double()
        self._warn_if_poor(num_classes=len(sizes), num_cells=num_cells)
        scalars = {"num_sets": views.num_sets, "views_per_set": views.views_per_set}
        if len(sizes) > 1 and storage.iter % PERIOD == 0:
            scalars["positive_share"] = (sizes**2).sum() / sizes.sum() ** 2
            scalars |= similarities(views.labels, embeddings)
        for name, value in scalars.items():
            storage.put_scalar(f"contrast/{name}", value)

    def _warn_if_poor(self, *, num_classes: int, num_cells: int) -> None:
        self.num_seen += 1
        self.num_poor += num_classes < 2
        if self.num_seen < WINDOW:
            return
        if 2 * self.num_poor >= WINDOW:
            logger.warning(
                f"Fewer than two classes were contrasted in {self.num_poor} of the last {WINDOW} "
                f"iterations: a feature map has {num_cells} cells and a class needs "
                f"{self.min_views} of them. Contrast an earlier stage (MODEL.SMMCL.IN_FEATURES), "
                "lower MODEL.SMMCL.SAMPLER.MIN_VIEWS or enlarge INPUT.CROP_SIZE."
            )
        self.num_seen = self.num_poor = 0


@torch.no_grad()
def similarities(labels: Tensor, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean cosines, alignment and uniformity, without any matrix of all pairs.

    `labels` (M,), on the CPU, are of at least two classes.
    """
    units = [normalize(stream) for stream in embeddings.values()]  # (M, D) each
    labels = labels.to(units[0].device)
    sums = [
        unit.new_zeros(int(labels.max()) + 1, unit.shape[1]).index_add(0, labels, unit)
        for unit in units
    ]  # (K, D) each: the sum over pairs of a class is the product of the sums over its views
    num_pairs, num_positives = len(labels) ** 2, labels.bincount().double().square().sum()
    positive = (sums[0] * sums[-1]).sum()
    total = sums[0].sum(0) @ sums[-1].sum(0)
    few = units[0][:: -(-len(labels) // NUM_UNIFORMITY_VIEWS)]  # (at most that many, D)
    return {
        "positive_similarity": positive / num_positives,
        "negative_similarity": (total - positive) / (num_pairs - num_positives),
        "alignment": (units[0] - units[-1]).square().sum(1).mean(),
        "uniformity": torch.pdist(few).square().mul(-2).exp().mean().log(),
    }
