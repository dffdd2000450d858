"""The table of an experiment: means over seeds, and differences to the first row, seed by seed."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smmcl.engine.grid import ROBUSTNESS, Grid, Job
from smmcl.engine.setup import with_device
from smmcl.evaluation.failures import NOISE, PROBABILITIES, SHARES, SensorFailures
from smmcl.evaluation.report import FORM
from smmcl.evaluation.robustness import Robustness
from smmcl.files.atomic import write_text
from smmcl.files.json import read_json
from smmcl.inference.cost import measure_inference

NUM_DRAWS = 10_000
FAILURES = (
    *("EMM Avg", *(f"EMM E p={p}" for p in PROBABILITIES)),
    *(f"RMM r={share} Avg" for share in SHARES),
    *(f"NM {level}" for level in NOISE),
)
LEVEL = 0.95  # of the intervals
SCORED, STATED = ({key: FORM[key]} for key in ("results", "protocol"))  # of evaluation.json
COSTS = {"parameters": "parameters M", "multiply_adds": "multiply-adds G", "ms": "ms"}
# Lines of an evaluation's protocol that the table states.
PROTOCOL = ("dataset", "pairs", "resolution", "scales", "flip", "absent classes", "precision")


@dataclass(frozen=True)
class Cell:
    """A score of a row: mean and standard deviation over seeds, and how it differs.

    Args:
        values: by seed.
        difference: mean of the differences to the first row over the seeds that both have.
        interval: of that mean; None with fewer than two such seeds.
    """

    values: Mapping[int, float]
    difference: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.values.values())))

    @property
    def spread(self) -> float | None:
        """The standard deviation, which a single seed does not have."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else None

    def texts(self) -> tuple[str, str]:
        if not self.values:
            return "not run", ""
        spread = "" if self.spread is None else f" \u00b1 {self.spread:.2f}"
        difference = "" if self.difference is None else f"{self.difference:+.2f}"
        if self.interval:
            difference += " [{:+.2f}, {:+.2f}]".format(*self.interval)
        return f"{self.mean:.2f}{spread}", difference


def compare(values: Mapping[int, float], reference: Mapping[int, float] | None) -> Cell:
    """Compares the scores of a row with those of the first, by seed; None for the first itself."""
    shared = [seed for seed in values if seed in (reference or {})]
    if not shared:
        return Cell(values)
    differences = np.array([values[seed] - reference[seed] for seed in shared])
    return Cell(values, float(differences.mean()), bootstrap(differences))


def bootstrap(differences: np.ndarray) -> tuple[float, float] | None:
    """Returns the percentile interval of the mean of differences (S,), drawn anew over seeds."""
    if len(differences) < 2:
        return None
    drawn = np.random.default_rng(0).choice(differences, (NUM_DRAWS, len(differences)))
    low, high = np.quantile(drawn.mean(axis=1), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


class Comparison:
    """What a grid's finished runs scored, as Markdown and CSV."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.columns = [("", score) for score in grid.score]
        extras = [extra for extra in grid.extra if extra != SensorFailures.name]
        self.columns += [(extra, grid.score[0]) for extra in extras]
        self.cells: dict[str, list[Cell]] = {}
        read = {row: [read_scores(grid.of_row(row), *c) for c in self.columns] for row in grid.rows}
        for place, (extra, score) in enumerate(self.columns):
            self._check_score(extra, score, [values[place] for values in read.values()])
        first = next(iter(read))
        for row, columns in read.items():
            references = [None] * len(columns) if row == first else read[first]
            self.cells[row] = list(map(compare, columns, references))

    def _check_score(self, extra: str, score: str, values: Sequence[Mapping]) -> None:
        files = [path for job in self.grid.jobs for path in job.results(extra)]
        if files and not any(values):
            results = read_json(files[0], SCORED)["results"]
            known = [f"{task}/{name}" for task, values in results.items() for name in values]
            raise ValueError(f"no run has the score {score!r}. Choose from {', '.join(known)}.")

    def titles(self) -> list[str]:
        names = [f"{extra} {score}".removeprefix(" ") for extra, score in self.columns]
        return [
            name.replace("sem_seg/", "").replace("sem_seg_", "").replace("/", " ") for name in names
        ]

    def markdown(self) -> str:
        """Returns the table, and below it all that a reader needs to judge or repeat it."""
        titles = [title for name in self.titles() for title in (name, "difference")]
        costs = {row: read_cost(self.grid, row) for row in self.grid.rows}
        names = [title for name, title in COSTS.items() if any(name in c for c in costs.values())]
        rows = [["row", "seeds", *titles, *names, "min a run"]]
        rows.append(["---"] * len(rows[0]))
        for row, cells in self.cells.items():
            jobs = self.grid.of_row(row)
            counted = f"{sum(job.record()['done'] for job in jobs)} of {len(jobs)}"
            measured = [f"{costs[row][n]:.2f}" if costs[row] else "-" for n in COSTS if names]
            texts = [text for cell in cells for text in cell.texts()]
            rows.append([row, counted, *texts, *measured, _minutes(jobs)])
        if SensorFailures.name in self.grid.extra:
            rows += [[], *self._failures()]
        lines = [f"| {' | '.join(cells)} |" if cells else "" for cells in rows]
        return "\n".join([*lines, "", *self._notes()]) + "\n"

    def _failures(self) -> Iterator[list[str]]:
        """Rows of the table of sensor failures: means over seeds of some of its figures."""
        task = self.grid.score[0].rpartition("/")[0]
        yield ["row", *FAILURES]
        yield ["---"] * (1 + len(FAILURES))
        for row in self.grid.rows:
            files = [p for job in self.grid.of_row(row) for p in job.results(SensorFailures.name)]
            form = {"results": {task: dict.fromkeys(FAILURES, float)}}
            found = [read_json(path, form)["results"][task] for path in files]
            yield [row, *(f"{np.mean([one[n] for one in found]):.2f}" if found else "not run"
                          for n in FAILURES)]  # fmt: skip

    def _notes(self) -> Iterator[str]:
        grid = self.grid
        yield (
            "Mean \u00b1 standard deviation over seeds. Differences are to the first row, of equal "
            f"seeds, with the {LEVEL:.0%} bootstrap interval of their mean over seeds."
        )
        yield ""
        if files := [path for job in grid.jobs for path in job.results()]:
            stated = read_json(files[0], STATED)["protocol"]
            yield "- Protocol: " + "; ".join(f"{n}: {stated[n]}" for n in PROTOCOL if n in stated)
        if grid.cost:
            yield f"- Costs: of one pair of {grid.cost[0]}x{grid.cost[1]}, CPU time of one process."
        for name in ROBUSTNESS:
            if count := grid.jobs[0].extra.get(name):
                yield f"- {name.capitalize()}: on the first {count} pairs of the set."
        yield f"- Config of all rows: `{grid.base}`{_keys(grid.keys)}"
        for row, (config, keys) in grid.rows.items():
            other = f" `{config}`" if config != grid.base else ""
            if other or keys:
                yield f"- {row}:{other}{_keys(keys)}"
        sessions = [one for job in grid.jobs for one in job.record()["sessions"]]
        hours = sum(one["seconds"] for one in sessions) / 3600
        seeds = sorted({job.seed for job in grid.jobs})
        done = (
            f"commit {_distinct(sessions, 'commit')}; {_distinct(sessions, 'machine')}; "
            f"{hours:.1f} h of training in all"
        )
        yield (
            f"- Command: `smmcl experiments {grid.source}`; seeds {', '.join(map(str, seeds))}; "
            f"{done if sessions else 'no training yet'}."
        )

    def csv(self) -> str:
        """Returns one line for each row and score; numbers as they are."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", "score", "seeds", "mean", "std", "difference", "low", "high"])
        for row, cells in self.cells.items():
            for title, cell in zip(self.titles(), cells, strict=True):
                mean = cell.mean if cell.values else None
                spread = cell.spread if cell.values else None
                low, high = cell.interval or (None, None)
                seeds = " ".join(map(str, cell.values))
                writer.writerow([row, title, seeds, mean, spread, cell.difference, low, high])
        return text.getvalue()

    def save(self) -> None:
        """Writes table.md and table.csv into the grid's folder."""
        write_text(self.grid.folder / "table.md", self.markdown())
        write_text(self.grid.folder / "table.csv", self.csv())


