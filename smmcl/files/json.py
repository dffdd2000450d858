"""JSON files of a stated form: one that differs is an error with its name and the place in it."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any

# A form is a type, the form of a list's entries in a list, or forms by key; "*" is any other key.
Form = type | UnionType | list["Form"] | Mapping[str, "Form"]
WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
MAX_NUMBER = 2**53  # floats hold whole numbers up to it

logger = logging.getLogger(__name__)


def read_json(path: str | Path, form: Form) -> Any:
    """Reads a file whose content has a form."""
    return _parse(Path(path).read_bytes(), form, source=str(path))


def read_json_lines(path: str | Path, form: Form) -> list[Any]:
    """Reads lines of a form; one that a killed process cut is left out, with a warning."""
    found = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
        try:
            found.append(_parse(line, form, source=f"{path}, line {number}"))
        except ValueError as error:
            logger.warning(f"Left out: {error}")
    return found


def _parse(content: bytes, form: Form, *, source: str) -> Any:
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} cannot be read as JSON: {error}. Make it anew.") from error
    check_form(facts, form, source)
    return facts


def check_form(value: Any, form: Form, place: str) -> None:
    """Raises ValueError at the first part of a value that has not its form."""
    if isinstance(form, list):
        _need(isinstance(value, list), value, "a list", place)
        for index, entry in enumerate(value):
            check_form(entry, form[0], f"{place}, [{index}]")
    elif isinstance(form, Mapping):
        _need(isinstance(value, dict), value, "keys with values", place)
        for key in form.keys() - value.keys() - {"*"}:
            raise ValueError(f"{place} has no key {key!r}. Make the file anew.")
        for key, entry in value.items():
            check_form(entry, form.get(key, form.get("*", object)), f"{place}, {key!r}")
    elif form in (int, float):
        is_number = isinstance(value, int | form) and not isinstance(value, bool)
        _need(is_number and abs(value) <= MAX_NUMBER, value, WORDS[form], place)
    else:
        _need(isinstance(value, form), value, WORDS.get(form, form), place)


def _need(is_right: bool, value: Any, wanted: object, place: str) -> None:
    if not is_right:
        raise ValueError(f"{place} is {repr(value)[:60]} where {wanted} is needed.")
