"""One lister for all datasets of pairs: finds the files of a split and recognizes their layout."""

import fnmatch
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smmcl.data.datasets.description import PARTS, Description
from smmcl.data.datasets.lists import Entry, check_unique, fill, id_pattern, read_entries
from smmcl.data.format import AuxiliaryFormat
from smmcl.data.reader import PairReader
from smmcl.files.pairing import SUFFIXES
from smmcl.files.paths import relative_path

logger = logging.getLogger(__name__)

NUM_PROBES = 8  # pairs looked at, spread over the split: some files may be missing or damaged


@dataclass(frozen=True)
class FoundSplit:
    """A split on disk."""

    layout: Mapping[str, str]  # the pattern of each part that its files follow
    format: AuxiliaryFormat | None  # what its auxiliary images store, if it has any
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
    auxiliary = _find_format(description, records)
    skipped = f" ({num_skipped} entries {description.skip!r} skipped)" if num_skipped else ""
    logger.info(
        f"{root}: split {split} has {len(ids)} pairs{skipped}; layout "
        f"{' + '.join(_patterns(layout))}; {_describe(auxiliary)}"
        f"{'; no labels' if description.task == 'segmentation' and 'label' not in layout else ''}"
    )
    return FoundSplit(layout, auxiliary, records, num_skipped)


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
        patterns = _patterns(layout)
        probes = [[fill(one, name, split) for one in patterns] for name in _spread(ids)]
        complete = [names for names in probes if all((root / name).is_file() for name in names)]
        found.append((len(complete), ids, num_skipped, layout))
        looked_for.append(" + ".join(probes[0] if probes else patterns))
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
    lists = [root / name.replace("{split}", split) for name in facts.lists]
    entries = [entry for path in lists for entry in read_entries(path, split, layout=layout)]
    if not lists:
        # A pattern that ends in the id names no kind of file, so that lists and notes would match.
        is_open = layout["visible"].endswith("}")
        images = (p for p in root.rglob("*") if not is_open or p.suffix.lower() in SUFFIXES)
        found = (path.relative_to(root).as_posix() for path in images)
        pattern = id_pattern(layout["visible"], split)
        ids = sorted(match["id"] for match in map(pattern.fullmatch, found) if match)
        entries = [Entry(relative_path(name, source=f"a file in {root}"), name) for name in ids]
    listed = [entry for entry in entries if not fnmatch.fnmatchcase(entry.id, description.skip)]
    check_unique(listed)
    kept = [entry.id for entry in listed]
    num_skipped = len(entries) - len(kept)
    if facts.only is not None:
        tagged = _read_tags(description, kept, split, root=root, layout=layout)[facts.only]
        kept = [name for name in kept if name in tagged]
    return kept, num_skipped


def _patterns(layout: Mapping[str, str]) -> list[str]:
    return [layout[part] for part in PARTS if part in layout]


def _describe(auxiliary: AuxiliaryFormat | None) -> str:
    if auxiliary is None:
        return "no auxiliary images"
    made = ", HHA made of it when read" if auxiliary.camera else ""
    kind, channels = auxiliary.kind, auxiliary.channels
    return f"auxiliary {kind}, {channels} channel(s), unit {auxiliary.unit}{made}"


def _records(
    description: Description,
    ids: Sequence[str],
    split: str,
    *,
    root: Path,
    layout: Mapping[str, str],
) -> list[dict[str, Any]]:
    tagged = _read_tags(description, ids, split, root=root, layout=layout)
    records = []
    for name in ids:
        record = {
            key: str(root / fill(layout[part], name, split))
            for part, key in PARTS.items()
            if part in layout
        }
        record["image_id"] = name
        if description.task == "classification":
            record["class_id"] = _class_of(name, description.classes, root=root)
        if tagged:
            record["tags"] = [tag for tag, members in tagged.items() if name in members]
        records.append(record)
    return records


def _class_of(name: str, classes: Sequence[str], *, root: Path) -> int:
    """Returns the index of the class that the first folder of an id names."""
    folder, _, rest = name.partition("/")
    if not rest or folder not in classes:
        raise ValueError(
            f"image {name} of {root} lies in no folder of a class. Put it into one of "
            f"{', '.join(classes)}, or add its folder to classes."
        )
    return list(classes).index(folder)


def _read_tags(
    description: Description,
    ids: Sequence[str],
    split: str,
    *,
    root: Path,
    layout: Mapping[str, str],
) -> dict[str, set[str]]:
    """Returns for each tag the ids that have it."""
    tagged = {}
    for tag, source in description.tags.items():
        if source.endswith(".txt"):
            entries = read_entries(root / source, split, layout=layout)
            tagged[tag] = {entry.id for entry in entries}
        else:
            tagged[tag] = {name for name in ids if fnmatch.fnmatchcase(name, source)}
    return tagged


def _find_format(
    description: Description, records: Sequence[dict[str, Any]]
) -> AuxiliaryFormat | None:
    """Takes the format of the first probed file that has one; else what the first one lacks."""
    if not description.auxiliary:
        return None
    errors = []
    for record in _spread(records):
        for auxiliary in description.auxiliary:
            reader = PairReader(
                auxiliary,
                num_classes=len(description.classes),
                max_pixels=description.max_pixels,
            )
            path = record["auxiliary_file_name"]
            try:
                reader.stored_auxiliary(reader.decode(path, role="auxiliary image"))
            except (ValueError, FileNotFoundError) as error:
                errors.append(error)
            else:
                return auxiliary
    # The same for every format where the file itself is at fault.
    reasons = dict.fromkeys(map(str, errors[: len(description.auxiliary)]))
    raise errors[0] if len(reasons) == 1 else ValueError(" Or: ".join(reasons))


def _spread(items: Sequence[Any]) -> list[Any]:
    """Takes up to NUM_PROBES items, the first among them, evenly from the whole."""
    return list(items[:: max(1, len(items) // NUM_PROBES)])[:NUM_PROBES]
