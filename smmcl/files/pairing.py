"""Finds the files of pairs that a user names by path, folder or pattern."""

import difflib
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

NUM_NAMED = 5  # files without a partner that an error names
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def find_images(place: str | Path) -> list[Path]:
    """Lists the image files of a folder, those that match a pattern, or the one file named.

    Args:
        place: path of a file or folder, or a pattern such as "night/*_rgb.png".

    Returns:
        Paths in the order of their names.
    """
    folder = Path(place)
    if folder.is_dir():
        found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    elif glob.has_magic(str(place)):
        # Path.glob takes no absolute pattern.
        found = [Path(path) for path in glob.glob(str(place), recursive=True)]  # noqa: PTH207
    else:
        found = [folder]
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        raise FileNotFoundError(
            f"{missing[0] if missing else place} is no image file, folder with images "
            f"({', '.join(SUFFIXES)}) or pattern that finds some. Check the path."
        )
    return sorted(found)


def match_pairs(visible: Sequence[Path], auxiliary: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs files by their names without ending, or by what is left of the names when the
    beginning and end that all files of a list share are cut off: 1_rgb.png goes with 1_th.png.

    Numbers are never cut: f1 and f2 go with 1 and 2, but not with f10 and f20.

    Returns:
        (visible, auxiliary) in the order of the visible files; auxiliary files without a visible
        one are left out.
    """
    if len(visible) == len(auxiliary) == 1:
        return [(visible[0], auxiliary[0])]
    partners, keys = _by_stem(auxiliary), [*_by_stem(visible)]
    if not set(keys) <= set(partners):
        partners = dict(zip(_cores(auxiliary), auxiliary, strict=True))
        keys = _cores(visible)
    lonely = [path for key, path in zip(keys, visible, strict=True) if key not in partners]
    if lonely:
        raise ValueError(_explain(lonely, _by_stem(auxiliary), num_visible=len(visible)))
    return [(path, partners[key]) for key, path in zip(keys, visible, strict=True)]


def _by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if (other := found.setdefault(path.stem, path)) is not path:
            raise ValueError(
                f"{other} and {path} have the same name, so their partners are ambiguous. "
                "Give each file of a list its own name."
            )
    return found


def _explain(lonely: Sequence[Path], by_stem: Mapping[str, Path], *, num_visible: int) -> str:
    nearest = [
        by_stem[difflib.get_close_matches(path.stem, by_stem, n=1, cutoff=0)[0]]
        for path in lonely[:NUM_NAMED]
    ]
    named = (f"{path} (nearest name: {o})" for path, o in zip(lonely, nearest, strict=True))
    return (
        f"{len(lonely)} of {num_visible} files lack a partner: none of the {len(by_stem)} files "
        f"given goes with {', '.join(named)}{', ...' if len(lonely) > NUM_NAMED else ''}. "
        "Name the files of a pair alike."
    )


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Names for results: each file's own, with as many of its folders as tell all files apart.

    No name has a separator or a root, so that each result stays in the folder it is written to.
    """
    bare = [path.with_suffix("") for path in paths]
    parts = [path.relative_to(path.anchor).parts for path in bare]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["_".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("some of the files are named twice. Name each pair once.")


def _cores(paths: Sequence[Path]) -> list[str]:
    """What tells the names of a list apart; of a single name, the whole."""
    stems = [path.stem for path in paths]
    if len(stems) == 1:
        return stems
    start = _common(stems)
    stems = [stem[start:] for stem in stems]
    end = _common([stem[::-1] for stem in stems])
    return [stem[: len(stem) - end] for stem in stems]


def _common(names: Sequence[str]) -> int:
    """How many characters all names begin with, without parts of a number."""
    differing = (len(set(letters)) > 1 for letters in zip(*names, strict=False))
    count = next((i for i, differs in enumerate(differing) if differs), min(map(len, names)))
    if any(name[count : count + 1].isdigit() for name in names):
        count = len(names[0][:count].rstrip("0123456789"))
    return count
