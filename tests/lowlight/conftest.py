"""What the tests of the companions share: a small model, and its inputs."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.modeling.wrapping import pad


@pytest.fixture(scope="session")
def numbers(arrays: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return arrays


@pytest.fixture(scope="session")
def fill(fill_by_recipe: Callable) -> Callable:
    return fill_by_recipe


class PairBatch(NamedTuple):
    visible: Tensor
    auxiliary: Tensor | None
    boxes: list


class TinySegmentor(nn.Module):
    """A model of pairs with the five methods, and little else: two streams, a sum, a classifier."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.visible = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.auxiliary = nn.Conv2d(1, 6, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.classifier = nn.Conv2d(6, num_classes, 1)

    def forward(self, inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        features = self.features(self.normalize(self.preprocess(inputs)))
        return self.losses(features, inputs) if self.training else self.infer(features, inputs)

    def preprocess(self, inputs: list[dict]) -> PairBatch:
        size = [8 * -(-max(r["image"].shape[i] for r in inputs) // 8) for i in (1, 2)]
        weight = self.classifier.weight
        images = (pad([r[key] for r in inputs], size).to(weight) for key in ("image", "auxiliary"))
        boxes = [(0, 0, *r["image"].shape[1:]) for r in inputs]
        return PairBatch(*(image / 255 for image in images), boxes)

    def normalize(self, pair: PairBatch) -> PairBatch:
        visible, auxiliary = ((image - 0.5) / 0.25 for image in pair[:2])
        for i, (_, _, bottom, right) in enumerate(pair.boxes):
            visible[i, :, bottom:], visible[i, :, :, right:] = 0, 0
        return PairBatch(visible, auxiliary, pair.boxes)

    def features(self, pair: PairBatch) -> dict[str, Tensor]:
        visible, auxiliary = self.visible(pair.visible), self.auxiliary(pair.auxiliary)
        fused = self.norm(visible + auxiliary).relu()
        return {"visible": visible, "auxiliary": auxiliary, "fused": fused}

    def losses(self, features: dict[str, Tensor], inputs: list[dict]) -> dict[str, Tensor]:
        logits = F.interpolate(self.classifier(features["fused"]), scale_factor=4)
        labels = pad([r["sem_seg"] for r in inputs], logits.shape[-2:], 255).to(logits.device)
        return {"loss_sem_seg": F.cross_entropy(logits, labels, ignore_index=255)}

    def infer(self, features: dict[str, Tensor], inputs: list[dict]) -> list[dict]:
        logits = F.interpolate(self.classifier(features["fused"]), scale_factor=4)
        sizes = [r["image"].shape[1:] for r in inputs]
        return [{"sem_seg": x[:, :h, :w]} for x, (h, w) in zip(logits, sizes, strict=True)]


@pytest.fixture
def segmentor() -> nn.Module:
    torch.manual_seed(0)
    return TinySegmentor()


@pytest.fixture
def inputs() -> list[dict]:
    """Two pairs of different sizes, neither a multiple of 8, of which objects are brighter."""
    generator = torch.Generator().manual_seed(0)
    records = []
    for seed, (height, width) in enumerate(((20, 28), (18, 30))):
        labels = torch.zeros(height, width, dtype=torch.int64)
        labels[4:12, 6:16] = 1
        labels[:2] = 255
        noise = torch.randint(0, 100, (4, height, width), generator=generator)
        images = (noise + 100 * (labels == 1)).byte()
        records.append(
            {"image": images[:3], "auxiliary": images[3:], "sem_seg": labels, "view_seed": seed}
        )
    return records
