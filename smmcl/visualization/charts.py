"""Charts as SVG elements that take the color of the page around them."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

# Distinct for color-blind readers (Okabe and Ito, 2008), on light and dark pages.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK = "#010203"  # replaced by the page's color
WIDTH = 5.0  # inches: a phone shows the text at its size
MAX_HEIGHT = 9.0  # of a printed page
TITLE_LENGTH = 46  # letters of a line that WIDTH holds
STYLE = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "grid.color"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.2,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are text
}


def color_of(run: int) -> str:
    """Returns the color of a run by its place."""
    return COLORS[run % len(COLORS)]


def lines(runs: Sequence[Sequence[tuple[float, float]]], *, title: str, x: str, y: str) -> Markup:
    """Draws one line for each run that has points.

    Args:
        runs: points of each run.
        title: of the chart.
        x, y: titles of the axes.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 3), layout="constrained")
        axes = figure.subplots()
        for place, points in enumerate(runs):
            if points:
                axes.plot(*zip(*points, strict=True), color=color_of(place), marker="o", ms=3)
        axes.set(title=_wrapped(title), xlabel=x, ylabel=y)
        axes.grid()
        return _svg(figure, title)


def of_a_page(values: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    """Parts of about the same length, the bars of each no higher than a printed page."""
    step = _bar_group(max(map(len, values.values())))
    count = math.ceil(len(values) * step / (MAX_HEIGHT - 0.8))
    length, names = math.ceil(len(values) / count), [*values]
    starts = range(0, len(names), length)
    return [{name: values[name] for name in names[i : i + length]} for i in starts]


def _bar_group(count: int) -> float:
    """Inches for the bars of so many runs and the gap below them."""
    return 0.15 + 0.16 * count


def bars(values: Mapping[str, Sequence[float | None]], *, title: str, x: str) -> Markup:
    """Draws a group of horizontal bars for each name, one bar a run, values 0..100."""
    count = max(map(len, values.values()))
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 0.8 + len(values) * _bar_group(count)), layout="constrained")
        axes = figure.subplots()
        for place, run in enumerate(zip(*values.values(), strict=True)):
            places = [group + (place - (count - 1) / 2) * 0.8 / count for group in range(len(run))]
            widths = [value or 0 for value in run]
            drawn = axes.barh(places, widths, height=0.7 / count, color=color_of(place))
            texts = ["-" if value is None else f"{value:.1f}" for value in run]
            axes.bar_label(drawn, texts, padding=3, fontsize=8)
        axes.set(title=_wrapped(title), xlabel=x, xlim=(0, 108), ylim=(len(values) - 0.5, -0.5))
        axes.set_xticks(range(0, 101, 20))
        axes.set_yticks(range(len(values)), list(values))
        axes.grid(axis="x")
        return _svg(figure, title)


def _wrapped(title: str) -> str:
    return "\n".join(textwrap.wrap(title, TITLE_LENGTH))


def _svg(figure: Figure, title: str) -> Markup:
    """Writes a figure without the file header, with its title for screen readers."""
    buffer = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": title}):  # a report is the same each time
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    opening = Markup('<svg role="img" aria-label="{}" ').format(title)
    body = text[text.index("<svg ") + len("<svg ") :].replace(INK, "currentColor")
    return opening + Markup(body)
