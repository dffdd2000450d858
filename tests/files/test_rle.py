"""Run lengths against pycocotools, and texts that make it write beyond its memory."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from pycocotools import mask

from smmcl.data.reader import PairReader
from smmcl.evaluation.predictions import open_predictions
from smmcl.files.rle import decode_rle


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_masks_are_pycocotools_own(share: float) -> None:
    wanted = np.random.default_rng(0).random((37, 300)) < share
    region = mask.encode(np.asfortranarray(wanted.astype(np.uint8)))
    region["counts"] = region["counts"].decode()
    np.testing.assert_array_equal(decode_rle(region), wanted)


def test_runs_by_hand() -> None:
    # Three pixels outside, two inside, one outside: down the columns of 2 rows.
    got = decode_rle({"size": [2, 3], "counts": "321"})
    np.testing.assert_array_equal(got, [[False, False, True], [False, True, False]])
    np.testing.assert_array_equal(decode_rle({"size": [2, 3], "counts": [3, 2, 1]}), got)


@pytest.mark.parametrize(
    ("size", "counts", "words"),
    [
        ([2, 3], "32o", "end within a number"),  # pycocotools reads on behind the text
        ([2, 3], "32", "do not make up 2x3 pixels"),
        ([2, 3], "7O", "do not make up"),  # 7 and -1
        ([2, 3], "", "do not make up"),
        ([2, 3], "o" * 10**6, "no text of compressed"),
        ([2, 3], "3 3", "no text of compressed"),
        ([2, 3], None, "no text of compressed"),
        ([2, 3], [3.0, 3], "no list of whole numbers"),
        ([2, 3], [7, -1], "do not make up"),
        ([2**16, 2**16], "0", "no .height, width."),
        ([2, 3.0], "33", "no .height, width."),
        ([-2, -3], "33", "no .height, width."),
        (6, "33", "no .height, width."),
    ],
)
def test_regions_that_are_refused(size: Any, counts: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_rle({"size": size, "counts": counts})


ENTRY = {"image_id": "7", "category_id": 1, "segmentation": {"size": [2, 3], "counts": "321"}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("3", "is no list of entries with image_id"),
        ([{"image_id": "7"}], "is no list of entries"),
        ([{**ENTRY, "category_id": 3}], "category_id 3, but the dataset has 0 to 2"),
        ([{**ENTRY, "category_id": True}], "category_id True"),
        ([{**ENTRY, "segmentation": None}], "category 1 in image 7 does not fit: its size"),
        ([ENTRY, {**ENTRY, "segmentation": {"size": [3, 2], "counts": "6"}}], "does not fit: bool"),
    ],
)
def test_a_file_of_predictions_is_refused_by_name(
    tmp_path: pathlib.Path, content: Any, words: str
) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=rf"predictions\.json.*{words}"):
        open_predictions(path, reader=PairReader(None, num_classes=3))("7")
