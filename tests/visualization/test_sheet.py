"""Contact sheets: cells between lines, pictures whole, a legend, and pairs that cannot be read."""

from collections.abc import Iterator

import numpy as np
import pytest

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.reader import PairReader
from smmcl.visualization.panels import LINE
from smmcl.visualization.sheet import contact_sheet, draw_grid

RED, GREEN = (200, 0, 0), (0, 200, 0)


def is_line(pixels: np.ndarray) -> np.ndarray:
    return (pixels == LINE).all(axis=-1)


def test_every_picture_is_whole_and_in_a_cell() -> None:
    def picture(height: int, width: int, color: tuple) -> np.ndarray:
        return np.full((height, width, 3), color, np.uint8)

    rows = {
        "one": {"left": picture(30, 50, RED), "right": picture(30, 50, GREEN)},
        "two": {"left": picture(20, 80, RED), "right": picture(20, 40, GREEN)},
    }
    sheet = draw_grid(rows)
    assert (sheet == RED).all(axis=2).sum() == 30 * 50 + 20 * 80
    assert (sheet == GREEN).all(axis=2).sum() == 30 * 50 + 20 * 40
    # Three lines down and three across, in cells as wide and high as the largest picture.
    down = np.flatnonzero(is_line(sheet).sum(axis=0) > 80)
    across = np.flatnonzero(is_line(sheet).sum(axis=1) > 100)
    assert np.diff(down).tolist() == [81, 51]
    assert np.diff(across).tolist() == [30 + 36 + 1, 20 + 36 + 1]


@pytest.fixture
def dataset(tiny_config) -> Iterator[str]:
    """A few pairs of 64x96, registered for one test."""
    records = DatasetCatalog.get("few_val")[:3]
    DatasetCatalog.register("sheet_val", lambda: records)
    facts = MetadataCatalog.get("few_val").as_dict()
    MetadataCatalog.get("sheet_val").set(**{k: facts[k] for k in facts if k != "name"})
    yield "sheet_val"
    DatasetCatalog.remove("sheet_val")
    MetadataCatalog.remove("sheet_val")


def test_a_sheet_has_a_legend_and_leaves_out_what_cannot_be_read(dataset) -> None:
    whole = contact_sheet([dataset], num_pairs=3)
    # Five pictures enlarged to four times the stored width, six lines, two margins.
    assert whole.shape[1] == 5 * 384 + 5 + 2 * 28
    metadata = MetadataCatalog.get(dataset)
    reader = PairReader.of(metadata)
    labels = [reader.label(record) for record in DatasetCatalog.get(dataset)]
    below = whole[28 + 36 + 3 * (4 * 64 + 36 + 1) + 1 :]
    for place in set(np.unique(labels).tolist()) - {metadata.ignore_label}:
        assert (below == metadata.stuff_colors[place]).all(axis=2).any()
    DatasetCatalog.get(dataset)[1]["sem_seg_file_name"] = "nowhere.png"
    assert len(whole) - len(contact_sheet([dataset], num_pairs=3)) == 4 * 64 + 36 + 1
    for record in DatasetCatalog.get(dataset):
        record["sem_seg_file_name"] = "nowhere.png"
    with pytest.raises(ValueError, match="no sound pair to draw"):
        contact_sheet([dataset], num_pairs=3)
