"""The adapter: two views, masks, momentum and night pairs, around a model that stays plain."""

import copy

import pytest
import torch
from torch import Tensor, nn

from smmcl.lowlight.adapter import LightAdapter
from smmcl.lowlight.alignment import maximum_mean_discrepancy
from smmcl.lowlight.regions import (
    AuxiliaryMask,
    BlockMask,
    LabelMask,
    RandomMask,
    SaliencyMask,
)
from smmcl.lowlight.relight import ExposureView, GammaView, StoredView
from smmcl.modeling.contrastive.momentum import MomentumAlignment, map_projector, mlp
from smmcl.modeling.wrapping import features_of


def aligned(model: nn.Module, **options) -> MomentumAlignment:
    return MomentumAlignment(
        model=model, projectors={"visible": map_projector(6)}, predictors={"visible": mlp(128)},
        **options,
    )  # fmt: skip


class Same:
    """A second view like the first."""

    def __call__(self, view, inputs):
        return view.image


def test_the_bare_adapter_is_the_model_twice(segmentor, inputs) -> None:
    segmentor.norm.momentum = 0  # the running statistics stay, whoever is first
    expected = segmentor(inputs)["loss_sem_seg"]
    losses = LightAdapter(model=segmentor, second_view=Same(), dark_weight=0.5)(inputs)
    assert set(losses) == {"loss_sem_seg", "loss_dark_sem_seg"}
    torch.testing.assert_close(losses["loss_sem_seg"], expected)
    torch.testing.assert_close(losses["loss_dark_sem_seg"], 0.5 * expected)


def test_inference_and_weights_are_the_models_own(segmentor, inputs) -> None:
    adapter = LightAdapter(
        model=segmentor, second_view=GammaView(), mask=BlockMask(), momentum=aligned(segmentor)
    ).eval()
    with torch.no_grad():
        for ours, theirs in zip(adapter(inputs), segmentor(inputs), strict=True):
            assert torch.equal(ours["sem_seg"], theirs["sem_seg"])
    names = [n.removeprefix("model.") for n in adapter.state_dict() if n.startswith("model.")]
    assert names == list(segmentor.state_dict())


