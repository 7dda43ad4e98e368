"""Categoricals with one percent of a uniform distribution: probabilities, KL, entropies, floors."""

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.distributions import softmax, unimix_log_probs
from agentzoo.blocks.kl import categorical_kl, free_nats_floor


def certain(K: int, k: int) -> torch.Tensor:
    logits = torch.full((K,), -1e3)
    logits[k] = 1e3
    return unimix_log_probs(logits, 0.01)


@pytest.mark.parametrize(
    ("K", "low", "high", "from_uniform", "apart", "entropy", "of_uniform"),
    [
        (16, 6.25e-4, 0.990625, 2.694091, 7.294656, 0.078497, 4.144649),
        (32, 3.125e-4, 0.9903125, 3.377909, 7.980560, 0.087827, 4.353259),
        (64, 1.5625e-4, 0.99015625, 4.062817, 8.666619, 0.096066, 4.468386),
    ],
)
def test_bounds_of_probabilities_and_divergences(
    K: int, low: float, high: float, from_uniform: float, apart: float, entropy: float,
    of_uniform: float,
) -> None:  # fmt: skip
    a, b = certain(K, 0), certain(K, 1)
    uniform = unimix_log_probs(torch.zeros(K), 0.01)
    assert a.exp().min().item() == pytest.approx(low, rel=1e-4)
    assert a.exp().max().item() == pytest.approx(high)
    assert categorical_kl(a[None], uniform[None]).item() == pytest.approx(from_uniform, abs=1e-5)
    assert categorical_kl(a[None], b[None]).item() == pytest.approx(apart, abs=1e-5)
    assert -(a.exp() * a).sum().item() == pytest.approx(entropy, abs=1e-5)
    assert categorical_kl(uniform[None], a[None]).item() == pytest.approx(of_uniform, abs=1e-5)
    for other, each in ((uniform, from_uniform), (b, apart)):
        many = categorical_kl(a.expand(32, K), other.expand(32, K))
        assert many.item() == pytest.approx(32 * each, rel=1e-5)


def test_known_logits() -> None:
    logits = torch.tensor([2.0, 1, 0, -1])
    plain = torch.tensor([0.643914, 0.236883, 0.087144, 0.032059])
    assert_close(unimix_log_probs(logits, 0.0).exp(), plain, rtol=1e-4, atol=1e-6)
    logs = unimix_log_probs(logits, 0.01)
    assert_close(
        logs.exp(), torch.tensor([0.639975, 0.237014, 0.088773, 0.034238]), rtol=1e-4, atol=1e-6
    )
    assert -(logs.exp() * logs).sum().item() == pytest.approx(0.957364, abs=1e-5)
    uniform = unimix_log_probs(torch.zeros(4), 0.01)
    assert categorical_kl(logs[None], uniform[None]).item() == pytest.approx(0.428931, abs=1e-5)


def test_without_unimix_it_is_log_softmax() -> None:
    logits = torch.tensor([[3.0, -2, 0]])
    assert torch.equal(unimix_log_probs(logits, 0.0), torch.log_softmax(logits, -1))


def test_below_the_free_nats_a_step_has_no_gradient() -> None:
    kl = torch.tensor([[0.0, 0.4], [1.5, 3.0]], requires_grad=True)
    floored = free_nats_floor(kl, 1.0)
    assert floored.tolist() == [[1.0, 1.0], [1.5, 3.0]]
    (grad,) = torch.autograd.grad(floored.sum(), kl)
    assert grad.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 7), (2, 3, 8)])
def test_few_classes_are_worked_through_side_by_side(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, dtype=torch.double, requires_grad=True)
    result, expected = softmax(logits), torch.softmax(logits, -1)
    assert_close(result, expected)
    assert result.is_contiguous()
    up = torch.randn(shape, dtype=torch.double)
    (grad,) = torch.autograd.grad(result, logits, up)
    assert_close(grad, torch.autograd.grad(expected, logits, up)[0])
