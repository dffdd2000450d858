"""Finds the images of a folder, guesses which camera each comes from, and pairs them by name."""

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smmcl.files.images import decode
from smmcl.files.pairing import NUM_NAMED, SUFFIXES, common_start

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
WORDS = {  # of folders and file names
    "label": "label labels mask masks gt seg segmentation annotation annotations truth ids",
    "thermal": "th ther thermal ir infrared lwir modal heat flir",
    "depth": "depth dep disparity",
    "hha": "hha",
    "visible": "rgb color colour colors visible vis image images img jpegimages camera",
}
ROLES = {word: role for role, words in WORDS.items() for word in words.split()}
AFFIX = rf"(?:{'|'.join(sorted(ROLES, key=len, reverse=True))})"
NAME = re.compile(rf"(?P<before>{AFFIX}[_\-. ])?.*?(?P<after>[_\-. ]{AFFIX})?", re.IGNORECASE)
# Whole names, without a word such as _rgb, without all that the names share, and its numbers alone.
NUM_LEVELS = 4
NUMBERS = NUM_LEVELS - 1


@dataclass
class Group:
    """Files of one kind: what their paths share, and what tells them apart.

    Args:
        base: beginning of their paths, such as "{split}/rgb/".
        affixes: by level, what the names begin and end with.
        files: path of each by split and name without ending.
    """

    base: str
    affixes: list[tuple[str, str]]
    suffix: str
    role: str
    files: dict[tuple[str, str], Path] = field(default_factory=dict)

    def pattern(self, level: int) -> str:
        before, after = self.affixes[level]
        width = f":0{self._width()}" if level == NUMBERS and self._width() > 1 else ""
        return f"{self.base}{before}{{id{width}}}{after}{self.suffix}"

    def by_id(self, level: int) -> dict[tuple[str, str], Path]:
        before, after = map(len, self.affixes[level])
        found = {(s, n[before : len(n) - after]): path for (s, n), path in self.files.items()}
        if level < NUMBERS:
            return found
        is_number = self._width() > 0
        return {(s, str(int(n))): path for (s, n), path in found.items()} if is_number else {}

    def _width(self) -> int:
        """Digits of the shortest number; 0 where not all names are numbers, filled to as many."""
        names = [name for _, name in self.by_id(NUMBERS - 1)]
        width = min(map(len, names))
        is_filled = all(n.isdecimal() and str(int(n)).zfill(width) == n for n in names)
        return width if is_filled else 0

    def __str__(self) -> str:
        return f"{self.base}*{self.affixes[1][1]}{self.suffix} ({len(self.files)} files)"


def find_groups(folder: Path, paths: Iterable[Path], *, role: str = "") -> list[Group]:
    """Sorts image files by folder, word in the name, and ending; guesses each group's role."""
    groups: dict[tuple[str, ...], dict[tuple[str, str], Path]] = defaultdict(dict)
    for path in sorted(paths):
        *parts, _ = path.relative_to(folder).parts
        split = next((part for part in parts if part.lower() in SPLITS), "")
        parts = ["{split}" if part == split else part for part in parts]
        known = [i + 1 for i, part in enumerate(parts) if _roles_in(part)]
        first = 1 + (parts[:1] == ["{split}"])
        end = known[-1] if known else min(first, len(parts))
        found = NAME.fullmatch(path.stem)
        key = (*(f"{part}/" for part in parts[:end]), found["before"], found["after"], path.suffix)
        groups[key][split, "/".join([*parts[end:], path.stem])] = path
    return [_group(key, files, role=role) for key, files in groups.items()]


def _group(key: tuple[str | None, ...], files: dict[tuple[str, str], Path], *, role: str) -> Group:
    *base, before, after, suffix = key
    names = [name for _, name in files]
    before = "" if any("/" in name for name in names) else before or ""
    words = (before, after or "")
    said = [*map(_roles_in, (before, after or "")), *map(_roles_in, reversed(base))]
    shared = _shared(names) if len(names) > 1 else words
    affixes = [("", ""), words, shared, shared]
    return Group("".join(base), affixes, suffix, role or next(filter(None, said), ""), files)


