#!/usr/bin/env python3
"""Makes one HTML page, without scripts or network, of one run or of several side by side."""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smmcl.cli import run
from smmcl.d2 import DatasetCatalog, setup_logger
from smmcl.data.datasets.build import ensure_registered
from smmcl.data.image_pair import read_label
from smmcl.files.atomic import write_text
from smmcl.predictor import Predictor
from smmcl.visualization import report as html

MEANS = ("mIoU", "mIoU_all", "fwIoU", "mACC", "pACC")
Lines = list[list[tuple[float, float]]]  # of each run its points
CURVES = ("total_loss", "loss_", "sem_seg/mIoU", "contrast/", "lr")  # beginnings, in this order


@dataclass(frozen=True)
class Run:
    """What a run left in its folder.

    name: of the folder.
    curves: (iteration, value) by the metric's name.
    evaluations: content of evaluation.json by dataset.
    robustness: content of robustness.json by dataset.
    """

    name: str
    folder: Path
    curves: dict[str, list[tuple[float, float]]]
    evaluations: dict[str, dict[str, Any]]
    robustness: dict[str, dict[str, Any]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="OUTPUT_DIR of each run")
    parser.add_argument("--output", type=Path, help="default: report.html in the first folder")
    parser.add_argument("--pairs", type=int, default=3, help="best and worst pairs to draw")
    return parser.parse_args()


def read_run(folder: Path) -> Run:
    """Reads a run's metrics.json and the evaluations in its folder inference/."""
    evaluations, robustness = (
        {content["protocol"]["dataset"]: content for content in map(read_json, sorted(paths))}
        for paths in (folder.glob(f"inference/*/{n}.json") for n in ("evaluation", "robustness"))
    )
    if not evaluations:
        raise FileNotFoundError(
            f"{folder} holds no inference/<dataset>/evaluation.json. Name the OUTPUT_DIR of a run "
            "that was evaluated, or evaluate it: tools/train_net.py --eval-only."
        )
    curves: dict[str, list[tuple[float, float]]] = {}
    metrics = folder / "metrics.json"
    for line in metrics.read_text().splitlines() if metrics.is_file() else []:
        entry = json.loads(line)
        for name, value in entry.items():
            if isinstance(value, float) and math.isfinite(value):
                curves.setdefault(name, []).append((entry["iteration"], value))
    # The engine writes a loss that is alone, as a baseline's, under the name of the total.
    if "total_loss" in curves and not any(name.startswith("loss_") for name in curves):
        curves["loss_sem_seg"] = curves["total_loss"]
    return Run(folder.resolve().name, folder, curves, evaluations, robustness)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def summary(runs: list[Run], dataset: str) -> list[html.Safe]:
    """By which protocol, the means of every task, and the classes one by one."""
    evaluations = [run.evaluations[dataset] for run in runs]
    names = [run.name for run in runs]
    protocols = [evaluation["protocol"] for evaluation in evaluations]
    rows = [[name, *(protocol.get(name, "-") for protocol in protocols)] for name in protocols[0]]
    parts = [html.table(["protocol", *names], rows, class_="text")]
    differing = [row[0] for row in rows if len(set(row[1:])) > 1]
    if unlike := set(differing) - {"engine", "checkpoint"}:
        words = f"The runs were not evaluated alike: they differ in {', '.join(sorted(unlike))}."
        parts.append(html.element("p", words, class_="warning"))
    results = [evaluation["results"] for evaluation in evaluations]
    for task in results[0]:
        means = [name for name in MEANS if name in results[0][task]]
        rows = [
            [run.name, *(result[task].get(name) for name in means)]
            for run, result in zip(runs, results, strict=True)
            if task in result
        ]
        parts += [html.element("h3", task), html.table(["run", *means], rows)]
    classes = {
        name: [result["sem_seg"].get(f"IoU-{name}") for result in results]
        for name in evaluations[0]["classes"]
    }
    parts += [html.element("h3", "IoU of the classes"), html.key(names), html.bars(classes)]
    for name, evaluation in zip(names, evaluations, strict=True):
        parts.append(html.element("h3", f"Confusion in % of the truth: {name}"))
        parts.append(html.matrix(evaluation["classes"], evaluation["confusion"]["sem_seg"]))
    return parts


def charts(runs: list[Run], curves: dict[str, Lines], **options: Any) -> list[html.Safe]:
    """One chart for each name, with a line for each run."""
    drawn = [html.curves(name, lines, **options) for name, lines in curves.items()]
    return [html.key([run.name for run in runs]), html.element("div", *drawn, class_="charts")]


