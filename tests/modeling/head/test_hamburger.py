"""Matrix factorization: a step by hand, what it recovers, and that evaluation is repeatable."""

import math

import pytest
import torch

from smmcl.modeling.head.hamburger import Hamburger, MatrixFactorization


def factorization(channels: int = 8, rank: int = 3, **steps: int) -> MatrixFactorization:
    steps = {"steps_train": 6, "steps_test": 7, **steps}
    return MatrixFactorization(channels, rank=rank, **steps)


def test_one_step_by_hand() -> None:
    # X = [[2], [4]], one basis b = (1, 0): softmax over one basis gives coefficient 1.
    # Coefficient: 1 * (X . b) / (1 * b . b) = 2. Basis: b * X c / (b c c) = (4 / 4, 0) = (1, 0).
    # Coefficient again: 2 * 2 / 2 = 2, so the approximation is (2, 0).
    feature = torch.tensor([2.0, 4.0]).reshape(1, 2, 1, 1)
    bases = torch.tensor([[1.0], [0.0]])
    approximation = factorization(2, 1, steps_test=1).eval()(feature, bases=bases)
    assert approximation.flatten().tolist() == pytest.approx([2, 0], abs=1e-5)


def test_equals_a_slow_loop() -> None:
    torch.manual_seed(0)
    feature, bases = torch.rand(2, 4, 3, 5).double(), torch.rand(2, 4, 3).double()
    module = factorization(4, 3, steps_train=2).train()
    for n in range(2):
        X, B = feature[n].reshape(4, 15), bases[n]
        C = torch.zeros(15, 3).double()
        for i in range(15):
            weights = [math.exp(float(X[:, i] @ B[:, r])) for r in range(3)]
            C[i] = torch.tensor([w / sum(weights) for w in weights])
        for _ in range(2):
            C = C * (X.T @ B) / (C @ B.T @ B + 1e-6)
            B = B * (X @ C) / (B @ C.T @ C + 1e-6)
        C = C * (X.T @ B) / (C @ B.T @ B + 1e-6)
        expected = (B @ C.T).reshape(4, 3, 5)
        torch.testing.assert_close(module(feature, bases=bases)[n], expected)


def test_more_steps_come_closer() -> None:
    torch.manual_seed(0)
    feature = torch.einsum("ncr,nrhw->nchw", torch.rand(1, 8, 3), torch.rand(1, 3, 6, 7))
    errors = [
        (factorization(steps_test=steps).eval()(feature) - feature).norm() for steps in (1, 7, 200)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02 * feature.norm()


def test_evaluation_repeats_whatever_ran_before_and_in_any_batch() -> None:
    feature = torch.rand(3, 8, 6, 7).double()
    module = factorization().eval()
    first = module(feature)
    torch.rand(5)
    assert torch.equal(module(feature), first)
    assert torch.equal(factorization().eval()(feature), first)
    torch.testing.assert_close(module(feature[2:]), first[2:])
    assert not module.state_dict()


def test_training_draws_anew_for_each_call_and_image() -> None:
    feature = torch.rand(1, 8, 6, 7).expand(2, -1, -1, -1)
    module = factorization().train()
    torch.manual_seed(0)
    first, second = module(feature), module(feature)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first[0], first[1])
    torch.manual_seed(0)
    assert torch.equal(module(feature), first)


def test_a_map_of_zeros_is_finite_with_its_gradient() -> None:
    feature = torch.zeros(1, 8, 2, 2, requires_grad=True)
    approximation = factorization().train()(feature)
    approximation.sum().backward()
    assert not approximation.any()
    assert feature.grad.isfinite().all()


def test_float32_inside_autocast() -> None:
    feature = torch.rand(1, 8, 6, 7).bfloat16()
    module = factorization().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = module(feature)
    assert inside.dtype == torch.bfloat16
    assert torch.equal(inside, module(feature.float()).bfloat16())


def test_hamburger_starts_with_a_residual_and_reaches_every_parameter() -> None:
    hamburger = Hamburger(8, rank=3, steps_train=6, steps_test=7)
    feature = torch.randn(2, 8, 4, 5).to(memory_format=torch.channels_last)
    output = hamburger(feature)
    assert output.shape == feature.shape
    assert output.is_contiguous(memory_format=torch.channels_last)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in hamburger.parameters())
    torch.nn.init.zeros_(hamburger.conv_out.weight)
    assert torch.equal(hamburger(feature), feature.relu())
