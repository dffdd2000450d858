"""One import for a script of Detectron2's: `import smmcl.register` brings the datasets and parts.

The sets are in `DatasetCatalog` afterwards, the parts in Detectron2's registries. The names below
are what such a script uses; docs/detectron2.md shows each in its place.
"""

import logging

from smmcl.config import add_smmcl_config, find_config
from smmcl.d2 import CfgNode
from smmcl.data.datasets.build import ensure_registered, register_builtin
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.engine.setup import PARTS, changed, load_streams, with_iterations
from smmcl.engine.solver import build_lr_scheduler, build_optimizer
from smmcl.evaluation.sem_seg import PairSemSegEvaluator

__all__ = [
    "PARTS",
    "MultiModalDatasetMapper",
    "PairSemSegEvaluator",
    "add_smmcl_config",
    "build_lr_scheduler",
    "build_optimizer",
    "ensure_registered",
    "find_config",
    "load_streams",
    "with_iterations",
    "with_stock_schedule",
]

register_builtin()


def with_stock_schedule(cfg: CfgNode) -> CfgNode:
    """The config for a trainer that keeps Detectron2's own `build_lr_scheduler`.

    That one knows no polynomial decay; a cosine takes its place.
    """
    if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return cfg
    logging.getLogger(__name__).warning(
        "Detectron2 has no WarmupPolyLR: WarmupCosineLR takes its place. For the config's own "
        "schedule, give the trainer build_lr_scheduler = staticmethod(sm.build_lr_scheduler)."
    )
    return changed(cfg, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR")
