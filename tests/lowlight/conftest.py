"""What the tests of the companions share: reference numbers, and the recipe of their inputs."""

import pathlib
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.lowlight.wrapped import pad

FILE = pathlib.Path(__file__).resolve().parents[1] / "golden" / "companions.npz"


@pytest.fixture(scope="session")
def numbers() -> Mapping[str, Tensor]:
    """Arrays of the reference file, in float64 where they are floats."""
    with np.load(FILE) as file:
        arrays = {name: file[name] for name in file.files}
    return {
        name: torch.from_numpy(array) if array.dtype.kind in "iufb" else array.tolist()
        for name, array in arrays.items()
    }


@pytest.fixture(scope="session")
def unit() -> Callable[..., Tensor]:
    """Uniform numbers by seed and shape, rounded to float32, as float64."""
    return lambda seed, *shape: _rounded(np.random.RandomState(seed).random_sample(shape))


@pytest.fixture(scope="session")
def normal() -> Callable[..., Tensor]:
    return lambda seed, *shape: _rounded(np.random.RandomState(seed).standard_normal(shape))


def _rounded(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32)).double()


def _filled(name: str, shape: torch.Size) -> Tensor:
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    last = name.rpartition(".")[2]
    if last == "running_var":
        return _rounded(0.5 + rng.random_sample(shape))
    value = rng.standard_normal(shape)
    if last == "running_mean":
        return _rounded(0.1 * value)
    if last == "bias":
        return _rounded(0.05 * value)
    if len(shape) == 1:
        return _rounded(1 + 0.1 * value)
    return _rounded(value / np.sqrt(np.prod(shape[1:])))


@pytest.fixture(scope="session")
def fill() -> Callable[[nn.Module, Mapping[str, str]], nn.Module]:
    """Makes a module float64, with the values that the recipe gives to the authors' names.

    The second argument maps our names to theirs.
    """

    def fill_module(module: nn.Module, names: Mapping[str, str]) -> nn.Module:
        state = module.double().state_dict()
        for ours in state:
            if not ours.endswith("num_batches_tracked"):
                state[ours] = _filled(names[ours], state[ours].shape)
        module.load_state_dict(state)
        return module

    return fill_module


@pytest.fixture(scope="session")
def filled() -> Callable[[str, tuple[int, ...]], Tensor]:
    return _filled


@pytest.fixture(scope="session")
def near() -> Callable[[Tensor, Tensor], None]:
    """Asserts equality to 1e-10."""
    return lambda ours, theirs: torch.testing.assert_close(
        torch.as_tensor(ours, dtype=torch.float64).detach(), theirs.double(), rtol=0, atol=1e-10
    )


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
