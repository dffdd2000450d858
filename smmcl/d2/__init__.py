"""The door to Detectron2: the names this project is written against, from either engine.

Detectron2 is used where it is installed, the small engine in `builtin/` elsewhere; the choice is
made once, at import. `SMMCL_ENGINE=detectron2` or `=builtin` overrules it.
"""

import importlib
import importlib.util
import os
from typing import Any

# The whole door, by what the names are for. The drawing ones load when first asked for: they need
# matplotlib and OpenCV, which training does not.
_NAMES = (
    "CfgNode get_cfg configurable "
    "DatasetCatalog MetadataCatalog get_detection_dataset_dicts build_detection_train_loader "
    "build_detection_test_loader TrainingSampler InferenceSampler "
    "ImageList ShapeSpec get_norm META_ARCH_REGISTRY BACKBONE_REGISTRY SEM_SEG_HEADS_REGISTRY "
    "Backbone build_model build_backbone build_sem_seg_head sem_seg_postprocess "
    "get_default_optimizer_params maybe_add_gradient_clipping LRMultiplier WarmupParamScheduler "
    "DefaultTrainer SimpleTrainer AMPTrainer HookBase hooks create_ddp_model "
    "default_argument_parser default_setup default_writers launch "
    "DatasetEvaluator DatasetEvaluators inference_on_dataset print_csv_format verify_results "
    "DetectionCheckpointer comm setup_logger "
    "EventStorage JSONWriter get_event_storage has_event_storage"
).split()
_DRAWING_NAMES = ("Visualizer", "ColorMode")

__all__ = ["ENGINE", "ENGINE_VERSION", *_NAMES, *_DRAWING_NAMES]  # noqa: PLE0604


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
        engine = importlib.import_module("smmcl.d2.upstream")
    except Exception as error:  # an old release fails in many ways, not by ImportError alone
        raise ImportError(
            f"Detectron2 is installed, but importing it failed with {type(error).__name__}: "
            f"{error}. Repair it, {way_out}"
        ) from error
    # Release v0.6 of 2021 and today's main branch both say 0.6; only main has this key, added
    # after its repairs for numpy 1.24, Pillow 10 and numpy 2.
    if "FLOAT32_PRECISION" not in engine.get_cfg():
        raise ImportError(
            f"Detectron2 {engine.__version__} is installed in its release of 2021, which does not "
            f"run with today's numpy and Pillow. Install its main branch, {way_out}"
        )
    return engine


ENGINE: str = _choose_engine()
_engine = (
    _load_detectron2()
    if ENGINE == "detectron2"
    else importlib.import_module("smmcl.d2.builtin")
)
ENGINE_VERSION: str = _engine.__version__
globals().update({name: getattr(_engine, name) for name in _NAMES})


def __getattr__(name: str) -> Any:
    if name in _DRAWING_NAMES:
        home = "detectron2.utils" if ENGINE == "detectron2" else "smmcl.d2.builtin"
        return getattr(importlib.import_module(f"{home}.visualizer"), name)
    raise AttributeError(
        f"smmcl.d2 has no '{name}': this project is written against {len(__all__)} names of "
        "Detectron2 only, listed in smmcl/d2/__init__.py. Where Detectron2 is installed, import "
        f"'{name}' from detectron2 itself."
    )
