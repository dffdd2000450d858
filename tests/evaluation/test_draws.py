"""Draws of the Hamburger's bases: means and spreads by hand, and a model that is left as it was."""

import pytest
import torch
from torch import nn

from smmcl.evaluation.draws import evaluate_draws
from smmcl.modeling.head.hamburger import MatrixFactorization


def model() -> nn.Sequential:
    return nn.Sequential(MatrixFactorization(8, rank=4, steps_train=1, steps_test=1))


def test_mean_and_spread_of_every_score() -> None:
    scores = iter([60.0, 63.0, 66.0])  # mean 63, deviations -3, 0 and 3: sqrt(18 / 2) = 3
    results = evaluate_draws(
        lambda: {"sem_seg": {"mIoU": next(scores), "pACC": 90.0}}, model(), num_draws=3
    )
    assert results == {
        "sem_seg": {"mIoU": 63.0, "pACC": 90.0},
        "sem_seg_spread": {"mIoU": 3.0, "pACC": 0.0},
    }


def test_every_draw_is_another_and_the_last_is_the_one_there_was() -> None:
    tried = model()
    before, seen = tried[0].start.clone(), []

    def evaluate() -> dict:
        seen.append(tried[0].start.clone())
        return {}

    assert evaluate_draws(evaluate, tried, num_draws=3) == {}  # as on processes but the main one
    assert len({tuple(start.flatten().tolist()) for start in seen}) == 3
    assert torch.equal(seen[-1], before)
    assert torch.equal(tried[0].start, before)
    for start in seen:
        torch.testing.assert_close(start.norm(dim=0), torch.ones(4))


def test_several_datasets_and_a_class_that_one_draw_is_without() -> None:
    runs = iter(
        [{"a": {"sem_seg": {"mIoU": 1.0, "IoU-x": 0.0}}}, {"a": {"sem_seg": {"mIoU": 3.0}}}]
    )
    results = evaluate_draws(lambda: next(runs), model(), num_draws=2)
    assert results["a"] == {"sem_seg": {"mIoU": 2.0}}
    assert results["a_spread"] == {"sem_seg": {"mIoU": pytest.approx(2**0.5)}}


def test_a_model_without_a_hamburger_is_refused() -> None:
    with pytest.raises(ValueError, match=r"BASES_DRAWS is 10, but .* no Hamburger.*to 1"):
        evaluate_draws(dict, nn.Identity(), num_draws=10)
