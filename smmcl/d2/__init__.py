"""The door to Detectron2: the names this project is written against, from either engine.

Detectron2 is used where it is installed, the small engine in `builtin/` elsewhere; the choice is
made once, at import. `SMMCL_ENGINE=detectron2` or `=builtin` overrules it.
"""

import importlib
import importlib.util
import os
from typing import Any

# The whole door, by the module of the embedded engine that has the names; upstream.py knows where
# Detectron2 keeps them.
NAMES = {
    "config": "CfgNode get_cfg configurable",
    "data": "DatasetCatalog MetadataCatalog TrainingSampler InferenceSampler "
    "build_detection_train_loader build_detection_test_loader",
    "modeling": "ShapeSpec ImageList get_norm Backbone META_ARCH_REGISTRY BACKBONE_REGISTRY "
    "SEM_SEG_HEADS_REGISTRY build_model build_backbone build_sem_seg_head sem_seg_postprocess",
    "solver": "get_default_optimizer_params maybe_add_gradient_clipping LRMultiplier "
    "WarmupParamScheduler",
    "train_loop": "HookBase SimpleTrainer AMPTrainer",
    "default_trainer": "DefaultTrainer DetectionCheckpointer create_ddp_model default_writers",
    "evaluation": "DatasetEvaluator DatasetEvaluators inference_on_dataset print_csv_format "
    "verify_results",
    "events": "EventStorage JSONWriter get_event_storage has_event_storage",
    "launch": "default_argument_parser default_setup launch setup_logger",
    "visualizer": "Visualizer ColorMode",
}
MODULES = ("comm", "hooks")
__all__ = ["ENGINE", "ENGINE_VERSION", *MODULES, *" ".join(NAMES.values()).split()]


def _choose_engine() -> str:
    """Returns "detectron2" or "builtin": what the environment says, else what is installed."""
    choice = os.environ.get("SMMCL_ENGINE", "")
    if choice not in ("", "detectron2", "builtin"):
        raise ValueError(
            f"SMMCL_ENGINE is '{choice}'. Set it to 'detectron2' or 'builtin', or leave it unset "
            "to use Detectron2 where it is installed."
        )
    # A clone of its repository in the working directory is found as well, but as a namespace
    # package, without an origin.
    spec = importlib.util.find_spec("detectron2")
    is_installed = spec is not None and bool(spec.origin)
    if choice == "detectron2" and not is_installed:
        raise ImportError(
            "SMMCL_ENGINE is 'detectron2', but Detectron2 is not installed. Install it, or set "
            "SMMCL_ENGINE=builtin to run on the embedded engine."
        )
    return choice or ("detectron2" if is_installed else "builtin")


def _load_detectron2() -> Any:
    """Imports Detectron2; one that is broken or of 2021 is refused, never replaced in silence."""
    way_out = "or set SMMCL_ENGINE=builtin to run on the embedded engine."
    try:
        upstream = importlib.import_module("smmcl.d2.upstream")
    except Exception as error:  # an old release fails in many ways, not by ImportError alone
        raise ImportError(
            f"Detectron2 is installed, but importing it failed with {type(error).__name__}: "
            f"{error}. Repair it, {way_out}"
        ) from error
    # Release v0.6 of 2021 and today's main branch both say 0.6; only main has this key, added
    # after its repairs for numpy 1.24, Pillow 10 and numpy 2.
    if "FLOAT32_PRECISION" not in upstream.get_cfg():
        raise ImportError(
            f"Detectron2 {upstream.__version__} is installed in its release of 2021, which does "
            f"not run with today's numpy and Pillow. Install its main branch, {way_out}"
        )
    return upstream


ENGINE: str = _choose_engine()
if ENGINE == "detectron2":
    _upstream = _load_detectron2()
    ENGINE_VERSION: str = f"{_upstream.__version__} main"  # not the release of the same number
else:
    ENGINE_VERSION = importlib.import_module("smmcl.d2.builtin").__version__


def __getattr__(name: str) -> Any:
    """Fetches a name at its first use, since what one does not use may need more libraries."""
    if name not in __all__:
        raise AttributeError(
            f"smmcl.d2 has no '{name}': this project is written against {len(__all__)} names of "
            "Detectron2 only, listed in smmcl/d2/__init__.py. Where Detectron2 is installed, "
            f"import '{name}' from detectron2 itself."
        )
    if ENGINE == "detectron2":
        found = getattr(_upstream, name)
    elif name in MODULES:
        found = importlib.import_module(f"smmcl.d2.builtin.{name}")
    else:
        home = next(module for module, names in NAMES.items() if name in names.split())
        found = getattr(importlib.import_module(f"smmcl.d2.builtin.{home}"), name)
    globals()[name] = found
    return found
