"""The door to Detectron2: the names this project is written against, from either engine.

Detectron2 is used where it is installed, the small engine in `builtin/` elsewhere. The choice is
made once, at import; `SMMCL_ENGINE=detectron2` or `SMMCL_ENGINE=builtin` overrides it.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator

from smmcl.d2 import builtin

WAY_OUT = "or set SMMCL_ENGINE=builtin to run on the embedded engine."


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
            f"SMMCL_ENGINE is 'detectron2', but Detectron2 is not installed. Install it, {WAY_OUT}"
        )
    return choice or ("detectron2" if is_installed else "builtin")


@contextlib.contextmanager
def _explaining_failures() -> Iterator[None]:
    """A Detectron2 that cannot be imported is an error, and never replaced in silence."""
    try:
        yield
    except Exception as error:  # an old release fails in many ways, not by ImportError alone
        name = (getattr(error, "name", None) or "detectron2").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and name != "detectron2":
            package = "opencv-python-headless" if name == "cv2" else name
            raise ImportError(
                f"Detectron2 needs the module '{name}', which is not installed. Install it with "
                f"`pip install {package}`, {WAY_OUT}"
            ) from error
        raise ImportError(
            f"Detectron2 is installed, but importing it failed with {type(error).__name__}: "
            f"{error}. Repair it, {WAY_OUT}"
        ) from error


ENGINE: str = _choose_engine()
if ENGINE == "detectron2":
    with _explaining_failures():
        from detectron2 import __version__
        from detectron2.checkpoint import DetectionCheckpointer
        from detectron2.config import CfgNode, configurable, get_cfg
        from detectron2.data import (
            DatasetCatalog,
            MetadataCatalog,
            build_detection_test_loader,
            build_detection_train_loader,
        )
        from detectron2.engine import (
            DefaultTrainer,
            HookBase,
            SimpleTrainer,
            create_ddp_model,
            default_argument_parser,
            default_setup,
            hooks,
        )
        from detectron2.evaluation import DatasetEvaluator, verify_results
        from detectron2.layers import ShapeSpec
        from detectron2.modeling import (
            BACKBONE_REGISTRY,
            META_ARCH_REGISTRY,
            SEM_SEG_HEADS_REGISTRY,
            Backbone,
            build_backbone,
            build_model,
            build_sem_seg_head,
        )
        from detectron2.modeling.postprocessing import sem_seg_postprocess
        from detectron2.solver import LRMultiplier, get_default_optimizer_params
        from detectron2.solver.build import maybe_add_gradient_clipping
        from detectron2.structures import ImageList
        from detectron2.utils import comm
        from detectron2.utils.events import (
            EventStorage,
            EventWriter,
            get_event_storage,
            has_event_storage,
        )
        from detectron2.utils.logger import setup_logger
        from detectron2.utils.visualizer import ColorMode, Visualizer
    # Release v0.6 of 2021 and today's main branch both say 0.6; only main has this key, added
    # after its repairs for NumPy 1.24, Pillow 10 and NumPy 2.
    if "FLOAT32_PRECISION" not in get_cfg():
        raise ImportError(
            f"Detectron2 {__version__} is installed in its release of 2021, which does not run "
            f"with today's NumPy and Pillow. Install its main branch, {WAY_OUT}"
        )
    ENGINE_VERSION: str = f"{__version__} main"  # not the release of the same number
else:
    from smmcl.d2.builtin import comm, hooks
    from smmcl.d2.builtin.config import CfgNode, configurable, get_cfg
    from smmcl.d2.builtin.data import (
        DatasetCatalog,
        MetadataCatalog,
        build_detection_test_loader,
        build_detection_train_loader,
    )
    from smmcl.d2.builtin.default_trainer import (
        DefaultTrainer,
        DetectionCheckpointer,
        create_ddp_model,
    )
    from smmcl.d2.builtin.evaluation import DatasetEvaluator, verify_results
    from smmcl.d2.builtin.events import (
        EventStorage,
        EventWriter,
        get_event_storage,
        has_event_storage,
    )
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
        sem_seg_postprocess,
    )
    from smmcl.d2.builtin.setup import default_argument_parser, default_setup, setup_logger
    from smmcl.d2.builtin.solver import (
        LRMultiplier,
        get_default_optimizer_params,
        maybe_add_gradient_clipping,
    )
    from smmcl.d2.builtin.train_loop import HookBase, SimpleTrainer
    from smmcl.d2.builtin.visualizer import ColorMode, Visualizer

    ENGINE_VERSION = builtin.__version__


def __getattr__(name: str) -> object:
    error = builtin.missing(name)
    # `from smmcl.d2 import X` looks for X, then drops an AttributeError and its text.
    is_import = sys._getframe(1).f_code.co_name == "_handle_fromlist"
    if is_import and importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise ImportError(str(error), name=__name__)
    raise error
