"""The grid of an experiment: rows of configs and keys, each trained with several seeds.

The file is described in docs/training.md; the runs start in engine/experiments.py.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smmcl.cli import user_message
from smmcl.config import build_config, find_config
from smmcl.d2 import CfgNode
from smmcl.files.atomic import write_text
from smmcl.files.json import read_json
from smmcl.files.yaml import as_config, leaves, read_layers

GRID_KEYS = {"base": str, "keys": dict, "seeds": list, "rows": dict, "score": list, "extra": dict,
             "cost": list}  # fmt: skip
ROW_KEYS = {"config": str, "keys": dict, "seeds": list}
DEFAULT_SCORE = "sem_seg/mIoU"
ROBUSTNESS = {"robustness": "--quick", "failures": "--failures"}  # extras of that tool: its flag
SET_BY_RUNNER = ("SEED", "OUTPUT_DIR")
SESSION = {"seconds": float, "commit": str, "machine": str}
RECORD = {"sessions": [SESSION], "done": bool, "config": {"*": object}}  # experiment.json
FREE = {"OUTPUT_DIR", "VERSION"}  # keys that two runs of one kind may differ in


@dataclass(frozen=True)
class Job:
    """One training of a row, and the evaluations after it.

    Args:
        row: name of the row.
        seed: of the run.
        folder: its OUTPUT_DIR.
        config_file: that the row starts from.
        overrides: alternating keys and values, without SEED and OUTPUT_DIR.
        extra: by name, the overrides of a further evaluation; for one of `ROBUSTNESS`, the number
            of pairs, 0 for all.
    """

    row: str
    seed: int
    folder: Path
    config_file: str
    overrides: tuple[str, ...]
    extra: Mapping[str, tuple[str, ...] | int]

    def __str__(self) -> str:
        return f"{self.row}, seed {self.seed}"

    def options(self, *extra: str, folder: Path | None = None) -> list[str]:
        """Returns the command line of the training, or of another pass by `extra` overrides."""
        own = ["SEED", str(self.seed), "OUTPUT_DIR", str(folder or self.folder)]
        return ["--config-file", self.config_file, *self.overrides, *extra, *own]

    def config(self) -> CfgNode:
        return build_config(self.config_file, self.options()[2:])

    @property
    def record_file(self) -> Path:
        return self.folder / "experiment.json"

    def record(self) -> dict[str, Any]:
        """Returns what is noted of the run: "config", "sessions", and whether it is "done"."""
        if not self.record_file.is_file():
            return {"sessions": [], "done": False}
        return read_json(self.record_file, RECORD)

    def note(self, record: Mapping[str, Any]) -> None:
        write_text(self.record_file, json.dumps(record, indent=1))

    def waiting(self) -> list[str]:
        """Returns the names of what is still to do: "training", then the extra evaluations."""
        training = [] if self.record()["done"] else ["training"]
        return training + [name for name in self.extra if not self.results(name)]

    def results(self, extra: str = "") -> list[Path]:
        """Returns the result files of the run, or of one of its extra evaluations."""
        name = extra if extra in ROBUSTNESS else "evaluation"
        part = f"first_{self.extra[extra]}/" if name == extra and self.extra[extra] else ""
        return sorted((self.folder / extra).glob(f"inference/*/{part}{name}.json"))

    def check(self) -> None:
        """Raises if the folder holds a run of another config."""
        if not self.record_file.is_file():
            if (self.folder / "config.yaml").is_file():
                raise ValueError(
                    f"{self.folder} holds a run that is none of the grid's. Move it away, or "
                    "choose another folder by --output."
                )
            return
        cfg = self.config()
        # Read as a checkpoint's config is, so that a run outlives renamed keys and new ones.
        text = json.dumps(_nested(self.record()["config"]))
        before = build_config(str(self.record_file), ["IMPORTS", cfg.IMPORTS], text=text)
        old, new = flat(before), flat(cfg)
        changed = [
            f"{key} {old[key]} (now {new[key]})"
            for key in new
            if old[key] != new[key] and key not in FREE
        ]
        if changed:
            raise ValueError(
                f"{self.folder} was made with {', '.join(changed[:4])}"
                f"{', and so on' if len(changed) > 4 else ''}. Move that folder away to run the "
                "row anew, or restore the grid."
            )


@dataclass(frozen=True)
class Grid:
    """What a grid file says.

    Args:
        name: of the file, without its ending.
        source: the file, as the command named it.
        folder: of all runs.
        base: the config file of rows that name none.
        keys: overrides that all rows share.
        jobs: in the order to run: the first seeds of all rows come first.
        rows: by name, the config file and the overrides of the row alone.
        score: names of scores, such as "sem_seg/mIoU".
        cost: (height, width) of the pairs that costs are stated for, or () for none.
    """

    name: str
    source: str
    folder: Path
    base: str
    keys: tuple[str, ...]
    jobs: tuple[Job, ...]
    rows: Mapping[str, tuple[str, tuple[str, ...]]]
    score: tuple[str, ...]
    extra: tuple[str, ...]
    cost: tuple[int, ...]

    def of_row(self, row: str) -> list[Job]:
        return [job for job in self.jobs if job.row == row]

    def cost_file(self, row: str) -> Path:
        return self.of_row(row)[0].folder.parent / "cost.json"


def read_grid(path: str | Path, *, output: str | Path = "") -> Grid:
    """Reads a grid file; `_BASE_` in it names another that it changes.

    Args:
        path: of the YAML file, or name of a shipped one such as "experiments/nyudv2.yaml".
        output: folder of its runs; "" for output/experiments/NAME.
    """
    source, path = str(path), find_config(str(path))
    facts = as_config(read_layers(path), path)
    _check_types(facts, GRID_KEYS, path)
    _check_columns(facts, path)
    if not facts.get("rows"):
        raise ValueError(f"{path} has no rows. Give at least one: rows: {{baseline: {{}}}}.")
    name = Path(path).stem
    folder = Path(output or Path("output/experiments") / name)
    common = _overrides(facts.get("keys", {}), path)
    extra = {
        key: _pairs(value, f"{path}: {key}")
        if key in ROBUSTNESS
        else _overrides(value, f"{path}: {key}")
        for key, value in facts.get("extra", {}).items()
    }
    rows, jobs = {}, []
    for row, content in facts["rows"].items():
        config, own, seeds = _read_row(content or {}, facts, f"{path}: row {row}")
        rows[row] = (config, own)
        for rank, seed in enumerate(seeds):
            place = folder / folder_name(row) / f"seed{seed}"
            job = Job(row, seed, place, config, common + own, extra)
            _check_job(job, f"{path}: row {row}")
            jobs.append((rank, len(rows), job))
    _check_names(rows, path)
    return Grid(
        name=name,
        source=source,
        folder=folder,
        base=facts.get("base", ""),
        keys=common,
        jobs=tuple(job for *_, job in sorted(jobs, key=lambda one: one[:2])),
        rows=rows,
        score=tuple(facts.get("score", [DEFAULT_SCORE])),
        extra=tuple(extra),
        cost=tuple(facts.get("cost", ())),
    )


def _pairs(value: Any, source: str) -> int:
    """Returns the number of pairs that an extra of `ROBUSTNESS` reads, 0 for all."""
    if value is True or (type(value) is int and value > 0):
        return 0 if value is True else value
    raise ValueError(f"{source} is {value!r}. Set it to true, or to a number of pairs.")


def _read_row(
    content: Mapping[str, Any], facts: Mapping[str, Any], source: str
) -> tuple[str, tuple[str, ...], list[int]]:
    """Returns config, overrides and seeds of a row, the grid's where it has none."""
    _check_types(content, ROW_KEYS, source)
    config = content.get("config", facts.get("base"))
    if not config:
        raise ValueError(f"{source} has no config. Give it one, or the grid a base.")
    seeds = content.get("seeds", facts.get("seeds", [0]))
    is_whole = all(type(seed) is int and seed >= 0 for seed in seeds)
    if not seeds or not is_whole or len(set(seeds)) < len(seeds):
        raise ValueError(f"{source} has the seeds {seeds}. List whole numbers from 0, each once.")
    return config, _overrides(content.get("keys", {}), source), seeds


