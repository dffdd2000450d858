"""Config trees: a lean part of Detectron2's own keys, YAML files with `_BASE_`, `@configurable`."""

import functools
import inspect
import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode as _CfgNode
from iopath.common.file_io import g_pathmgr

# What this engine and the project read. The others of Detectron2's keys are known only by their
# default value, at which they pass; defaults.json holds all of them as recorded from Detectron2.
LEAN_KEYS = (
    "VERSION",
    "MODEL.DEVICE",
    "MODEL.META_ARCHITECTURE",
    "MODEL.WEIGHTS",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.BACKBONE.",
    "MODEL.SEM_SEG_HEAD.",
    "INPUT.",
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "DATALOADER.",
    "SOLVER.",
    "TEST.EXPECTED_RESULTS",
    "TEST.EVAL_PERIOD",
    "TEST.AUG.",
    "TEST.PRECISE_BN.",
    "OUTPUT_DIR",
    "SEED",
    "CUDNN_BENCHMARK",
    "FLOAT32_PRECISION",
    "VIS_PERIOD",
)


class CfgNode(_CfgNode):
    """A config tree that reads files of Detectron2, its full dumps included."""

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Reads a YAML file over this tree; its `_BASE_` files are read before it.

        Args:
            cfg_filename: path of the file.
            allow_unsafe: whether YAML tags that run Python are obeyed.
        """
        assert g_pathmgr.isfile(cfg_filename), f"Config file '{cfg_filename}' does not exist!"
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        version = loaded.get("VERSION")
        if version is None:
            logging.getLogger("detectron2.config.compat").warning(
                f"Config '{cfg_filename}' has no VERSION. "
                f"Assuming it to be compatible with latest v{self.VERSION}."
            )
        assert version in (None, self.VERSION), (
            f"Config '{cfg_filename}' has VERSION {version}, this engine reads VERSION "
            f"{self.VERSION} only. Detectron2 itself (SMMCL_ENGINE=detectron2) upgrades older ones."
        )
        _drop_foreign_defaults(loaded, self, cfg_filename)
        self.merge_from_other_cfg(loaded)


def get_cfg() -> CfgNode:
    """Returns a fresh tree of the lean keys at Detectron2's defaults."""
    cfg = CfgNode()
    for key, value in _recorded_defaults().items():
        if not any(key == lean or (lean[-1] == "." and key.startswith(lean)) for lean in LEAN_KEYS):
            continue
        *path, name = key.split(".")
        node = cfg
        for part in path:
            node = node.setdefault(part, CfgNode())
        node[name] = value
    return cfg.clone()  # a deep copy, so that no caller shares the recorded lists


@functools.cache
def _recorded_defaults() -> dict[str, Any]:
    """Reads Detectron2's default of each of its keys, by dotted name."""
    text = (pathlib.Path(__file__).parent / "defaults.json").read_text(encoding="utf-8")
    # Tuples and None stand as their Python text, which is also how YAML configs spell them.
    return {key: CfgNode._decode_cfg_value(value) for key, value in json.loads(text).items()}


def _drop_foreign_defaults(loaded: CfgNode, own: CfgNode, filename: str, prefix: str = "") -> None:
    """Removes keys that `own` lacks and that stand at Detectron2's default; refuses other values.

    A key unknown to Detectron2 as well stays, for the merge to refuse it as it does any other.
    """
    for name, value in list(loaded.items()):
        key = prefix + name
        if isinstance(value, CfgNode):
            _drop_foreign_defaults(value, own.get(name, CfgNode()), filename, key + ".")
            if name not in own and not value:
                del loaded[name]
        elif name not in own and key in _recorded_defaults():
            default = _recorded_defaults()[key]
            if _as_lists(CfgNode._decode_cfg_value(value)) != _as_lists(default):
                raise KeyError(
                    f"{key} is {value} in '{filename}'. The embedded engine has no such key and "
                    f"accepts only Detectron2's default, {default}. Remove the key, or run with "
                    "Detectron2 (SMMCL_ENGINE=detectron2)."
                )
            del loaded[name]


def _as_lists(value: Any) -> Any:
    """Turns tuples into lists, throughout: a dump does not tell them apart."""
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def configurable(
    init_func: Callable | None = None, *, from_config: Callable | None = None
) -> Callable:
    """Lets a class or function be called with a config as well as with plain arguments.

    `@configurable` on `__init__` asks the class for `from_config(cls, cfg, ...)`, which returns the
    plain arguments; `@configurable(from_config=f)` does the same for a function.

    Args:
        init_func: the decorated `__init__`, when used without arguments.
        from_config: function of (cfg, ...) that returns the plain arguments.
    """
    if init_func is not None:
        assert (
            inspect.isfunction(init_func)
            and init_func.__name__ == "__init__"
            and from_config is None
        ), "@configurable without arguments belongs on a class's __init__."
        return _configurable_init(init_func)
    if from_config is None:
        return configurable
    assert inspect.isfunction(from_config), "@configurable(from_config=...) wants a function."
    return functools.partial(_configurable_function, from_config)


def _configurable_init(init_func: Callable) -> Callable:
    @functools.wraps(init_func)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        reader = getattr(type(self), "from_config", None)
        wanted = "Class with @configurable must have a 'from_config' classmethod."
        if reader is None:
            raise AttributeError(wanted)
        if not inspect.ismethod(reader):
            raise TypeError(wanted)
        if _called_with_cfg(*args, **kwargs):
            init_func(self, **_arguments_from_config(reader, *args, **kwargs))
        else:
            init_func(self, *args, **kwargs)

    return wrapped


def _configurable_function(from_config: Callable, function: Callable) -> Callable:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _called_with_cfg(*args, **kwargs):
            return function(**_arguments_from_config(from_config, *args, **kwargs))
        return function(*args, **kwargs)

    wrapped.from_config = from_config
    return wrapped


def _called_with_cfg(*args: Any, **kwargs: Any) -> bool:
    return isinstance(args[0] if args else None, _CfgNode) or isinstance(
        kwargs.get("cfg"), _CfgNode
    )


def _arguments_from_config(reader: Callable, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Calls `reader` with what it takes; the remaining keyword arguments override its result."""
    parameters = inspect.signature(reader).parameters
    if next(iter(parameters)) != "cfg":
        raise TypeError(f"{reader.__qualname__} must take 'cfg' as the first argument!")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return reader(*args, **kwargs)
    accepted = {name: value for name, value in kwargs.items() if name in parameters}
    extra = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**reader(*args, **accepted), **extra}
