"""One import for a script of Detectron2's: `import smmcl.register` brings the datasets and parts.

The sets are in `DatasetCatalog` afterwards, the parts in Detectron2's registries. The names below
are what such a script uses; docs/detectron2.md shows each in its place.
"""

from smmcl.config import add_smmcl_config, find_config
from smmcl.data.datasets.build import ensure_registered, register_builtin
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.engine.setup import PARTS, load_streams, with_iterations
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
]

register_builtin()
