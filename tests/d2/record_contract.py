"""Records what Detectron2 does where this project relies on it, for the tests of either engine.

Run it where Detectron2 is installed, with the commit of it that is:
`python tests/d2/record_contract.py 02b5c4e295e990042a714712c21dc79b731e8833`. It writes
contract.json beside this file and the embedded engine's defaults.json.
"""

import importlib.util
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import torch

import smmcl.d2 as d2

HERE = pathlib.Path(__file__).resolve().parent
CONTRACT = HERE / "contract.json"
DEFAULTS = HERE.parents[1] / "smmcl" / "d2" / "builtin" / "defaults.json"
# In an order in which each may use those before it.
PROBE_FILES = (
    "probes_names",
    "probes_config",
    "probes_data",
    "probes_training",
    "probes_solver",
    "probes_running",
)
# Largest relative difference of numbers between machines and versions of torch; all runs here are
# in float64.
TOLERANCE = 1e-9


def load_probes() -> dict[str, Callable[[pathlib.Path], Any]]:
    """The functions `observe_<name>(folder)` of the probe files."""
    probes = {}
    for stem in PROBE_FILES:
        spec = importlib.util.spec_from_file_location(stem, HERE / f"{stem}.py")
        module = sys.modules[stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, function in vars(module).items():
            if name.startswith("observe_"):
                probes[name.removeprefix("observe_")] = function
    return probes


def flat_defaults() -> dict[str, Any]:
    """Every key of a fresh config, by dotted name."""

    def leaves(node: dict[str, Any], prefix: str) -> dict[str, Any]:
        found = {}
        for name, value in node.items():
            key = prefix + name
            found.update(leaves(value, key + ".") if isinstance(value, dict) else {key: value})
        return found

    return leaves(d2.get_cfg(), "")


def as_json(observed: Any) -> Any:
    """The same with what JSON knows: lists for tuples, text for keys."""
    return json.loads(json.dumps(observed))


def main(folder: pathlib.Path, revision: str) -> None:
    """Records, in a scratch folder, what a revision of Detectron2 does."""
    if d2.ENGINE != "detectron2":
        raise SystemExit("The contract is recorded from Detectron2, which is not installed here.")
    record = {"detectron2": revision, "torch": torch.__version__, "observed": {}}
    for name, probe in load_probes().items():
        scratch = folder / name
        scratch.mkdir()
        record["observed"][name] = as_json(probe(scratch))
    CONTRACT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lines = []
    for key, value in flat_defaults().items():
        # JSON has no tuples: these stand as their Python text, which is how YAML configs have them.
        is_text = isinstance(value, tuple) or value is None
        lines.append(f"  {json.dumps(key)}: {json.dumps(repr(value) if is_text else value)}")
    DEFAULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        main(pathlib.Path(scratch), sys.argv[1])
