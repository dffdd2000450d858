"""One self-contained page about runs: scores, what differs, charts, and the pairs that tell most.

The template beside this file escapes all text; only the charts come as markup.
"""

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets.build import ensure_registered
from smmcl.evaluation.report import MEANS, main_task
from smmcl.inference.predictor import Predictor
from smmcl.visualization import charts
from smmcl.visualization.panels import brighten, color_auxiliary, enlarge, overlay, pictures
from smmcl.visualization.runs import (
    Curve,
    Run,
    differences,
    protocol,
    protocol_differences,
    rank_pairs,
    shared_datasets,
    warnings,
)

NUM_CONFUSIONS = 10


class Cell(NamedTuple):
    """A score in percent, its difference to the first run, and whether it is the best."""

    value: float | None
    delta: float | None
    is_best: bool


def make_report(runs: Sequence[Run], *, num_pairs: int) -> str:
    """Returns the page about runs, of which the first is the reference.

    Args:
        runs: evaluated on at least one common dataset.
        num_pairs: pairs to draw from each end of the ranking; 0 draws none and needs no model.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("smmcl.visualization", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"short": short, "breakable": breakable}
    template = environment.get_template("report.html.j2")
    datasets, (groups, scores) = shared_datasets(runs), score_table(runs)
    # Of a classifier there are no label maps to draw.
    drawn = [name for name in datasets if num_pairs and task_of(runs, name) == "sem_seg"]
    return template.render(
        names=[run.name for run in runs],
        colors=[charts.color_of(place) for place in range(len(runs))],
        groups=groups,
        scores=scores,
        warnings=warnings(runs),
        differences=differences(runs),
        protocols={name: protocol(runs, name) for name in datasets},
        charts=list(draw_charts(runs)),
        confusions={name: confusions(runs, name) for name in datasets},
        robustness={name: robustness_rows(runs, name) for name in datasets},
        pairs={name: draw_pairs(runs, name, count=num_pairs) for name in drawn},
        legends={name: legend(name) for name in drawn},
        experiments={
            path.parent.name: path.read_text()
            for run in runs  # a run of a grid lies in GRID/ROW/seedN
            if (path := run.folder.resolve().parents[1] / "table.md").is_file()
        },
        costs={
            run.name: path.read_text() for run in runs if (path := run.folder / "cost.md").is_file()
        },
    )


def short(text: str) -> str:
    """The text, of each path in it the last two parts alone."""
    return re.sub(r"\S*/(?=[^/\s]+/[^/\s]+)", "", text)


def breakable(text: str) -> Markup:
    """The text, which may be broken between the parts of names and paths."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/:])(?=\w)", text))


def score_table(runs: Sequence[Run]) -> tuple[dict[str, list[str]], list[list[Cell]]]:
    """Returns the titles of the columns by group, and a row of scores for each run.

    Columns are the mIoU (of a classifier top-1) of all pairs and of each tag, then the other means.
    The best of a column is marked where all protocols agree.
    """
    groups: dict[str, list[str]] = {}
    columns = []
    for name in shared_datasets(runs):
        results = [run.evaluations[name]["results"] for run in runs]
        agree, main = not protocol_differences(runs, name), task_of(runs, name)
        headline, *others = MEANS[main]
        for task in dict.fromkeys(task for result in results for task in result):
            title = "all" if task == main else task.removeprefix(f"{main}_")
            groups.setdefault(f"{name}: {headline}", []).append(title)
            columns.append(_cells([r.get(task, {}).get(headline) for r in results], agree=agree))
        for metric in others:
            values = [result[main].get(metric) for result in results]
            if values != [None] * len(runs):
                groups.setdefault(f"{name}: all pairs", []).append(metric)
                columns.append(_cells(values, agree=agree))
    return groups, [list(row) for row in zip(*columns, strict=True)]


def task_of(runs: Sequence[Run], dataset: str) -> str:
    return main_task(runs[0].evaluations[dataset]["results"])


def _cells(values: Sequence[float | None], *, agree: bool) -> list[Cell]:
    known = [value for value in values if value is not None]
    best = max(known) if agree and len(known) > 1 else None
    deltas = [None if None in (v, values[0]) else v - values[0] for v in values]
    deltas[0] = None
    return [
        Cell(value, delta, value is not None and value == best)
        for value, delta in zip(values, deltas, strict=True)
    ]


def draw_charts(runs: Sequence[Run]) -> Iterator[Markup]:
    """Yields the loss, the scores in training and under corruption, and the IoU by class."""
    has_parts = any("loss_sem_seg" in run.curves for run in runs)
    # The total is no common measure: a baseline's has fewer terms.
    name, title = ("loss_sem_seg", "Segmentation loss") if has_parts else ("total_loss", "Loss")
    curves = [run.curves.get(name, []) for run in runs]
    if any(curves):
        yield charts.lines(curves, title=title, x="Iteration", y="Loss")
    for task, (headline, *_) in MEANS.items():
        curves = [run.curves.get(f"{task}/{headline}", []) for run in runs]
        if any(len(points) > 1 for points in curves):
            words = {"title": "Validation score", "x": "Iteration", "y": f"{headline} (%)"}
            yield charts.lines(curves, **words)
    for name in shared_datasets(runs):
        curves = [measured.get(("all", "mean"), []) for measured in robustness(runs, name)]
        if any(curves):
            words = {"title": f"Mean of all corruptions on {short(name)}", "x": "Severity"}
            yield charts.lines(curves, y="mIoU (%)", **words)
    for name in shared_datasets(runs):
        main = task_of(runs, name)
        results = [run.evaluations[name]["results"][main] for run in runs]
        classes, kind = runs[0].evaluations[name]["classes"], "IoU" if main == "sem_seg" else "ACC"
        values = {one: [result.get(f"{kind}-{one}") for result in results] for one in classes}
        for part in charts.of_a_page(values):
            yield charts.bars(part, title=f"{kind} by class on {short(name)}", x=f"{kind} (%)")


