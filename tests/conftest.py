"""What all tests share: single-threaded torch, and the reference numbers where they are at hand."""

import pathlib

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The folder of reference numbers, which is not part of the project."""
    folder = ROOT.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip(f"the reference numbers are not here: {folder.name}/ is no folder")
    return folder
