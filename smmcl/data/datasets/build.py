"""Registers a dataset of pairs when a run first names it: built-in, generated, or a user's file."""

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smmcl.d2 import ENGINE, CfgNode, DatasetCatalog, MetadataCatalog
from smmcl.data.alignment import DEFAULT
from smmcl.data.datasets.description import Description, palette, read_description
from smmcl.data.datasets.facts import LabelLoader, complete_facts
from smmcl.data.datasets.layouts import find_split
from smmcl.data.datasets.synthetic.build import register_synthetic
from smmcl.data.format import ModelInputs
from smmcl.data.reader import without_labels
from smmcl.files.images import MAX_PIXELS

# What a set's metadata must agree in with the other sets of one training run.
SHARED_FACTS = ("stuff_classes", "label_offset", "stored_ignore", "ignore_label", "auxiliary")
FURTHER_FACTS = ("align", "max_pixels", "evaluator_type")  # which a set may lack
FILE_NAME = re.compile(r"(?P<path>.+\.ya?ml)(:(?P<split>\w+))?")


def ensure_registered(names: Sequence[str]) -> None:
    """Registers each named dataset that the catalog does not have yet.

    Args:
        names: a built-in set and split ("mfnet_test_night"), a generated one
            ("synthetic_night_val@128x160"), a dataset file and split ("pairs/dataset.yaml:val"),
            or what the user's code has put into the catalog.
    """
    for name in names:
        if name not in DatasetCatalog.list():
            _register(name)
        metadata = MetadataCatalog.get(name)
        if not hasattr(metadata, "stuff_classes"):
            continue  # another kind of set; who needs its classes says so
        if not hasattr(metadata, "auxiliary"):
            DatasetCatalog.get(name)  # one of ours is looked at now
        complete_facts(metadata)
        if not hasattr(metadata, "stuff_colors"):
            metadata.stuff_colors = palette(metadata.stuff_classes)


def register_builtin() -> None:
    """Registers every built-in set; its files are looked at when it is first used."""
    for name in builtin_splits():
        if name not in DatasetCatalog.list():
            _register(name)


def _register(name: str) -> None:
    if name.startswith("synthetic_"):
        register_synthetic(name)
    elif match := FILE_NAME.fullmatch(name):
        description = read_description(match["path"])
        split = match["split"] or _only_split(description, match["path"])
        register_split(name, description, split, base=Path(match["path"]).parent)
    elif name in builtin_splits():
        path, split = builtin_splits()[name]
        register_split(name, read_description(path), split)
    else:
        known = sorted({*filter(_is_of_pairs, DatasetCatalog.list()), *builtin_splits()})
        raise ValueError(
            f"dataset {name!r} is not known to this run's engine ({ENGINE}). Known are: "
            f"{', '.join(known)}; or the path of a dataset file (datasets/README.md). A set "
            "that was registered in the other engine's catalog is not seen here: register it "
            "through smmcl.d2.DatasetCatalog."
        )


def register_split(
    name: str, description: Description, split: str, *, base: str | Path | None = None
) -> None:
    """Puts a split into the catalog; its files are looked at when it is first listed.

    Args:
        name: the dataset's name in configs.
        base: folder that the description's root is relative to; by default
            $DETECTRON2_DATASETS, or datasets/.
    """
    labels = LabelLoader(
        description.label_offset,
        description.stored_ignore,
        len(description.classes),
        ignore=255,
        max_pixels=description.max_pixels,
    )
    metadata, segments = MetadataCatalog.get(name), description.task == "segmentation"
    facts = {
        "stuff_classes": list(description.classes),
        "stuff_colors": [list(color) for color in description.colors],
        "ignore_label": 255,
        "evaluator_type": labels.evaluator_type if segments else description.task,
        "sem_seg_loading_fn": labels,
        "split": split,
        "label_offset": description.label_offset,
        "stored_ignore": description.stored_ignore,
        "align": dataclasses.asdict(description.align),
        "max_pixels": description.max_pixels,
        "absent_from_mean": list(description.absent_from_mean),
        "num_images": description.splits[split].pairs,
    }
    try:
        metadata.set(**facts)
    except AssertionError as error:  # of a fact that the catalog has otherwise
        raise ValueError(
            f"dataset {name!r} is not what the catalog already says of that name: "
            f"{str(error).splitlines()[0]} Register yours under another name."
        ) from error

    @functools.cache
    def load() -> list[dict[str, Any]]:
        folder = base or os.environ.get("DETECTRON2_DATASETS", "datasets")
        found = find_split(description, split, base=folder)
        metadata.auxiliary = found.format and dataclasses.asdict(found.format)
        metadata.has_labels = "label" in found.layout or not segments
        return found.records

    DatasetCatalog.register(name, load)


