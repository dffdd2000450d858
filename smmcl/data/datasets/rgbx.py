"""One lister for all datasets of pairs: finds the files of a split and recognises their layout."""

import fnmatch
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smmcl.data.contract import AuxiliaryContract
from smmcl.data.datasets.description import PARTS, Description
from smmcl.data.image_pair import read_auxiliary

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NUM_PROBES = 8  # pairs looked at, spread over the split: some files may be missing or damaged


@dataclass(frozen=True)
class FoundSplit:
    """A split on disk."""

    layout: Mapping[str, str]  # the pattern of each part that its files follow
    contract: AuxiliaryContract  # what its auxiliary images store
    records: list[dict[str, Any]]  # for the catalog
    num_skipped: int  # listed entries left out by `Description.skip`


def find_split(description: Description, split: str, *, base: str | Path) -> FoundSplit:
    """Lists a split in the layout that its files have, and logs which that is.

    Args:
        base: folder that the description's root is relative to.
    """
    if split not in description.splits:
        raise ValueError(f"there is no split {split!r}; known are {', '.join(description.splits)}.")
    root = _find_root(description, base)
    ids, num_skipped, layout = _find_layout(description, split, root=root)
    records = _records(description, ids, split, root=root, layout=layout)
    contract = _find_contract(description, records)
    skipped = f" ({num_skipped} entries {description.skip!r} skipped)" if num_skipped else ""
    logger.info(
        f"{root}: split {split} has {len(ids)} pairs{skipped}; layout "
        f"{' + '.join(layout[part] for part in PARTS)}; auxiliary {contract.kind}, "
        f"{contract.channels} channel(s), unit {contract.unit}"
        f"{', HHA made of it when read' if contract.camera else ''}"
    )
    return FoundSplit(layout, contract, records, num_skipped)


def _find_root(description: Description, base: str | Path) -> Path:
    folders = [Path(base) / root for root in description.root]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"{' or '.join(str(folder) for folder in folders)} is no folder. Put the dataset there "
        "(datasets/README.md shows the tree), or set $DETECTRON2_DATASETS to its parent."
    )


def _find_layout(
    description: Description, split: str, *, root: Path
) -> tuple[list[str], int, Mapping[str, str]]:
    """Returns ids, entries skipped, and the layout in which most of the probed pairs exist."""
    found, looked_for = [], []
    for layout in description.layouts:
        ids, num_skipped = _read_ids(description, split, root=root, layout=layout)
        probes = [[_fill(layout[part], name, split) for part in PARTS] for name in _spread(ids)]
        complete = [names for names in probes if all((root / name).is_file() for name in names)]
        found.append((len(complete), ids, num_skipped, layout))
        looked_for.append(" + ".join(probes[0] if probes else [layout[part] for part in PARTS]))
    num_complete, *best = max(found, key=lambda entry: entry[0])
    if num_complete == 0:
        raise FileNotFoundError(
            f"{root} has none of the known layouts for its split {split!r}. Looked for: "
            f"{'; '.join(looked_for)}. datasets/README.md shows the trees."
        )
    return tuple(best)


def _read_ids(
    description: Description, split: str, *, root: Path, layout: Mapping[str, str]
) -> tuple[list[str], int]:
    """Returns the ids of a split in order, and how many listed entries were skipped."""
    facts = description.splits[split]
    ids = []
    for name in facts.lists:
        lines = [line.split() for line in _read_lines(root / name.replace("{split}", split))]
        ids += [_id_of(line[0], split, layout=layout) for line in lines if line]
    if not facts.lists:
        found = (path.relative_to(root).as_posix() for path in root.rglob("*"))
        pattern = _id_pattern(layout["visible"], split)
        ids = sorted(match["id"] for match in map(pattern.fullmatch, found) if match)
    kept = [name for name in ids if not fnmatch.fnmatchcase(name, description.skip)]
    num_skipped = len(ids) - len(kept)
    if facts.only is not None:
        tagged = _read_tags(description, kept, root=root)[facts.only]
        kept = [name for name in kept if name in tagged]
    return kept, num_skipped


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        present = ", ".join(sorted(other.name for other in path.parent.glob("*.txt"))) or "none"
        raise FileNotFoundError(
            f"list {path} does not exist (lists beside it: {present}). Name a split whose list is "
            "there, or fetch the list from the dataset's authors."
        )
    return path.read_text(encoding="utf-8").splitlines()


def _id_of(entry: str, split: str, *, layout: Mapping[str, str]) -> str:
    """The id in a list's entry: itself, a file name, or the path of a visible or label file."""
    for part in ("visible", "label"):
        if match := _id_pattern(layout[part], split).fullmatch(entry):
            return match["id"]
    stem, dot, suffix = entry.rpartition(".")
    return stem if dot + suffix.lower() in IMAGE_SUFFIXES else entry


def _id_pattern(pattern: str, split: str) -> re.Pattern[str]:
    before, after = pattern.replace("{split}", split).split("{id}")
    return re.compile(f"{re.escape(before)}(?P<id>.+){re.escape(after)}")


def _fill(pattern: str, name: str, split: str) -> str:
    return pattern.replace("{split}", split).replace("{id}", name)


def _records(
    description: Description,
    ids: Sequence[str],
    split: str,
    *,
    root: Path,
    layout: Mapping[str, str],
) -> list[dict[str, Any]]:
    tagged = _read_tags(description, ids, root=root)
    records = []
    for name in ids:
        paths = {part: str(root / _fill(layout[part], name, split)) for part in PARTS}
        record = {
            "file_name": paths["visible"],
            "auxiliary_file_name": paths["auxiliary"],
            "sem_seg_file_name": paths["label"],
            "image_id": name,
        }
        if tagged:
            record["tags"] = [tag for tag, members in tagged.items() if name in members]
        records.append(record)
    return records


def _read_tags(description: Description, ids: Sequence[str], *, root: Path) -> dict[str, set[str]]:
    """Returns for each tag the ids that have it."""
    tagged = {}
    for tag, source in description.tags.items():
        if source.endswith(".txt"):
            tagged[tag] = {line.strip() for line in _read_lines(root / source)}
        else:
            tagged[tag] = {name for name in ids if fnmatch.fnmatchcase(name, source)}
    return tagged


def _find_contract(
    description: Description, records: Sequence[dict[str, Any]]
) -> AuxiliaryContract:
    """Takes the contract of the first probed file that fits one; else the first one's error."""
    first_error = None
    for record in _spread(records):
        for contract in description.auxiliary:
            try:
                read_auxiliary(record["auxiliary_file_name"], contract=contract)
            except (ValueError, FileNotFoundError) as error:
                first_error = first_error or error
            else:
                return contract
    raise first_error


def _spread(items: Sequence[Any]) -> list[Any]:
    """Takes up to NUM_PROBES items, the first among them, evenly from the whole."""
    return list(items[:: max(1, len(items) // NUM_PROBES)])[:NUM_PROBES]
