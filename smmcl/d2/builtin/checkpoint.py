"""Checkpoints: fvcore's, written by the main process, with the files that Detectron2 reads."""

import logging
import pathlib
import pickle
from typing import Any

from fvcore.common.checkpoint import Checkpointer
from iopath.common.file_io import HTTPURLHandler, PathManager
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smmcl.d2.builtin import comm

_FILES = PathManager()
_FILES.register_handler(HTTPURLHandler())


class DetectionCheckpointer(Checkpointer):
    """Saves and loads a model and whatever else has a state.

    Reads .pth files and the .pkl files of Detectron2's model zoo; what those need to be matched by
    guesses (`matching_heuristics`) is left to Detectron2.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        """Args:
        model: the model; one inside DistributedDataParallel is unwrapped.
        save_dir: folder of the checkpoints; "" for none.
        save_to_disk: whether `save` writes; by default on the main process only.
        checkpointables: further objects with `state_dict()`, by the key they are saved under.
        """
        is_writer = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=is_writer, **checkpointables)
        self.path_manager = _FILES

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a file; what does not fit is logged, not raised.

        Args:
            path: path or URL; "" loads nothing.
            args: as for fvcore's `Checkpointer.load`.
            kwargs: as for fvcore's `Checkpointer.load`.
        """
        logger = logging.getLogger("detectron2.checkpoint.detection_checkpoint")
        logger.info(f"[DetectionCheckpointer] Loading from {path} ...")
        if path and isinstance(self.model, DistributedDataParallel):
            path = self.path_manager.get_local_path(path)
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        suffix = pathlib.PurePath(filename).suffix
        if suffix == ".pkl":
            with self.path_manager.open(filename, "rb") as file:
                loaded = pickle.load(file, encoding="latin1")
        else:
            loaded = super()._load_file(filename)
            loaded = loaded if "model" in loaded else {"model": loaded}
        if suffix == ".pyth" or "model" not in loaded or loaded.get("matching_heuristics"):
            raise ValueError(
                f"'{filename}' names its weights in another way than the model does, and only "
                "Detectron2 (SMMCL_ENGINE=detectron2) matches them by guesses. Convert the file "
                "with tools/convert_weights.py, or load it there and save it again."
            )
        return loaded
