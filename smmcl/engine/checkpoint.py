"""Checkpoints that are written whole, checked when read, and never load in part unnoticed."""

import logging
import pathlib
from collections.abc import Iterator
from types import UnionType
from typing import Any

import torch
from torch import nn

import smmcl
from smmcl.d2 import ENGINE, ENGINE_VERSION, CfgNode, DetectionCheckpointer
from smmcl.data.alignment import Alignment
from smmcl.data.datasets.keys import check_facts
from smmcl.data.format import AuxiliaryFormat
from smmcl.engine.deployed import TrainingOnly, bare, deployed
from smmcl.engine.run_folder import RESUMABLE
from smmcl.files.archive import is_archive, is_sound
from smmcl.files.atomic import atomic, partials, write_text
from smmcl.files.yaml import as_keys, leaves, load_yaml
from smmcl.weights.files import check_state, read_file
from smmcl.weights.zoo import zoo_file

# Parts of a checkpoint beside the weights; a part comes before what is in it.
PARTS: dict[str, type | UnionType] = {
    **{"config": str, "inputs": dict, "trainer": dict, "iteration": int, "trainer.hooks": dict},
    **{"inputs.name": str, "inputs.format": str, "inputs.uses_auxiliary": bool},
    **{"inputs.stuff_classes": list | tuple, "inputs.auxiliary": dict | None},
}

# Prefixes of parameters that had another name before.
MOVED = {"backbone.exchanges.": "backbone.fusions."}

logger = logging.getLogger(__name__)


class RunCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writing, checked reading and complete loading.

    A write goes to a temporary file that is flushed to the disk and renamed, so that a run stopped
    at any moment leaves the checkpoint before it. A damaged last checkpoint is passed over for the
    newest sound one. A parameter that the model or the file alone has is an error, save for the
    contrastive branch of a file, which inference does without.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        unfilled: list[str] | tuple[str, ...] = (),
        num_kept: int = 0,
        config: str = "",
        **checkpointables: Any,
    ) -> None:
        """
        Args:
            model: bare or wrapped for several processes.
            save_dir: folder to write to and to resume from.
            unfilled: prefixes of parameters that a loaded file or the model need not have.
            num_kept: checkpoints `model_<number>.pth` of this run that stay; 0 for all.
            config: of the run, as YAML; every file holds it.
            checkpointables: further objects with `state_dict` and `load_state_dict`.
        """
        super().__init__(model, save_dir, **checkpointables)
        if num_kept < 0:
            raise ValueError(
                f"SOLVER.CHECKPOINTS_KEPT is {num_kept}. Set it to how many checkpoints stay, or "
                "to 0 to keep all."
            )
        self._numbered: list[pathlib.Path] = []  # of this run and on the disk, in their order
        self.unfilled = tuple(unfilled)
        self.num_kept = num_kept
        self.config = config

    def save(self, name: str, **extra: Any) -> None:
        """Writes `<name>.pth` on the main process; a number or "final" makes it the last one."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {
            "model": self.model.state_dict(),
            **{key: value.state_dict() for key, value in self.checkpointables.items()},
            **extra,
            "config": self.config,
            "engine": f"{ENGINE} {ENGINE_VERSION}",
            "smmcl_version": smmcl.__version__,
        }
        path = pathlib.Path(self.save_dir) / f"{name}.pth"
        logger.info(f"Saving checkpoint to {path}")
        write_tensors(path, data)
        if RESUMABLE.fullmatch(path.name):
            self.tag_last_checkpoint(path.name)
            self._remove_old(path)

    def _remove_old(self, newest: pathlib.Path) -> None:
        """Removes what is no longer wanted, now that a newer checkpoint is on the disk."""
        if newest.stem != "model_final":
            self._numbered = [*(path for path in self._numbered if path != newest), newest]
        old = self._numbered[: -self.num_kept] if self.num_kept else []
        self._numbered = self._numbered[len(old) :]
        for path in [*old, *partials(newest.parent, "model_*.pth")]:
            path.unlink(missing_ok=True)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        tag = pathlib.Path(self.save_dir) / "last_checkpoint"
        write_text(tag, last_filename_basename, is_durable=True)

    def has_checkpoint(self) -> bool:
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """Path of the last checkpoint, or of the newest sound one if it is damaged; "" for none."""
        path = None
        for path in self._candidates():
            if is_sound(path):
                return str(path)
            logger.warning(f"Checkpoint {path} is missing or damaged; trying the one before it")
        if path is None:
            return ""
        raise ValueError(
            f"None of the checkpoints in {self.save_dir} can be read. Start anew by --overwrite, "
            "or set OUTPUT_DIR to another folder."
        )

    def _candidates(self) -> Iterator[pathlib.Path]:
        """The checkpoint named as the last, then what else a run can go on from, newest first."""
        folder = pathlib.Path(self.save_dir or "nowhere")
        tag = folder / "last_checkpoint"
        name = tag.read_bytes().decode(errors="replace").strip() if tag.is_file() else ""
        named = [folder / name] if RESUMABLE.fullmatch(name) else []
        yield from named
        others = [path for path in folder.glob("model_*.pth") if RESUMABLE.fullmatch(path.name)]
        if others and not named:
            logger.warning(f"{folder}/last_checkpoint cannot be read; looking for the newest")
        yield from sorted({*others} - {*named}, key=_iteration, reverse=True)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As the engine's; a run that is resumed goes on removing its old checkpoints."""
        if resume:
            found = pathlib.Path(self.save_dir).glob("model_*.pth")
            self._numbered = sorted(p for p in found if p.stem.removeprefix("model_").isdigit())
        return super().resume_or_load(path, resume=resume)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a checkpoint of this project; an empty path leaves the model as it is."""
        path = str(zoo_file(path))
        if pathlib.Path(path).is_dir() and path:
            raise ValueError(f"checkpoint {path} is a folder. Set MODEL.WEIGHTS to a file in it.")
        if path and "://" not in path and not pathlib.Path(path).is_file():
            raise FileNotFoundError(
                f"checkpoint {path} does not exist. Set MODEL.WEIGHTS to a .pth file, "
                "or train first."
            )
        try:
            return super().load(path, *args, **kwargs)
        except ValueError as error:
            if not path or str(path) in str(error):
                raise
            raise ValueError(f"checkpoint {path}: {error}") from error
        finally:
            self._parsed_url_during_load = None  # else Detectron2's refuses to load another

    def _load_file(self, filename: str) -> dict[str, Any]:
        data = read_file(filename)  # the engines' own reading lets some files run code
        data = data if "model" in data else {"model": data}
        _check_parts(data, filename)
        for state in _states(data):
            check_state(state, filename)
        return with_new_names(data)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        hooks = checkpoint.get("trainer", {}).get("hooks", {})
        if "WeightAverage" in hooks and "trainer" not in self.checkpointables:
            logger.info("Taking the averaged weights of the checkpoint, not those of its last step")
            checkpoint["model"] = hooks["WeightAverage"]
        incompatible = super()._load_model(checkpoint)
        excused = self.unfilled or ("\0",)
        missing = [n for n in incompatible.missing_keys if not n.startswith(excused)]
        excused = ("contrast.", *excused)
        unused = [n for n in incompatible.unexpected_keys if not n.startswith(excused)]
        if missing or unused:
            shapes = "".join(
                f" {name} is {tuple(got)} in the file but {tuple(wanted)} in the model."
                for name, got, wanted in incompatible.incorrect_shapes[:3]
            )
            raise ValueError(
                f"The checkpoint leaves {len(missing)} of the model's parameters unfilled and "
                f"{len(unused)} of its own unused, among them {', '.join([*missing, *unused][:3])}."
                f"{shapes}{_advice(checkpoint.get('config', ''), self.config)} What may stay apart "
                "is named in MODEL.UNFILLED_WEIGHTS."
            )
        return incompatible


def build_checkpointer(cfg: CfgNode, model: nn.Module, **checkpointables: Any) -> RunCheckpointer:
    """The checkpointer of a run, whose files hold the config of the model that is deployed."""
    whole, inner = bare(model), deployed(model)
    if inner is not whole:
        checkpointables["training_only"] = TrainingOnly(whole, inner)
    config = whole.deployed_config(cfg) if hasattr(whole, "deployed_config") else cfg
    return RunCheckpointer(
        inner,
        cfg.OUTPUT_DIR,
        unfilled=cfg.MODEL.UNFILLED_WEIGHTS,
        num_kept=cfg.SOLVER.CHECKPOINTS_KEPT,
        config=config.dump(),
        **checkpointables,
    )


def write_tensors(path: str | pathlib.Path, data: dict[str, Any]) -> None:
    """Saves data by torch, whole or not at all."""
    with atomic(path, is_durable=True) as partial, partial.open("wb") as file:
        try:
            torch.save(data, file)
        except RuntimeError as error:  # torch closes its archive, and fails again over that
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def with_new_names(data: dict[str, Any]) -> dict[str, Any]:
    """Gives the parameters in a checkpoint, or in a bare state, today's names; changes it."""
    for state in _states(data):
        for before, now in MOVED.items():
            for name in [name for name in state if name.startswith(before)]:
                state[now + name.removeprefix(before)] = state.pop(name)
    return data


