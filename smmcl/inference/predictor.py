"""From a pair of images, in whatever form, to labels and probabilities: the model as a library.

Shape shorthand in this module:
    K: classes     H, W: size of a pair     A: channels of the auxiliary image
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smmcl.d2 import CfgNode, build_model
from smmcl.data.datasets.build import agreed_metadata, register_facts
from smmcl.data.geometry import PairGeometry
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.data.reader import PairReader
from smmcl.engine.checkpoint import read_facts
from smmcl.engine.setup import changed, check_datasets, find_weights, load_weights, with_device
from smmcl.files.images import Picture
from smmcl.files.yaml import as_config, as_keys, load_yaml
from smmcl.inference.fold import fold
from smmcl.inference.named_model import checkpoint_config
from smmcl.inference.prediction import ImageClass, Prediction
from smmcl.inference.sliding_window import wrap_for_test
from smmcl.modeling.classifier import ImageClassifier
from smmcl.visualization.panels import draw_pair, pictures
from smmcl.weights.zoo import PREFIX

ImageLike = str | Path | Image.Image | np.ndarray | Tensor


class Predictor:
    """A trained model that takes images and gives labels; several threads may share one.

    Paths, PIL images, arrays and tensors hold the same values: those stored in a file of the
    dataset that the model was trained on. Arrays are (H, W), (H, W, 1) or (H, W, channels),
    tensors (H, W) or (channels, H, W); colors are in the order red, green, blue.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: of the model. MODEL.WEIGHTS, or the last checkpoint of OUTPUT_DIR, fills it. What
                the images hold is told by its datasets, but of those that the model was trained
                and tested on the checkpoint tells all: their files need not be there.
        """
        cfg = with_device(cfg)
        path = find_weights(cfg)
        names = datasets_of(cfg, read_facts(path))
        cfg = changed(cfg, "MODEL.WEIGHTS", path, "DATASETS.TRAIN", (), "DATASETS.TEST", names)
        check_datasets(cfg)
        self.cfg = cfg
        model = build_model(cfg)
        load_weights(cfg, model)
        self.model = fold(model)
        self.classifies = isinstance(model, ImageClassifier)
        self.metadata = agreed_metadata(names)
        self.mapper = MultiModalDatasetMapper(cfg, is_train=False, dataset_name=names[0])
        # Who trained with missing images may leave them out.
        corruption = cfg.INPUT.CORRUPTION
        self.needs_auxiliary = bool(cfg.MODEL.PAIR.AUXILIARY.NAME) and not (
            corruption.PROBABILITY and "missing" in corruption.NAMES
        )

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
            config_file: of the run, or name of a shipped one; by default the config that the
                checkpoint holds, else the config.yaml beside it.
            overrides: alternating config keys and values, such as ("MODEL.DEVICE", "cuda:1").
        """
        return cls(checkpoint_config(path, config_file, overrides=overrides))

    @classmethod
    def from_zoo(cls, name: str, *, overrides: Sequence[Any] = ()) -> "Predictor":
        """Builds the predictor of a model that comes with this project, such as "nyudv2_lite0"."""
        return cls.from_checkpoint(f"{PREFIX}{name}", overrides=overrides)

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
            `Prediction` at the pair's own size, of a classifier `ImageClass`, or a list of them.
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

    def prepare(
        self,
        visible: ImageLike,
        auxiliary: ImageLike | None = None,
        *,
        short_side: int | None = None,
    ) -> dict[str, Any]:
        """Makes the model's input of one pair, as the mapper does of a record of the catalog.

        Args:
            visible, auxiliary: as in a call.
            short_side: pixels that the shorter side is brought to for the model, whose prediction
                returns to the visible image's own size.

        Returns:
            "image" (3, H, W), "auxiliary" (A, H, W) unless the model's dataset has none, "height",
            "width", and "file_name" if known.
        """
        reader = self.mapper.reader
        picture = _stored(visible, reader, role="visible image")
        image, other = reader.visible(picture), self._auxiliary(auxiliary, beside=picture)
        height, width = image.shape[:2]
        if short_side is not None:
            factor = short_side / min(height, width)
            size = (round(factor * height), round(factor * width))
            geometry = PairGeometry(False, size, (0, 0), size)
            image = geometry.apply(image, fill=0)
            if other is not None:
                other = geometry.apply(other, fill=0, has_gaps=reader.has_gaps)
        return {
            **self.mapper.tensors(image, other),
            "height": height,
            "width": width,
            "file_name": picture.path,
        }

    def _auxiliary(self, image: ImageLike | None, *, beside: Picture) -> np.ndarray | None:
        """(H, W, channels of the format): of an image, of a fourth channel beside it, or zeros."""
        reader = self.mapper.reader
        if reader.format is None:
            if image is not None:
                raise ValueError(
                    f"the model was trained on visible images alone, but {beside.path} comes with "
                    "an auxiliary image. Leave it out."
                )
            return None
        if image is not None:
            return reader.auxiliary(_stored(image, reader, role="auxiliary image"), beside=beside)
        if beside.mode == "RGBA":
            return reader.auxiliary(beside, beside=beside)
        self._check_needs_no_auxiliary(beside.path)
        return np.zeros((*beside.values.shape[:2], reader.format.scaled_channels), dtype=np.uint8)

    def predict(self, inputs: Sequence[dict[str, Any]]) -> list[Prediction] | list[ImageClass]:
        """Predicts pairs that `prepare` or the mapper made.

        Pairs of one size go through the model together. Others go alone, since the padding to a
        common size would change their result.
        """
        if len({tuple(pair["image"].shape) for pair in inputs}) > 1:
            return [prediction for pair in inputs for prediction in self.predict([pair])]
        with torch.inference_mode():
            outputs = wrap_for_test(self.cfg, self.model)(list(inputs))  # as in evaluation
            # (K,) of a classifier, else (K, H, W)
            logits = [output.get("scores", output.get("sem_seg")) for output in outputs]
            scores = [part.float().softmax(dim=0) for part in logits]
        if self.classifies:
            return [ImageClass(part.cpu().numpy(), self.metadata) for part in scores]
        return [
            Prediction(part.argmax(dim=0).byte().cpu().numpy(), part.cpu().numpy(), self.metadata)
            for part in scores
        ]

    def visualize(
        self, visible: ImageLike, auxiliary: ImageLike | None = None, *, heading: str = ""
    ) -> Image.Image:
        """Draws one pair with its prediction and a legend; a notebook shows the result."""
        inputs = self.prepare(visible, auxiliary)
        prediction = self.predict([inputs])[0]
        if self.classifies:
            return Image.fromarray(self.draw(inputs, maps={}, heading=heading or str(prediction)))
        maps = {"prediction": prediction.labels}
        return Image.fromarray(self.draw(inputs, maps=maps, heading=heading))

    def draw(
        self, inputs: dict[str, Any], *, maps: dict[str, np.ndarray], **options: Any
    ) -> np.ndarray:
        """The panel of a prepared pair with label maps; `panels.draw_pair` has the options."""
        visible, auxiliary = pictures(inputs, fmt=self.mapper.reader.channel_order)
        facts = {"kind": self.mapper.reader.kind, "metadata": self.metadata}
        return draw_pair(visible, auxiliary, maps=maps, **facts, **options)

    def _check_needs_no_auxiliary(self, name: str | Path) -> None:
        if self.needs_auxiliary:
            raise ValueError(
                f"no auxiliary image comes with {name}, which has no fourth channel either. Give "
                "one, or use a model without auxiliary stream (MODEL.PAIR.AUXILIARY.NAME ''), or "
                "one trained with missing images (INPUT.CORRUPTION)."
            )


