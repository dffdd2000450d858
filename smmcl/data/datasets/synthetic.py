"""Generated dark pairs in the catalog: scenes become PNG files once, later calls find the files.

A pair is a function of (seed, split, index) and the size alone; its files lie in
`$DETECTRON2_DATASETS/synthetic_<kind>/<H>x<W>_seed<seed>_<generator>/<split>/{visible,auxiliary,label}/`.
"""

import hashlib
import logging
import os
import re
import uuid
from pathlib import Path

import cv2
import numpy as np

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets import synthetic_indoor, synthetic_night, synthetic_raycast

logger = logging.getLogger(__name__)

PARTS = ("visible", "auxiliary", "label")
SPLITS = {"train": 400, "val": 100}  # pairs in each
MIN_SIDE = 32  # pixels: the last stage of a stream sees the image at 1/32
# Each of these modules has CLASSES, COLORS, AUXILIARY (the contract of its images) and render().
KINDS = {"indoor": synthetic_indoor, "night": synthetic_night}


def is_lit(index: int) -> bool:
    """Whether the lamps are on: in every other scene, so that both subsets have the same size."""
    return index % 2 == 0


def render_pair(
    kind: str, split: str, index: int, *, size: tuple[int, int] = (128, 160), seed: int = 0
) -> dict[str, np.ndarray]:
    """Draws one pair, without files.

    Returns:
        `visible` (H, W, 3) uint8 RGB, `auxiliary` (H, W) uint16 millimetres (indoor) or uint8
        (night), `label` (H, W) uint8.
    """
    rng = np.random.default_rng((seed, list(SPLITS).index(split), index))
    return KINDS[kind].render(size, is_lit=is_lit(index), rng=rng)


def ensure_rendered(
    kind: str,
    split: str,
    *,
    size: tuple[int, int] = (128, 160),
    count: int,
    seed: int = 0,
    root: str | Path,
) -> Path:
    """Renders the pairs whose files are not there yet; several processes may do so at once.

    Returns:
        The folder with `visible/`, `auxiliary/` and `label/`, files `<index:05d>.png`.
    """
    name = f"{size[0]}x{size[1]}_seed{seed}_{_generator_version()}"
    folder = Path(root) / f"synthetic_{kind}" / name / split
    try:
        for part in PARTS:
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"generated pairs cannot be written into {folder}: {error.strerror}. "
            "Set DETECTRON2_DATASETS to a folder that can be written."
        ) from error
    listings = [{path.name for path in (folder / part).iterdir()} for part in PARTS]
    present = set.intersection(*listings)
    missing = [index for index in range(count) if f"{index:05d}.png" not in present]
    if missing:
        logger.info(f"Rendering {len(missing)} synthetic {kind} {split} pairs into {folder}")
    for done, index in enumerate(missing, start=1):
        pair = render_pair(kind, split, index, size=size, seed=seed)
        for part in PARTS:
            _write_png(folder / part / f"{index:05d}.png", pair[part])
        if done % 100 == 0 or done == len(missing):
            logger.info(f"Rendered {done}/{len(missing)} synthetic {kind} {split} pairs")
    return folder


def _generator_version() -> str:
    """Returns a digest of the code that draws: when it changes, another folder is filled."""
    sources = (__file__, *(module.__file__ for module in (synthetic_raycast, *KINDS.values())))
    content = b"".join(Path(source).read_bytes() for source in sources)
    return hashlib.sha256(content).hexdigest()[:8]


def _write_png(path: Path, image: np.ndarray) -> None:
    """Writes a file that is whole or absent, also when another process writes the same one."""
    if image.ndim == 3:
        image = image[:, :, ::-1]  # OpenCV takes B, G, R
    _, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    partial.write_bytes(data.tobytes())
    partial.replace(path)


def load_synthetic(
    kind: str, split: str, *, size: tuple[int, int], count: int, seed: int, root: str | Path
) -> list[dict]:
    """Lists the pairs of a split in Detectron2's form, rendering what is missing."""
    folder = ensure_rendered(kind, split, size=size, count=count, seed=seed, root=root)
    return [
        {
            "file_name": str(folder / "visible" / f"{index:05d}.png"),
            "auxiliary_file_name": str(folder / "auxiliary" / f"{index:05d}.png"),
            "sem_seg_file_name": str(folder / "label" / f"{index:05d}.png"),
            "image_id": f"{index:05d}",
            "height": size[0],
            "width": size[1],
            "tags": ["lit" if is_lit(index) else "unlit"],
        }
        for index in range(count)
    ]


def register_synthetic(
    name: str,
    *,
    kind: str,
    split: str,
    size: tuple[int, int] = (128, 160),
    count: int | None = None,
    seed: int = 0,
) -> None:
    """Puts a generated dataset into the catalog; its files are made when it is first asked for.

    Args:
        name: the dataset's name.
        kind: a key of `KINDS`.
        split: a key of `SPLITS`.
        size: H, W in pixels.
        count: number of pairs, by default as many as `SPLITS` says.
        seed: another seed gives other scenes.
    """
    count = SPLITS[split] if count is None else count

    def load() -> list[dict]:
        root = os.environ.get("DETECTRON2_DATASETS", "datasets")
        return load_synthetic(kind, split, size=size, count=count, seed=seed, root=root)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        stuff_classes=list(KINDS[kind].CLASSES),
        stuff_colors=[list(color) for color in KINDS[kind].COLORS],
        ignore_label=255,
        evaluator_type="sem_seg",
        label_offset=0,
        stored_ignore=255,
        auxiliary=dict(KINDS[kind].AUXILIARY),
        absent_from_mean=[],
        num_images=count,
    )


def register_synthetic_by_name(name: str) -> None:
    """Registers a dataset that its name describes, such as `synthetic_night_train@240x320`.

    Nothing is done for a name that is registered already.
    """
    if name in DatasetCatalog.list():
        return
    match = re.fullmatch(r"synthetic_([a-z]+)_([a-z]+)(?:@(\d+)x(\d+))?", name)
    if match is None or match[1] not in KINDS or match[2] not in SPLITS:
        raise ValueError(
            f"'{name}' names no generated dataset. Write synthetic_<kind>_<split> or "
            f"synthetic_<kind>_<split>@<height>x<width> with a kind of {', '.join(KINDS)} "
            f"and a split of {', '.join(SPLITS)}."
        )
    size = (int(match[3]), int(match[4])) if match[3] else (128, 160)
    if min(size) < MIN_SIDE:
        raise ValueError(
            f"'{name}' asks for {size[0]}x{size[1]} pixels. Both sides must be at least {MIN_SIDE}."
        )
    register_synthetic(name, kind=match[1], split=match[2], size=size)


for _kind in KINDS:
    for _split in SPLITS:
        register_synthetic(f"synthetic_{_kind}_{_split}", kind=_kind, split=_split)
