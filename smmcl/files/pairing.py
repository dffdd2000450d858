"""Finds the files of pairs that a user names by path, folder or pattern."""

import difflib
import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

NUM_NAMED = 5  # files without a partner that an error names
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def find_images(place: str | Path) -> list[Path]:
    """Lists the image files below a folder, those that match a pattern, or the one file named.

    Args:
        place: path of a file or folder, or a pattern such as "night/*_rgb.png".

    Returns:
        Paths in the order of their names. Hidden files of a folder are left out.
    """
    folder = Path(place)
    if folder.is_dir():
        images = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        found = [path for path in images if not path.name.startswith(".")]
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

    Numbers are never cut: f1 and f2 go with 1, 2 or 001, 002, but not with f10 and f20. Where a
    list has a name in several folders, the folders below the one that all share belong to the
    names, except those that every file of the list has: a/rgb/1.png goes with a/th/1.png.

    Returns:
        (visible, auxiliary) in the order of the visible files; auxiliary files without a visible
        one are left out.
    """
    if len(visible) == len(auxiliary) == 1:
        return [(visible[0], auxiliary[0])]
    names, others = ([path.stem for path in paths] for paths in (visible, auxiliary))
    if len(set(names)) < len(names) or len(set(others)) < len(others):
        names, others = (names_below(_shared_folder(p), p) for p in (visible, auxiliary))
    keys, partners = names, dict(zip(others, auxiliary, strict=True))
    for simplified in (_cores, _numbers):
        if not set(keys) <= partners.keys():
            keys = simplified(names)
            partners = dict(zip(simplified(others), auxiliary, strict=True))
    lonely = {
        name: path
        for key, name, path in zip(keys, names, visible, strict=True)
        if key not in partners
    }
    if lonely:
        by_name = dict(zip(others, auxiliary, strict=True))
        raise ValueError(_explain(lonely, by_name, num_visible=len(visible)))
    return [(path, partners[key]) for key, path in zip(keys, visible, strict=True)]


def base_folder(places: Sequence[str | Path]) -> Path:
    """The deepest folder above all that `find_images` lists of these places."""
    return Path(os.path.commonpath([_base(Path(place).absolute()) for place in places]))


def names_below(folder: Path, paths: Sequence[Path]) -> list[str]:
    """Names of files without their ending, with their folders below `folder`, each of them once."""
    found: dict[str, Path] = {}
    for path in paths:
        name = path.absolute().relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ValueError(
                f"{found[name]} and {path} have the same name, so their partners and results are "
                "ambiguous. Give each file of a list its own name, and name it once."
            )
        found[name] = path
    return [*found]


def _base(place: Path) -> Path:
    """A folder itself, else the folder of a file, or of a pattern the last without wildcards."""
    if place.is_dir():
        return place
    return next(folder for folder in place.parents if not glob.has_magic(str(folder)))


def _shared_folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def _explain(lonely: Mapping[str, Path], by_name: Mapping[str, Path], *, num_visible: int) -> str:
    named = [
        f"{path} (nearest name: "
        f"{by_name[difflib.get_close_matches(name, by_name, n=1, cutoff=0)[0]]})"
        for name, path in list(lonely.items())[:NUM_NAMED]
    ]
    return (
        f"{len(lonely)} of {num_visible} files lack a partner: none of the {len(by_name)} files "
        f"given goes with {', '.join(named)}{', ...' if len(lonely) > NUM_NAMED else ''}. "
        "Name the files of a pair alike."
    )


def _cores(names: Sequence[str]) -> list[str]:
    """What tells the names of a list apart; of a single name, the whole."""
    if len(names) == 1:
        return [*names]
    parts = [name.split("/") for name in names]
    if len({len(part) for part in parts}) == 1:
        columns = [c for c in zip(*parts, strict=True) if len(set(c)) > 1]
        names = ["/".join(part) for part in zip(*columns, strict=True)]
    start = len(_common(names))
    names = [name[start:] for name in names]
    end = len(_common([name[::-1] for name in names]))
    return [name[: len(name) - end] for name in names]


def _numbers(names: Sequence[str]) -> list[str]:
    """The same, as numbers where all of them are such."""
    cores = _cores(names)
    are_numbers = all(core.isdecimal() for core in cores) and len({*map(int, cores)}) == len(cores)
    return [str(int(core)) for core in cores] if are_numbers else cores


def common_start(names: Sequence[str]) -> str:
    """What all names begin with."""
    length = min(map(len, names))
    columns = zip(*(name[:length] for name in names), strict=True)
    count = next((i for i, letters in enumerate(columns) if len(set(letters)) > 1), length)
    return names[0][:count]


def _common(names: Sequence[str]) -> str:
    """What all names begin with, without parts of a number."""
    start = common_start(names)
    is_cut = any(name[len(start) : len(start) + 1].isdigit() for name in names)
    return start.rstrip("0123456789") if is_cut else start
