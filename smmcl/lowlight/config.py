"""The keys of the companions."""

from smmcl.config import extends_config
from smmcl.d2 import CfgNode


@extends_config
def add_lowlight_config(cfg: CfgNode) -> None:
    _C = cfg.MODEL
    _C.LIGHT_ADAPTER = CfgNode()
    # The model that is adapted: a meta-architecture with the five methods.
    _C.LIGHT_ADAPTER.META_ARCHITECTURE = "MultiModalSegmentor"
    # Weight of the task losses on the second view, relative to those on the first.
    _C.LIGHT_ADAPTER.DARK_WEIGHT = 1.0
    _C.LIGHT_ADAPTER.VIEW = CfgNode()
    # Source of the second view: "gamma", "exposure" (less light, and noise), or "stored".
    _C.LIGHT_ADAPTER.VIEW.NAME = "gamma"
    # Range of the exponent of "gamma", and of the powers of two of the light of "exposure".
    _C.LIGHT_ADAPTER.VIEW.GAMMA = [2.0, 6.0]
    _C.LIGHT_ADAPTER.VIEW.STOPS = [-5.0, -1.5]
    # Folder of "stored": images named like the visible ones of DATASETS.TRAIN.
    _C.LIGHT_ADAPTER.VIEW.FOLDER = ""
    # Momentum alignment of the two views: its weight (0 leaves it out), features, the features
    # that those predict in the other view ([]: the same), and "both", "from_day" or "from_dark".
    _C.LIGHT_ADAPTER.MOMENTUM = CfgNode()
    _C.LIGHT_ADAPTER.MOMENTUM.WEIGHT = 0.1
    _C.LIGHT_ADAPTER.MOMENTUM.FEATURES = ["res5"]
    _C.LIGHT_ADAPTER.MOMENTUM.KEY_FEATURES = []
    _C.LIGHT_ADAPTER.MOMENTUM.DIRECTION = "both"
    _C.LIGHT_ADAPTER.MOMENTUM.DECAY = 0.99
    # MMD between dark views and DATASETS.UNLABELED: its weight (0 leaves it out) and feature.
    _C.LIGHT_ADAPTER.NIGHT = CfgNode()
    _C.LIGHT_ADAPTER.NIGHT.WEIGHT = 0.0
    _C.LIGHT_ADAPTER.NIGHT.FEATURE = "res5"
    # Regions erased from both views: "", "saliency", "auxiliary", "labels", "blocks", or "wiid"
    # (saliency on 10 %, blocks on 60 % of the images). The share of the image that the first two
    # erase; the target classes, by index, that "labels" keeps.
    _C.LIGHT_ADAPTER.MASK = CfgNode()
    _C.LIGHT_ADAPTER.MASK.NAME = ""
    _C.LIGHT_ADAPTER.MASK.QUANTILE = 0.5
    _C.LIGHT_ADAPTER.MASK.CLASSES = []
