"""The classifier: its pooling and loss by hand, any streams and fusion, what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smmcl.config import build_config
from smmcl.d2 import ShapeSpec
from smmcl.engine.trainer import Trainer
from smmcl.modeling.classifier import ImageClassifier, check_segments

SMALL = ["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "ImageClassifier",
         "MODEL.CONTRAST.NAME", "", "MODEL.CLASSIFIER.NUM_CLASSES", "4",
         "MODEL.PAIR.VISIBLE.DROP_PATH_RATE", "0.0",
         "MODEL.PAIR.AUXILIARY.DROP_PATH_RATE", "0.0"]  # fmt: skip


class Means(nn.Module):
    """A backbone whose one feature is the image at a quarter of its size."""

    size_divisibility, padding_constraints, reads_auxiliary = 0, {}, False

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"res5": ShapeSpec(channels=3, stride=4)}

    def forward(self, visible: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": F.avg_pool2d(visible, 4)}


def build(*overrides: str) -> nn.Module:
    return Trainer.build_model(build_config("Base-SMMCL.yaml", [*SMALL, *overrides]))


def some_inputs(**changes: object) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(256, (3, *size), generator=generator).byte(),
            "auxiliary": torch.randint(256, (3, *size), generator=generator).byte(),
            "class_id": class_id,
            "view_seed": class_id,
            **changes,
        }
        for class_id, size in ((0, (64, 64)), (2, (40, 64)))
    ]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_logits_and_loss_by_hand(smoothing: float) -> None:
    pixels = {"pixel_mean": [0.0] * 3, "pixel_std": [255.0] * 3}
    auxiliary = {"auxiliary_mean": [0.0], "auxiliary_std": [1.0]}
    model = ImageClassifier(
        backbone=Means(), num_classes=2, label_smoothing=smoothing, **pixels, **auxiliary
    )
    model.classifier.weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 2.0]])
    model.classifier.bias.data = torch.tensor([0.0, 0.5])
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[0, :4], image[2] = 255, 51  # means 0.5, 0, 0.2
    inputs = [{"image": image, "class_id": 1}]
    loss = model(inputs)["loss_class"]
    logits = torch.tensor([0.5, 0.9])
    share = torch.tensor([smoothing / 2, 1 - smoothing / 2])
    torch.testing.assert_close(loss, -(share * logits.log_softmax(0)).sum())
    torch.testing.assert_close(model.eval()(inputs)[0]["scores"], logits)


@pytest.mark.parametrize(
    ("visible", "auxiliary", "fusion", "feature"),
    [
        ("resnet18", "", "CrossModalModulation", "res5"),
        ("", "efficientnet_lite0", "CrossModalModulation", "res3"),
        ("resnet18", "efficientnet_lite0", "CrossModalModulation", "res4"),
        ("mit_b0", "mit_b0", "CMX", "res5"),
        ("efficientnet_lite0", "efficientnet_lite0", "SEAdd", "res5"),
    ],
)
def test_every_parameter_learns(visible: str, auxiliary: str, fusion: str, feature: str) -> None:
    """Else it could not be trained by several processes."""
    model = build(
        "MODEL.PAIR.VISIBLE.NAME", visible, "MODEL.PAIR.AUXILIARY.NAME", auxiliary,
        "MODEL.FUSION.NAME", fusion, "MODEL.CLASSIFIER.IN_FEATURE", feature,
    )  # fmt: skip
    losses = model(some_inputs())
    assert set(losses) == {"loss_class"}
    losses["loss_class"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    scores = [output["scores"] for output in model.eval()(some_inputs())]
    assert [tuple(one.shape) for one in scores] == [(4,), (4,)]


def test_the_classifier_costs_nothing_that_it_does_not_read() -> None:
    one = build("MODEL.PAIR.VISIBLE.NAME", "resnet18", "MODEL.PAIR.AUXILIARY.NAME", "",
                "MODEL.CLASSIFIER.IN_FEATURE", "res3")  # fmt: skip
    assert len(one.backbone.visible.stages) == 2
    assert one.classifier.in_features == 128


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["MODEL.CONTRAST.NAME", "SMMCL"], "one label an image. Set it to ''"),
        (["MODEL.CLASSIFIER.IN_FEATURE", "res1"], "'res2' or 'res3'"),
        (["MODEL.CLASSIFIER.LABEL_SMOOTHING", "1.0"], "a number of 0 or more, below 1"),
    ],
)
def test_configs_that_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build("MODEL.PAIR.VISIBLE.NAME", "resnet18", "MODEL.PAIR.AUXILIARY.NAME", "", *overrides)


def test_a_feature_that_the_backbone_lacks_is_refused() -> None:
    names = ("pixel_mean", "pixel_std", "auxiliary_mean", "auxiliary_std")
    pixels = {name: [1.0] for name in names}
    with pytest.raises(ValueError, match="is 'res4', but the backbone has res5"):
        ImageClassifier(backbone=Means(), num_classes=2, in_feature="res4", **pixels)


def test_records_without_a_class_and_uses_without_sense_are_refused() -> None:
    model = build("MODEL.PAIR.VISIBLE.NAME", "resnet18", "MODEL.PAIR.AUXILIARY.NAME", "")
    inputs = [{"image": one["image"], "file_name": "a.png"} for one in some_inputs()]
    with pytest.raises(ValueError, match=r"a\.png comes without 'class_id'"):
        model(inputs)
    with pytest.raises(ValueError, match="smmcl robustness needs a class at every pixel"):
        check_segments(model, "smmcl robustness")
    check_segments(nn.Identity(), "anything")