def _states(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The weights in a checkpoint, and their average if it has one."""
    yield data.get("model", data)
    hooks = data.get("trainer", {}).get("hooks", {})
    if "WeightAverage" in hooks:
        yield hooks["WeightAverage"]


def read_facts(path: str | pathlib.Path) -> dict[str, Any]:
    """What a checkpoint says of its run beside the weights.

    Returns:
        "config" as YAML, "inputs" as `describe_inputs` makes them; none of a file of others.
    """
    path = pathlib.Path(zoo_file(path))
    if not is_archive(path) and path.suffix != ".safetensors":
        return {}
    stored = read_file(str(path), is_mapped=True)
    _check_parts(stored, str(path))
    return {key: stored[key] for key in ("config", "inputs") if stored.get(key)}


def _check_parts(data: dict[str, Any], path: str) -> None:
    for place, kind in PARTS.items():
        outer, _, key = place.rpartition(".")
        holder = data.get(outer) if outer else data
        if not holder or (key not in holder and outer != "inputs"):
            continue
        if not isinstance(holder.get(key), kind):
            raise ValueError(
                f"{path} holds a {type(holder.get(key)).__name__} as {place}, which no run of "
                "this project writes. Save its tensors alone to load them: torch.save(state_dict)."
            )
    if inputs := data.get("inputs"):
        try:
            check_facts(inputs)
            if inputs["uses_auxiliary"] or inputs["auxiliary"] is not None:
                AuxiliaryFormat(**inputs["auxiliary"])
            Alignment(**inputs.get("align", {}))
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{path} has inputs that do not fit: {error}.") from error


def _advice(theirs: str, ours: str) -> str:
    """How to make the model that a file holds: the config keys that differ, ready to be given."""
    theirs, ours = (
        dict(leaves(as_keys(load_yaml(text, "the config in the checkpoint"), "that config")))
        for text in (theirs, ours)
    )
    other = {
        key: value
        for key, value in theirs.items()
        if key.startswith("MODEL.") and "WEIGHTS" not in key and ours.get(key, value) != value
    }
    other.pop("MODEL.DEVICE", None)
    if not other:
        return " Use the config that it was trained with."
    keys = " ".join(f"{key} {value!r}".replace(" ''", ' ""') for key, value in other.items())
    return f" It was trained with these keys, which differ here: {keys}. Give them likewise."


def _iteration(path: pathlib.Path) -> int:
    """How far a checkpoint is, by its name or, the final one, by its content."""
    number = path.stem.removeprefix("model_")
    if number.isdigit():
        return int(number)
    return read_file(str(path), is_mapped=True).get("iteration", -1) if is_sound(path) else -1
