"""The types of a dataset file's keys: YAML reads `yes`, `1.0` and `2024-05-01` as no text."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smmcl.files.images import MOST_PIXELS

TASKS = ("segmentation", "classification")
Check = Callable[[Any, str], None]  # of a value and the place where it stands


def _kind(wanted: str, is_right: Callable[[Any], bool], *, way_out: str) -> Check:
    def check(value: Any, place: str) -> None:
        if not is_right(value):
            raise ValueError(
                f"{place} is {value!r} ({type(value).__name__}), but {wanted} is needed. {way_out}"
            )

    return check


def _optional(check: Check) -> Check:
    return lambda value, place: None if value is None else check(value, place)


def _list_of(check: Check) -> Check:
    def check_all(value: Any, place: str) -> None:
        is_list = isinstance(value, list | tuple)
        for index, entry in enumerate(value if is_list else [value]):
            check(entry, f"{place}[{index}]" if is_list else place)

    return check_all


def _mapping_of(check: Check, **special: Check) -> Check:
    """Checks the keys as text, the values by the checks of their keys, and others by `check`."""

    def check_all(value: Any, place: str) -> None:
        mapping(value, place)
        for key, entry in value.items():
            text(key, f"a key of {place}")
            special.get(key, check)(entry, f"{place}.{key}")

    return check_all


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


text = _kind("text", lambda v: isinstance(v, str), way_out="Put it in quotes.")
whole = _kind("a whole number", _is_whole, way_out="Write it as digits, without quotes.")
count = _kind("a number of 0 or more", lambda v: _is_whole(v) and v >= 0, way_out="Correct it.")
number = _kind("a number", _is_number, way_out="Write it as digits, without quotes.")
mapping = _kind("a mapping", lambda v: isinstance(v, Mapping), way_out="Write it as 'key: value'.")
color = _kind(
    "a color",
    lambda v: (
        isinstance(v, list | tuple)
        and len(v) == 3
        and all(_is_whole(p) and 0 <= p < 256 for p in v)
    ),
    way_out="Write [red, green, blue], each 0..255.",
)
pixels = _kind(
    "a number of pixels",
    lambda v: _is_whole(v) and 0 < v <= MOST_PIXELS,
    way_out=f"Write a whole number, from 1 to {MOST_PIXELS}.",
)
texts = _list_of(text)
split = _mapping_of(text, lists=texts, pairs=_optional(count), only=_optional(text))
auxiliary = _mapping_of(
    text,
    channels=whole,
    low=number,
    high=number,
    invalid=_optional(number),
    camera=_optional(_list_of(number)),
)
KEYS: Mapping[str, Check] = {
    "task": _kind(
        "'segmentation' or 'classification'",
        lambda v: v in TASKS,
        way_out="Correct it, or leave it out for segmentation.",
    ),
    "classes": lambda v, place: texts([*v.values()] if isinstance(v, Mapping) else v, place),
    "layouts": _list_of(_mapping_of(text)),
    "splits": _mapping_of(_optional(split)),
    "auxiliary": _optional(_list_of(auxiliary)),
    "align": lambda value, place: None,  # `read_alignment` does it
    "root": texts,
    "colors": _list_of(color),
    "label_offset": count,
    "stored_ignore": _optional(whole),
    "absent_from_mean": texts,
    "tags": _mapping_of(text),
    "max_pixels": pixels,
    "skip": text,
}
# What `describe_inputs` puts into a checkpoint.
FACTS: Mapping[str, Check] = {
    **{"name": text, "format": text, "stuff_classes": texts, "stuff_colors": _list_of(color)},
    "evaluator_type": text,
    "max_pixels": pixels,
    **{"label_offset": count, "ignore_label": count, "stored_ignore": _optional(whole)},
    **{"auxiliary": _optional(auxiliary), "align": mapping},
}


def check_facts(facts: Mapping[str, Any]) -> None:
    """Raises when a fact in a checkpoint has a value of another type."""
    for key in facts.keys() & FACTS.keys():
        FACTS[key](facts[key], f"inputs.{key}")


def check_keys(facts: Mapping[str, Any], *, path: str | Path) -> None:
    """Raises when a key of a dataset file holds a value of another type."""
    for key, value in facts.items():
        KEYS[key](value, f"{path}: {key}")


def class_names(classes: Any, *, label_offset: int, path: str | Path) -> Any:
    """Returns the names of {id: name} in the order of their ids; a list stays as it is."""
    if not isinstance(classes, Mapping):
        return classes
    wanted = list(range(label_offset, label_offset + len(classes)))
    if set(classes) != set(wanted):
        raise ValueError(
            f"{path}: classes has the ids {', '.join(map(str, classes))}, but label_offset "
            f"{label_offset} needs {wanted[0]} to {wanted[-1]}, each once. Set label_offset to the "
            "stored value of the first class, and store the labels by consecutive ids."
        )
    return [classes[index] for index in wanted]