def flat(cfg: CfgNode) -> dict[str, Any]:
    """Returns the values of a config by full key, as JSON has them."""
    return json.loads(json.dumps(dict(leaves(cfg))))


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Undoes `flat`."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        node = tree
        *nodes, last = key.split(".")
        for name in nodes:
            node = node.setdefault(name, {})
        node[last] = value
    return tree


def folder_name(row: str) -> str:
    return re.sub(r"[^\w+-]+", "_", row).strip("_")


def _check_types(facts: Mapping[str, Any], kinds: Mapping[str, type], source: str) -> None:
    if not isinstance(facts, dict):
        raise ValueError(f"{source} is {facts!r}. Give it keys: {', '.join(kinds)}.")
    for key, value in facts.items():
        if key not in kinds:
            raise ValueError(f"{source} has the key {key!r}. Use {', '.join(kinds)}.")
        if not isinstance(value, kinds[key]):
            words = {str: "a text", dict: "keys with values", list: "a list"}[kinds[key]]
            raise ValueError(f"{source}: {key} is {value!r}. Write {words}.")


def _check_columns(facts: Mapping[str, Any], path: str) -> None:
    score, cost = facts.get("score", [DEFAULT_SCORE]), facts.get("cost", [1, 1])
    if not score or not all(isinstance(name, str) and "/" in name for name in score):
        raise ValueError(f"{path}: score is {score}. List scores such as {DEFAULT_SCORE}.")
    if len(cost) != 2 or not all(type(side) is int and side > 0 for side in cost):
        raise ValueError(f"{path}: cost is {cost}. Write the pair's height and width in pixels.")


def _overrides(keys: Any, source: str) -> tuple[str, ...]:
    """Returns alternating config keys and values, as a command line has them."""
    if not isinstance(keys, dict):
        raise ValueError(f"{source} is {keys!r}. Give config keys and values.")
    for key, value in keys.items():
        if isinstance(value, dict):
            first = next(iter(value), "NAME")
            raise ValueError(f"{source} nests {key}. Write whole keys, such as {key}.{first}.")
        if key in SET_BY_RUNNER:
            raise ValueError(f"{source} sets {key}, which the runner sets. Use seeds or --output.")
    return tuple(str(item) for pair in keys.items() for item in pair)


def _check_job(job: Job, source: str) -> None:
    place = source
    try:
        cfg = job.config()
        for name, overrides in job.extra.items():
            place = f"{source}, extra {name}"
            if name not in ROBUSTNESS:
                build_config(job.config_file, job.options(*overrides)[2:])
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{place}: {user_message(error)}") from error
    if len(cfg.DATASETS.TEST) != 1:
        raise ValueError(
            f"{source} has {len(cfg.DATASETS.TEST)} datasets in DATASETS.TEST. Name one, so that "
            "each score is one column."
        )


def _check_names(rows: Mapping[str, Any], path: str) -> None:
    seen: dict[str, str] = {}
    for row in rows:
        name = folder_name(row)
        if not name or name in seen:
            raise ValueError(f"{path}: the rows {seen.get(name, '')!r} and {row!r} would share "
                             "a folder. Rename one of them.")  # fmt: skip
        seen[name] = row
