"""List files, one pair a line: read as names inside their folder, or refused with file and line."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from smmcl.files.pairing import SUFFIXES
from smmcl.files.paths import check_regular, relative_path

ID = re.compile(r"\{id(?::0(\d+))?\}")  # {id:04} stands for the id with zeros in front of it


class Entry(NamedTuple):
    """What a line names, and which line that is: "train.txt, line 3"."""

    id: str
    source: str


def read_entries(path: Path, split: str, *, layout: Mapping[str, str]) -> list[Entry]:
    """Returns the entries of a list in order; empty lines are skipped.

    Args:
        split: fills {split} in the layout's patterns.
        layout: patterns of the visible and label files, which a line may name as well.
    """
    if not path.exists():
        present = ", ".join(sorted(other.name for other in path.parent.glob("*.txt"))) or "none"
        raise FileNotFoundError(
            f"list {path} does not exist (lists beside it: {present}). Name a split whose list is "
            "there, or fetch the list from the dataset's authors."
        )
    check_regular(path, role="list")
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"list {path} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):
        source = f"list {path}, line {number}"
        if line.lstrip().startswith("# "):
            raise ValueError(f"{source}: {line!r}. Lists hold names only: remove the comment.")
        if name := _first_name(line):
            name = relative_path(name, source=source)
            entries.append(Entry(_id_of(name, split, layout=layout), source))
    return entries


def check_unique(entries: list[Entry]) -> None:
    """Raises when two entries are one pair, which would count, and be written, twice."""
    seen: dict[str, str] = {}
    for name, source in entries:
        if name in seen:
            raise ValueError(
                f"{source}: pair {name} is listed before, in {seen[name]}. Remove one of the lines."
            )
        seen[name] = source


def id_pattern(pattern: str, split: str) -> re.Pattern[str]:
    """What the paths of a layout's files match; the group "id" is the pair's id."""
    before, width, after = ID.split(pattern.replace("{split}", split))
    zeros = "0*" if width else ""
    return re.compile(f"{re.escape(before)}{zeros}(?P<id>.+){re.escape(after)}")


def fill(pattern: str, name: str, split: str) -> str:
    """The path that a pattern stands for."""
    path = pattern.replace("{split}", split)
    return ID.sub(lambda match: name.zfill(int(match[1] or 0)), path)


def _first_name(line: str) -> str:
    """The first of the names in a line. Tabs part them, and spaces if all are image files."""
    first = line.strip().partition("\t")[0].strip()
    words = first.split()
    return words[0] if words and all(map(_is_image, words)) else first


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _id_of(entry: str, split: str, *, layout: Mapping[str, str]) -> str:
    """The id in a list's entry: itself, a file name, or the path of a visible or label file."""
    for part in ("visible", "label"):
        if part in layout and (match := id_pattern(layout[part], split).fullmatch(entry)):
            return match["id"]
    return entry.rpartition(".")[0] if _is_image(entry) else entry
