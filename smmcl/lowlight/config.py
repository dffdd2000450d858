"""The keys of the companions."""

from smmcl.config import extends_config
from smmcl.d2 import CfgNode
from smmcl.lowlight.darkener import Darkener
from smmcl.lowlight.enhancer import Enhancer


@extends_config
def add_darkener_config(cfg: CfgNode) -> None:
    # Checkpoint of INPUT.LOW_LIGHT.NAME "darkener".
    cfg.INPUT.LOW_LIGHT.CHECKPOINT = ""
    _C = cfg.MODEL
    _C.DARKENER = CfgNode()
    # Checkpoint of the frozen model, trained by day; and its features that are to differ.
    _C.DARKENER.DAY_MODEL = ""
    _C.DARKENER.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # Range of the wanted brightness of 0..1, drawn for each image.
    _C.DARKENER.EXPOSURE = [0.0, 0.5]
    # Channels of the curve's network. IS_SIGNED lets it brighten, too (released code).
    _C.DARKENER.WIDTH = 64
    _C.DARKENER.IS_SIGNED = False
    # Weights of the losses. Released code: EXPOSURE 10; FLEXIBILITY 5 for classification.
    _C.DARKENER.WEIGHTS = _weights(Darkener)


@extends_config
def add_enhancer_config(cfg: CfgNode) -> None:
    _C = cfg.MODEL
    _C.ENHANCER = CfgNode()
    # Checkpoint of the frozen segmentor.
    _C.ENHANCER.SEGMENTOR = ""
    # File of ImageNet's VGG-16, in which style and content are compared; "" takes the segmentor's
    # visible stream.
    _C.ENHANCER.VGG = ""
    # Folders of well exposed, and of over- and underexposed images of any scenes; "" makes them
    # from the images of DATASETS.TRAIN, by a gamma to a mean brightness in one of the ranges.
    _C.ENHANCER.POSITIVES = ""
    _C.ENHANCER.NEGATIVES = ""
    _C.ENHANCER.WELL_EXPOSED = [[0.4, 0.6]]
    _C.ENHANCER.BADLY_EXPOSED = [[0.02, 0.15], [0.8, 0.95]]
    # Channels of the curve's network.
    _C.ENHANCER.WIDTH = 32
    # The maps of the curves are predicted on an image this many times smaller. Released code: 1.
    _C.ENHANCER.SHRINK = 4
    # Weights of the losses. The released code's segmentation loss has no gradient: 0.
    _C.ENHANCER.WEIGHTS = _weights(Enhancer)


@extends_config
def add_adapter_config(cfg: CfgNode) -> None:
    _C = cfg.MODEL
    _C.LIGHT_ADAPTER = CfgNode()
    # The model that is adapted: a meta-architecture with the five methods.
    _C.LIGHT_ADAPTER.META_ARCHITECTURE = "MultiModalSegmentor"
    # Weight of the task losses on the second view, relative to those on the first.
    _C.LIGHT_ADAPTER.DARK_WEIGHT = 1.0
    _C.LIGHT_ADAPTER.VIEW = CfgNode()
    # Source of the second view: "gamma", "exposure" (less light, and noise), "darkener", "stored".
    _C.LIGHT_ADAPTER.VIEW.NAME = "gamma"
    # Range of the exponent of "gamma", and of the powers of two of the light of "exposure".
    _C.LIGHT_ADAPTER.VIEW.GAMMA = [2.0, 6.0]
    _C.LIGHT_ADAPTER.VIEW.STOPS = [-5.0, -1.5]
    # Checkpoint of "darkener", and the range of its mean brightness, which noise goes around.
    _C.LIGHT_ADAPTER.VIEW.CHECKPOINT = ""
    _C.LIGHT_ADAPTER.VIEW.BRIGHTNESS = [0.0, 0.2]
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
    # MMD between dark views and DATASETS.UNLABELED: its weight (0 leaves it out) and feature. Night
    # is shown as it is, or brightened: by an enhancer's checkpoint, or by images of a folder.
    _C.LIGHT_ADAPTER.NIGHT = CfgNode()
    _C.LIGHT_ADAPTER.NIGHT.WEIGHT = 0.0
    _C.LIGHT_ADAPTER.NIGHT.FEATURE = "res5"
    _C.LIGHT_ADAPTER.NIGHT.ENHANCER = ""
    _C.LIGHT_ADAPTER.NIGHT.FOLDER = ""
    # Regions erased from both views: "", "saliency", "auxiliary", "labels", "blocks", or "wiid"
    # (saliency on 10 %, blocks on 60 % of the images). The share of the image that the first two
    # erase; the target classes, by index, that "labels" keeps.
    _C.LIGHT_ADAPTER.MASK = CfgNode()
    _C.LIGHT_ADAPTER.MASK.NAME = ""
    _C.LIGHT_ADAPTER.MASK.QUANTILE = 0.5
    _C.LIGHT_ADAPTER.MASK.CLASSES = []


def _weights(method: type[Darkener | Enhancer]) -> CfgNode:
    return CfgNode({name.upper(): weight for name, weight in method.WEIGHTS.items()})
