"""A dataset file: the small YAML that says where pairs lie and what they hold, read and checked.

The built-in sets are such files beside this one; datasets/README.md explains every key.
"""

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from smmcl.data.alignment import DEFAULT, Alignment, read_alignment
from smmcl.data.datasets.keys import check_keys, class_names
from smmcl.data.datasets.lists import ID
from smmcl.data.format import AuxiliaryFormat
from smmcl.files.images import MAX_PIXELS
from smmcl.files.yaml import read_layers

# The files of a pair, and the keys of their paths in a record of the catalog.
PARTS = {
    "visible": "file_name",
    "auxiliary": "auxiliary_file_name",
    "label": "sem_seg_file_name",
}
BACKGROUNDS = ("background", "unlabeled", "unlabelled", "void", "other", "none")
GRAY = (0.0, 0.0, 0.4)  # hue, saturation, value


@dataclass(frozen=True)
class Split:
    """Pairs of one split."""

    lists: Sequence[str] = ()  # files with one pair a line; without any, all that the folder holds
    pairs: int | None = None  # how many the set's authors publish
    only: str | None = None  # a tag; pairs without it are left out


@dataclass(frozen=True)
class Description:
    """What a dataset file says."""

    classes: Sequence[str]  # names; the position is the training label
    # Alternatives, each a pattern of the "visible" and, if any, "auxiliary" and "label" files with
    # {id} and, where folders are named so, {split}.
    layouts: Sequence[Mapping[str, str]]
    splits: Mapping[str, Split]
    task: str = "segmentation"  # or "classification": the first folder of an id is its class
    # Alternatives, told apart by the files' channels and bits; none for visible images alone.
    auxiliary: Sequence[AuxiliaryFormat] = ()
    align: Alignment = DEFAULT  # of the auxiliary images with the visible ones
    root: Sequence[str] = (".",)  # folder of the files, or alternatives
    colors: Sequence[Sequence[int]] = ()  # RGB per class, 0..255
    label_offset: int = 0  # this and the next as in `reader.PairReader`
    stored_ignore: int | None = None
    absent_from_mean: Sequence[str] = ()  # classes left out of the headline mean
    # For each tag a pattern of ids ("*N"), or a list file ("night.txt").
    tags: Mapping[str, str] = field(default_factory=dict)
    max_pixels: int = MAX_PIXELS  # of a file; a larger one is refused before it is decoded
    skip: str = ""  # pattern of listed ids that stand for no pair of their own


def read_description(path: str | Path) -> Description:
    """Reads and checks a dataset file; the keys that it has replace those of its `_BASE_`."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"dataset file {path} does not exist. Correct the path, or write one by "
            "`smmcl new-dataset FOLDER`."
        )
    try:
        facts = {key: value for layer in read_layers(path) for key, value in layer.items()}
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as a dataset file: {error} datasets/README.md has an example."
        ) from error
    known = {entry.name for entry in fields(Description)}
    if unknown := sorted(map(str, set(facts) - known)):
        raise ValueError(f"{path} has the key(s) {', '.join(unknown)}; known are {sorted(known)}.")
    needed = ("classes", "layouts", "splits")
    if missing := [key for key in needed if not facts.get(key)]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; datasets/README.md has an example.")
    check_keys(facts, path=path)
    offset = facts.get("label_offset", 0)
    facts["classes"] = class_names(facts["classes"], label_offset=offset, path=path)
    for key in ("classes", "layouts", "absent_from_mean"):
        if key in facts:
            facts[key] = _listed(facts[key])
    try:
        facts["splits"] = {name: _split(split or {}) for name, split in facts["splits"].items()}
        formats = _listed(facts.get("auxiliary") or [])
        facts["auxiliary"] = [AuxiliaryFormat(**entry) for entry in formats]
    except TypeError as error:
        raise ValueError(f"{path} has a wrong key below splits or auxiliary: {error}.") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if "align" in facts:
        facts["align"] = read_alignment(facts["align"], path=path)
    facts["root"] = _listed(facts.get("root", "."))
    description = Description(**{"colors": palette(facts["classes"]), **facts})
    _check(description, path)
    return description


def _split(facts: Mapping[str, Any]) -> Split:
    return Split(**{**facts, "lists": _listed(facts.get("lists", []))})


def palette(classes: Sequence[str]) -> list[list[int]]:
    """Chooses colors that differ well, and gray for a background.

    From one class to the next the hue turns by 0.618.
    """
    background = next((name for name in classes if str(name).lower() in BACKGROUNDS), None)
    colors = [(0.618 * i % 1, 0.85, 1 - 0.2 * (i % 3)) for i in range(len(classes))]
    return [
        [round(255 * part) for part in colorsys.hsv_to_rgb(*(GRAY if name == background else hsv))]
        for name, hsv in zip(classes, colors, strict=True)
    ]


def _check(description: Description, path: str | Path) -> None:
    for layout in description.layouts:
        wanted = {"visible", *(["auxiliary"] if description.auxiliary else [])}
        labels = ["label"] if description.task == "segmentation" else []
        is_right = wanted <= set(layout) <= {*wanted, *labels}
        if not is_right or any(len(ID.findall(one)) != 1 for one in layout.values()):
            raise ValueError(
                f"{path} has the layout {dict(layout)}. Give each a visible pattern, an auxiliary "
                "one if the file has the key `auxiliary` and only then, and a label one unless the "
                "set has no labels or is for classification; each pattern with {id} in it, once."
            )
    if len(description.colors) != len(description.classes):
        raise ValueError(
            f"{path} has {len(description.classes)} classes but {len(description.colors)} colors. "
            "Give one color a class, or none to have them chosen."
        )
    if len(set(description.classes)) != len(description.classes):
        raise ValueError(f"{path} names a class twice. Give every class its own name.")
    if not all(name and name == name.strip() for name in description.classes):
        raise ValueError(
            f"{path} has a class without a name, or with spaces around it: "
            f"{list(description.classes)}. Correct the names."
        )
    if odd := [name for name in description.splits if not re.fullmatch(r"\w+", name)]:
        raise ValueError(
            f"{path} has the split {odd[0]!r}, which no config can name. Use letters, digits and _."
        )
    end = description.label_offset + len(description.classes)
    if end > 2**16:
        raise ValueError(f"{path}: label_offset {description.label_offset} is above 16 bits.")
    if description.stored_ignore in range(description.label_offset, end):
        name = description.classes[description.stored_ignore - description.label_offset]
        raise ValueError(
            f"{path}: stored_ignore {description.stored_ignore} is the stored value of the class "
            f"{name}. Correct stored_ignore or label_offset, or remove stored_ignore."
        )
    if unknown := sorted(set(description.absent_from_mean) - set(description.classes)):
        raise ValueError(f"{path} leaves {', '.join(unknown)} out of the mean, which is no class.")
    for name, split in description.splits.items():
        if split.only is not None and split.only not in description.tags:
            raise ValueError(f"{path}, split {name}: 'only: {split.only}' is none of its tags.")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
