"""The embedded engine: the names of the door on fvcore, iopath, yacs and torch alone."""

from smmcl.d2.builtin import comm, hooks
from smmcl.d2.builtin.amp import AMPTrainer
from smmcl.d2.builtin.catalog import DatasetCatalog, MetadataCatalog
from smmcl.d2.builtin.checkpoint import DetectionCheckpointer
from smmcl.d2.builtin.config import CfgNode, configurable, get_cfg
from smmcl.d2.builtin.default_trainer import DefaultTrainer, create_ddp_model, default_writers
from smmcl.d2.builtin.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from smmcl.d2.builtin.events import (
    EventStorage,
    JSONWriter,
    get_event_storage,
    has_event_storage,
)
from smmcl.d2.builtin.launch import default_argument_parser, default_setup, launch
from smmcl.d2.builtin.loaders import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from smmcl.d2.builtin.logger import setup_logger
from smmcl.d2.builtin.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    ImageList,
    ShapeSpec,
    build_backbone,
    build_model,
    build_sem_seg_head,
    get_norm,
    sem_seg_postprocess,
)
from smmcl.d2.builtin.samplers import InferenceSampler, TrainingSampler
from smmcl.d2.builtin.solver import (
    LRMultiplier,
    WarmupParamScheduler,
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
)
from smmcl.d2.builtin.train_loop import HookBase, SimpleTrainer

__version__ = "0.6 of 02b5c4e2"  # the Detectron2 whose recorded behaviour it is tested against
