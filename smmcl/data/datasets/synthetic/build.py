"""Generated pairs in the catalog: scenes become PNG files once, later calls find the files.

A pair is a function of (seed, split, index) and the size alone; its files lie in
`$DETECTRON2_DATASETS/synthetic_<kind>/<H>x<W>_seed<seed>_<generator>/<split>/{visible,auxiliary,label}/`.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets.description import palette
from smmcl.data.datasets.synthetic import day as synthetic_day
from smmcl.data.datasets.synthetic import indoor as synthetic_indoor
from smmcl.data.datasets.synthetic import night as synthetic_night
from smmcl.data.datasets.synthetic import objects
from smmcl.files.atomic import write_new_image

logger = logging.getLogger(__name__)

PARTS = {"file_name": "visible", "auxiliary_file_name": "auxiliary", "sem_seg_file_name": "label"}
SPLITS = {"train": 400, "val": 100}  # pairs in each
SIZE = (128, 160)  # H, W where the dataset's name says no other
MIN_SIDE = 32  # pixels: the last stage of a stream sees the image at 1/32


@dataclass(frozen=True)
class Kind:
    """One kind of generated pairs: how they are drawn, and what is said of them."""

    render: Callable[..., dict[str, np.ndarray]]  # of size, index and rng
    facts: Callable[[int], dict[str, Any]]  # of an index: what its record says besides the files
    classes: Sequence[str]
    colors: Sequence[Sequence[int]]
    auxiliary: Mapping[str, Any]  # the format of its auxiliary images
    size: tuple[int, int] = SIZE
    splits: Mapping[str, int] = field(default_factory=lambda: SPLITS)
    evaluator: str = "sem_seg"

    @property
    def parts(self) -> dict[str, str]:
        """The files of a pair: a folder by the key of a record."""
        has_labels = self.evaluator == "sem_seg"
        return {key: part for key, part in PARTS.items() if has_labels or part != "label"}


def _scenes(module: ModuleType) -> Kind:
    """Scenes with label maps; the lamps are on in every other one."""
    return Kind(
        render=lambda size, index, rng: module.render(size, is_lit=index % 2 == 0, rng=rng),
        facts=lambda index: {"tags": ["unlit" if index % 2 else "lit"]},
        classes=module.CLASSES,
        colors=module.COLORS,
        auxiliary=module.AUXILIARY,
    )


def _objects(light: str) -> Kind:
    """Objects of one class an image, the classes in turn."""
    is_night, number = light == "night", len(objects.CLASSES)
    return Kind(
        render=lambda size, index, rng: objects.render(
            size, class_id=index % number, is_night=is_night, rng=rng
        ),
        facts=lambda index: {"class_id": index % number, "tags": [light]},
        classes=objects.CLASSES,
        colors=palette(objects.CLASSES),
        auxiliary=synthetic_night.AUXILIARY,
        size=objects.SIZE,
        splits=objects.SPLITS,
        evaluator="classification",
    )


KINDS = {
    "indoor": _scenes(synthetic_indoor),
    "night": _scenes(synthetic_night),
    "day": _scenes(synthetic_day),
    "objects_day": _objects("day"),
    "objects_night": _objects("night"),
}


def render_pair(
    kind: str, split: str, index: int, *, size: tuple[int, int] = SIZE, seed: int = 0
) -> dict[str, np.ndarray]:
    """Draws one pair, without files.

    Returns:
        `visible` (H, W, 3) uint8 RGB, `auxiliary` (H, W) uint16 millimeters (indoor) or uint8
        (others), `label` (H, W) uint8 unless the set is of objects.
    """
    rng = np.random.default_rng((seed, list(SPLITS).index(split), index))
    return KINDS[kind].render(size, index, rng)


def load_synthetic(
    kind: str,
    split: str,
    *,
    size: tuple[int, int] = SIZE,
    count: int | None = None,
    seed: int = 0,
    root: str | Path,
) -> list[dict]:
    """Lists the first pairs of a split in Detectron2's form, all if `count` is None.

    Those whose files are not there yet are rendered; several processes may do so at once.
    """
    version = f"{size[0]}x{size[1]}_seed{seed}_{_generator_version()}"
    folder = Path(root) / f"synthetic_{kind}" / version / split
    drawn, parts = KINDS[kind], KINDS[kind].parts
    records = [
        {
            **{key: str(folder / part / f"{index:05d}.png") for key, part in parts.items()},
            "image_id": f"{index:05d}",
            "height": size[0],
            "width": size[1],
            **drawn.facts(index),
        }
        for index in range(drawn.splits[split] if count is None else count)
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"generated pairs cannot be written into {folder}: {error.strerror}. "
            "Set DETECTRON2_DATASETS to a folder that can be written."
        ) from error
    missing = [r for r in records if not all(Path(r[key]).is_file() for key in parts)]
    for done, record in enumerate(missing):
        if done % 100 == 0:
            logger.info(f"Rendered {done} of {len(missing)} synthetic {kind} pairs into {folder}")
        pair = render_pair(kind, split, int(record["image_id"]), size=size, seed=seed)
        for key, part in parts.items():
            write_new_image(record[key], pair[part])
    return records


def _generator_version() -> str:
    """Returns a digest of the code that draws: when it changes, another folder is filled."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]


def register_synthetic(name: str) -> None:
    """Registers a dataset that its name describes, such as `synthetic_night_train@240x320`.

    Its files are made when it is first asked for.
    """
    match = re.fullmatch(r"synthetic_([a-z_]+)_([a-z]+)(?:@(\d+)x(\d+))?", name)
    if match is None or match[1] not in KINDS or match[2] not in SPLITS:
        raise ValueError(
            f"'{name}' names no generated dataset. Write synthetic_<kind>_<split> or "
            f"synthetic_<kind>_<split>@<height>x<width> with a kind of {', '.join(KINDS)} "
            f"and a split of {', '.join(SPLITS)}."
        )
    kind, split = KINDS[match[1]], match[2]
    size = (int(match[3]), int(match[4])) if match[3] else kind.size
    if min(size) < MIN_SIDE:
        raise ValueError(
            f"'{name}' asks for {size[0]}x{size[1]} pixels. Both sides must be at least {MIN_SIDE}."
        )

    def load() -> list[dict]:
        root = os.environ.get("DETECTRON2_DATASETS", "datasets")
        return load_synthetic(match[1], split, size=size, root=root)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        stuff_classes=list(kind.classes),
        stuff_colors=[list(color) for color in kind.colors],
        ignore_label=255,
        # Stored values are the classes.
        evaluator_type=kind.evaluator,
        label_offset=0,
        stored_ignore=255,
        auxiliary=dict(kind.auxiliary),
        absent_from_mean=[],
        num_images=kind.splits[split],
    )


for _kind in KINDS:
    for _split in SPLITS:
        register_synthetic(f"synthetic_{_kind}_{_split}")
