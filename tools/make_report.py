#!/usr/bin/env python3
"""Makes one HTML page, without scripts or network, of one run or of several side by side."""

import argparse
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from smmcl.cli import run
from smmcl.d2 import DatasetCatalog, setup_logger
from smmcl.data.datasets.build import ensure_registered
from smmcl.data.image_pair import read_label
from smmcl.evaluation import html
from smmcl.evaluation.confusion import ConfusionMatrix, score
from smmcl.predictor import Predictor

MEANS = ("mIoU", "mIoU_all", "fwIoU", "mACC", "pACC")
CURVES = ("total_loss", "loss_", "sem_seg/mIoU", "contrast/", "lr")  # beginnings, in this order


@dataclass(frozen=True)
class Run:
    """What a run left in its folder.

    name: of the folder.
    curves: (iteration, value) by the metric's name.
    evaluations: content of evaluation.json by dataset.
    """

    name: str
    folder: Path
    curves: dict[str, list[tuple[float, float]]]
    evaluations: dict[str, dict[str, Any]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="OUTPUT_DIR of each run")
    parser.add_argument("--output", type=Path, help="default: report.html in the first folder")
    parser.add_argument("--pairs", type=int, default=3, help="best and worst pairs to draw")
    parser.add_argument("--limit", type=int, default=200, help="pairs to choose them from")
    return parser.parse_args()


def read_run(folder: Path) -> Run:
    """Reads a run's metrics.json and the evaluations in its folder inference/."""
    evaluations = {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(folder.glob("inference/*/evaluation.json"))
    }
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
    return Run(folder.resolve().name, folder, curves, evaluations)


def summary(runs: list[Run], dataset: str) -> list[html.Safe]:
    """By which protocol, the means of every task, and the classes one by one."""
    evaluations = [run.evaluations[dataset] for run in runs]
    protocol = evaluations[0]["protocol"]
    parts = [html.element("p", "; ".join(f"{n}: {v}" for n, v in protocol.items()), class_="faint")]
    for other in evaluations[1:]:
        differing = [n for n in protocol if protocol[n] != other["protocol"].get(n)]
        if set(differing) - {"engine"}:
            words = f"The runs were not evaluated alike: they differ in {', '.join(differing)}."
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
    names = [run.name for run in runs]
    parts += [html.element("h3", "IoU of the classes"), html.key(names), html.bars(classes)]
    for name, evaluation in zip(names, evaluations, strict=True):
        parts.append(html.element("h3", f"Confusion in % of the truth: {name}"))
        parts.append(html.matrix(evaluation["classes"], evaluation["confusion"]["sem_seg"]))
    return parts


def charts(runs: list[Run]) -> list[html.Safe]:
    """One chart for each metric that a run has at least twice."""
    several = {name for run in runs for name, points in run.curves.items() if len(points) > 1}
    names = [name for start in CURVES for name in sorted(several) if name.startswith(start)]
    drawn = [html.curves(name, [run.curves.get(name, []) for run in runs]) for name in names]
    return [html.key([run.name for run in runs]), html.element("div", *drawn, class_="charts")]


def pair_iou(predictor: Predictor, record: dict[str, Any]) -> float:
    """Mean IoU of one pair over the classes in its truth or prediction."""
    labels = predictor.predict([predictor.mapper(record)])[0].labels
    truth = read_label(record["sem_seg_file_name"], **predictor.mapper.labels)
    matrix = ConfusionMatrix(len(predictor.metadata.stuff_classes))
    matrix.update(torch.from_numpy(labels), torch.from_numpy(truth))
    return score(matrix.counts).mean_iou


def extremes(runs: list[Run], dataset: str, *, args: argparse.Namespace) -> list[html.Safe]:
    """The worst and best pairs by the last run's IoU, with the prediction of every run."""
    predictors = {
        run.name: Predictor.from_checkpoint(
            run.folder / "model_final.pth", overrides=["DATASETS.TEST", (dataset,)]
        )
        for run in runs
    }
    last = predictors[runs[-1].name]
    records = list(itertools.islice(DatasetCatalog.get(dataset), args.limit))
    ious = [pair_iou(last, record) for record in tqdm(records, unit="pair")]
    order = sorted((i for i in range(len(ious)) if not math.isnan(ious[i])), key=ious.__getitem__)
    chosen = dict.fromkeys([*order[: args.pairs], *order[::-1][: args.pairs]])
    parts = []
    for index in chosen:
        inputs = last.mapper(records[index])
        maps = {name: p.predict([inputs])[0].labels for name, p in predictors.items()}
        maps["truth"] = read_label(records[index]["sem_seg_file_name"], **last.mapper.labels)
        caption = f"{records[index]['image_id']}: mIoU {ious[index]:.1f} ({runs[-1].name})"
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
        if args.pairs:
            ensure_registered([dataset])
            sections.append(html.element("h3", "Worst and best pairs"))
            sections += extremes(runs, dataset, args=args)
    sections += [html.element("h2", "Training"), *charts(runs)]
    output = args.output or args.folders[0] / "report.html"
    title = " and ".join(run.name for run in runs)
    output.write_text(html.page(f"Report on {title}", *sections), encoding="utf-8")
    print(f"report on {len(runs)} run(s): {output}")


if __name__ == "__main__":
    run(main)
