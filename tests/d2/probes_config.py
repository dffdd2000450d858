"""Probes of configs and catalogs: files, overrides, `@configurable`, registered datasets."""

import pathlib
from collections.abc import Callable
from typing import Any

from probes_names import raised

import smmcl.d2 as d2

BASE = """
VERSION: 2
MODEL: {PIXEL_MEAN: [1.0, 2.0], WEIGHTS: base.pth}
SOLVER:
  STEPS: (3, 4)
  BASE_LR: 1.0
"""
LEAF = """
_BASE_: base.yaml
MODEL: {WEIGHTS: leaf.pth}
DATASETS: {TRAIN: ["a", "b"]}
"""


def config_from(folder: pathlib.Path, text: str) -> d2.CfgNode:
    path = folder / "probe.yaml"
    path.write_text(text, encoding="utf-8")
    cfg = d2.get_cfg()
    cfg.merge_from_file(str(path))
    return cfg


def observe_config_files(folder: pathlib.Path) -> dict[str, Any]:
    (folder / "base.yaml").write_text(BASE, encoding="utf-8")
    cfg = config_from(folder, LEAF)
    full = d2.get_cfg()
    (folder / "full.yaml").write_text(full.dump(), encoding="utf-8")
    again = d2.get_cfg()
    again.merge_from_file(str(folder / "full.yaml"))
    return {
        "mean": repr(cfg.MODEL.PIXEL_MEAN),
        "weights": cfg.MODEL.WEIGHTS,
        "steps": repr(cfg.SOLVER.STEPS),
        "rate": repr(cfg.SOLVER.BASE_LR),
        "train": repr(cfg.DATASETS.TRAIN),
        "same after a dump": again.INPUT.dump() + again.SOLVER.dump()
        == full.INPUT.dump() + full.SOLVER.dump(),
        "dump": cfg.INPUT.dump(),
        "errors": {
            "missing": raised(d2.get_cfg().merge_from_file, str(folder / "none.yaml")),
            "unknown": raised(config_from, folder, "VERSION: 2\nMODEL: {NOPE: 1}"),
            "type": raised(config_from, folder, "VERSION: 2\nSEED: [1]"),
            "newer": raised(config_from, folder, "VERSION: 3\nSEED: 1"),
        },
    }


def observe_overrides(folder: pathlib.Path) -> dict[str, Any]:
    cfg = d2.get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", "1e-3", "SOLVER.STEPS", "[1, 2]", "SEED", "5"])
    cfg.merge_from_list(["DATASETS.TEST", "('x',)", "TEST.EXPECTED_RESULTS", [["a", "b", 1, 2]]])
    clone = cfg.clone()
    clone.SOLVER.STEPS = (9,)
    cfg.freeze()
    return {
        "values": [repr(v) for v in (cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS, cfg.SEED)],
        "tests": [repr(cfg.DATASETS.TEST), repr(cfg.TEST.EXPECTED_RESULTS)],
        "frozen": [cfg.is_frozen(), clone.is_frozen()],
        "errors": {
            "unknown": raised(cfg.merge_from_list, ["MODEL.NOPE", "1"]),
            "type": raised(cfg.merge_from_list, ["SEED", "many"]),
            "odd": raised(cfg.merge_from_list, ["SEED"]),
            "frozen": raised(setattr, cfg, "SEED", 3),
        },
    }


class _Configured:
    @d2.configurable
    def __init__(self, a: Any, b: Any = 2, c: Any = 3) -> None:
        self.values = [a, b, c]

    @classmethod
    def from_config(cls, cfg: d2.CfgNode, extra: int = 0) -> dict[str, Any]:
        return {"a": cfg.SEED, "b": extra}


class _Derived(_Configured):
    @classmethod
    def from_config(cls, cfg: d2.CfgNode) -> dict[str, Any]:
        return {"a": "derived"}


class _Unreadable:
    @d2.configurable
    def __init__(self, a: Any) -> None: ...


class _NotAClassMethod(_Unreadable):
    def from_config(self, cfg: d2.CfgNode) -> dict[str, Any]: ...


class _FirstNotCfg(_Unreadable):
    @classmethod
    def from_config(cls, config: d2.CfgNode) -> dict[str, Any]: ...


def observe_configurable(folder: pathlib.Path) -> dict[str, Any]:
    cfg = d2.get_cfg()

    @d2.configurable(from_config=lambda cfg, *, scale=1: {"a": cfg.SEED * scale, "b": "cfg"})
    def function(a: Any, b: Any = 2, c: Any = 3) -> list:
        return [a, b, c]

    return {
        "plain": _Configured(1, b=7).values,
        "cfg": _Configured(cfg).values,
        "keyword": _Configured(cfg=cfg, extra=5).values,
        "overridden": _Configured(cfg, 4, c=9).values,
        "derived": _Derived(cfg, b=1).values,
        "function": [function(1), function(cfg), function(cfg, scale=3, c=0)],
        "errors": {
            "unreadable": raised(_Unreadable, cfg),
            "unreadable plain": raised(_Unreadable, 1),
            "not a class method": raised(_NotAClassMethod, cfg),
            "first not cfg": raised(_FirstNotCfg, cfg),
            "not on init": raised(d2.configurable, observe_configurable),
        },
    }


def observe_catalogs(folder: pathlib.Path) -> dict[str, Any]:
    listed: Callable[[], list[dict]] = lambda: [{"image_id": 1}]  # noqa: E731
    datasets, metadata = d2.DatasetCatalog, d2.MetadataCatalog
    datasets.register("probe_set", listed)
    facts = metadata.get("probe_set").set(stuff_classes=["a"], ignore_label=255)
    facts.evaluator_type = "sem_seg"
    found = {
        "samples": datasets.get("probe_set"),
        "same": metadata.get("probe_set") is facts,
        "facts": facts.as_dict(),
        "get": [facts.get("ignore_label"), facts.get("nothing"), facts.get("nothing", 3)],
        "listed": ["probe_set" in datasets.list(), "probe_set" in metadata.list()],
        "errors": {
            "twice": raised(datasets.register, "probe_set", listed),
            "uncallable": raised(datasets.register, "probe_other", []),
            "missing": raised(datasets.get, "probe_none"),
            "changed": raised(facts.set, ignore_label=0),
            "same again": raised(facts.set, ignore_label=255),
            "no attribute": raised(getattr, facts, "nothing"),
            "no attribute at all": raised(getattr, metadata.get("probe_empty"), "nothing"),
            "no name": raised(metadata.get, ""),
        },
    }
    datasets.remove("probe_set")
    metadata.remove("probe_set")
    metadata.remove("probe_empty")
    return {**found, "removed": ["probe_set" in datasets, "probe_set" in metadata]}
