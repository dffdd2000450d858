"""Pictures of the mapper's samples: which, how many, and with which labels."""

import pathlib

import numpy as np
import pytest
from PIL import Image


def visualize(call_tool, run_folder: pathlib.Path, output: pathlib.Path, *arguments: object):
    config = ("--config-file", run_folder / "config.yaml", "--output", output)
    call_tool("visualize_data", *config, *arguments)
    return sorted(output.iterdir())


def test_training_samples_are_those_of_the_first_iterations(
    call_tool, run_folder, tmp_path, capsys
) -> None:
    first = visualize(call_tool, run_folder, tmp_path / "a", "--limit", 3)
    again = visualize(call_tool, run_folder, tmp_path / "b", "--limit", 1)
    assert len(first) == 3
    assert f"3 pairs of DATASETS.TRAIN drawn into {tmp_path / 'a'}" in capsys.readouterr().out
    assert first[0].name == again[0].name
    assert first[0].read_bytes() == again[0].read_bytes()
    other = visualize(call_tool, run_folder, tmp_path / "c", "--limit", 1, "SEED", 1)
    assert other[0].read_bytes() != again[0].read_bytes()


def test_padding_is_shown(call_tool, run_folder, tmp_path) -> None:
    # Pairs of 64x96 halved to 32x48 in a crop of 64x64: 5/8 is padding.
    options = ("--limit", 1, "INPUT.SCALES", "[0.5]", "INPUT.CROP_SIZE", "[64, 64]")
    picture = np.asarray(Image.open(visualize(call_tool, run_folder, tmp_path, *options)[0]))
    gray = (picture == (214, 216, 220)).all(axis=2).sum()
    assert gray == 4 * (64 * 64 - 32 * 48) * 5**2  # four pictures, each enlarged five times


def test_test_samples_in_their_order(call_tool, run_folder, tmp_path) -> None:
    pictures = visualize(call_tool, run_folder, tmp_path, "--split", "test", "--limit", 2)
    assert [path.name for path in pictures] == ["00000_00000.png", "00001_00001.png"]


def test_an_unknown_dataset_ends_in_a_sentence(call_tool, run_folder, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as leaving:
        visualize(call_tool, run_folder, tmp_path / "out", "--dataset", "nowhere")
    assert leaving.value.code == 2
    assert "'nowhere'" in capsys.readouterr().err
