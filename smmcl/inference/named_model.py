"""One way to name a model: its checkpoint, which holds its config, or a config with weights."""

import argparse
import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from smmcl.config import build_config
from smmcl.config.unread import value_at
from smmcl.d2 import CfgNode, build_model
from smmcl.engine.checkpoint import build_checkpointer, read_facts
from smmcl.engine.setup import with_device
from smmcl.modeling.wrapping import check_model
from smmcl.weights.files import read_file
from smmcl.weights.zoo import PREFIX, zoo_sums


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint, --config-file and config overrides; `named_config` reads them."""
    parser.add_argument("--config-file", metavar="FILE", help="default: what --checkpoint holds")
    add_checkpoint(parser)
    # Detectron2's tools for pictures have --opts before the overrides, its others have nothing.
    for name, text in (("--opts", argparse.SUPPRESS), ("opts", "config overrides, at the end")):
        parser.add_argument(name, nargs=argparse.REMAINDER, action="extend", default=[],
                            metavar="KEY VALUE", help=text)  # fmt: skip


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", metavar="FILE", help="the model; sets MODEL.WEIGHTS")
    parser.add_argument("--model", type=f"{PREFIX}{{}}".format, dest="checkpoint", metavar="NAME",
                        help=f"the same, of the zoo: {', '.join(zoo_sums())}")  # fmt: skip


def separate_overrides(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Moves config overrides to `opts` from the options of several values that took them, too."""
    keys = build_config()
    for name in names:
        given = getattr(args, name)
        starts = (i for i, value in enumerate(given) if value.split(".")[0] in keys)
        end = next(starts, len(given))
        setattr(args, name, given[:end])
        args.opts = [*given[end:], *args.opts]


def named_config(args: argparse.Namespace, *overrides: Any) -> CfgNode:
    """The config of the model that a command line names; its own overrides come last."""
    overrides = (*overrides, *args.opts)
    if args.checkpoint:
        return checkpoint_config(args.checkpoint, args.config_file, overrides=overrides)
    if not args.config_file:
        raise ValueError(
            "no model is named. Give its --checkpoint, a --model of the zoo, or the --config-file "
            "of a run."
        )
    return build_config(args.config_file, overrides)


def put_checkpoint(args: argparse.Namespace) -> argparse.Namespace:
    """Turns --checkpoint of a training tool into what `setup` reads: config and MODEL.WEIGHTS."""
    if args.checkpoint:
        args.opts = [*args.opts, "MODEL.WEIGHTS", args.checkpoint]
        if not args.config_file:
            args.config_file, args.config_text = held_config(args.checkpoint)
    return args


def checkpoint_config(
    path: str | Path, config_file: str | Path | None = None, *, overrides: Sequence[Any] = ()
) -> CfgNode:
    """The config of a checkpoint, with MODEL.WEIGHTS its path.

    Args:
        config_file: of the run, or name of a shipped one, instead of what `held_config` finds.
        overrides: alternating config keys and values.
    """
    name, text = (str(config_file), None) if config_file else held_config(path)
    return build_config(name, [*overrides, "MODEL.WEIGHTS", str(path)], text=text)


def load_named(path: str | Path, *, overrides: Sequence[Any] = ()) -> tuple[nn.Module, CfgNode]:
    """The trained model of a checkpoint, in evaluation mode, and its config."""
    cfg = with_device(checkpoint_config(path, overrides=overrides))
    model = build_model(cfg)
    build_checkpointer(cfg, model).load(str(path), checkpointables=[])
    return model.eval(), cfg


def load_frozen(cfg: CfgNode, key: str) -> nn.Module | None:
    """The trained model whose checkpoint a key of a training names; None where it names none.

    Args:
        cfg: of the training, whose images the model must read as they are.
        key: such as "MODEL.DARKENER.DAY_MODEL".
    """
    path = value_at(cfg, key)
    if not path:
        return None
    is_known = Path(path).with_name("config.yaml").is_file() or not Path(path).is_file()
    if not is_known and not read_facts(path).get("config"):
        raise ValueError(
            f"{key}: {path} holds no config, so how its model normalizes images is unknown. Name "
            "a checkpoint of this project, or put the config.yaml of its run beside it."
        )
    model, own = load_named(path)
    check_model(model)
    for name in ("FORMAT", "AUXILIARY_FORMAT"):
        if own.INPUT[name] != cfg.INPUT[name]:
            raise ValueError(
                f"INPUT.{name} is {cfg.INPUT[name]!r}, but the model of {key} reads "
                f"{own.INPUT[name]!r}. Set it likewise."
            )
    return model


def check_untested(cfg: CfgNode) -> None:
    """Raises where a model without classes is to be evaluated, or to predict."""
    if cfg.DATASETS.TEST:
        raise ValueError(
            f"a {cfg.MODEL.META_ARCHITECTURE} predicts no classes, so there is nothing to score on "
            f"{', '.join(cfg.DATASETS.TEST)}. Leave DATASETS.TEST empty in its training; smmcl "
            "darken and smmcl enhance apply it to images."
        )


def load_relighter(path: str, *, source: str, options: Iterable[str] = ()) -> nn.Module:
    """The trained model of a checkpoint that shows images in other light, by its `relight`.

    Args:
        source: of the path, for errors: a key or an option.
        options: that its `relight` must have.
    """
    if not path:
        raise ValueError(f"{source} is empty. Set it to the checkpoint of a darkener or enhancer.")
    model, _ = load_named(path)
    name, relight = type(model).__name__, getattr(model, "relight", None)
    if relight is None:
        raise ValueError(
            f"{source}: {path} holds a {name}, which shows images in no other light. Name the "
            "checkpoint of a darkener or enhancer."
        )
    known = inspect.signature(relight).parameters
    needed = {key for key, value in known.items() if value.default is value.empty}
    if missing := {*options} - {*known}:
        raise ValueError(
            f"{source}: {path} holds {name}, which takes no {' and no '.join(sorted(missing))}. "
            "Name the checkpoint of a model that does."
        )
    if missing := needed - {"visible", "seeds", *options}:
        raise ValueError(
            f"{source}: {path} holds {name}, which needs {' and '.join(sorted(missing))}. "
            "A darkener goes with smmcl darken, an enhancer with smmcl enhance."
        )
    return model


def check_features(model: nn.Module | None, names: Sequence[str], key: str) -> None:
    """Raises where a model lacks features that a key names."""
    shape = model.backbone.output_shape() if model else names
    if unknown := sorted({*names} - {*shape}):
        raise ValueError(
            f"{key} names {', '.join(unknown)}, but the model has {', '.join(shape)}. "
            "Choose from those."
        )


def held_config(path: str | Path) -> tuple[str, str | None]:
    """Name and text of the config that a checkpoint holds, else the config.yaml beside it."""
    if text := read_facts(path).get("config"):
        return f"the config in {path}", text
    beside = Path(path).with_name("config.yaml")
    if not beside.is_file():
        if Path(path).exists():
            read_file(str(path))  # what is no checkpoint at all is refused by its kind
        raise FileNotFoundError(
            f"checkpoint {path} does not exist or holds no config, and there is no {beside}. "
            "Correct the path, or name its config by --config-file (in Python, config_file)."
        )
    return str(beside), None
