"""Turns one dataset record into tensors: reads the files, and in training moves them together.

Shape shorthand in this module:
    H, W: size of the result      A: channels of the auxiliary image
"""

import logging
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smmcl.d2 import CfgNode, configurable
from smmcl.data.appearance.photometric import Appearance, build_appearance
from smmcl.data.datasets.build import agreed_metadata
from smmcl.data.geometry import draw_geometry
from smmcl.data.reader import PairReader, check_same_size

AUXILIARY_CHANNELS = {"L": 1, "RGB": 3}

logger = logging.getLogger(__name__)


class MultiModalDatasetMapper:
    """Maps a record of the catalog to what the model takes.

    In training each draw is a function of (seed, position in the sample stream), so it does not
    depend on processes, workers or restarts. At test nothing is resized, the label is left to the
    evaluator, and what is drawn, if anything, is a function of (seed, image id).
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        reader: PairReader,
        crop_size: Sequence[int],
        scales: Sequence[float],
        flip_probability: float,
        seed: int,
        appearance: Sequence[Appearance] = (),
        ablation: str = "",
        is_labeled: bool = True,
    ) -> None:
        """
        Args:
            is_train: augments.
            reader: of the dataset's records.
            crop_size: (H, W) in training.
            scales: factors of the random resize before the crop.
            flip_probability: of a left-right flip.
            seed: of the run. Negative ones are legal, and like others give one fixed sequence.
            appearance: random changes of the images, in training after the geometry.
            ablation: INPUT.AUXILIARY_ABLATION; the loader swaps, the others are made here.
            is_labeled: reads labels in training.
        """
        self.is_train = is_train
        self.reader = reader
        self.crop_size = tuple(crop_size)
        self.scales = tuple(scales)
        self.flip_probability = flip_probability
        self.seed = seed % 2**32
        self.appearance = tuple(appearance)
        self.ablation = ablation
        self.is_labeled = is_labeled
        self.has_drawn = False  # a position

    @classmethod
    def from_config(
        cls, cfg: CfgNode, is_train: bool, *, dataset_name: str | None = None
    ) -> dict[str, Any]:
        """Takes the facts from `dataset_name`, else from all sets of DATASETS.TRAIN (or .TEST)."""
        names = cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST
        metadata = agreed_metadata([dataset_name] if dataset_name else names)
        reader = PairReader.of(
            metadata,
            channel_order=cfg.INPUT.FORMAT,
            channels=AUXILIARY_CHANNELS[cfg.INPUT.AUXILIARY_FORMAT],
        )
        _check_ablation(cfg, reader)
        return {
            "is_train": is_train,
            "reader": reader,
            "crop_size": cfg.INPUT.CROP_SIZE,
            "scales": cfg.INPUT.SCALES,
            "flip_probability": cfg.INPUT.FLIP,
            "seed": cfg.SEED,
            "appearance": build_appearance(cfg) if is_train or cfg.INPUT.CHANGED_AT_TEST else (),
            "ablation": cfg.INPUT.AUXILIARY_ABLATION,
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            record: of the catalog; in training also "position", the sample's place in the stream,
                which is drawn where a loader other than this project's gives none.

        Returns:
            The record, with "image" (3, H, W) uint8, "auxiliary" (A, H, W) uint8 or float32 on the
            scale 0..255 unless the set has visible images alone, "valid_box" (top, left, bottom,
            right) of the real pixels, the stored "height" and "width"; in training also "sem_seg"
            (H, W) int64 unless the record has a "class_id", "view_seed", from which the contrastive
            branch draws its views, and under each key of the record's "further_file_names" that
            image, cut like "image".
        """
        record = dict(record)
        if self.is_train and "position" not in record:
            record["position"] = self._draw_position()
        visible, auxiliary = self.reader.images(record)
        record["height"], record["width"] = visible.shape[:2]
        record["valid_box"] = (0, 0, *visible.shape[:2])
        if self.is_train:
            visible, auxiliary = self._augment(record, visible, auxiliary)
        elif self.appearance:
            visible, auxiliary = self._change(visible, auxiliary, self._generator(record))
        tensors = self.tensors(visible, auxiliary)
        if self.ablation == "visible":
            tensors["auxiliary"] = tensors["image"]
        elif self.ablation == "noise":
            size = tuple(tensors["auxiliary"].shape)
            noise = self._generator(record).integers(256, size=size, dtype=np.uint8)
            tensors["auxiliary"] = torch.from_numpy(noise)
        return {**record, **tensors}

    def tensors(self, visible: np.ndarray, auxiliary: np.ndarray | None) -> dict[str, Tensor]:
        """The model's "image" (3, H, W) and, if any, "auxiliary" (A, H, W) of images as read."""
        tensors = {"image": channels_first(visible)}
        if auxiliary is not None:
            # A single channel is repeated last: moving three equal ones takes thrice as long.
            tensors["auxiliary"] = channels_first(auxiliary).repeat(self.reader.repeats, 1, 1)
        return tensors

    def _draw_position(self) -> int:
        """From torch's generator, which Detectron2's loader seeds by worker."""
        worker = torch.utils.data.get_worker_info()
        if not self.has_drawn and (worker is None or worker.id == 0):
            logger.warning(
                "Samples come without their position in the stream, so their augmentation is drawn "
                "by the loader's seed: it depends on the number of workers and on restarts"
            )
        self.has_drawn = True
        return int(torch.randint(2**62, ()))

    def _augment(
        self, record: dict[str, Any], visible: np.ndarray, auxiliary: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Moves images and label by one geometry, changes their looks; adds what training needs."""
        generator = self._generator(record)
        geometry = draw_geometry(
            generator,
            size=visible.shape[:2],
            scales=self.scales,
            crop_size=self.crop_size,
            flip_probability=self.flip_probability,
        )
        if self.is_labeled and "class_id" not in record:
            label = self.reader.label(record)
            check_same_size(visible, record["file_name"], label, record["sem_seg_file_name"])
            label = geometry.apply(label, fill=self.reader.ignore, nearest=True)
            record["sem_seg"] = torch.from_numpy(label.astype(np.int64))  # (H, W)
        for key, path in record.get("further_file_names", {}).items():
            image = self.reader.visible(self.reader.decode(path, role=f"{key} image"))
            check_same_size(visible, record["file_name"], image, path)
            record[key] = channels_first(geometry.apply(image, fill=0))
        record["valid_box"] = geometry.valid_box
        record["view_seed"] = int(generator.integers(2**62))
        visible = geometry.apply(visible, fill=0)
        if auxiliary is not None:
            auxiliary = geometry.apply(auxiliary, fill=0, has_gaps=self.reader.has_gaps)
        return self._change(visible, auxiliary, generator)

    def _change(
        self, visible: np.ndarray, auxiliary: np.ndarray | None, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Changes the looks of the images; they take pairs, so a blank one may stand in."""
        blank = np.zeros((*visible.shape[:2], 1), dtype=np.uint8)
        other = blank if auxiliary is None else auxiliary
        for change in self.appearance:
            visible, other = change(visible, other, generator)
        return visible, None if auxiliary is None else other

    def _generator(self, record: dict[str, Any]) -> np.random.Generator:
        """The generator of a sample: by its position in training, else by its image."""
        if self.is_train:
            return np.random.default_rng((self.seed, record["position"]))
        return np.random.default_rng((self.seed, zlib.crc32(str(record["image_id"]).encode())))


def channels_first(image: np.ndarray) -> Tensor:
    """A copy of an image (H, W, C), as (C, H, W)."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


def _check_ablation(cfg: CfgNode, reader: PairReader) -> None:
    ablation, form = cfg.INPUT.AUXILIARY_ABLATION, cfg.INPUT.AUXILIARY_FORMAT
    if ablation and reader.format is None:
        raise ValueError(
            f"INPUT.AUXILIARY_ABLATION is {ablation!r} but the dataset has visible images alone. "
            "Set it to ''."
        )
    if ablation == "visible" and form != "RGB":
        raise ValueError(
            f"INPUT.AUXILIARY_ABLATION is 'visible', which gives 3 channels, but "
            f"INPUT.AUXILIARY_FORMAT is {form!r}. Set that to 'RGB'."
        )
