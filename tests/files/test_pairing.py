"""Which files of a user's folders make pairs, and what the results are called."""

from pathlib import Path

import pytest

from smmcl.files.pairing import base_folder, find_images, match_pairs, names_below


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


def test_numbers_are_never_cut() -> None:
    # Cut to what differs, f10 and f20 were 1 and 2.
    with pytest.raises(ValueError, match=r"goes with f1\.png"):
        match_pairs(paths("f1.png", "f2.png"), paths("f10.png", "f20.png"))
    with pytest.raises(ValueError, match=r"goes with f2\.png"):
        match_pairs(paths("f1.png", "f2.png"), paths("f1.png", "f21.png"))
    matched = match_pairs(paths("cam2_9.png", "cam2_10.png"), paths("10_t3.png", "9_t3.png"))
    assert matched[0] == (Path("cam2_9.png"), Path("9_t3.png"))


def test_zeros_before_a_number_do_not_matter() -> None:
    matched = match_pairs(paths("f2.png", "f10.png"), paths("t_0010.png", "t_0002.png"))
    assert matched[0] == (Path("f2.png"), Path("t_0002.png"))
    with pytest.raises(ValueError, match=r"goes with 1\.png"):  # 01 or 001?
        match_pairs(paths("1.png", "2.png"), paths("01.png", "001.png", "02.png"))


def test_a_single_name_is_not_cut() -> None:
    # Cut like a list of several, f1 was nothing, and so was f.
    with pytest.raises(ValueError, match=r"goes with f1\.png"):
        match_pairs(paths("f1.png"), paths("f.png", "f0.png"))


def test_files_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"a/1\.png and a/1\.tif have the same name"):
        match_pairs(paths("v/1.png", "v/2.png"), paths("a/1.png", "a/1.tif", "a/2.png"))
    with pytest.raises(ValueError, match=r"v/1\.png and v/1\.tif have the same name"):
        match_pairs(paths("v/1.png", "v/1.tif"), paths("a/t.png"))


def test_files_without_partner_are_listed_with_the_nearest_name() -> None:
    visible = paths("v/street_1.png", "v/park-22.png", "v/9.png")
    auxiliary = paths("a/street_1.png", "a/park_22.png", "a/x.png")
    with pytest.raises(ValueError, match="2 of 3 files lack a partner") as error:
        match_pairs(visible, auxiliary)
    assert "v/park-22.png (nearest name: a/park_22.png), v/9.png" in str(error.value)


def test_two_single_files_are_a_pair_whatever_their_names() -> None:
    assert match_pairs(paths("x.png"), paths("y.png")) == [(Path("x.png"), Path("y.png"))]


def test_a_file_without_partner_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"goes with v/3\.png"):
        match_pairs(paths("v/1.png", "v/3.png"), paths("a/1.png", "a/2.png"))


def test_names_keep_the_folders_below_what_was_given(tmp_path: Path) -> None:
    for name in ("night/1.png", "day/1.png", "day/.2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for place in (tmp_path, f"{tmp_path}/*/*.png"):
        assert base_folder([place]) == tmp_path
        found = [path for path in find_images(place) if path.name == "1.png"]
        assert names_below(tmp_path, found) == ["day/1", "night/1"]
    assert len(find_images(tmp_path)) == 2  # hidden files are none
    assert base_folder([tmp_path / "day/1.png"]) == tmp_path / "day"
    assert base_folder([tmp_path / "day/1.png", tmp_path / "night"]) == tmp_path
    with pytest.raises(ValueError, match=r"1\.png and .*1\.png have the same name"):
        names_below(tmp_path, 2 * [tmp_path / "day/1.png"])


def test_names_in_several_folders_are_pairs_by_folder_and_name() -> None:
    visible, auxiliary = paths("a/rgb/1.png", "b/rgb/1.png"), paths("b/th/1.png", "a/th/1.png")
    assert match_pairs(visible, auxiliary) == [*zip(visible, auxiliary[::-1], strict=True)]
    visible, auxiliary = paths("v/a/1.png", "v/b/1.png"), paths("t/a/1.png", "t/b/1.png")
    assert match_pairs(visible, auxiliary) == [*zip(visible, auxiliary, strict=True)]
    with pytest.raises(ValueError, match=r"goes with v/b/1\.png \(nearest name: t/c/1\.png"):
        match_pairs(visible, paths("t/a/1.png", "t/c/1.png"))
