"""Reads config files and overrides over the defaults; errors name their source and the key."""

import contextlib
import difflib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from smmcl.config.checks import RULES, Fault, check_together
from smmcl.config.keys import add_smmcl_config
from smmcl.config.unread import ENGINE_NODES, check_unread, unread_fault, value_at
from smmcl.d2 import CfgNode, get_cfg
from smmcl.files.imports import import_own
from smmcl.files.paths import shipped_folder
from smmcl.files.yaml import as_config, as_keys, find_line, leaves, load_yaml, read_layers

UNKNOWN_KEY = "Non-existent config key: "  # yacs' words
COMMAND_LINE = "the command line"
OLD_SCHEDULE = "WarmupMultiStepLR"  # Detectron2's default, which runs named before


def build_config(
    config_file: str = "", overrides: Sequence[Any] | None = None, *, text: str | None = None
) -> CfgNode:
    """Reads a config file and `KEY VALUE ...` overrides over the defaults; the result is frozen.

    Args:
        config_file: path of a YAML file, or name of a shipped one such as "mfnet_r101.yaml"; ""
            for the defaults alone.
        overrides: alternating keys and values, as they come from a command line.
        text: of the config, where it is in no file of its own; `config_file` is then what errors
            call it.
    """
    overrides = list(overrides or [])
    if len(overrides) % 2:
        raise ValueError(f"{COMMAND_LINE}: {overrides[-1]} has no value. Give pairs of KEY VALUE.")
    on_line = dict(zip(overrides[::2], overrides[1::2], strict=True))
    tree = {}
    if config_file:
        # Not by Detectron2's merge_from_file, which lets a file make objects of any kind.
        if text is None:
            config_file = find_config(config_file)
            layers = read_layers(config_file, shipped=shipped_folder("configs"))
        else:
            layers = [as_keys(load_yaml(text, config_file), config_file)]
        tree = as_config(layers, config_file)
    if "IMPORTS" in on_line:
        import_own(_imports_on(on_line), source=COMMAND_LINE, is_trusted=True)
    else:
        import_own(tree.get("IMPORTS", []), source=config_file, is_trusted=text is None)
    cfg = get_cfg()
    defaults = dict(leaves(cfg.clone()))
    add_smmcl_config(cfg)
    given = Given(config_file, tree, on_line, is_text=text is not None)
    if tree.get("VERSION", cfg.VERSION) != cfg.VERSION:
        raise ValueError(f"{config_file} is of VERSION {tree['VERSION']}, not {cfg.VERSION}.")
    given.refuse(given.faults(cfg, defaults))
    with _naming_the_source(cfg, config_file):
        cfg.merge_from_other_cfg(CfgNode(_with_floats(tree, cfg)))
    if cfg.SOLVER.LR_SCHEDULER_NAME == OLD_SCHEDULE:
        cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    with _naming_the_source(cfg, COMMAND_LINE):
        for key, value in on_line.items():
            _merge(cfg, key, value)
    given.refuse(check_together(cfg))
    given.refuse(check_unread(cfg, defaults))
    cfg.freeze()
    return cfg


class Given:
    """The values that a file and a command line set, and where: for errors."""

    def __init__(
        self, config_file: str, tree: dict[str, Any], on_line: dict[str, Any], *, is_text: bool
    ) -> None:
        self.config_file, self.is_text = config_file, is_text
        self.in_file, self.on_line = dict(leaves(tree)), on_line

    def faults(self, cfg: CfgNode, stock: dict[str, Any]) -> Iterator[Fault]:
        """Of the values that end up in the config, each by itself.

        Args:
            cfg: the defaults of all keys.
            stock: those of the engine's own keys, by their dotted names.
        """
        for key, value in {**self.in_file, **self.on_line}.items():
            is_old = key == "SOLVER.LR_SCHEDULER_NAME" and value == OLD_SCHEDULE
            if is_old and key not in self.on_line:
                continue
            try:
                value = CfgNode._decode_cfg_value(value)
            except (ValueError, MemoryError, RecursionError):
                with _naming_the_source(CfgNode(), self.source(key)):
                    raise
            if key not in RULES:
                yield from _of_another_kind(key, value, cfg, stock)
            elif not RULES[key].fits(value):
                yield key, f"to {value!r}. Set it to {RULES[key].wanted}"

    def refuse(self, faults: Iterator[Fault]) -> None:
        """Raises the first of them, if there is one."""
        for key, problem in faults:
            raise ValueError(f"{self.source(key)} sets {key} {problem}.")

    def source(self, key: str) -> str:
        if key in self.on_line:
            return COMMAND_LINE
        if key not in self.in_file:
            return f"{self.config_file}: the default" if self.config_file else "the default"
        if self.is_text:
            return self.config_file
        place = find_line(self.config_file, key, shipped=shipped_folder("configs"))
        return "{}, line {},".format(*place) if place else self.config_file


