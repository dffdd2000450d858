"""From a pair of images, in whatever form, to labels and probabilities: the model as a library.

Shape shorthand in this module:
    K: classes     H, W: size of a pair     A: channels of the auxiliary image
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smmcl.config import build_config
from smmcl.d2 import CfgNode, build_model
from smmcl.data.datasets.build import agreed_metadata
from smmcl.data.image_pair import (
    check_same_size,
    convert_auxiliary,
    convert_visible,
    decode,
)
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.engine import check_datasets, load_weights, with_device
from smmcl.modeling.fold import fold
from smmcl.modeling.sliding_window import wrap_for_test
from smmcl.visualizer import draw_pair, pictures

ImageLike = str | Path | Image.Image | np.ndarray | Tensor

# Pillow's names for what an array holds, by type and channels.
MODES = {
    ("uint8", 1): "L",
    ("uint8", 3): "RGB",
    ("uint8", 4): "RGBA",
    ("uint16", 1): "I;16",
    ("int32", 1): "I",
    ("float32", 1): "F",
}


class Prediction(NamedTuple):
    """What the model says about one pair.

    labels: (H, W) uint8, the most probable class of each pixel.
    probabilities: (K, H, W) float32, which sum to 1 over the classes.
    """

    labels: np.ndarray
    probabilities: np.ndarray


class Predictor:
    """A trained model that takes images and gives labels; several threads may share one.

    Paths, PIL images, arrays and tensors hold the same values: those stored in a file of the
    dataset that the model was trained on. Arrays are (H, W), (H, W, 1) or (H, W, channels),
    tensors (H, W) or (channels, H, W); colours are in the order red, green, blue.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: of the model. MODEL.WEIGHTS, or the last checkpoint of OUTPUT_DIR, fills it; the
                datasets of DATASETS.TEST and .TRAIN, which must agree, say what the images hold.
        """
        names = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
        if not names:
            raise ValueError(
                "DATASETS.TEST and .TRAIN are empty, so it is not known what the images hold. "
                "Name the dataset that the model was trained on."
            )
        check_datasets(cfg)
        self.cfg = with_device(cfg)
        self.mapper = MultiModalDatasetMapper(cfg, is_train=False, dataset_name=names[0])
        self.metadata = agreed_metadata(names)
        model = build_model(self.cfg)
        load_weights(self.cfg, model)
        self.model = fold(model)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        config_file: str | Path | None = None,
        overrides: Sequence[Any] = (),
    ) -> "Predictor":
        """Builds the predictor of a training run.

        Args:
            path: of the checkpoint.
            config_file: of the run; by default the config.yaml beside the checkpoint.
            overrides: alternating config keys and values, such as ("MODEL.DEVICE", "cuda:1").
        """
        config_file = Path(config_file or Path(path).parent / "config.yaml")
        if not config_file.is_file():
            raise FileNotFoundError(
                f"there is no config {config_file} for the checkpoint {path}. Name its config as "
                "config_file."
            )
        return cls(build_config(str(config_file), [*overrides, "MODEL.WEIGHTS", str(path)]))

    @overload
    def __call__(self, visible: ImageLike, auxiliary: ImageLike | None = None) -> Prediction: ...

    @overload
    def __call__(
        self, visible: Sequence[ImageLike], auxiliary: Sequence[ImageLike] | None = None
    ) -> list[Prediction]: ...

    def __call__(self, visible: Any, auxiliary: Any = None) -> Prediction | list[Prediction]:
        """Predicts one pair, or a list of pairs of any sizes.

        Args:
            visible: an image, or a list or tuple of them.
            auxiliary: as many. None if the visible ones have it as their fourth channel, or if
                the model has no auxiliary stream.

        Returns:
            `Prediction` at the pair's own size, or a list of them.
        """
        if not isinstance(visible, (list, tuple)):
            return self.predict([self.prepare(visible, auxiliary)])[0]
        others = [None] * len(visible) if auxiliary is None else auxiliary
        if len(others) != len(visible):
            raise ValueError(
                f"there are {len(visible)} visible but {len(others)} auxiliary images. "
                "Give one of each for every pair."
            )
        return self.predict([self.prepare(*pair) for pair in zip(visible, others, strict=True)])

    def prepare(self, visible: ImageLike, auxiliary: ImageLike | None = None) -> dict[str, Any]:
        """Makes the model's input of one pair, as the mapper does of a record of the catalog.

        Returns:
            "image" (3, H, W), "auxiliary" (A, H, W), "height", "width", and "file_name" if known.
        """
        stored, mode, name = _stored(visible, role="visible image")
        image = convert_visible(stored, mode, path=name, fmt=self.mapper.image_format)
        channels, other_name = self.mapper.auxiliary_channels, name
        if auxiliary is not None:
            stored, mode, other_name = _stored(auxiliary, role="auxiliary image")
        if auxiliary is None and mode != "RGBA":
            self._check_needs_no_auxiliary(name)
            other = np.zeros((*image.shape[:2], channels), dtype=np.uint8)  # (H, W, A)
        else:
            contract = self.mapper.contract
            other = convert_auxiliary(
                stored, mode, path=other_name, contract=contract, channels=channels
            )
            check_same_size(image, name, other, other_name)
        height, width = image.shape[:2]
        return {
            "image": _channels_first(image),  # (3, H, W)
            "auxiliary": _channels_first(other),  # (A, H, W)
            "height": height,
            "width": width,
            "file_name": name,
        }

    def predict(self, inputs: Sequence[dict[str, Any]]) -> list[Prediction]:
        """Predicts pairs that `prepare` or the mapper made.

        Pairs of one size go through the model together. Others go alone, since the padding to a
        common size would change their result.
        """
        if len({tuple(pair["image"].shape) for pair in inputs}) > 1:
            return [prediction for pair in inputs for prediction in self.predict([pair])]
        with torch.inference_mode():
            outputs = wrap_for_test(self.cfg, self.model)(list(inputs))  # as in evaluation
            scores = [output["sem_seg"].float().softmax(dim=0) for output in outputs]  # (K, H, W)
        return [
            Prediction(part.max(dim=0).indices.byte().cpu().numpy(), part.cpu().numpy())
            for part in scores
        ]

    def visualize(
        self, visible: ImageLike, auxiliary: ImageLike | None = None, *, heading: str = ""
    ) -> Image.Image:
        """Draws one pair with its prediction and a legend; a notebook shows the result."""
        inputs = self.prepare(visible, auxiliary)
        labels = self.predict([inputs])[0].labels
        return Image.fromarray(self.draw(inputs, maps={"prediction": labels}, heading=heading))

    def draw(
        self, inputs: dict[str, Any], *, maps: dict[str, np.ndarray], heading: str = ""
    ) -> np.ndarray:
        """Draws the panel of a prepared pair with label maps; see `visualizer.draw_pair`."""
        visible, auxiliary = pictures(inputs, fmt=self.mapper.image_format)
        kind = self.mapper.contract.kind
        return draw_pair(
            visible, auxiliary, maps=maps, kind=kind, metadata=self.metadata, heading=heading
        )

    def _check_needs_no_auxiliary(self, name: str) -> None:
        if self.cfg.MODEL.PAIR.AUXILIARY.NAME:
            raise ValueError(
                f"no auxiliary image comes with {name}, which has no fourth channel either. Give "
                "one, or use a model whose MODEL.PAIR.AUXILIARY.NAME is empty."
            )


def _stored(image: ImageLike, *, role: str) -> tuple[np.ndarray, str, str]:
    """The stored values, (H, W) or (H, W, channels), Pillow's mode of them, and a name."""
    if isinstance(image, (str, Path)):
        return *decode(image, role=role), str(image)
    if isinstance(image, Image.Image):
        return np.asarray(image), image.mode, f"<{role}>"
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
        image = image.transpose(1, 2, 0) if image.ndim == 3 else image  # (H, W, channels)
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"{role} is a {type(image).__name__}. Give a path, a PIL image, a NumPy array or a "
            "tensor, or lists of them."
        )
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]  # (H, W)
    channels = image.shape[2] if image.ndim == 3 else 1
    mode = MODES.get((str(image.dtype), channels))
    if mode is None or image.ndim not in (2, 3):
        raise ValueError(
            f"{role} is an array of shape {image.shape} and type {image.dtype}. Give the values "
            "stored in a file: 8-bit (H, W, 3 or 4), or (H, W) of uint8, uint16, int32 or float32."
        )
    return image, mode, f"<{role}>"


def _channels_first(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