def confusions(runs: Sequence[Run], dataset: str) -> dict[str, list[str]]:
    """Returns which class is taken for which, in percent of its pixels, by run; the worst first."""
    names, shares = runs[0].evaluations[dataset]["classes"], []
    for run in runs:
        evaluation = run.evaluations[dataset]
        counts = np.array(evaluation["confusion"][main_task(evaluation["results"])], dtype=float)
        np.fill_diagonal(share := 100 * counts / counts.sum(axis=1, keepdims=True).clip(1), 0)
        shares.append(share)
    worst = np.max(shares, axis=0)  # (K, K)
    order = [divmod(int(place), len(names)) for place in (-worst).argsort(axis=None, kind="stable")]
    return {
        f"{names[truth]} taken for {names[other]}": [
            f"{share[truth, other]:.1f}" for share in shares
        ]
        for truth, other in order[:NUM_CONFUSIONS]
        if worst[truth, other] >= 0.05
    }


def robustness(runs: Sequence[Run], dataset: str) -> list[dict[tuple[str, str], Curve]]:
    """Returns each run's (severity, mIoU) by image and corruption; nothing where not measured."""
    measured = [run.robustness.get(dataset) for run in runs]
    return [one.curves("sem_seg") if one else {} for one in measured]


def robustness_rows(runs: Sequence[Run], dataset: str) -> dict[str, list[str]]:
    """Returns the mIoU over growing severity by corruption and run."""
    curves = robustness(runs, dataset)
    return {
        f"{image}: {corruption.replace('_', ' ')}": [
            ", ".join(f"{value:.1f}" for _, value in one.get((image, corruption), [])) or "-"
            for one in curves
        ]
        for image, corruption in dict.fromkeys(key for one in curves for key in one)
    }


def legend(dataset: str) -> dict[str, str]:
    """Returns the CSS color of each class."""
    ensure_registered([dataset])
    metadata = MetadataCatalog.get(dataset)
    colors = [f"#{bytes(color).hex()}" for color in metadata.stuff_colors]
    return dict(zip(metadata.stuff_classes, colors, strict=True))


def draw_pairs(runs: Sequence[Run], dataset: str, *, count: int) -> dict[str, list[dict]]:
    """Draws the pairs at both ends of the ranking, with the labels of every run.

    Returns:
        by heading, pairs with "name", "scores" by run, and "pictures": (title, data URL) each.
    """
    ensure_registered([dataset])
    ranked, first, last = rank_pairs(runs, dataset), runs[0].name, runs[-1].name
    gained, lost = f"on which {last} gains most over", f"on which {last} loses most to"
    headings = [f"Pairs {words} {first}" for words in (gained, lost)]
    if len(runs) == 1:
        headings = ["Best pairs", "Worst pairs"]
    best = list(ranked)[::-1][:count]
    worst = [name for name in list(ranked)[:count] if name not in best]
    predictors = [
        Predictor.from_checkpoint(
            run.checkpoint(dataset),
            config_file=run.folder / "config.yaml" if run.config else None,
            overrides=["DATASETS.TEST", (dataset,)],
        )
        for run in runs
    ]
    records = {str(record["image_id"]): record for record in DatasetCatalog.get(dataset)}
    titles = ["truth", *(run.name for run in runs)]
    chosen: dict[str, list[dict]] = {}
    for heading, pairs in zip(headings, (best, worst), strict=True):
        for pair in pairs:
            drawn = _draw_pair(records[pair], predictors, titles=titles)
            facts = {"name": pair, "scores": ranked[pair], "pictures": drawn}
            chosen.setdefault(heading, []).append(facts)
    return chosen


def _draw_pair(
    record: Mapping[str, Any], predictors: Sequence[Predictor], *, titles: Sequence[str]
) -> list[tuple[str, str]]:
    """Draws both images, the truth, and each model's labels: (title, data URL) each."""
    some = predictors[0]
    visible, auxiliary = pictures(some.mapper(record), fmt=some.mapper.reader.channel_order)
    kind, ground = some.mapper.reader.kind, enlarge(brighten(visible))
    maps = [some.mapper.reader.label(record)]
    maps += [one.predict([one.mapper(record)])[0].labels for one in predictors]  # (H, W) each
    images = [
        ("visible, brightened", ground),
        *([] if auxiliary is None else [(kind, enlarge(color_auxiliary(auxiliary, kind=kind)))]),
        *zip(
            titles,
            (overlay(ground, enlarge(labels), metadata=some.metadata) for labels in maps),
            strict=True,
        ),
    ]
    return [(title, _data_url(image)) for title, image in images]


def _data_url(image: np.ndarray) -> str:
    """Returns an (H, W, 3) uint8 image as a WebP inside a URL."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