def put_into(path: Path, name: str, text: str) -> None:
    """Replaces what stands between the two marks of a name in a Markdown file."""
    first, last = f"<!-- experiment {name} -->", f"<!-- end of {name} -->"
    page = path.read_text(encoding="utf-8")
    pattern = f"{re.escape(first)}.*?{re.escape(last)}"
    if len(re.findall(pattern, page, flags=re.DOTALL)) != 1:
        raise ValueError(
            f"{path} has no place for the table. Write two lines where it belongs, each once: "
            f"{first} and {last}"
        )
    block = f"{first}\n{text}{last}"
    write_text(path, re.sub(pattern, lambda _: block, page, flags=re.DOTALL))


def read_scores(jobs: Sequence[Job], extra: str, score: str) -> dict[int, float]:
    """Returns the score of each finished run, or of its extra evaluation, by seed."""
    values = {}
    task, _, metric = score.rpartition("/")
    for job in jobs:
        if not job.record()["done"]:
            continue
        for path in job.results(extra):
            if path.stem == "robustness":
                curve = Robustness.read(path).curves(task)["all", "mean"]
                if len(curve) > 1:
                    values[job.seed] = float(np.mean([value for _, value in curve[1:]]))
            elif metric in (found := read_json(path, SCORED)["results"].get(task, {})):
                values[job.seed] = found[metric]
    return values


def measure_costs(grid: Grid) -> None:
    """Measures what inference costs for each row that has begun, once."""
    for row in grid.rows if grid.cost else ():
        job = grid.of_row(row)[0]
        if job.folder.is_dir() and not grid.cost_file(row).is_file():
            cost = measure_inference(with_device(job.config()), size=grid.cost)
            write_text(grid.cost_file(row), json.dumps(cost))


def read_cost(grid: Grid, row: str) -> dict[str, float]:
    path = grid.cost_file(row)
    return read_json(path, dict.fromkeys(COSTS, float)) if path.is_file() else {}


def _keys(overrides: Sequence[str]) -> str:
    pairs = zip(overrides[::2], overrides[1::2], strict=True)
    text = ", ".join(f"`{key} {value!r}`" if not value else f"`{key} {value}`"
                     for key, value in pairs)  # fmt: skip
    return f" with {text}" if text else ""


def _minutes(jobs: Sequence[Job]) -> str:
    records = [record for job in jobs if (record := job.record())["done"]]
    spent = [sum(one["seconds"] for one in record["sessions"]) / 60 for record in records]
    return f"{np.mean(spent):.0f}" if spent else "-"


def _distinct(sessions: Sequence[Mapping[str, str]], name: str) -> str:
    return ", ".join(dict.fromkeys(one[name] for one in sessions))
