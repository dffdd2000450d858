"""Where the scalars of a run go beside metrics.json: a table, and Weights & Biases on demand."""

import csv
import importlib
import importlib.util
from collections import defaultdict
from pathlib import Path
from typing import Any

from smmcl.d2 import CfgNode, EventWriter, get_event_storage
from smmcl.files.atomic import atomic, write_text
from smmcl.files.yaml import load_yaml


class ScalarWriter(EventWriter):
    """Hands new scalars, smoothed as in metrics.json, to `write_row` by their iteration."""

    def __init__(self) -> None:
        self._last = -1

    def write(self) -> None:
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, step) in get_event_storage().latest_with_smoothing_hint(20).items():
            if step > self._last:
                rows[step][name] = value
        for step in sorted(rows):
            self.write_row(step, rows[step])
            self._last = step

    def write_row(self, iteration: int, scalars: dict[str, float]) -> None:
        raise NotImplementedError


class CsvWriter(ScalarWriter):
    """Appends to a CSV file, which is written anew when a column is added.

    A resumed run removes the rows of iterations that it repeats.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: of the file.
        """
        super().__init__()
        self.path = path
        self.columns: list[str] = []

    def write_row(self, iteration: int, scalars: dict[str, float]) -> None:
        row = {"iteration": iteration, **scalars}
        added = [name for name in row if name not in self.columns]
        if not added:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(row)
            return
        kept = [old for old in self._read() if int(old["iteration"]) < iteration]
        names = dict.fromkeys(["iteration", *sorted({*row, *(n for old in kept for n in old)})])
        self.columns = [*names]
        with atomic(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows([*kept, row])

    def _read(self) -> list[dict[str, str]]:
        """The rows of the file; one that a killed process cut is left out."""
        if not self.path.is_file():
            return []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self.path} cannot be read as a table: {error}. Move it away to go on without it."
            ) from error
        whole = [row for row in rows if None not in row and None not in row.values()]
        return [row for row in whole if row.get("iteration", "").isdecimal()]


class WandbWriter(ScalarWriter):
    """Logs to a run of Weights & Biases, which a resumed training continues.

    Its id stands in wandb_id.txt of OUTPUT_DIR.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: of the run; TRACKING.WANDB is the project.
        """
        super().__init__()
        if importlib.util.find_spec("wandb") is None:
            raise ValueError(
                f"TRACKING.WANDB is {cfg.TRACKING.WANDB!r} but Weights & Biases is not installed. "
                "Install it with `pip install wandb`, or leave the key empty."
            )
        wandb, folder = importlib.import_module("wandb"), Path(cfg.OUTPUT_DIR)
        kept = folder / "wandb_id.txt"
        try:
            self._run: Any = wandb.init(
                project=cfg.TRACKING.WANDB,
                name=folder.name,
                dir=str(folder),
                config=load_yaml(cfg.dump(), "the config"),
                id=kept.read_text(encoding="utf-8") if kept.is_file() else None,
                resume="allow",
            )
        except wandb.Error as error:
            raise ValueError(
                f"Weights & Biases did not start: {error} Log in with `wandb login`, set "
                "WANDB_MODE=offline, or leave TRACKING.WANDB empty."
            ) from error
        write_text(kept, self._run.id)

    def write_row(self, iteration: int, scalars: dict[str, float]) -> None:
        self._run.log(scalars, step=iteration)

    def close(self) -> None:
        self._run.finish()


def build_trackers(cfg: CfgNode) -> list[EventWriter]:
    """The writers of a run beside the engine's own."""
    table = CsvWriter(Path(cfg.OUTPUT_DIR) / "metrics.csv")
    return [table, *([WandbWriter(cfg)] if cfg.TRACKING.WANDB else [])]
