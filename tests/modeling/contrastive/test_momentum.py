"""Momentum alignment by hand, and against reference numbers of heads, losses and averages."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.modeling.contrastive.momentum import (
    MomentumAlignment,
    map_projector,
    mlp,
    momentum_target,
    prediction_loss,
    vector_projector,
)


def names_of(prefix: str, places: dict[int, str]) -> dict[str, str]:
    """Names of a sequence's weights and statistics to the authors', by place of the layer."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {
        f"{place}.{kind}": f"{prefix}.{name}.{kind}"
        for place, name in places.items()
        for kind in kinds
    }


VECTOR = {0: "fc1", 1: "bn1", 3: "fc2"}
MAP = {0: "conv1", 1: "bn1", 5: "fc1", 6: "bn2", 8: "fc2"}


def test_loss_by_hand() -> None:
    east, north, west = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[-3.0, 0.0]]])
    assert [prediction_loss(east, key).item() for key in (east, north, west)] == [0, 2, 4]
    batch = prediction_loss(torch.cat((east, east)), torch.cat((east, north)))
    assert batch.item() == 1


def test_loss_gives_keys_no_gradient_and_zeros_a_value() -> None:
    torch.manual_seed(0)
    query, key = torch.zeros(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    loss = prediction_loss(query, key)
    loss.backward()
    assert loss.item() == 2
    assert query.grad.isfinite().all()
    assert key.grad is None
    query = torch.randn(2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: prediction_loss(x, key.double()), query)


def test_parameter_counts() -> None:
    count = lambda *parts: sum(p.numel() for part in parts for p in part.parameters())  # noqa: E731
    assert count(vector_projector(512)) == 82_432
    assert count(mlp(128)) == 33_280
    assert count(*map(map_projector, (256, 512, 1024, 2048))) == 2_312_960
    unused = 4 * 256  # one norm per level that the authors' forward pass leaves out
    assert count(*(mlp(128) for _ in range(4))) == 134_144 - unused


def test_vectors_match_the_reference(normal, fill_by_recipe, near, arrays) -> None:
    head = fill_by_recipe(vector_projector(32, embed_dim=16), names_of("head_q", VECTOR))
    key_head = fill_by_recipe(vector_projector(32, embed_dim=16), names_of("head_k", VECTOR))
    guess = fill_by_recipe(mlp(16, hidden_dim=16, embed_dim=16), names_of("pred", VECTOR))
    theirs = {k.partition("f64/")[2]: v for k, v in arrays.items() if "byol_cls/f64/" in k}
    day, night = (normal(seed, 6, 32).requires_grad_() for seed in (321, 322))
    key_day, key_night = (normal(seed, 6, 32) for seed in (323, 324))
    q_day, q_night = guess(head(day)), guess(head(night))
    k_night, k_day = key_head(key_night), key_head(key_day)
    outputs = {"q_day": q_day, "q_night": q_night, "k_day": k_day, "k_night": k_night}
    for name, ours in outputs.items():
        near(F.normalize(ours), theirs[name])
    directions = [prediction_loss(q_day, k_night), prediction_loss(q_night, k_day)]
    near(torch.stack(directions), theirs["loss_day_night"])
    loss = torch.stack(directions).mean()
    (0.1 * loss).backward()
    near(0.1 * loss, theirs["weighted"])
    near(day.grad, theirs["grad_day"])
    near(night.grad, theirs["grad_night"])
    gradients = {
        names_of(prefix, VECTOR)[name]: parameter.grad.norm()
        for prefix, part in (("head_q", head), ("pred", guess))
        for name, parameter in part.named_parameters()
    }
    ours = torch.stack([gradients[name] for name in arrays["simminmax/byol_cls/param_names"]])
    near(ours, theirs["param_grad_l2"])
    for prefix, part in (("head_q", head), ("head_k", key_head), ("pred", guess)):
        near(part[1].running_mean, theirs[f"bn_after/{prefix}.bn1.running_mean"])
        near(part[1].running_var, theirs[f"bn_after/{prefix}.bn1.running_var"])
    near(F.normalize(guess.eval()(head.eval()(day))), theirs["eval_q_day"])


def test_maps_match_the_reference(normal, fill_by_recipe, near, arrays) -> None:
    theirs = {k.partition("f64/")[2]: v for k, v in arrays.items() if "byol_seg/f64/" in k}
    maps, losses = [], []
    shapes = ((8, 12, 16), (12, 6, 8), (16, 3, 4), (24, 2, 2))
    for level, (channels, *size) in enumerate(shapes):
        head, key_head = (
            fill_by_recipe(map_projector(channels), names_of(f"head_{kind}.MLPs.{level}", MAP))
            for kind in ("q", "k")
        )
        guess = fill_by_recipe(mlp(128), names_of(f"pred.MLPs.{level}", VECTOR))
        maps.append(normal(331 + level, 4, channels, *size).requires_grad_())
        query = guess(head(maps[-1]))
        key = key_head(normal(341 + level, 4, channels, *size))
        near(F.normalize(query)[:, ::8], theirs[f"q{level}_sub"])
        near(F.normalize(key)[:, ::8], theirs[f"k{level}_sub"])
        losses.append(prediction_loss(query, key))
    near(torch.stack(losses), theirs["per_level"])
    weighted = 0.1 * torch.stack(losses).mean()
    near(weighted, theirs["weighted"])
    weighted.backward()
    for level, feature in enumerate(maps):
        near(feature.grad.norm(), theirs[f"grad{level}_l2"])
        near(feature.grad.flatten()[:8], theirs[f"grad{level}_head8"])


def test_average_matches_the_reference(filled, near, arrays) -> None:
    def part() -> nn.ModuleDict:
        return nn.ModuleDict({"fc": nn.Linear(4, 3), "bn": nn.BatchNorm1d(3)})

    model = nn.ModuleDict({"encoder": part(), "head": part()}).double()

    def take_step(step: int) -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(filled(f"ema.step{step}.{name}", parameter.shape))

    take_step(0)
    target = momentum_target(model, momentum=0.99)
    target.update_parameters(model)
    for step in (1, 2, 3):
        take_step(step)
        target.update_parameters(model)
        for name, parameter in target.module.named_parameters():
            near(parameter, arrays[f"simminmax/ema/after{step}/{name}"])


def test_target_by_hand() -> None:
    model = nn.BatchNorm1d(1)
    target = momentum_target(model, momentum=0.75)
    target.update_parameters(model)
    with torch.no_grad():
        model.weight.fill_(3)
        model.running_mean.fill_(7)
    target.update_parameters(model)
    assert target.module.weight.item() == 1.5  # .75 * 1 + .25 * 3
    assert target.module.running_mean.item() == 7  # statistics are copied
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert model.weight.requires_grad


def test_target_resumes_where_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    target = momentum_target(model)
    target.update_parameters(model)
    resumed = momentum_target(nn.Linear(2, 2))
    resumed.load_state_dict(copy.deepcopy(target.state_dict()))
    with torch.no_grad():
        model.weight.add_(1)
    for one in (target, resumed):
        one.update_parameters(model)
    assert torch.equal(target.module.weight, resumed.module.weight)
    assert not torch.equal(target.module.weight, model.weight)


def test_heads_start_as_stated() -> None:
    torch.manual_seed(0)
    head = map_projector(64, hidden_dim=256, embed_dim=64)
    # Kaiming's standard deviation is sqrt(2 / inputs).
    assert head[0].weight.std().item() == pytest.approx(math.sqrt(2 / 576), rel=0.05)
    assert head[5].weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    assert map_projector(5)(torch.randn(2, 5, 1, 3)).shape == (2, 128)


class Scaled(nn.Module):
    """A model whose features are its input times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def features(self, pair: Tensor) -> dict[str, Tensor]:
        return {"own": pair * self.weight, "fused": pair.flip(1) * self.weight}


def alignment(model: nn.Module, **options) -> MomentumAlignment:
    """Of one feature, without any head."""
    heads = {"projectors": {"own": nn.Identity()}, "predictors": {"own": nn.Identity()}}
    return MomentumAlignment(model=model, **heads, **options)


def test_alignment_by_hand() -> None:
    model, day, dark = Scaled(), torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[1.0, 1.0]] * 2)
    views = (day, dark)
    features = tuple(map(model.features, views))
    both = alignment(model)(model, views, features)
    assert both.item() == pytest.approx(2 - 2 / math.sqrt(2))  # 45 degrees, either way
    # The dark view predicts the fused feature of the day, (0, 1), which is 45 degrees away.
    fused = {"key_features": {"own": "fused"}, "direction": "from_dark"}
    assert alignment(model, **fused)(model, views, features).item() == (
        pytest.approx(2 - 2 / math.sqrt(2))
    )
    turned = {"key_features": {"own": "fused"}, "direction": "from_day"}
    same = (day, day)
    features = tuple(map(model.features, same))
    assert alignment(model, **turned)(model, same, features).item() == pytest.approx(2)
    with pytest.raises(KeyError, match="'up' is no direction"):
        alignment(model, direction="up")


@pytest.mark.parametrize("view", [0, 1])
def test_one_direction_gives_the_other_view_no_gradient(view: int) -> None:
    torch.manual_seed(0)
    model, direction = Scaled(), ("from_day", "from_dark")[view]
    views = tuple(torch.randn(3, 2, requires_grad=True) for _ in range(2))
    loss = alignment(model, direction=direction)(model, views, tuple(map(model.features, views)))
    loss.backward()
    assert views[view].grad.any()
    assert views[1 - view].grad is None
    assert model.weight.grad.any()


def test_alignment_follows_the_model_slowly() -> None:
    model, views = Scaled(), (torch.ones(2, 2), torch.ones(2, 2))
    aligned = alignment(model, momentum=0.75)
    with torch.no_grad():
        model.weight.fill_(1)  # weights that are loaded before the first step
    aligned(model, views, tuple(map(model.features, views)))
    assert aligned.target.module[0].weight.tolist() == [1, 1]
    with torch.no_grad():
        model.weight.fill_(5)
    aligned(model, views, tuple(map(model.features, views)))
    assert aligned.target.module[0].weight.tolist() == [2, 2]  # .75 * 1 + .25 * 5
    trained = [name for name, p in aligned.named_parameters() if p.requires_grad]
    assert trained == []  # neither the target nor, here, the heads


def test_a_single_pair_is_refused() -> None:
    model, views = Scaled(), (torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="this one is a single pair"):
        alignment(model)(model, views, tuple(map(model.features, views)))
