"""List files: which ids their lines name, and which lines are refused."""

import os

import pytest

from smmcl.data.datasets.lists import check_unique, fill, id_pattern, read_entries

LAYOUT = {"visible": "rgb/{id}.png", "auxiliary": "depth/{id}.png", "label": "ids/{id}.png"}


def read(path):
    entries = read_entries(path, "train", layout=LAYOUT)
    check_unique(entries)
    return entries


ENTRIES = {
    "./rgb//a/1.png": ["a/1"],
    "a/1.png depth/a/1.png": ["a/1"],
    "a/1\ta/2": ["a/1"],
    "my file": ["my file"],
    "my file.png\tids/my file.png": ["my file"],
    "#1": ["#1"],
    "\ufeffa/1\r\na/2\r\n\r\n": ["a/1", "a/2"],
}


@pytest.mark.parametrize("text", ENTRIES)
def test_names_in_lists(tmp_path, text):
    path = tmp_path / "train.txt"
    path.write_bytes(text.encode())
    assert [entry.id for entry in read(path)] == ENTRIES[text]


def test_numbers_filled_with_zeros() -> None:
    for name, number in (("7", "0007"), ("0", "0000"), ("20", "0020"), ("12345", "12345")):
        assert fill("{split}/v{id:04}.png", name, "val") == f"val/v{number}.png"
        match = id_pattern("{split}/v{id:04}.png", "val").fullmatch(f"val/v{number}.png")
        assert match["id"] == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a/1\n/etc/1", "line 2: '/etc/1' is no path inside its folder"),
        ("../a/1", "line 1: '../a/1' is no path"),
        ("a/1\nrgb/../../a/1.png", "line 2: 'rgb/../../a/1.png' is no path"),
        ("C:/a/1", "line 1: 'C:/a/1' is no path"),
        ("a\\1", r"line 1: 'a\\\\1' is no path"),
        ("a/1\n\n./a/1.png\n", r"line 3: pair a/1 is listed before, in list .*, line 1\."),
        ("a/1\n  # night", "line 2: '  # night'. Lists hold names only"),
        ("# night\na/1", "line 1: '# night'. Lists hold names only"),
        ("a\0/\0001\0", "line 1: .* control characters"),
    ],
)
def test_lines_that_are_refused(tmp_path, text, words):
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"list .*train\.txt, {words}"):
        read(tmp_path / "train.txt")


def test_lists_that_are_refused(tmp_path):
    (tmp_path / "train.txt").write_text("a/1", encoding="utf-16")
    with pytest.raises(ValueError, match=r"train\.txt is not UTF-8"):
        read(tmp_path / "train.txt")
    (tmp_path / "train.txt").unlink()
    os.mkfifo(tmp_path / "train.txt")
    with pytest.raises(ValueError, match=r"list .*train\.txt is a folder, a pipe"):
        read(tmp_path / "train.txt")
