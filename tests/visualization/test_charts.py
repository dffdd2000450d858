"""Charts: titles, axes, a line or bar for each run, and names that are text."""

import re
from xml.etree import ElementTree

from smmcl.visualization.charts import COLORS, MAX_HEIGHT, bars, lines, of_a_page

SVG = "{http://www.w3.org/2000/svg}"


def texts(chart: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(chart).iter(f"{SVG}text")]


def count(chart: str, place: int) -> int:
    """Paths of the color of a run: a line and its markers' definition, or bars."""
    return sum(COLORS[place] in str(e.attrib) for e in ElementTree.fromstring(chart).iter())


def test_lines_have_titles_and_leave_out_runs_without_points() -> None:
    chart = lines([[(0, 1.0), (10, 3.0)], [], [(5, 2.0)]], title="Loss", x="Iteration", y="nats")
    assert {"Loss", "Iteration", "nats"} <= set(texts(chart))
    assert count(chart, 0)
    assert not count(chart, 1)
    assert count(chart, 2)
    assert 'aria-label="Loss"' in chart
    assert "currentColor" in chart


def test_bars_have_a_number_for_each_run_and_class() -> None:
    chart = bars({"car": [100.0, 12.34], "bus": [0.0, None]}, title="IoU", x="percent")
    found = texts(chart)
    assert {"car", "bus", "IoU", "percent", "100.0", "12.3", "0.0", "-"} <= set(found)
    assert count(chart, 0) == count(chart, 1) == 2


def test_bars_of_many_classes_fit_a_page() -> None:
    values = {f"c{i}": [1.0, 2.0] for i in range(40)}
    parts = of_a_page(values)
    assert {name: part[name] for part in parts for name in part} == values
    assert [len(part) for part in parts] == [14, 14, 12]
    height = re.search(r'height="([\d.]+)pt"', bars(parts[0], title="a", x="b"))[1]
    assert float(height) <= 72 * MAX_HEIGHT
    assert of_a_page({"car": [1.0]}) == [{"car": [1.0]}]


def test_a_long_title_has_several_lines() -> None:
    title = f"IoU by class on {'long_' * 20}"
    chart = bars({f"c{i}": [1.0] for i in range(9)}, title=title, x="%")
    assert title not in texts(chart)
    assert title.replace(" ", "") in "".join(texts(chart)).replace(" ", "")


def test_names_are_text() -> None:
    name = "<script>$x$ & _y"
    chart = bars({name: [1.0]}, title=name, x="%")
    assert "<script" not in chart
    assert texts(chart).count(name) == 2


def test_a_chart_is_the_same_each_time() -> None:
    assert bars({"car": [1.0]}, title="a", x="b") == bars({"car": [1.0]}, title="a", x="b")
