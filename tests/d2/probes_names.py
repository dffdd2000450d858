"""Probes of the door's names: what they are called with, and what they raise when misused."""

import inspect
import pathlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import smmcl.d2 as d2

# Methods that the embedded engine has, beside `__init__`; Detectron2's classes have more.
METHODS = {
    "CfgNode": "merge_from_file merge_from_list merge_from_other_cfg clone freeze is_frozen",
    "ShapeSpec": "",
    "ImageList": "from_tensors",
    "LRMultiplier": "state_dict get_lr",
    "HookBase": "before_train after_train before_step after_backward after_step state_dict",
    "SimpleTrainer": "register_hooks train run_step state_dict load_state_dict reset_data_loader "
    "write_metrics",
    "DefaultTrainer": "resume_or_load build_hooks build_writers train run_step state_dict "
    "load_state_dict test",
    "DetectionCheckpointer": "save resume_or_load has_checkpoint get_checkpoint_file "
    "tag_last_checkpoint add_checkpointable",
    "DatasetEvaluator": "reset process evaluate",
    "EventStorage": "step put_scalar put_scalars history histories latest "
    "latest_with_smoothing_hint count_samples",
    "Visualizer": "draw_sem_seg",
}
FUNCTIONS = (
    "get_cfg configurable build_detection_train_loader build_detection_test_loader build_model "
    "build_backbone build_sem_seg_head sem_seg_postprocess get_default_optimizer_params "
    "maybe_add_gradient_clipping create_ddp_model verify_results get_event_storage "
    "has_event_storage default_argument_parser default_setup setup_logger"
)
HOOKS = "IterationTimer LRScheduler PeriodicCheckpointer EvalHook PeriodicWriter"
COMM = (
    "get_world_size get_rank is_main_process create_local_process_group get_local_rank "
    "synchronize all_gather gather shared_random_seed"
)
OBJECTS = {
    "DatasetCatalog": "register get list remove",
    "MetadataCatalog": "get list remove",
    "Backbone": "output_shape",
}


def raised(function: Callable, *args: Any, **kwargs: Any) -> str:
    """The name of what a call raises; "" for nothing."""
    try:
        function(*args, **kwargs)
    except (Exception, SystemExit) as error:
        return type(error).__name__
    return ""


def signature(function: Callable) -> list[str]:
    """Each parameter as "name", "name=default", "*args" or "**kwargs", with "*" and no types."""
    parameters = inspect.signature(function).parameters.values()
    bare = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
    text = str(inspect.Signature(bare))
    return text[1:-1].split(", ")


def observe_signatures(folder: pathlib.Path) -> dict[str, Any]:
    found = {}
    for name in FUNCTIONS.split():
        found[name] = signature(getattr(d2, name))
    for owner, names in [*METHODS.items(), *OBJECTS.items()]:
        if owner in METHODS:
            found[owner] = signature(getattr(d2, owner))
        for name in names.split():
            found[f"{owner}.{name}"] = signature(getattr(getattr(d2, owner), name))
    for name in HOOKS.split():
        found[f"hooks.{name}"] = signature(getattr(d2.hooks, name))
    for name in COMM.split():
        found[f"comm.{name}"] = signature(getattr(d2.comm, name))
    return found


def observe_command_line(folder: pathlib.Path) -> dict[str, Any]:
    parser = d2.default_argument_parser()
    given = parser.parse_args(["--num-gpus", "2", "--resume", "MODEL.DEVICE", "cpu", "SEED", "1"])
    defaults = vars(parser.parse_args([]))
    assert defaults["dist_url"].startswith("tcp://127.0.0.1:")
    return {"defaults": {**defaults, "dist_url": "tcp"}, "given": {**vars(given), "dist_url": 0}}


def observe_alone(folder: pathlib.Path) -> dict[str, Any]:
    comm, model = d2.comm, nn.Linear(1, 1)
    return {
        "sizes": [comm.get_world_size(), comm.get_rank(), comm.get_local_rank()],
        "main": comm.is_main_process(),
        "gathered": [comm.all_gather({"a": 1}), comm.gather("b")],
        "barrier": comm.synchronize(),
        "ddp is the model": d2.create_ddp_model(model, broadcast_buffers=False) is model,
    }


class _PlainBackbone(d2.Backbone):
    def __init__(self) -> None:
        super().__init__()
        self._out_features = ["res2", "res5"]
        self._out_feature_channels = {"res2": 8, "res5": 64}
        self._out_feature_strides = {"res2": 4, "res5": 32}

    def forward(self) -> None: ...