def training(runs: list[Run]) -> list[html.Safe]:
    """The metrics that a run has at least twice."""
    several = {name for run in runs for name, points in run.curves.items() if len(points) > 1}
    names = [name for start in CURVES for name in sorted(several) if name.startswith(start)]
    curves = {name: [run.curves.get(name, []) for run in runs] for name in names}
    return [html.element("h2", "Training"), *charts(runs, curves)]


def robustness(runs: list[Run], dataset: str) -> list[html.Safe]:
    """mIoU over the severity of each corruption, on one scale."""
    curves: dict[str, Lines] = {}
    for place, each in enumerate(runs):
        measured = each.robustness.get(dataset, {"conditions": []})
        for condition in measured["conditions"]:
            name = f"{condition['image']}: {condition['corruption'].replace('_', ' ')}"
            lines = curves.setdefault(name, [[] for _ in runs])
            lines[place] = lines[place] or [(0, measured["clean"]["sem_seg"])]
            lines[place].append((condition["severity"], condition["mIoU"]["sem_seg"]))
    if not curves:
        return []
    top = max(value for lines in curves.values() for line in lines for _, value in line)
    title = html.element("h3", "Robustness: mIoU over the severity of what is missing or spoilt")
    return [title, *charts(runs, curves, span=(0, top))]


def costs(runs: list[Run]) -> list[html.Safe]:
    """What tools/analyze_model.py printed, where it was kept as cost.md in the run's folder."""
    parts = []
    for each in runs:
        if not (each.folder / "cost.md").is_file():
            continue
        lines = (each.folder / "cost.md").read_text().splitlines()
        rows = [[c.strip() for c in line[1:-1].split("|")] for line in lines if line[:1] == "|"]
        others = [html.element("p", line) for line in lines if line and line[0] != "|"]
        parts += [html.element("h3", each.name), html.table(rows[0], rows[2:]), *others]
    return [html.element("h2", "Cost"), *parts] if parts else []


def open_model(run: Run, dataset: str) -> Predictor:
    """The model that was evaluated, or what the run ended with."""
    stated = Path(run.evaluations[dataset]["protocol"].get("checkpoint", ""))
    return Predictor.from_checkpoint(
        stated if stated.is_file() else run.folder / "model_final.pth",
        config_file=run.folder / "config.yaml",
        overrides=["DATASETS.TEST", (dataset,)],
    )


def extremes(runs: list[Run], dataset: str, *, num_pairs: int) -> list[html.Safe]:
    """The worst and best pairs by the last run's IoU, with the prediction of every run."""
    ious = runs[-1].evaluations[dataset]["pairs"]
    order = sorted(ious, key=ious.__getitem__)
    predictors = {run.name: open_model(run, dataset) for run in runs}
    last = predictors[runs[-1].name]
    records = {str(record["image_id"]): record for record in DatasetCatalog.get(dataset)}
    parts = []
    for name in dict.fromkeys([*order[:num_pairs], *order[::-1][:num_pairs]]):
        inputs = last.mapper(records[name])
        maps = {name: p.predict([inputs])[0].labels for name, p in predictors.items()}
        maps["truth"] = read_label(records[name]["sem_seg_file_name"], **last.mapper.labels)
        caption = f"{name}: mIoU {ious[name]:.1f} ({runs[-1].name})"
        parts.append(html.picture(last.draw(inputs, maps=maps), caption))
    return parts


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    runs = [read_run(folder) for folder in args.folders]
    datasets = [name for name in runs[0].evaluations if all(name in r.evaluations for r in runs)]
    if not datasets:
        raise ValueError(
            "the runs have no dataset in common on which all were evaluated. "
            "Evaluate them on one: tools/train_net.py --eval-only DATASETS.TEST ..."
        )
    sections = []
    for dataset in datasets:
        sections += [html.element("h2", f"Results on {dataset}"), *summary(runs, dataset)]
        sections += robustness(runs, dataset)
        if args.pairs:
            ensure_registered([dataset])
            sections.append(html.element("h3", "Worst and best pairs"))
            sections += extremes(runs, dataset, num_pairs=args.pairs)
    sections += [*training(runs), *costs(runs)]
    output = args.output or args.folders[0] / "report.html"
    title = " and ".join(run.name for run in runs)
    write_text(output, html.page(f"Report on {title}", *sections))
    print(f"report on {len(runs)} run(s): {output}")


if __name__ == "__main__":
    run(main)
