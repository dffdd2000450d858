"""Classes from label images, and label images of ids from colors, COCO JSON and labelme JSON.

Shape shorthand in this module:
    H, W: height and width of a label image
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from smmcl.files.images import COLOR_MODES, decode, decode_label
from smmcl.files.pairing import NUM_NAMED
from smmcl.files.yaml import read_yaml

IGNORE = 255
MAX_CLASSES = 254  # a label image of 8 bits holds these and IGNORE
MAX_COLORS = 64  # more in label images come from blending, not from classes
LINE = re.compile(r"(?P<name>.+?)(?:[\s:,]+(?P<rgb>\d+[\s,]+\d+[\s,]+\d+):*)?")


@dataclass
class Classes:
    """Classes of a dataset file, and the stored value or color of each.

    Args:
        table: position in the list of each stored value or color, where files are converted.
    """

    names: list[str]
    colors: list[list[int]] = field(default_factory=list)
    stored_ignore: int | None = None
    table: Mapping[int, int] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)


def read_names(given: str) -> Classes:
    """Names by commas, or a file with one name a line, each with "red green blue" or none."""
    if not Path(given).is_file():
        if "/" in given or Path(given).suffix in (".txt", ".csv", ".yaml", ".yml", ".json"):
            raise FileNotFoundError(f"--classes {given} is no file. Correct the path.")
        return Classes([name.strip() for name in given.split(",") if name.strip()])
    lines = [line.strip() for line in Path(given).read_text(encoding="utf-8-sig").splitlines()]
    if Path(given).suffix in (".yaml", ".yml"):
        facts = read_yaml(given)
        lines = list(map(str, facts["classes"] if isinstance(facts, dict) else facts))
    found = [LINE.fullmatch(line) for line in lines if line and line[0] != "#"]
    colors = [[int(part) for part in re.findall(r"\d+", one["rgb"] or "")] for one in found]
    if any(colors) and not all(colors):
        raise ValueError(f"{given} gives a color to some classes only. Give one to all or to none.")
    return Classes([one["name"] for one in found], colors if any(colors) else [])


def survey(paths: Sequence[Path], named: Classes | None) -> Classes:
    """Looks at every label image; says what the stored values are taken for."""
    first = decode(paths[0], role="label image")
    if first.mode in COLOR_MODES:
        return _of_colors(paths, named)
    counts = {path: _counts(decode_label(path)) for path in paths}
    values = sorted(set().union(*counts.values()))
    kept = [value for value in values if value not in (IGNORE, 2**16 - 1)]
    ignore = next((value for value in values if value not in kept), None)
    if len(values) == 2 and kept == [0] and ignore == IGNORE and not (named and named.colors):
        return _of_mask(named)
    if not kept:
        raise ValueError(f"the label images hold the value {values[0]} alone, which is no class.")
    is_sparse = kept[-1] >= 2 * len(kept) + 8 and not named
    if is_sparse:
        names = [f"class_{value}" for value in kept]
        table = {value: index for index, value in enumerate(kept)}
        text = f"labels hold {_few(kept)}: each becomes a class, stored by its position"
        return Classes(names, [], IGNORE, {**table, **_to(ignore)}, [f"{text} in new files."])
    names = named.names if named else [f"class_{value}" for value in range(kept[-1] + 1)]
    beyond = {path: [v for v in found if v in kept and v >= len(names)] for path, found in
              counts.items()}  # fmt: skip
    if any(beyond.values()):
        raise _beyond({path: {v: counts[path][v] for v in b} for path, b in beyond.items() if b},
                      names)  # fmt: skip
    colors = named.colors if named else []
    if not colors and first.mode == "P":
        colors = _palette(paths[0], len(names))
    text = f"labels hold the ids {_few(kept)}: the classes are {', '.join(names)}."
    if 0 in kept:
        text += " 0 counts as a class; if it means 'no label', see label_offset in dataset.yaml."
    return Classes(names, colors, ignore, {}, [text])


def _of_mask(named: Classes | None) -> Classes:
    names = named.names if named else ["background", "object"]
    if len(names) != 2:
        raise ValueError(
            f"the labels are masks of 0 and 255, but --classes has {len(names)} names."
        )
    text = f"labels hold 0 and 255 alone: masks, stored anew as 0 ({names[0]}) and 1 ({names[1]})."
    return Classes(names, [], IGNORE, {0: 0, IGNORE: 1}, [text])


def _of_colors(paths: Sequence[Path], named: Classes | None) -> Classes:
    counts = {path: _counts(packed(path)) for path in paths}
    found = sorted(set().union(*counts.values()))
    if named and named.colors:
        table = {_pack(color): index for index, color in enumerate(named.colors)}
        beyond = {path: {f"#{v:06x}": n for v, n in one.items() if v not in table} for path, one in
                  counts.items()}  # fmt: skip
        if beyond := {path: one for path, one in beyond.items() if one}:
            raise _beyond(beyond, named.names)
        text = "labels are in colors, stored anew as ids by the colors of --classes."
        return Classes(named.names, named.colors, IGNORE, table, [text])
    if len(found) > MAX_COLORS or (named and len(named.names) != len(found)):
        raise ValueError(
            f"the label images are in colors, {len(found)} of them, and no list says which color "
            "is which class. Give --classes FILE with one line a class: name red green blue."
        )
    colors = [[value >> 16, value >> 8 & 255, value & 255] for value in found]
    names = named.names if named else [f"color_{value:06x}" for value in found]
    text = (
        f"labels are in {len(found)} colors, each taken for a class ({_few(names)}) and stored "
        "anew as ids; name them in dataset.yaml, or give --classes FILE with one line a class: "
        "name red green blue."
    )
    table = {value: index for index, value in enumerate(found)}
    return Classes(names, colors, IGNORE, table, [text])


def packed(path: Path) -> np.ndarray:
    """Values of a label file, (H, W); colors as 0xRRGGBB."""
    picture = decode(path, role="label image")
    if picture.mode not in COLOR_MODES:
        return decode_label(path)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise ValueError(f"label image {path} is a JPEG, which changes colors. Export PNG files.")
    red, green, blue = (picture.values[:, :, i].astype(np.int64) for i in range(3))
    return (red << 16) + (green << 8) + blue


def convert(path: Path, table: Mapping[int, int]) -> np.ndarray:
    """A label image in ids, (H, W) uint8."""
    values, places = np.unique(packed(path), return_inverse=True)
    ids = np.array([table[int(value)] for value in values], dtype=np.uint8)
    return ids[places].reshape(decode(path, role="label image").values.shape[:2])


def _to(ignore: int | None) -> dict[int, int]:
    return {} if ignore is None else {ignore: IGNORE}


def _pack(color: Sequence[int]) -> int:
    return (color[0] << 16) + (color[1] << 8) + color[2]


def _counts(values: np.ndarray) -> Counter:
    found, counts = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def _palette(path: Path, count: int) -> list[list[int]]:
    with Image.open(path) as image:
        flat = (image.getpalette() or [])[: 3 * count]
    colors = [flat[i : i + 3] for i in range(0, len(flat), 3)]
    return colors if len({tuple(color) for color in colors}) == count else []


def _beyond(found: Mapping[Path, Mapping[int | str, int]], names: Sequence[str]) -> ValueError:
    files = [
        f"{path} ({', '.join(f'{value}: {n} pixels' for value, n in values.items())})"
        for path, values in [*found.items()][:NUM_NAMED]
    ]
    more = f" and {len(found) - NUM_NAMED} more" * (len(found) > NUM_NAMED)
    return ValueError(
        f"{len(found)} label image(s) hold what none of the {len(names)} classes {_few(names)} "
        f"has: {', '.join(files)}{more}. Add the missing classes to --classes, or mend the files."
    )


def _few(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:12])) + (", ..." if len(values) > 12 else "")