def _roles_in(text: str) -> str:
    words = re.findall(r"[a-z]+", text.lower())
    return next((ROLES[word] for word in reversed(words) if word in ROLES), "")


def _shared(names: Sequence[str]) -> tuple[str, str]:
    """What all names begin and end with, without parts of a number."""
    before = common_start(names).rstrip("0123456789")
    after = common_start([name[len(before) :][::-1] for name in names])
    return before, after.rstrip("0123456789")[::-1]


def guess_role(group: Group) -> str:
    """The role of files whose names do not say it, by what the first of them stores."""
    values, mode, _ = decode(next(iter(group.files.values())), role="image")
    if mode in ("RGB", "RGBA"):
        return "visible"
    is_ids = mode in ("P", "1") or (mode == "L" and len(set(values.ravel().tolist())) <= 16)
    return "label" if is_ids else "auxiliary"


@dataclass
class Pairing:
    """Patterns of the files by part, and the pairs: by split and id, the file of each part."""

    patterns: dict[str, str]
    pairs: dict[tuple[str, str], dict[str, Path]]
    sentences: list[str]


def pair(groups: dict[str, Group]) -> Pairing:
    """Pairs the groups of the parts "visible", "auxiliary" and "label" by their names.

    A visible image without an auxiliary one is left out; one without a label stays.
    """
    visible, needed = groups["visible"], [p for p in ("visible", "auxiliary") if p in groups]

    def complete(level: int) -> tuple[int, int]:
        ids = [set(groups[part].by_id(level)) for part in groups]
        return len(set.intersection(*ids)), len(set.intersection(*ids[: len(needed)]))

    groups = {part: groups[part] for part in (*needed, "label") if part in groups}
    level = max(range(NUM_LEVELS), key=complete)
    found = {part: group.by_id(level) for part, group in groups.items()}
    sentences = []
    for part in [*groups][1:]:
        lonely = sorted(found["visible"].keys() - found[part].keys())
        spare = sorted(found[part].keys() - found["visible"].keys())
        if len(lonely) == len(visible.files):
            raise ValueError(
                f"no {part} image has the name of a visible one: {_nearest(lonely, found[part])}. "
                "Name the files of a pair alike, up to a beginning or an ending that all share."
            )
        if lonely:
            kept = "have no label" if part == "label" else "are left out"
            sentences.append(
                f"{len(lonely)} of {len(visible.files)} visible images lack a partner among the "
                f"{part} images and {kept}: {_nearest(lonely, found[part])}."
            )
        if spare:
            sentences.append(
                f"{len(spare)} {part} images have no visible image and are left out: "
                f"{_nearest(spare, found['visible'])}."
            )
    ids = sorted(set.intersection(*(set(found[part]) for part in needed)), key=_natural)
    pairs = {key: {part: f[key] for part, f in found.items() if key in f} for key in ids}
    patterns = {part: group.pattern(level) for part, group in groups.items()}
    return Pairing(patterns, pairs, sentences)


def _nearest(lonely: Sequence[tuple[str, str]], others: Iterable[tuple[str, str]]) -> str:
    names = {other: None for _, other in others}
    named = [
        f"{name} (nearest name: {difflib.get_close_matches(name, names, n=1, cutoff=0)[0]})"
        for _, name in lonely[:NUM_NAMED]
    ]
    return ", ".join(named) + (", ..." if len(lonely) > NUM_NAMED else "")


def _natural(key: tuple[str, str]) -> list[tuple[int, str]]:
    """Sorts frame 9 before frame 10."""
    parts = re.split(r"(\d+)", f"{key[0]}/{key[1]}")
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def images_below(folder: Path) -> list[Path]:
    """All image files of a folder, but those in hidden folders."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return [p for p in found if p.is_file() and p.relative_to(folder).parts[0][0] != "."]