def datasets_of(cfg: CfgNode, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The registered datasets that say what a model's images hold.

    Args:
        cfg: names the datasets.
        facts: of the checkpoint; its "inputs" stand for the datasets of its "config".
    """
    names = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
    if not {"config", "inputs"} <= facts.keys():
        return names
    source = "the config in the checkpoint"
    told = as_config([as_keys(load_yaml(facts["config"], source), source)], source)
    try:
        known = (*told["DATASETS"]["TRAIN"], *told["DATASETS"]["TEST"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{source} has no lists DATASETS.TRAIN and DATASETS.TEST.") from error
    others = tuple(name for name in names if name not in known)
    return others or (register_facts(facts["inputs"]),)


def _stored(image: ImageLike, reader: PairReader, *, role: str) -> Picture:
    """The picture that an image in any form holds."""
    if isinstance(image, (str, Path)):
        return reader.decode(str(image), role=role)
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
        image = image.transpose(1, 2, 0) if image.ndim == 3 else image  # (H, W, channels)
    if isinstance(image, np.ndarray):
        image = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
        try:
            image = Image.fromarray(np.ascontiguousarray(image))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{role} is an array of shape {image.shape} and type {image.dtype}. Give the "
                "values stored in a file: 8-bit (H, W, 3 or 4), or (H, W) of uint8, uint16, int32 "
                "or float32."
            ) from error
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"{role} is a {type(image).__name__}. Give a path, a PIL image, a NumPy array or a "
            "tensor, or lists of them."
        )
    return Picture(np.asarray(image), image.mode, f"<{role}>")
