"""One self-contained page about runs: tables, bars, curves and pictures, without any script.

All functions return HTML. Text is escaped here, in one place: in `element`.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

# Distinguishable for colour-blind readers (Okabe and Ito, 2008), on light and dark ground.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLE = """
:root { color-scheme: light dark; --ground: #fcfcfa; --ink: #22262e; --faint: #6e7480;
  --line: #d9dbe0; --shade: 0, 114, 178; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181d; --ink: #e6e8ec;
  --faint: #9aa0ac; --line: #353941; --shade: 86, 180, 233; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 72rem; margin: 0 auto; padding: 1rem 1.2rem 4rem; }
h1 { font-size: 1.6rem; margin: 1rem 0 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; } p { margin: .4rem 0; }
.faint, figcaption { color: var(--faint); } .warning { border-left: 4px solid #d55e00;
  padding-left: .8rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .text * { text-align: left; }
td { font-variant-numeric: tabular-nums; }
.bars { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem;
  align-items: center; } .bars > span { white-space: nowrap; }
.bar { display: flex; align-items: center; gap: .4rem; font-size: .78rem; line-height: 1.1; }
.bar i { height: .62rem; border-radius: .2rem; min-width: 1px; }
.matrix td { text-align: center; min-width: 2.6rem; } .matrix th { font-weight: 400; }
.key span { margin-right: 1.2rem; white-space: nowrap; } .key i { display: inline-block;
  width: .8rem; height: .8rem; border-radius: .2rem; margin-right: .4rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--faint); font-size: 11px; }
svg .grid { stroke: var(--line); } figure { margin: .8rem 0; }
figure img { width: 100%; min-width: 46rem; }
@media print { body { max-width: none; } h2, h3, .key { break-after: avoid; } figure, tr {
  break-inside: avoid; } figure img { min-width: 0; }
  .bar i, td, .key i { print-color-adjust: exact; } }
"""


class Safe(str):
    """Text that is HTML already."""


def element(tag: str, *children: str, **attributes: object) -> Safe:
    """An element; children that are not `Safe` are escaped. `class_` stands for `class`."""
    settings = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
    )
    inside = "".join(c if isinstance(c, Safe) else html.escape(c, quote=False) for c in children)
    return Safe(f"<{tag}{settings}>{inside}</{tag}>")


def page(title: str, *sections: str) -> str:
    """The whole document."""
    head = (
        Safe('<meta charset="utf-8">'),
        Safe('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Safe('<link rel="icon" href="data:,">'),  # else a browser asks for one
        element("title", title),
        element("style", Safe(STYLE)),
    )
    body = element("body", element("h1", title), *sections)
    return f"<!doctype html>\n{element('html', element('head', *head), body, lang='en')}\n"


def table(
    headers: Sequence[str], rows: Sequence[Sequence[float | str | None]], *, class_: str = ""
) -> Safe:
    """A table whose numbers have two digits; the largest of a column of several is bold.

    Of the class "text" it is aligned to the left.
    """
    best = {}
    for column in range(len(headers)):
        numbers = [row[column] for row in rows if isinstance(row[column], float)]
        best[column] = max(numbers) if len(numbers) > 1 else None
    lines = [element("tr", *(element("th", header) for header in headers))]
    for row in rows:
        cells = []
        for column, value in enumerate(row):
            text = f"{value:.2f}" if isinstance(value, float) else str(value or "-")
            is_best = isinstance(value, float) and value == best[column]
            cells.append(element("td", element("b", text) if is_best else text))
        lines.append(element("tr", *cells))
    return element("div", element("table", *lines, class_=class_), class_="scroll")


def key(names: Sequence[str]) -> Safe:
    """Which colour is which run."""
    entries = [
        element("span", element("i", style=f"background:{_colour(place)}"), name)
        for place, name in enumerate(names)
    ]
    return element("p", *entries, class_="key")


def bars(values: Mapping[str, Sequence[float | None]]) -> Safe:
    """A group of horizontal bars for each name, one bar a run, values 0..100."""
    cells = []
    for name, numbers in values.items():
        group = [
            element(
                "div",
                element("i", style=f"width:{0.85 * (n or 0):.2f}%;background:{_colour(place)}"),
                "-" if n is None else f"{n:.1f}",
                class_="bar",
            )
            for place, n in enumerate(numbers)
        ]
        cells += [element("span", name), element("div", *group)]
    return element("div", *cells, class_="bars")


def matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Safe:
    """A confusion matrix: rows are the truth, each in percent of its own pixels."""
    lines = [element("tr", element("th", "truth"), *(element("th", name) for name in names))]
    for name, row in zip(names, counts, strict=True):
        shares = [100 * count / sum(row) if sum(row) else 0.0 for count in row]
        cells = [
            element(
                "td",
                f"{share:.0f}" if share >= 0.5 else "",
                style=f"background:rgba(var(--shade), {share / 160:.3f})",
                title=f"{name} taken for {other}: {share:.2f}%",
            )
            for other, share in zip(names, shares, strict=True)
        ]
        lines.append(element("tr", element("th", name), *cells))
    return element("div", element("table", *lines, class_="matrix"), class_="scroll")


def curves(
    title: str,
    runs: Sequence[Sequence[tuple[float, float]]],
    *,
    span: tuple[float, float] | None = None,
) -> Safe:
    """Values over iterations, one line a run; a run without any has none.

    Args:
        title: above the chart.
        runs: (iteration, value) of each.
        span: of the values; by default from the least to the largest.
    """
    points = [point for run in runs for point in run]
    left, right = _range([point[0] for point in points])
    low, high = span or _range([point[1] for point in points])
    width, height, pad = 360, 190, 52

    def place(point: tuple[float, float]) -> str:
        x = pad + (width - pad - 6) * (point[0] - left) / (right - left)
        y = height - 20 - (height - 34) * (point[1] - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [element("text", title, x=pad, y=10)]
    for value in (low, (low + high) / 2, high):
        start, end = place((left, value)), place((right, value))
        parts.append(element("path", d=f"M{start}L{end}", class_="grid", fill="none"))
        y = float(start.split(",")[1]) + 4
        parts.append(element("text", f"{value:.2g}", x=pad - 4, y=y, text_anchor="end"))
    for value, anchor in ((left, "start"), (right, "end")):
        x = place((value, low)).split(",")[0]
        parts.append(element("text", f"{value:.0f}", x=x, y=height - 5, text_anchor=anchor))
    for index, run in enumerate(runs):
        line = " ".join(place(point) for point in run)
        parts.append(
            element("polyline", points=line, fill="none", stroke=_colour(index), stroke_width=1.6)
        )
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=title)


def picture(image: np.ndarray, caption: str) -> Safe:
    """An (H, W, 3) uint8 image inside the page."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="WEBP", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    image_element = Safe(
        f'<img loading="lazy" alt="{html.escape(caption)}" src="data:image/webp;base64,{data}">'
    )
    whole = element("div", image_element, class_="scroll")
    return element("figure", whole, element("figcaption", caption))


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]
