"""The engine that the door chose against the record of Detectron2's behavior.

On the embedded engine a failure means that it behaves differently; on Detectron2, that Detectron2
has changed since the record was made (`python tests/d2/record_contract.py` makes it anew).
"""

import importlib.util
import json
import math
import pathlib
from typing import Any

import pytest
import yaml

import smmcl.d2 as d2

HERE = pathlib.Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("record_contract", HERE / "record_contract.py")
record_contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(record_contract)

PROBES = record_contract.load_probes()
RECORD = json.loads(record_contract.CONTRACT.read_text(encoding="utf-8"))
# Colors of a drawing, in 0..255: the engines draw edges in different ways.
TOLERANCES = {"drawing": 10.0}


def differences(got: Any, wanted: Any, *, absolute: float, path: str = "") -> list[str]:
    """Where two observations differ, by path."""
    if isinstance(wanted, dict) and isinstance(got, dict) and set(got) == set(wanted):
        pairs = [(got[key], wanted[key], f"{path}.{key}") for key in wanted]
    elif isinstance(wanted, list) and isinstance(got, list) and len(got) == len(wanted):
        pairs = [(*both, f"{path}[{i}]") for i, both in enumerate(zip(got, wanted, strict=True))]
    elif isinstance(wanted, float) and isinstance(got, float | int):
        relative = record_contract.TOLERANCE
        is_close = math.isclose(got, wanted, rel_tol=relative, abs_tol=absolute)
        return [] if is_close else [f"{path}: {got} instead of {wanted}"]
    else:
        return [] if got == wanted else [f"{path}: {got} instead of {wanted}"]
    return [line for g, w, p in pairs for line in differences(g, w, absolute=absolute, path=p)]


def test_every_probe_is_recorded() -> None:
    assert set(RECORD["observed"]) == set(PROBES)
    assert record_contract.CONTRACT.stat().st_size < 200_000


@pytest.mark.parametrize("name", PROBES)
def test_engine_does_as_recorded(name: str, tmp_path: pathlib.Path) -> None:
    observed = record_contract.as_json(PROBES[name](tmp_path))
    absolute = TOLERANCES.get(name, record_contract.TOLERANCE)
    found = differences(observed, RECORD["observed"][name], absolute=absolute)
    hint = "Detectron2 has changed: record anew." if d2.ENGINE == "detectron2" else ""
    assert not found, "\n".join([hint, *found])


def test_defaults_are_detectron2s() -> None:
    recorded = json.loads(record_contract.DEFAULTS.read_text(encoding="utf-8"))
    defaults = record_contract.flat_defaults()
    for key, value in defaults.items():
        is_text = isinstance(value, tuple) or value is None
        assert recorded[key] == (repr(value) if is_text else value), key
        assert is_text or type(recorded[key]) is type(value), key
    if d2.ENGINE == "detectron2":
        assert set(defaults) == set(recorded)


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted name as a tree."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *path, name = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[name] = value
    return tree


def test_a_full_dump_of_detectron2_merges(tmp_path: pathlib.Path) -> None:
    recorded = json.loads(record_contract.DEFAULTS.read_text(encoding="utf-8"))
    assert len(recorded) == 192
    cfg, dumped = d2.get_cfg(), tmp_path / "config.yaml"
    dumped.write_text(yaml.safe_dump(nested(recorded | {"SEED": 7})), encoding="utf-8")
    cfg.merge_from_file(str(dumped))
    assert cfg.SEED == 7
    cfg.SEED = -1
    assert cfg == d2.get_cfg()


def test_differences_are_found() -> None:
    assert differences({"a": [1.0, "x"]}, {"a": [1.0, "x"]}, absolute=0.0) == []
    assert differences({"a": [1.0, "y"]}, {"a": [1.0, "x"]}, absolute=0.0)
    assert differences({"a": [1.1]}, {"a": [1.0]}, absolute=0.0)
    assert differences({"a": 1}, {"b": 1}, absolute=0.0)
    assert differences([1], [1, 2], absolute=0.0)
    assert differences([None], [0.0], absolute=0.0)