def observe_building(folder: pathlib.Path) -> dict[str, Any]:
    calls = []

    def probe_backbone(cfg: Any, input_shape: Any) -> Any:
        calls.append(repr(input_shape))
        return _PlainBackbone()

    def probe_head(cfg: Any, input_shape: Any) -> Any:
        calls.append({name: repr(shape) for name, shape in input_shape.items()})
        return nn.Identity()

    def probe_architecture(cfg: Any) -> Any:
        return nn.Linear(2, 2)

    registered = {
        d2.BACKBONE_REGISTRY: probe_backbone,
        d2.SEM_SEG_HEADS_REGISTRY: probe_head,
        d2.META_ARCH_REGISTRY: probe_architecture,
    }
    for registry, item in registered.items():
        registry.register(item)
    cfg = d2.get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0, 4.0]])
    cfg.MODEL.BACKBONE.NAME = "probe_backbone"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "probe_head"
    cfg.MODEL.META_ARCHITECTURE = "probe_architecture"
    backbone = d2.build_backbone(cfg)
    head = d2.build_sem_seg_head(cfg, backbone.output_shape())
    model = d2.build_model(cfg)
    errors = {
        "twice": raised(d2.META_ARCH_REGISTRY.register, probe_architecture),
        "missing": raised(d2.META_ARCH_REGISTRY.get, "nobody"),
        "abstract": raised(d2.Backbone),
    }
    for registry, item in registered.items():
        del registry._obj_map[item.__name__]
    return {
        "calls": calls,
        "types": [type(backbone).__name__, type(head).__name__, type(model).__name__],
        "device": str(next(model.parameters()).device),
        "divisibility": backbone.size_divisibility,
        "errors": errors,
    }


def observe_image_lists(folder: pathlib.Path) -> dict[str, Any]:
    images = [torch.arange(1.0, 31.0).view(1, 5, 6), torch.arange(1.0, 29.0).view(1, 4, 7)]
    labels = [torch.zeros(5, 6, dtype=torch.int64), torch.ones(3, 3, dtype=torch.int64)]
    square = {"size_divisibility": 4, "square_size": 9}
    cases = {
        "plain": d2.ImageList.from_tensors(images),
        "divisible": d2.ImageList.from_tensors(images, 4, pad_value=-1.0),
        "one": d2.ImageList.from_tensors(images[:1], 8),
        "square": d2.ImageList.from_tensors(images, padding_constraints=square),
        "labels": d2.ImageList.from_tensors(labels, 4, pad_value=255),
    }
    found = {
        name: {
            "shape": list(case.tensor.shape),
            "dtype": str(case.tensor.dtype),
            "sum": float(case.tensor.double().sum()),
            "corner": float(case.tensor.flatten()[-1]),
            "sizes": case.image_sizes,
            "items": [list(case[i].shape) for i in range(len(case))],
        }
        for name, case in cases.items()
    }
    return {**found, "mixed": raised(d2.ImageList.from_tensors, [images[0], labels[0]])}


def observe_postprocessing(folder: pathlib.Path) -> list[float]:
    scores = torch.arange(2 * 4 * 5, dtype=torch.float64).view(2, 4, 5).sin()
    return d2.sem_seg_postprocess(scores, (3, 4), 5, 7).flatten().tolist()


def observe_drawing(folder: pathlib.Path) -> dict[str, Any]:
    metadata = d2.MetadataCatalog.get("probe_drawing")
    metadata.set(stuff_classes=["floor", "wall"], stuff_colors=[(200, 30, 30), (20, 80, 240)])
    image = torch.arange(128 * 192 * 3).remainder(200).view(128, 192, 3).byte().numpy()
    labels = torch.zeros(128, 192, dtype=torch.int64)
    labels[:64] = 1
    labels[96:, 144:] = 255  # ignored: stays as it is
    drawn = d2.Visualizer(image, metadata).draw_sem_seg(labels, draw_text=False)
    picture = drawn.get_image()
    tiles = torch.from_numpy(picture.copy()).double().view(4, 32, 6, 32, 3).mean(dim=(1, 3))
    d2.MetadataCatalog.remove("probe_drawing")
    return {
        "shape": list(picture.shape),
        "dtype": str(picture.dtype),
        "tiles": tiles.tolist(),
        "modes": [mode.name for mode in d2.ColorMode],
    }
