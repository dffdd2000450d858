"""What runs left in their folders, and how they differ: the facts of a report."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smmcl.evaluation.report import Report
from smmcl.evaluation.robustness import Robustness
from smmcl.files.json import read_json_lines
from smmcl.files.yaml import as_config, as_keys, leaves, read_yaml
from smmcl.weights.files import read_file

Curve = list[tuple[float, float]]  # (iteration or severity, value)
# Protocol lines that may differ between comparable scores.
FREE_PROTOCOL = {"engine", "checkpoint"}
FREE_CONFIG = {"OUTPUT_DIR", "MODEL.WEIGHTS", "VERSION"}
WARNINGS = {
    "SEED": "The seeds differ, so part of every difference is seed noise. Average several seeds.",
    "engine": "The engines differ. Evaluate all runs on one engine.",
    "smmcl version": "The checkpoints were written by different versions of smmcl.",
    "iterations": "The checkpoints were trained for different numbers of iterations.",
}


@dataclass(frozen=True)
class Run:
    """What a run left in its folder.

    Args:
        name: unique among the runs of a report.
        folder: OUTPUT_DIR.
        config: value by full key; empty without config.yaml.
        curves: (iteration, value) by metric.
        evaluations: content of evaluation.json by dataset.
        robustness: what robustness.json states, by dataset.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    curves: Mapping[str, Curve]
    evaluations: Mapping[str, Mapping[str, Any]]
    robustness: Mapping[str, Robustness]

    def stated(self, dataset: str) -> tuple[str, str]:
        """Returns what the protocol says of the checkpoint, and its iteration if it names one."""
        text = self.evaluations[dataset]["protocol"].get("checkpoint", "unknown")
        found = re.match(r"iteration (\d+) ", text)
        return text, found[1] if found else ""

    def find_checkpoint(self, dataset: str) -> Path | None:
        """Returns the file that was evaluated, or what the run ended with, or None."""
        text, iteration = self.stated(dataset)
        numbered = [self.folder / f"model_{iteration:>07}.pth"] if iteration else []
        places = (Path(text), *numbered, self.folder / "model_final.pth")
        return next((path for path in places if path.is_file()), None)

    def checkpoint(self, dataset: str) -> Path:
        """Returns `find_checkpoint`, which must be there."""
        if path := self.find_checkpoint(dataset):
            return path
        raise FileNotFoundError(
            f"run {self.name} has no checkpoint: neither {self.stated(dataset)[0]} nor "
            f"{self.folder / 'model_final.pth'} exists. Restore one, or leave pictures out: "
            "--pairs 0."
        )

    def facts(self, dataset: str) -> dict[str, str]:
        """Returns engine, checkpoint, its iterations and version, "unknown" if it is gone."""
        path, (text, iteration) = self.find_checkpoint(dataset), self.stated(dataset)
        stored = read_file(str(path), is_mapped=True) if path else {}
        trained = stored["iteration"] + 1 if "iteration" in stored else "unknown"
        return {
            "engine": self.evaluations[dataset]["protocol"].get("engine", "unknown"),
            "checkpoint": text,
            "iterations": iteration or str(trained),
            "smmcl version": str(stored.get("smmcl_version", "unknown")),
        }


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads the runs, named after their folders, or by whole paths where names repeat."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [_read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def _read_run(folder: Path, name: str) -> Run:
    found = map(Report.read, sorted(folder.glob("inference/*/evaluation.json")))
    evaluations = {content["protocol"]["dataset"]: content for content in found}
    measured = map(Robustness.read, sorted(folder.glob("inference/*/robustness.json")))
    robustness = {one.protocol["dataset"]: one for one in measured}
    if not evaluations:
        raise FileNotFoundError(
            f"{folder} holds no inference/<dataset>/evaluation.json. Name the OUTPUT_DIR of a run "
            "that was evaluated, or evaluate it: tools/train_net.py --eval-only."
        )
    config = folder / "config.yaml"
    stored = as_config([as_keys(read_yaml(config), config)], config) if config.is_file() else {}
    return Run(name, folder, dict(leaves(stored)), _read_curves(folder), evaluations, robustness)


