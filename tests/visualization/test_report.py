"""The report's parts: well-formed, escaped, self-contained, and drawn where they belong."""

import html.parser
import re

import numpy as np
import pytest

from smmcl.visualization.report import bars, curves, element, matrix, page, picture, table

VOID = {"meta", "link", "img"}


class Balance(html.parser.HTMLParser):
    """Fails on a closing tag that does not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def is_balanced(text: str) -> bool:
    parser = Balance()
    parser.feed(text)
    return not parser.open


def test_text_is_escaped_once() -> None:
    assert element("p", "a < b & c", title='"x"') == '<p title="&quot;x&quot;">a &lt; b &amp; c</p>'
    assert element("p", element("b", "<")) == "<p><b>&lt;</b></p>"
    assert (
        element("div", class_="a", text_anchor="end") == '<div class="a" text-anchor="end"></div>'
    )


def test_table_marks_the_best_of_a_column() -> None:
    text = table(["run", "mIoU", "mACC"], [["a", 50.0, None], ["b", 60.0, 3.0]])
    assert "<b>60.00</b>" in text
    assert "<td>50.00</td>" in text
    assert "<td>-</td>" in text
    assert "<b>3.00</b>" not in text  # alone in its column


def test_bars_have_a_width_by_their_value() -> None:
    text = bars({"car": [100.0, 0.0, None]})
    assert re.findall(r"width:([\d.]+)%", text) == ["85.00", "0.00", "0.00"]
    assert ">100.0<" in text
    assert ">-<" in text


def test_matrix_is_in_percent_of_the_truth() -> None:
    text = matrix(["road", "car"], [[3, 1], [0, 0]])
    assert "road taken for car: 25.00%" in text
    assert ">75<" in text
    assert "car taken for road: 0.00%" in text  # a class without pixels


def test_curves_span_the_chart() -> None:
    text = curves("loss", [[(0, 1.0), (10, 3.0)], [(5, 2.0), (10, 2.0)]])
    first, second = re.findall(r'points="([^"]+)"', text)
    assert first == "52.0,170.0 354.0,14.0"
    assert second == "203.0,92.0 354.0,92.0"
    assert is_balanced(curves("flat", [[(0, 1.0), (1, 1.0)], []]))


def test_a_page_stands_alone() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    text = page("a <run>", table(["a"], [["b"]]), picture(image, "worst & best"))
    assert is_balanced(text)
    assert "a &lt;run&gt;" in text
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)
    assert "http" not in text


@pytest.mark.parametrize("mode", ["dark", "print"])
def test_the_style_knows_its_media(mode: str) -> None:
    assert mode in page("a")