def _of_another_kind(key: str, value: Any, cfg: CfgNode, stock: dict[str, Any]) -> Iterator[Fault]:
    """A value that yacs does not take, because the default is of another type."""
    try:
        default = value_at(cfg, key)
    except (KeyError, TypeError):
        return  # no such key: the merge names the nearest
    kinds, pairs = {type(default), type(value)}, ({list, tuple}, {int, float})
    if isinstance(default, CfgNode):
        yield key, f"to {value!r}, but it is a group of keys. Set one of the keys below it"
    elif len(kinds) == 2 and type(None) not in kinds and kinds not in pairs:
        is_unread = key in stock and not key.startswith(("MODEL.", *ENGINE_NODES))
        wanted = f"to {value!r}. Set it to a value such as its default, {default!r}"
        yield unread_fault(key, value) if is_unread else (key, wanted)


def _with_floats(tree: dict[str, Any], cfg: CfgNode) -> dict[str, Any]:
    """A copy with 1 as 1.0 where a key wants a float, which yacs does not take for one."""
    copy = {}
    for name, value in tree.items():
        default = cfg.get(name)
        if isinstance(value, dict) and isinstance(default, CfgNode):
            copy[name] = _with_floats(value, default)
        else:
            copy[name] = _as_float(value) if isinstance(default, float) else value
    return copy


def _as_float(value: Any) -> Any:
    value = CfgNode._decode_cfg_value(value)
    return float(value) if type(value) is int else value


def _imports_on(line: dict[str, Any]) -> list[str]:
    node = CfgNode({"IMPORTS": []})
    with _naming_the_source(node, COMMAND_LINE):
        node.merge_from_list(["IMPORTS", line["IMPORTS"]])
    return node.IMPORTS


def shipped_configs() -> dict[str, pathlib.Path]:
    """The configs that come with this project, by name: "mfnet_r101.yaml", "ablations/..."."""
    folder = shipped_folder("configs")
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def find_config(config_file: str) -> str:
    """Path of a config: a file as it is, else the shipped one of that name."""
    if pathlib.Path(config_file).is_file():
        return config_file
    shipped = shipped_configs()
    name = config_file.removeprefix("configs/")
    if name in shipped:
        return str(shipped[name])
    near = difflib.get_close_matches(name, shipped, n=3, cutoff=0.4)
    raise FileNotFoundError(
        f"config file {config_file} does not exist. The shipped ones are in configs/"
        + (f", the nearest by name {', '.join(near)}." if near else ".")
    )


def _merge(cfg: CfgNode, key: str, value: Any) -> None:
    """Sets one key; what the engines refuse by assertion is a KeyError."""
    node: Any = cfg
    for name in key.split("."):
        node = node.get(name) if isinstance(node, CfgNode) else None
    try:
        cfg.merge_from_list([key, _as_float(value) if isinstance(node, float) else value])
    except AssertionError as error:
        raise KeyError(f"{UNKNOWN_KEY}{key}") from error


@contextlib.contextmanager
def _naming_the_source(cfg: CfgNode, source: str) -> Iterator[None]:
    """Answers a key or value that does not fit with one sentence, and the key that is nearest."""
    known = [key for key, _ in leaves(cfg)]
    try:
        yield
    except KeyError as error:
        reason = str(error.args[0])
        if not reason.startswith(UNKNOWN_KEY):
            raise ValueError(f"{source}: {reason}") from error
        key = reason.removeprefix(UNKNOWN_KEY)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else "smmcl/config/keys.py lists the keys."
        if key.startswith("--"):
            hint = "Options come before the pairs of KEY VALUE."
        raise ValueError(f"{source} sets {key}, which is no config key. {hint}") from error
    except ValueError as error:
        raise ValueError(f"{source} sets a value that does not fit: {error}") from error
    except (MemoryError, RecursionError) as error:  # of the values that are Python expressions
        raise ValueError(f"{source} sets a value that is nested too deep to be read.") from error