def _read_curves(folder: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    metrics = folder / "metrics.json"
    for entry in read_json_lines(metrics, {"iteration": int}) if metrics.is_file() else ():
        for name, value in entry.items():
            if isinstance(value, float) and math.isfinite(value):
                curves.setdefault(name, []).append((entry["iteration"], value))
    # The engine logs a single loss, such as a baseline's, under the name of the total.
    if "total_loss" in curves and not any(name.startswith("loss_") for name in curves):
        curves["loss_sem_seg"] = curves["total_loss"]
    return curves


def shared_datasets(runs: Sequence[Run]) -> list[str]:
    """Returns the datasets that all runs were evaluated on, at least one."""
    first = runs[0].evaluations
    if names := [name for name in first if all(name in run.evaluations for run in runs)]:
        return names
    raise ValueError(
        "the runs have no dataset in common on which all were evaluated. "
        "Evaluate them on one: tools/train_net.py --eval-only DATASETS.TEST ..."
    )


def protocol(runs: Sequence[Run], dataset: str) -> dict[str, list[str]]:
    """Returns the lines of the protocol: values, run by run, by name."""
    stated = [run.evaluations[dataset]["protocol"] for run in runs]
    return {key: [p.get(key, "not stated") for p in stated] for p in stated for key in p}


def protocol_differences(runs: Sequence[Run], dataset: str) -> dict[str, list[str]]:
    """Returns the lines of the protocol that differ and make scores incomparable."""
    rows = protocol(runs, dataset)
    return {key: row for key, row in rows.items() if _differ(row) and key not in FREE_PROTOCOL}


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Returns in what the runs differ: values, run by run, by name."""
    datasets = shared_datasets(runs)
    rows = {
        f"{key} ({name})": row
        for name in datasets
        for key, row in protocol_differences(runs, name).items()
    }
    facts = [run.facts(datasets[0]) for run in runs]
    rows |= {name: [fact[name] for fact in facts] for name in facts[0]}
    keys = dict.fromkeys(key for run in runs for key in run.config if key not in FREE_CONFIG)
    rows |= {key: [_show(run.config, key) for run in runs] for key in keys}
    return {name: row for name, row in rows.items() if _differ(row)}


def warnings(runs: Sequence[Run]) -> list[str]:
    """Returns a sentence for everything that makes a comparison doubtful."""
    sentences = [
        f"Scores on {name} are not comparable: the runs were evaluated with different "
        f"{', '.join(rows)}. No score is bold. Evaluate the runs alike."
        for name in shared_datasets(runs)
        if (rows := protocol_differences(runs, name))
    ]
    rows = differences(runs)
    sentences += [sentence for name, sentence in WARNINGS.items() if name in rows]
    sentences += [
        f"Run {run.name} has no config.yaml, so its configuration is not compared."
        for run in runs
        if not run.config
    ]
    for run in runs:
        text, iteration = run.stated(name := shared_datasets(runs)[0])
        found = run.find_checkpoint(name)
        if found and not iteration and not Path(text).is_file():
            sentences.append(f"Run {run.name}: {text} is gone; what is shown is of {found}.")
    return sentences


def rank_pairs(runs: Sequence[Run], dataset: str) -> dict[str, list[float]]:
    """Returns the IoU of each run by pair, ordered by the last run's gain on the first.

    A single run is ordered by its IoU. Pairs that a run has no score of are left out.
    """
    ious = [run.evaluations[dataset]["pairs"] for run in runs]
    pairs = {name: [iou[name] for iou in ious] for name in ious[0] if all(name in i for i in ious)}
    first = 0 if len(runs) == 1 else 1
    return dict(sorted(pairs.items(), key=lambda pair: pair[1][-1] - first * pair[1][0]))


def _show(config: Mapping[str, Any], key: str) -> str:
    if not config:
        return "unknown"
    return str(config[key]) if config.get(key, "") != "" else "none"


def _differ(row: Sequence[str]) -> bool:
    """Whether the known values of a row differ."""
    return len(set(row) - {"unknown"}) > 1
