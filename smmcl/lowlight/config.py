"""The keys of the companions."""

from smmcl.config import checks, extends_config
from smmcl.config.checks import each, interval, real, whole
from smmcl.d2 import CfgNode
from smmcl.lowlight.darkener import Darkener
from smmcl.lowlight.enhancer import Enhancer


@extends_config
def add_darkener_config(cfg: CfgNode) -> None:
    # Checkpoint of INPUT.LOW_LIGHT.NAME "darkener".
    checks.group(cfg, "INPUT.LOW_LIGHT")("CHECKPOINT", "", checks.TEXT)
    add = checks.group(cfg, "MODEL.DARKENER")
    # Checkpoint of the frozen model, trained by day; and its features that are to differ.
    add("DAY_MODEL", "", checks.TEXT)
    add("IN_FEATURES", ["res2", "res3", "res4", "res5"], each(checks.NAME))
    # Range of the wanted brightness of 0..1, drawn for each image.
    add("EXPOSURE", [0.0, 0.5], interval(checks.SHARE))
    # Channels of the curve's network. IS_SIGNED lets it brighten, too (released code).
    add("WIDTH", 64, checks.COUNT)
    add("IS_SIGNED", False, checks.SWITCH)
    # Weights of the losses. Released code: EXPOSURE 10; FLEXIBILITY 5 for classification.
    _add_weights(cfg, "MODEL.DARKENER.WEIGHTS", Darkener)


@extends_config
def add_enhancer_config(cfg: CfgNode) -> None:
    add = checks.group(cfg, "MODEL.ENHANCER")
    # Checkpoint of the frozen segmentor.
    add("SEGMENTOR", "", checks.TEXT)
    # File of ImageNet's VGG-16, in which style and content are compared; "" takes the segmentor's
    # visible stream.
    add("VGG", "", checks.TEXT)
    # Folders of well exposed, and of over- and underexposed images of any scenes; "" makes them
    # from the images of DATASETS.TRAIN, by a gamma to a mean brightness in one of the ranges, or
    # takes them as they are where there is no range.
    add("POSITIVES", "", checks.TEXT)
    add("NEGATIVES", "", checks.TEXT)
    add("WELL_EXPOSED", [], each(interval(checks.SHARE), least=0))
    add("BADLY_EXPOSED", [[0.02, 0.15], [0.8, 0.95]], each(interval(checks.SHARE), least=0))
    # Channels of the curve's network.
    add("WIDTH", 32, checks.COUNT)
    # The maps of the curves are predicted on an image this many times smaller. Released code: 1.
    add("SHRINK", 8, whole(1, 64))
    # Weights of the losses. Released code, with VGG-16: CONTENT 1; its segmentation loss has no
    # gradient: 0.
    _add_weights(cfg, "MODEL.ENHANCER.WEIGHTS", Enhancer)


@extends_config
def add_adapter_config(cfg: CfgNode) -> None:
    add = checks.group(cfg, "MODEL.LIGHT_ADAPTER")
    # The model that is adapted: a meta-architecture with the five methods.
    add("META_ARCHITECTURE", "MultiModalSegmentor", checks.NAME)
    # Weight of the task losses on the second view, relative to those on the first.
    add("DARK_WEIGHT", 1.0, checks.FACTOR)
    # Whether the views, and night pairs of their size, pass through the model as one batch, so that
    # batch norms train on the mixture that they are used on. Released code: False.
    add("ONE_BATCH", True, checks.SWITCH)
    add = checks.group(cfg, "MODEL.LIGHT_ADAPTER.VIEW")
    # Source of the second view: "gamma", "exposure" (less light, and noise), "darkener", "stored".
    add("NAME", "gamma", checks.NAME)
    # Ranges of the exponent of "gamma", and of the powers of two of the light of "exposure"; its
    # photons at white in full light: the fewer, the more noise.
    add("GAMMA", [2.0, 6.0], interval(checks.POSITIVE))
    add("STOPS", [-9.0, -2.0], interval(real(-32, 0)))
    add("PHOTONS", 1000.0, checks.POSITIVE)
    # Checkpoint of "darkener", and the range of its mean brightness, which noise goes around.
    add("CHECKPOINT", "", checks.TEXT)
    add("BRIGHTNESS", [0.0, 0.2], interval(checks.SHARE))
    # Folder of "stored": images named like the visible ones of DATASETS.TRAIN.
    add("FOLDER", "", checks.TEXT)
    # Momentum alignment of the two views: its weight (0 leaves it out), features, the features
    # that those predict in the other view ([]: the same), and "both", "from_day" or "from_dark".
    add = checks.group(cfg, "MODEL.LIGHT_ADAPTER.MOMENTUM")
    add("WEIGHT", 0.1, checks.FACTOR)
    add("FEATURES", ["res5"], each(checks.NAME))
    add("KEY_FEATURES", [], each(checks.NAME, least=0))
    add("DIRECTION", "both", checks.choice("both", "from_day", "from_dark"))
    add("DECAY", 0.99, checks.SHARE)
    # MMD between dark views and DATASETS.UNLABELED: its weight (0 leaves it out) and feature. Night
    # is shown as it is, or brightened: by an enhancer's checkpoint, or by images of a folder.
    add = checks.group(cfg, "MODEL.LIGHT_ADAPTER.NIGHT")
    add("WEIGHT", 0.0, checks.FACTOR)
    add("FEATURE", "res5", checks.NAME)
    add("ENHANCER", "", checks.TEXT)
    add("FOLDER", "", checks.TEXT)
    # Regions erased from both views: "", "saliency", "auxiliary", "labels", "blocks", or "wiid"
    # (saliency on 10 %, blocks on 60 % of the images). The share of the image that the first two
    # erase; the target classes, by index, that "labels" keeps.
    add = checks.group(cfg, "MODEL.LIGHT_ADAPTER.MASK")
    add("NAME", "", checks.TEXT)
    add("QUANTILE", 0.5, real(0, 1, below=True))
    add("CLASSES", [], each(whole(0, 254), least=0))


def _add_weights(cfg: CfgNode, name: str, method: type[Darkener | Enhancer]) -> None:
    add = checks.group(cfg, name)
    for key, weight in method.WEIGHTS.items():
        add(key.upper(), weight, checks.FACTOR)
