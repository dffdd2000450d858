"""A step for a small device: in parts, in a lower precision, compiled, each where asked."""

import contextlib
import logging
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from smmcl.d2 import CfgNode, SimpleTrainer, comm
from smmcl.engine.checkpoint import write_tensors
from smmcl.engine.deployed import bare

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

logger = logging.getLogger(__name__)


class StepTrainer(SimpleTrainer):
    """`SimpleTrainer` for a small device: a batch goes through it in parts, or in fewer bits.

    A step of several parts is that of the whole batch: the losses of the parts are averaged, as
    those of processes are, and each pair carries what its sum over pixels is divided by. Only what
    looks across the images of a batch sees less: batch norm in training, and contrast.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        num_parts: int = 1,
        dtype: torch.dtype | None = None,
        folder: str = "",
    ) -> None:
        """
        Args:
            model: bare or wrapped for several processes; above one part, its `with_divisor` is
                given the whole batch, if it has one.
            data_loader: gives this process's share of a step's batch, a multiple of `num_parts`.
            optimizer: of the model.
            num_parts: forward and backward passes per step.
            dtype: of autocast; float16 scales the loss, None leaves float32 alone.
            folder: gets the batch whose loss is not finite; "" keeps none.
        """
        super().__init__(model, data_loader, optimizer)
        self.num_parts = num_parts
        self.dtype = dtype
        self.folder = folder
        self.batch: list[dict[str, Any]] | None = None  # of the next step, once it is read
        self.failure: Exception | None = None  # why there is none
        self.data_time = 0.0
        self.device_type = next(model.parameters()).device.type
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=dtype is torch.float16)

    def read_ahead(self) -> None:
        """Reads the batch of the next step; what fails is kept for it, or for a hook before it."""
        if self.batch is not None or self.failure:
            return
        start = time.perf_counter()
        try:
            self.batch = next(self._data_loader_iter)
        except Exception as error:
            self.failure = error
        self.data_time = time.perf_counter() - start

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        self.batch = self.failure = None
        super().reset_data_loader(data_loader_builder)

    def run_step(self) -> None:
        assert self.model.training, "the model was left in evaluation mode"
        self.read_ahead()
        if self.failure:
            raise self.failure
        batch, self.batch = self.batch, None
        with self._explaining_memory(len(batch)):
            self._update(batch)
        self.read_ahead()

    def _update(self, batch: list[dict[str, Any]]) -> None:
        self.optimizer.zero_grad()
        losses = self._accumulate(batch)
        self._check_finite(losses, batch)
        self.after_backward()
        self.write_metrics(losses, self.data_time, self.iter)
        self.scaler.unscale_(self.optimizer)  # its step may begin by clipping gradients
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _check_finite(self, losses: dict[str, Tensor], batch: list[dict[str, Any]]) -> None:
        """Raises over the first loss that is not finite, and keeps the batch that gave it."""
        values = {name: loss.item() for name, loss in losses.items()}
        wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if not wrong:
            return
        files = [str(pair["file_name"]) for pair in batch if "file_name" in pair]
        saved = pathlib.Path(self.folder) / f"non_finite_batch_rank{comm.get_rank()}.pth"
        if self.folder:
            write_tensors(saved, {"iteration": self.iter, "losses": values, "batch": batch})
        was_finite = all(value.isfinite().all() for value in bare(self.model).parameters())
        raise FloatingPointError(
            f"{' and '.join(wrong)} in iteration {self.iter}, of {', '.join(files)}. "
            + (f"{saved} holds the batch. " if self.folder else "")
            + ("" if was_finite else "The weights are not finite either, since a step before. ")
            + "Lower SOLVER.BASE_LR, raise SOLVER.WARMUP_ITERS, or set "
            "SOLVER.CLIP_GRADIENTS.ENABLED True"
            + (", SOLVER.AMP.DTYPE bfloat16 or SOLVER.AMP.ENABLED False" if self.dtype else "")
            + "; --resume goes on from the last checkpoint."
        )

    @contextlib.contextmanager
    def _explaining_memory(self, num_pairs: int) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"the {self.device_type} device ran out of memory in iteration {self.iter} with "
                f"{num_pairs // self.num_parts} pairs at once: {str(error).splitlines()[0]} Raise "
                f"SOLVER.ACCUMULATION (now {self.num_parts}), lower SOLVER.IMS_PER_BATCH or "
                "INPUT.CROP_SIZE, or set MODEL.PAIR.RECOMPUTE or SOLVER.AMP.ENABLED to True."
            ) from error

    def _accumulate(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Adds up the gradients of the batch; returns its losses, means over the parts."""
        size = len(batch) // self.num_parts
        if self.num_parts > 1 and hasattr(bare(self.model), "with_divisor"):
            batch = bare(self.model).with_divisor(batch, num_parts=self.num_parts)
        means: dict[str, Tensor] = {}
        for start in range(0, len(batch), size):
            is_last = start + size == len(batch)
            # Processes exchange gradients once a step, after the last part.
            with contextlib.nullcontext() if is_last else unsynchronised(self.model):
                with torch.autocast(self.device_type, self.dtype, enabled=bool(self.dtype)):
                    losses = self.model(batch[start : start + size])
                losses = {name: loss / self.num_parts for name, loss in losses.items()}
                self.scaler.scale(sum(losses.values())).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss.detach()
        return means

    def state_dict(self) -> dict[str, Any]:
        scale = self.scaler.state_dict()
        return {**super().state_dict(), **({"grad_scaler": scale} if scale else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if "grad_scaler" in state_dict:
            self.scaler.load_state_dict(state_dict["grad_scaler"])
        elif self.scaler.is_enabled():
            logger.info("The checkpoint is of a run without loss scaling: the scale starts anew")


def build_step_trainer(
    cfg: CfgNode, model: nn.Module, loader: Iterable, optimizer: torch.optim.Optimizer
) -> StepTrainer:
    """Builds the trainer of SOLVER.ACCUMULATION and SOLVER.AMP."""
    num_parts, pairs = cfg.SOLVER.ACCUMULATION, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    if num_parts < 1 or pairs % num_parts:
        raise ValueError(
            f"SOLVER.ACCUMULATION is {num_parts} but each of {comm.get_world_size()} processes has "
            f"{pairs} pairs a step (SOLVER.IMS_PER_BATCH). Set it to 1 or another divisor of that."
        )
    if num_parts > 1:
        logger.info(
            f"A step of {pairs} pairs a process goes through in {num_parts} parts of "
            f"{pairs // num_parts}; batch norm and the contrastive branch see one part at a time"
        )
    dtype = amp_dtype(cfg) if cfg.SOLVER.AMP.ENABLED else None
    if dtype:
        logger.info(f"Mixed precision in training: {dtype}")
    return StepTrainer(
        model, loader, optimizer, num_parts=num_parts, dtype=dtype, folder=cfg.OUTPUT_DIR
    )


def amp_dtype(cfg: CfgNode) -> torch.dtype:
    """What SOLVER.AMP.DTYPE says, or "auto": bfloat16, but float16 on GPUs before Ampere.

    Those compute bfloat16 by emulation, slowly, which torch counts as supporting it.
    """
    name = cfg.SOLVER.AMP.DTYPE
    if name == "auto":
        is_gpu = cfg.MODEL.DEVICE.startswith("cuda")
        is_old = is_gpu and torch.cuda.get_device_capability(cfg.MODEL.DEVICE)[0] < 8
        name = "float16" if is_old else "bfloat16"
    return DTYPES[name]


def compile_backbone(cfg: CfgNode, model: nn.Module) -> None:
    """Compiles in place by MODEL.COMPILE, so that names stay; what cannot be is an error."""
    backend = cfg.MODEL.COMPILE
    known = ["", *torch.compiler.list_backends(exclude_tags=())]
    if backend not in known:
        raise ValueError(f"MODEL.COMPILE is {backend!r}. Set it to one of {known}.")
    if backend and cfg.MODEL.PAIR.RECOMPUTE:
        raise ValueError("MODEL.COMPILE cannot compile MODEL.PAIR.RECOMPUTE. Choose one of them.")
    if backend:
        model.backbone.compile(backend=backend, fullgraph=True)
        logger.info(f"{backend} compiles the backbone at its first call, and for new sizes")


def unsynchronised(model: nn.Module) -> contextlib.AbstractContextManager:
    """Keeps the gradients of a model to this process, where there are others."""
    is_wrapped = isinstance(model, DistributedDataParallel)
    return model.no_sync() if is_wrapped else contextlib.nullcontext()
