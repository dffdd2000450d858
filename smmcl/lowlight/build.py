"""Parts of the companions by their names in a config."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from smmcl.d2 import CfgNode, DatasetCatalog
from smmcl.data.appearance.photometric import LIGHTS
from smmcl.data.loader import Record, extends_training
from smmcl.files.pairing import find_images, match_pairs
from smmcl.inference.named_model import check_features, load_relighter
from smmcl.inference.relight import Relit
from smmcl.lowlight import regions
from smmcl.lowlight.relight import ExposureView, GammaView, RelightView, StoredView, ViewSource
from smmcl.modeling.contrastive.momentum import MomentumAlignment, align_features

NIGHT = re.compile(r"(^|[^a-z])(night|dark|unlit)([^a-z]|$)")  # in names of sets, tasks and tags


def choose(choices: dict[str, Callable], name: str, key: str) -> Callable:
    if name not in choices:
        raise ValueError(f"MODEL.LIGHT_ADAPTER.{key} is {name!r}. Choose {', '.join(choices)}.")
    return choices[name]


def _relit(path: str, key: str, **options: Any) -> RelightView:
    return RelightView(load_relighter(path, source=key, options=options).cpu(), **options)


def build_view(cfg: CfgNode) -> ViewSource:
    node, key = cfg.MODEL.LIGHT_ADAPTER.VIEW, "MODEL.LIGHT_ADAPTER.VIEW.CHECKPOINT"
    sources = {
        "gamma": lambda: GammaView(*node.GAMMA),
        "exposure": lambda: ExposureView(tuple(node.STOPS), node.PHOTONS),
        "darkener": lambda: _relit(node.CHECKPOINT, key, exposure=tuple(node.BRIGHTNESS)),
        "stored": StoredView,
    }
    return choose(sources, node.NAME, "VIEW.NAME")()


def build_night_view(cfg: CfgNode) -> ViewSource | None:
    node = cfg.MODEL.LIGHT_ADAPTER.NIGHT
    if node.ENHANCER:
        return _relit(node.ENHANCER, "MODEL.LIGHT_ADAPTER.NIGHT.ENHANCER")
    return StoredView() if node.FOLDER else None


def build_darkening(cfg: CfgNode) -> Relit:
    """INPUT.LOW_LIGHT by a trained darkener, at exposures as stage 2 of the paper draws them."""
    if cfg.INPUT.FORMAT != "RGB":
        raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}. A darkener needs 'RGB'.")
    path, options = cfg.INPUT.LOW_LIGHT.CHECKPOINT, {"exposure": (0.0, 0.2)}
    model = load_relighter(path, source="INPUT.LOW_LIGHT.CHECKPOINT", options=options)
    return Relit(cfg.INPUT.LOW_LIGHT.PROBABILITY, model.cpu(), options)


LIGHTS["darkener"] = build_darkening


def build_mask(cfg: CfgNode) -> regions.MaskSource | None:
    node = cfg.MODEL.LIGHT_ADAPTER.MASK
    saliency, blocks = regions.SaliencyMask(node.QUANTILE), regions.BlockMask()
    sources = {
        "saliency": lambda: saliency,
        "auxiliary": lambda: regions.AuxiliaryMask(node.QUANTILE),
        "labels": lambda: regions.LabelMask(tuple(node.CLASSES)),
        "blocks": lambda: blocks,
        "wiid": lambda: regions.RandomMask((saliency, blocks), (0.1, 0.6)),
    }
    return choose(sources, node.NAME, "MASK.NAME")() if node.NAME else None


def build_momentum(cfg: CfgNode, model: nn.Module) -> MomentumAlignment | None:
    node = cfg.MODEL.LIGHT_ADAPTER.MOMENTUM
    if not node.WEIGHT:
        return None
    check_features(model, [*node.FEATURES, *node.KEY_FEATURES], "MODEL.LIGHT_ADAPTER.MOMENTUM")
    return align_features(
        model,
        node.FEATURES,
        keys=node.KEY_FEATURES,
        direction=node.DIRECTION,
        momentum=node.DECAY,
    )


def check_adaptation(cfg: CfgNode) -> None:
    """Raises when night decides which checkpoint is best, or what a term reads is not there."""
    metric, night = cfg.TEST.BEST_METRIC, cfg.MODEL.LIGHT_ADAPTER.NIGHT
    sets = [name for name in cfg.DATASETS.TEST if metric.startswith(f"{name}/")]
    name = next(iter([*sets, *cfg.DATASETS.TEST]), "")
    records = DatasetCatalog.get(name) if name and metric else ()
    tags = {tag for record in records for tag in record.get("tags", ())}
    is_of_day = re.search(r"_day/", metric)
    is_dark = any(NIGHT.search(tag) for tag in tags) and not is_of_day
    if metric and (NIGHT.search(metric.replace("_", " ")) or NIGHT.search(name) or is_dark):
        raise ValueError(
            f"TEST.BEST_METRIC {metric!r} would choose a checkpoint by the labels of night pairs "
            f"of {name}. Choose by day pairs, such as 'sem_seg_day/mIoU', or leave it empty."
        )
    if cfg.INPUT.FORMAT != "RGB":
        raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}. Low-light training needs 'RGB'.")
    if night.WEIGHT and not cfg.DATASETS.UNLABELED:
        raise ValueError(
            "MODEL.LIGHT_ADAPTER.NIGHT.WEIGHT is set, but DATASETS.UNLABELED is empty. Name sets "
            "of night pairs there, or set the weight to 0."
        )


@extends_training
def add_stored_views(cfg: CfgNode, records: list[Record], beside: dict[str, Dataset]) -> None:
    """Names the images of the adapter's folders in the records that they belong to."""
    if cfg.MODEL.META_ARCHITECTURE != "LightAdapter":
        return
    node = cfg.MODEL.LIGHT_ADAPTER
    if node.VIEW.NAME == "stored":
        _add_stored(records, node.VIEW.FOLDER)
    if node.NIGHT.FOLDER and "unlabeled" in beside:
        _add_stored(beside["unlabeled"].records, node.NIGHT.FOLDER)


def _add_stored(records: list[Record], folder: str) -> None:
    visible = [Path(record["file_name"]) for record in records]
    pairs = match_pairs(visible, find_images(folder))
    for record, (_, path) in zip(records, pairs, strict=True):
        record["further_file_names"] = {StoredView.key: str(path)}