@functools.cache
def builtin_splits() -> dict[str, tuple[Path, str]]:
    """Returns the dataset file and the split behind each built-in name."""
    return {
        f"{path.stem}_{split}": (path, split)
        for path in sorted(Path(__file__).parent.glob("*.yaml"))
        for split in read_description(path).splits
    }


def agreed_metadata(names: Sequence[str]) -> Any:
    """Returns the metadata of sets that must agree in classes, labels and auxiliary image."""
    if not names:
        raise ValueError("no dataset is named. Set DATASETS.TRAIN and DATASETS.TEST.")
    ensure_registered(names)
    first, *others = map(_metadata_of_pairs, names)
    ours = _shared_facts(first)
    for name, other in zip(names[1:], others, strict=True):
        for fact, value in _shared_facts(other).items():
            if ours[fact] != value:
                raise ValueError(
                    f"{names[0]} and {name} differ in {fact}: {ours[fact]} and {value}. "
                    "Train on sets that agree, or make their files agree."
                )
    return first


def check_labels(names: Sequence[str]) -> None:
    """Raises if a dataset that is trained or evaluated on has no labels."""
    ensure_registered(names)
    for name in names:
        if not MetadataCatalog.get(name).get("has_labels", True):
            raise without_labels(f"dataset {name}")


def build_model_inputs(cfg: CfgNode) -> ModelInputs:
    """What the images of DATASETS.TRAIN and .TEST hold, which must agree, for the checkpoints."""
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    ensure_registered(names)
    return ModelInputs([describe_inputs(cfg, name) for name in names])


def describe_inputs(cfg: CfgNode, name: str) -> dict[str, Any]:
    """What a model must know of a dataset, as a plain dict that its metadata can be set from."""
    metadata = _metadata_of_pairs(name)
    uses_auxiliary = bool(cfg.MODEL.PAIR.AUXILIARY.NAME)
    if uses_auxiliary and metadata.auxiliary is None:
        raise ValueError(
            f"the model reads pairs, but dataset {name} has visible images alone. Set "
            "MODEL.PAIR.AUXILIARY.NAME to '', or name a dataset of pairs."
        )
    return {
        "name": name,
        "format": cfg.INPUT.FORMAT,
        "uses_auxiliary": uses_auxiliary,
        "stuff_colors": metadata.stuff_colors,
        "evaluator_type": metadata.get("evaluator_type", "sem_seg"),
        "max_pixels": metadata.get("max_pixels", MAX_PIXELS),
        **_shared_facts(metadata),
    }


def _shared_facts(metadata: Any) -> dict[str, Any]:
    align = metadata.get("align") or dataclasses.asdict(DEFAULT)
    return {**{fact: getattr(metadata, fact) for fact in SHARED_FACTS}, "align": align}


def _metadata_of_pairs(name: str) -> Any:
    if not _is_of_pairs(name):
        raise ValueError(
            f"dataset {name!r} is registered without classes for semantic segmentation. Set them, "
            f"MetadataCatalog.get({name!r}).set(stuff_classes=[...]), or name another set."
        )
    return MetadataCatalog.get(name)


def register_facts(facts: Mapping[str, Any]) -> str:
    """Puts the facts that a checkpoint holds into the catalog as a set without pairs; its name.

    So a model can be used where the files that it was trained on are not.
    """
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:6]
    name = f"{facts['name']} (as its checkpoint says, {digest})"
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, list)
        known = {key: facts[key] for key in (*SHARED_FACTS, *FURTHER_FACTS) if key in facts}
        colors = facts.get("stuff_colors") or palette(facts["stuff_classes"])
        MetadataCatalog.get(name).set(**known | {"stuff_colors": colors})
    return name


def _is_of_pairs(name: str) -> bool:
    return all(hasattr(MetadataCatalog.get(name), fact) for fact in SHARED_FACTS)


def _only_split(description: Description, path: str) -> str:
    splits = list(description.splits)
    if len(splits) > 1:
        choices = ", ".join(f"{path}:{split}" for split in splits)
        raise ValueError(f"{path} has several splits. Name one of them: {choices}.")
    return splits[0]