def test_batch_norms_train_on_the_mixture_that_they_are_used_on(segmentor, inputs) -> None:
    for record in inputs:
        record["unlabeled"] = {key: record[key] // 4 for key in ("image", "auxiliary")}
    joined = []
    segmentor.norm.register_forward_pre_hook(lambda norm, args: joined.append(len(args[0])))
    options = {"model": segmentor, "second_view": GammaView(), "night_feature": "fused"}
    LightAdapter(**options)(inputs)
    assert joined == [3 * len(inputs)]
    joined.clear()
    LightAdapter(**options, is_one_batch=False)(inputs)  # as released
    assert joined == [len(inputs)] * 3
    joined.clear()
    for record in inputs:  # night pairs of another size can't be in the same batch
        record["unlabeled"] = {key: x[:, :9, :9] for key, x in record["unlabeled"].items()}
    losses = LightAdapter(**options)(inputs)
    assert joined == [2 * len(inputs), len(inputs)]
    assert losses["loss_night"].isfinite()


def test_one_batch_gives_the_features_of_each_pair(segmentor, inputs) -> None:
    segmentor.eval()  # no batch norm mixes
    pairs = [segmentor.normalize(segmentor.preprocess(part)) for part in (inputs, inputs[::-1])]
    for joined, pair in zip(features_of(segmentor, pairs), pairs, strict=True):
        for name, maps in segmentor.features(pair).items():
            torch.testing.assert_close(joined[name], maps, msg=name)


def test_only_the_visible_image_changes(segmentor, inputs) -> None:
    seen = []
    features = segmentor.features
    segmentor.features = lambda pair: seen.append(pair) or features(pair)
    mask = LabelMask((1,), share=1.0)
    options = {"second_view": GammaView(), "mask": mask, "is_one_batch": False}
    LightAdapter(model=segmentor, **options)(inputs)
    day, dark = seen
    assert torch.equal(day.auxiliary, dark.auxiliary)
    plain = segmentor.normalize(segmentor.preprocess(inputs))
    assert torch.equal(day.auxiliary, plain.auxiliary)
    erased = (plain.visible != 0) & (day.visible == 0)
    assert erased.any()
    assert torch.equal(day.visible[~erased], plain.visible[~erased])
    assert not dark.visible[erased].any()  # the same regions
    real = (day.visible != 0) & (day.visible > -2)  # neither erased, nor black already
    assert (dark.visible[real] < day.visible[real]).all()


@pytest.mark.parametrize(
    "mask",
    [
        SaliencyMask(), AuxiliaryMask(), LabelMask((1,)), BlockMask(),
        RandomMask([SaliencyMask(), BlockMask()], [0.4, 0.6]),
    ],
    ids=lambda mask: type(mask).__name__,
)  # fmt: skip
def test_every_term_at_once(mask, segmentor, inputs) -> None:
    for record in inputs:
        record["unlabeled"] = {key: record[key] // 4 for key in ("image", "auxiliary")}
    adapter = LightAdapter(
        model=segmentor, second_view=ExposureView(), mask=mask, momentum=aligned(segmentor),
        night_feature="fused",
    )  # fmt: skip
    losses = adapter(inputs)
    names = {"loss_sem_seg", "loss_dark_sem_seg", "loss_momentum", "loss_night"}
    assert set(losses) == names
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in adapter.named_parameters():
        is_target = name.startswith("momentum.target")
        assert parameter.requires_grad != is_target, name
        assert is_target or parameter.grad.isfinite().all(), name


def test_the_night_term_is_the_mmd_of_means(segmentor, inputs) -> None:
    for record in inputs:
        record["unlabeled"] = {key: record[key] // 4 for key in ("image", "auxiliary")}
    options = {"model": segmentor.eval(), "second_view": Same(), "night_feature": "visible"}
    adapter = LightAdapter(**options, night_weight=2.0)
    adapter.training = True  # of the adapter alone: the running statistics stay
    loss = adapter(inputs)["loss_night"]

    def means(records: list[dict]) -> Tensor:
        pair = segmentor.normalize(segmentor.preprocess(records))
        return segmentor.features(pair)["visible"].mean((2, 3))

    nights = [record["unlabeled"] for record in inputs]
    expected = 2 * maximum_mean_discrepancy(means(inputs), means(nights))
    torch.testing.assert_close(loss, expected)
    assert loss > 0.01
    # Shown like the day, night has nothing to align.
    for record in nights:
        record["brightened"] = 4 * record["image"]
    for record in inputs:
        record["image"] = 4 * (record["image"] // 4)
        record["auxiliary"] = record["unlabeled"]["auxiliary"]
    shown = LightAdapter(**options, night_view=StoredView("brightened"))
    shown.training = True
    assert shown(inputs)["loss_night"].item() == pytest.approx(0, abs=1e-5)


def test_momentum_pulls_the_visible_stream_toward_the_fused_features(segmentor, inputs) -> None:
    momentum = aligned(segmentor, key_features={"visible": "fused"}, direction="from_dark")
    adapter = LightAdapter(model=segmentor, second_view=GammaView(), momentum=momentum)
    adapter(inputs)["loss_momentum"].backward()
    assert segmentor.visible.weight.grad.any()
    assert segmentor.auxiliary.weight.grad is None  # only the target reads it for the key
    assert segmentor.classifier.weight.grad is None


def test_training_brings_the_views_together(segmentor, inputs) -> None:
    adapter = LightAdapter(
        model=segmentor, second_view=GammaView(2, 2), momentum=aligned(segmentor),
        momentum_weight=1.0,
    )  # fmt: skip
    before = copy.deepcopy(segmentor.state_dict())
    optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-3)
    history = []
    for _ in range(20):
        losses = adapter(inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    assert all(history[-1][name] < history[0][name] for name in history[0])
    assert not torch.equal(before["visible.weight"], segmentor.visible.weight)


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_images(value: int, segmentor, inputs) -> None:
    for record in inputs:
        record["image"].fill_(value)
    adapter = LightAdapter(
        model=segmentor, second_view=GammaView(), mask=SaliencyMask(), momentum=aligned(segmentor)
    )
    losses = adapter(inputs)
    sum(losses.values()).backward()
    trained = [p for p in adapter.parameters() if p.requires_grad]
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in trained)


def test_divisors_are_the_models_own(segmentor, inputs) -> None:
    adapter = LightAdapter(model=segmentor, second_view=Same())
    assert adapter.with_divisor(inputs, num_parts=2) is inputs
    segmentor.with_divisor = lambda batch, *, num_parts: [num_parts, *batch]
    assert adapter.with_divisor(inputs, num_parts=2) == [2, *inputs]


def test_bad_input_is_named(segmentor, inputs) -> None:
    with pytest.raises(ValueError, match="Linear has no preprocess, normalize"):
        LightAdapter(model=nn.Linear(1, 1), second_view=Same())
    adapter = LightAdapter(model=segmentor, second_view=GammaView())
    inputs[0]["image"] = inputs[0]["image"].int() * 257
    with pytest.raises(ValueError, match=r"'image' of an input is torch\.int32, but bytes"):
        adapter(inputs)
    alone = LightAdapter(model=segmentor, second_view=Same(), momentum=aligned(segmentor))
    with pytest.raises(ValueError, match="this one is a single pair"):
        alone(inputs[1:])
