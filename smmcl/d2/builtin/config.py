"""Config trees: a lean part of Detectron2's keys, YAML files with `_BASE_`, `@configurable`."""

import functools
import inspect
import json
import pathlib
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode as _CfgNode

from smmcl.files.yaml import as_config, read_layers

# What this engine and the project read; a trailing dot stands for all keys below. Detectron2's
# other keys may appear in files at their default value, which defaults.json has recorded.
_ROOT = "VERSION OUTPUT_DIR SEED CUDNN_BENCHMARK VIS_PERIOD "
_MODEL = "MODEL.DEVICE MODEL.META_ARCHITECTURE MODEL.WEIGHTS MODEL.PIXEL_MEAN MODEL.PIXEL_STD "
_NODES = "MODEL.BACKBONE. MODEL.SEM_SEG_HEAD. INPUT. DATALOADER. SOLVER. TEST.AUG. "
_OTHERS = "DATASETS.TRAIN DATASETS.TEST TEST.EXPECTED_RESULTS TEST.EVAL_PERIOD"
LEAN_KEYS = (_ROOT + _MODEL + _NODES + _OTHERS).split()
# Of those nodes, what is not built here.
FOREIGN_KEYS = ("SOLVER.REFERENCE_WORLD_SIZE", "SOLVER.NUM_DECAYS", "SOLVER.BASE_LR_END")


class CfgNode(_CfgNode):
    """A config tree that reads files of Detectron2, its full dumps included."""

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Reads a file and those of its `_BASE_`; with `allow_unsafe`, too, none makes objects."""
        assert pathlib.Path(cfg_filename).is_file(), f"Config file '{cfg_filename}' does not exist!"
        loaded = type(self)(as_config(read_layers(cfg_filename), cfg_filename))
        is_current = loaded.get("VERSION", self.VERSION) == self.VERSION
        assert is_current, f"'{cfg_filename}' is not of VERSION {self.VERSION}: use Detectron2."
        self.merge_from_other_cfg(loaded)

    def merge_from_other_cfg(self, cfg_other: _CfgNode) -> None:
        super().merge_from_other_cfg(_without_foreign_defaults(cfg_other, self))

    def merge_from_list(self, cfg_list: list) -> None:
        """Sets "A.B", value, "C", value, ..."""
        pairs = [cfg_list[i : i + 2] for i in range(0, len(cfg_list), 2)]  # the last may be short
        pairs = [pair for pair in pairs if len(pair) < 2 or not _is_foreign_default(self, *pair)]
        super().merge_from_list([item for pair in pairs for item in pair])


def get_cfg() -> CfgNode:
    """A fresh tree of the lean keys at Detectron2's defaults."""
    cfg = CfgNode()
    for key, value in _recorded_defaults().items():
        is_lean = any(key == k or (k[-1] == "." and key.startswith(k)) for k in LEAN_KEYS)
        if is_lean and key not in FOREIGN_KEYS:
            *path, name = key.split(".")
            node = cfg
            for part in path:
                node = node.setdefault(part, CfgNode())
            node[name] = value
    return cfg.clone()  # a deep copy, so that no caller shares the recorded lists


@functools.cache
def _recorded_defaults() -> dict[str, Any]:
    text = (pathlib.Path(__file__).parent / "defaults.json").read_text(encoding="utf-8")
    # Tuples and None stand as their Python text, which is also how YAML configs spell them.
    return {key: CfgNode._decode_cfg_value(value) for key, value in json.loads(text).items()}


def _without_foreign_defaults(loaded: CfgNode, own: CfgNode, prefix: str = "") -> CfgNode:
    """The part of `loaded` that `own` is to merge, with keys unknown to Detectron2 as well."""
    kept = CfgNode()
    for name, value in loaded.items():
        key = prefix + name
        if isinstance(value, _CfgNode):
            node = _without_foreign_defaults(value, own, key + ".")
            if node or _has(own, key):
                kept[name] = node
        elif not _is_foreign_default(own, key, value):
            kept[name] = value
    return kept


def _is_foreign_default(own: CfgNode, key: str, value: Any) -> bool:
    """Whether `own` lacks a key of Detectron2, which is at its default; others are refused."""
    defaults = _recorded_defaults()
    if key not in defaults or _has(own, key):
        return False
    if _as_lists(CfgNode._decode_cfg_value(value)) == _as_lists(defaults[key]):
        return True
    raise ValueError(
        f"{key} is {value}, but nothing in the embedded engine reads it, so only Detectron2's "
        f"default, {defaults[key]}, is accepted. Remove the key, or run with Detectron2 if a part "
        "of it does (SMMCL_ENGINE=detectron2)."
    )


def _has(node: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(node, _CfgNode) or name not in node:
            return False
        node = node[name]
    return True


def _as_lists(value: Any) -> Any:
    """Tuples as lists, throughout: a dump does not tell them apart."""
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def configurable(init_func: Callable | None = None, *, from_config: Any = None) -> Callable:
    """Lets a class or function be called with a config as well as with plain arguments.

    `@configurable` on `__init__` asks the class for `from_config(cls, cfg, ...)`, which returns the
    plain arguments; `@configurable(from_config=f)` on a function asks f.
    """
    if init_func is None:
        assert inspect.isfunction(from_config), "@configurable(from_config=...) wants a function."
        return functools.partial(_configurable, from_config=from_config)
    is_init = inspect.isfunction(init_func) and init_func.__name__ == "__init__"
    assert is_init, "@configurable without arguments belongs on a class's __init__."
    return _configurable(init_func)


def _configurable(function: Callable, from_config: Callable | None = None) -> Callable:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        instance = args[:1] if from_config is None else ()
        args = args[len(instance) :]
        reader = from_config or getattr(type(instance[0]), "from_config", None)
        wanted = "Class with @configurable must have a 'from_config' classmethod."
        if reader is None:
            raise AttributeError(wanted)
        if instance and not inspect.ismethod(reader):
            raise TypeError(wanted)
        if any(isinstance(first, _CfgNode) for first in (*args[:1], kwargs.get("cfg"))):
            args, kwargs = (), _arguments_from_config(reader, *args, **kwargs)
        return function(*instance, *args, **kwargs)

    wrapped.from_config = from_config
    return wrapped


def _arguments_from_config(reader: Callable, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Calls `reader` with what it takes; other keyword arguments override its result."""
    parameters = inspect.signature(reader).parameters
    if next(iter(parameters)) != "cfg":
        raise TypeError(f"{reader.__qualname__} must take 'cfg' as the first argument!")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return reader(*args, **kwargs)
    accepted = {name: value for name, value in kwargs.items() if name in parameters}
    extra = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**reader(*args, **accepted), **extra}
