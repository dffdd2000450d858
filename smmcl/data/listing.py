"""Finds the files of pairs that a user names by path, folder or pattern."""

import glob
from collections.abc import Sequence
from pathlib import Path

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

    Returns:
        (visible, auxiliary) in the order of the visible files; auxiliary files without a visible
        one are left out.
    """
    if len(visible) == len(auxiliary) == 1:
        return [(visible[0], auxiliary[0])]
    partners = {path.stem: path for path in auxiliary}
    keys = [path.stem for path in visible]
    if not set(keys) <= set(partners):
        partners = dict(zip(_cores(auxiliary), auxiliary, strict=True))
        keys = _cores(visible)
    for key, path in zip(keys, visible, strict=True):
        if key not in partners:
            raise ValueError(
                f"none of the {len(auxiliary)} auxiliary files goes with {path} by its name; the "
                f"first is {auxiliary[0]}. Name the files of a pair alike."
            )
    return [(path, partners[key]) for key, path in zip(keys, visible, strict=True)]


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Names for results: each file's own, with as many of its folders as tell all files apart."""
    parts = [path.with_suffix("").parts for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["_".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("some of the files are named twice. Name each pair once.")


def _cores(paths: Sequence[Path]) -> list[str]:
    """What tells the names of a list apart."""
    stems = [path.stem for path in paths]
    while all(stems) and len({stem[0] for stem in stems}) == 1:
        stems = [stem[1:] for stem in stems]
    while all(stems) and len({stem[-1] for stem in stems}) == 1:
        stems = [stem[:-1] for stem in stems]
    return stems
