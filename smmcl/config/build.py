"""Reads config files and overrides over the defaults; errors name their source and the key."""

import contextlib
import difflib
import pathlib
from collections.abc import Iterator, Sequence

from smmcl.config.keys import add_smmcl_config
from smmcl.d2 import CfgNode, get_cfg
from smmcl.files.imports import import_own
from smmcl.files.yaml import as_config, as_keys, load_yaml, read_layers

UNKNOWN_KEY = "Non-existent config key: "  # yacs' words


def build_config(
    config_file: str = "", overrides: list[str] | None = None, *, text: str | None = None
) -> CfgNode:
    """Reads a config file and `KEY VALUE ...` overrides over the defaults; the result is frozen.

    Args:
        config_file: path of a YAML file, or name of a shipped one such as "mfnet_r101.yaml"; ""
            for the defaults alone.
        overrides: alternating keys and values, as they come from a command line.
        text: of the config, where it is in no file of its own; `config_file` is then what errors
            call it.
    """
    tree = {}
    if config_file:
        # Not by Detectron2's merge_from_file, which lets a file make objects of any kind.
        if text is None:
            config_file = find_config(config_file)
            layers = read_layers(config_file)
        else:
            layers = [as_keys(load_yaml(text, config_file), config_file)]
        tree = as_config(layers, config_file)
    own = _imports_among(overrides or [])
    if own is not None:
        import_own(own, source="the command line", is_trusted=True)
    else:
        import_own(tree.get("IMPORTS", []), source=config_file, is_trusted=text is None)
    cfg = get_cfg()
    add_smmcl_config(cfg)
    if config_file:
        if tree.get("VERSION", cfg.VERSION) != cfg.VERSION:
            raise ValueError(f"{config_file} is of VERSION {tree['VERSION']}, not {cfg.VERSION}.")
        with _naming_the_source(cfg, config_file):
            cfg.merge_from_other_cfg(CfgNode(tree))
    with _naming_the_source(cfg, "the command line"):
        _check_overrides(cfg, overrides or [])
        cfg.merge_from_list(overrides or [])
    cfg.freeze()
    return cfg


def _imports_among(overrides: Sequence[object]) -> list[str] | None:
    """The value of IMPORTS in alternating keys and values; None without it."""
    for key, value in zip(overrides[::2], overrides[1::2], strict=False):
        if key == "IMPORTS":
            node = CfgNode({"IMPORTS": []})
            with _naming_the_source(node, "the command line"):
                node.merge_from_list([key, value])
            return node.IMPORTS
    return None


def shipped_configs() -> dict[str, pathlib.Path]:
    """The configs that come with this project, by name: "mfnet_r101.yaml", "ablations/..."."""
    package = pathlib.Path(__file__).parents[1]
    # A wheel has them inside the package, a clone beside it.
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parent / "configs"
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


def _check_overrides(cfg: CfgNode, overrides: list[str]) -> None:
    """Refuses what the engines would refuse by assertion."""
    for key in overrides[::2]:
        node: object = cfg
        for name in key.split("."):
            if not isinstance(node, CfgNode) or name not in node:
                raise KeyError(f"{UNKNOWN_KEY}{key}")
            node = node[name]
    if len(overrides) % 2:
        raise KeyError(f"{overrides[-1]} has no value. Give pairs of KEY VALUE.")


@contextlib.contextmanager
def _naming_the_source(cfg: CfgNode, source: str) -> Iterator[None]:
    """Answers a key or value that does not fit with one sentence, and the key that is nearest."""
    known = list(_leaves(cfg))
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


def _leaves(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key
