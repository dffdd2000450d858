"""The report: well-formed, escaped, self-contained; bold, differences and pictures in place."""

import base64
import html.parser
import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from smmcl.visualization import report
from smmcl.visualization.report import breakable, confusions, make_report, score_table, short
from smmcl.visualization.runs import read_runs

DATASET = "streets_val"
VOID = {"meta", "link", "img", "wbr"}


class Page(html.parser.HTMLParser):
    """Reads a page: fails on a closing tag that does not match, and keeps tables and figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[tuple[str, dict, str]] = []
        self.rows: list[list[tuple[str, dict]]] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.texts.append(data.strip())


def test_bold_is_the_best_only_where_protocols_agree(evaluated) -> None:
    # IoU of a class: (hits + 1) / (hits + 3): 4 / 6 and 10 / 12.
    first, second = evaluated("a", tags=("day",)), evaluated("b", hits=9, tags=("day",))
    text = make_report(read_runs([first, second]), num_pairs=0)
    assert len(re.findall(r"<b>83\.33</b>", text)) == 3  # all, day, fwIoU
    assert "<b>66.67</b>" not in text
    assert '<small class="up">+16.67</small>' in text
    other = evaluated("c", hits=9, flip="yes")
    text = make_report(read_runs([first, second, other]), num_pairs=0)
    assert "<b>" not in text
    assert "are not comparable" in text
    assert '<small class="up">+16.67</small>' in text


def test_scores_that_a_run_lacks_and_ties(evaluated) -> None:
    runs = read_runs([evaluated("a"), evaluated("b", tags=("day",)), evaluated("c")])
    _, rows = score_table(runs)
    assert [[cell.value is None for cell in row][:2] for row in rows] == [
        [False, True], [False, False], [False, True],
    ]  # fmt: skip
    assert [row[0].is_best for row in rows] == [True, True, True]
    assert [row[1].is_best for row in rows] == [False, False, False]  # alone in its column
    assert [row[0].delta for row in rows] == [None, 0, 0]
    assert rows[1][1].delta is None
    assert '<small class="">+0.00</small>' in make_report(runs, num_pairs=0)


def test_one_run_has_no_differences(evaluated) -> None:
    text = make_report(read_runs([evaluated("a")]), num_pairs=0)
    Page(text)
    assert "<b>" not in text
    assert "What differs" not in text


def test_a_run_of_a_grid_brings_the_grids_table(evaluated, tmp_path) -> None:
    folder = tmp_path / "night/baseline/seed0"
    folder.parent.mkdir(parents=True)
    evaluated("a").rename(folder)
    assert "Experiment night" not in make_report(read_runs([folder]), num_pairs=0)
    (tmp_path / "night/table.md").write_text("| row | mIoU |")
    text = make_report(read_runs([folder]), num_pairs=0)
    assert "<h2>Experiment night</h2>\n<pre>| row | mIoU |</pre>" in text


def test_every_row_begins_with_its_name_and_is_whole(evaluated) -> None:
    runs = read_runs([evaluated("a", tags=("day",)), evaluated("b", tags=("day",), flip="yes")])
    page = Page(make_report(runs, num_pairs=0))
    bodies = [row for row in page.rows if any(tag == "td" for tag, _ in row)]
    assert all(row[0][1] == {"scope": "row"} for row in bodies)
    # Two runs by mIoU of all and day, fwIoU, mACC, pACC.
    assert [len(row) for row in bodies[:2]] == [6, 6]
    groups, labels = page.rows[:2]
    assert sum(int(facts.get("colspan", 0)) for _, facts in groups) == len(labels) == 5


def test_names_are_text_everywhere(evaluated, monkeypatch) -> None:
    evil = "<script>alert(1)</script>"
    curves = tuple({"iteration": i, "total_loss": 1.0, "sem_seg/mIoU": 2.0} for i in (0, 1))
    monkeypatch.setattr(report, "draw_pairs", lambda *_, **__: {
        evil: [{"name": evil, "scores": [1.0, 2.0], "pictures": [(evil, "data:,")]}]
    })  # fmt: skip
    monkeypatch.setattr(report, "legend", lambda _: {evil: "#000000"})
    folders = [
        evaluated(
            name,
            classes=(evil, "b"),
            config=json.dumps({evil: evil + name}),
            curves=curves,
            dataset=evil,
            flip=evil + name,
        )
        for name in ("'\"><script>", "b")
    ]
    (folders[0] / "cost.md").write_text(evil)
    text = make_report(read_runs(folders), num_pairs=1)
    page = Page(text)
    assert "<script" not in text.lower()
    assert page.texts.count(evil) >= 5
    # Attributes that hold names end where they should.
    assert {value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")} == {
        f"{evil} of pair {evil}"
    }
    for chart in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ElementTree.fromstring(chart)


def test_a_page_stands_alone(evaluated) -> None:
    curves = tuple({"iteration": i, "loss_sem_seg": 1.0, "total_loss": 2.0} for i in (0, 1))
    text = make_report(read_runs([evaluated("a", curves=curves)]), num_pairs=0)
    assert text.lstrip().startswith("<!doctype html>")
    addresses = [v for _, name, v in Page(text).attributes if name in ("src", "href", "xlink:href")]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "Segmentation loss" in text


def test_pictures_are_separate_so_that_they_can_stack(evaluated, monkeypatch) -> None:
    pictures = [(title, "data:,") for title in ("visible", "truth", "truth")]
    found = {"Best pairs": [{"name": "7", "scores": [12.34], "pictures": pictures}], "Worst": []}
    monkeypatch.setattr(report, "draw_pairs", lambda *_, **__: found)
    monkeypatch.setattr(report, "legend", lambda _: {"road": "#804080"})
    text = make_report(read_runs([evaluated("a")]), num_pairs=1)
    (panels,) = re.findall(r'<div class="panels"[^>]*>(.*?)</div>', text, flags=re.DOTALL)
    assert re.findall("<figcaption>(.*?)</figcaption>", panels) == ["visible", "truth", "truth"]
    assert panels.count("<figure><img") == 3
    assert re.sub(r"\s+", " ", text).count("Pair 7: mIoU a 12.3") == 1
    assert "Worst" not in text
    assert "background: #804080" in text


def test_confusions_are_in_percent_of_the_truth(evaluated) -> None:
    # Rows of 4 + 1 and 10 + 1 pixels: 1 of 5 and 1 of 11.
    runs = read_runs([evaluated("a"), evaluated("b", hits=9)])
    assert confusions(runs, DATASET) == {
        "road taken for car": ["20.0", "9.1"],
        "car taken for road": ["20.0", "9.1"],
    }


@pytest.mark.parametrize("size", [(480, 640), (128, 160)])
def test_pictures_are_not_shrunk(size) -> None:
    image = report.enlarge(np.zeros((*size, 3), np.uint8))
    data = report._data_url(image).partition(",")[2]
    width, height = Image.open(io.BytesIO(base64.b64decode(data))).size
    assert (height % size[0], width % size[1]) == (0, 0)


def test_paths_are_short_and_may_be_broken() -> None:
    assert short("/home/me/yard/dataset.yaml:val: mIoU") == "yard/dataset.yaml:val: mIoU"
    assert short("mfnet_test") == "mfnet_test"
    assert breakable("a_b/c.yaml: <d>") == "a_<wbr>b/<wbr>c.<wbr>yaml: &lt;d&gt;"
