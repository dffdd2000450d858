"""Which files of a user's folders make pairs, and what the results are called."""

from pathlib import Path

import pytest

from smmcl.data.listing import find_images, match_pairs, unique_names


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    assert find_images(tmp_path) == [tmp_path / "a.JPG", tmp_path / "b.png"]
    assert find_images(f"{tmp_path}/*.png") == [tmp_path / "b.png"]


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "a.png", f"{tmp_path}/*.png"):
        with pytest.raises(FileNotFoundError, match="Check the path"):
            find_images(place)


def test_pairs_by_name() -> None:
    matched = match_pairs(paths("v/2.png", "v/1.png"), paths("a/1.tif", "a/2.tif", "a/3.tif"))
    assert matched == [(Path("v/2.png"), Path("a/2.tif")), (Path("v/1.png"), Path("a/1.tif"))]


def test_pairs_by_what_differs_in_the_names() -> None:
    matched = match_pairs(paths("01D_rgb.png", "02N_rgb.png"), paths("01D_th.png", "02N_th.png"))
    assert matched[1] == (Path("02N_rgb.png"), Path("02N_th.png"))
    matched = match_pairs(paths("rgb_08.png", "rgb_09.png"), paths("depth_09.png", "depth_08.png"))
    assert matched[0] == (Path("rgb_08.png"), Path("depth_08.png"))


def test_two_single_files_are_a_pair_whatever_their_names() -> None:
    assert match_pairs(paths("x.png"), paths("y.png")) == [(Path("x.png"), Path("y.png"))]


def test_a_file_without_partner_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"goes with v/3\.png"):
        match_pairs(paths("v/1.png", "v/3.png"), paths("a/1.png", "a/2.png"))


def test_names_of_results_are_told_apart() -> None:
    assert unique_names(paths("a/1.png", "a/2.png")) == ["1", "2"]
    assert unique_names(paths("a/1.png", "b/1.png")) == ["a_1", "b_1"]
    assert unique_names([]) == []
    with pytest.raises(ValueError, match="named twice"):
        unique_names(paths("a/1.png", "a/1.png"))
