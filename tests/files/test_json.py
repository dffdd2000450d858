"""JSON of another form than stated: the file and the place in it."""

import logging
import pathlib
import re
from typing import Any

import pytest

from smmcl.files.json import check_form, read_json, read_json_lines

FORM = {"name": str, "rows": [{"count": int, "*": float}], "level": int | str}
SOUND = {"name": "a", "rows": [{"count": 2, "x": 1, "y": 0.5}], "level": "low", "else": [None]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": 3}, "'name' is 3 where a text is needed"),
        ({"rows": {}}, "'rows' is {} where a list is needed"),
        ({"rows": [[]]}, "'rows', [0] is [] where keys with values is needed"),
        ({"rows": [{"x": 1.0}]}, "'rows', [0] has no key 'count'"),
        ({"rows": [{"count": True}]}, "'count' is True where a whole number is needed"),
        ({"rows": [{"count": 1, "x": float("nan")}]}, "'x' is nan where a number is needed"),
        ({"rows": [{"count": 1, "x": 10**400}]}, "where a number is needed"),
        ({"rows": [{"count": 2**64}]}, "is 18446744073709551616 where a whole number is needed"),
        ({"level": 0.5}, "'level' is 0.5 where int | str is needed"),
    ],
)
def test_what_has_another_form_is_named(changes: dict[str, Any], words: str) -> None:
    check_form(SOUND, FORM, "a.json")
    with pytest.raises(ValueError, match=rf"a\.json.*{re.escape(words)}"):
        check_form(SOUND | changes, FORM, "a.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_what_is_no_json_is_named(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json cannot be read as JSON"):
        read_json(path, {})


def test_a_cut_line_is_left_out_and_told(tmp_path: pathlib.Path, caplog) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1}\n{"iteration": 2, "lo{"iteration": 3}\n{"iteration": 4}\n')
    caplog.set_level(logging.WARNING, "smmcl")
    assert [line["iteration"] for line in read_json_lines(path, {"iteration": int})] == [1, 4]
    (text,) = [record.getMessage() for record in caplog.records]
    assert f"Left out: {path}, line 2 cannot be read as JSON" in text
