"""Heads: constants of the paper, samples, modes, entropies and margins."""

import math

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.heads import BernoulliHead, NormalHead, OneHotActor, TanhNormalActor

F_, A = 6, 2


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def tanh_actor(samples: int = 100) -> TanhNormalActor:
    torch.manual_seed(0)
    return TanhNormalActor(F_, A, 8, 2, samples=samples)


@pytest.mark.parametrize(
    ("A", "normal", "onehot"),
    [(1, 574_402, 574_001), (6, 578_412, 576_006), (12, 583_224, 578_412)],
)
def test_actor_parameters_at_paper_size(A: int, normal: int, onehot: int) -> None:
    with torch.device("meta"):
        assert count(TanhNormalActor(230, A, 400, 4)) == normal
        assert count(OneHotActor(230, [A], 400, 4)) == onehot


def test_scalar_head_parameters_at_paper_size() -> None:
    with torch.device("meta"):
        assert count(NormalHead(230, 400, 2)) == 253_201
        assert count(NormalHead(230, 400, 3)) == 413_601
        assert count(BernoulliHead(230, 400, 3)) == 413_601


def test_soft_target_has_its_optimum_at_the_log_odds() -> None:
    head, label = BernoulliHead(F_, 4, 1), torch.tensor(0.99, dtype=torch.float64)
    best = torch.tensor(4.59512, dtype=torch.float64, requires_grad=True)
    loss = head.loss(best, label)
    loss.backward()
    assert loss.item() == pytest.approx(0.0560015, abs=1e-7)
    assert best.grad is not None
    assert best.grad.item() == pytest.approx(0, abs=1e-7)
    assert head.loss(torch.zeros_like(best), label).item() == pytest.approx(0.6931472)


def test_tanh_normal_parameters_of_a_silent_network() -> None:
    actor = tanh_actor()
    assert actor.raw_init_std == pytest.approx(4.9932392506)
    mean, std = actor.parameters_of(torch.zeros(1, 2 * A, dtype=torch.float64))
    assert mean.tolist() == [[0.0, 0.0]]
    assert std[0].tolist() == pytest.approx([5.0001] * 2)


def test_tanh_normal_mean_and_std_are_bounded() -> None:
    mean, std = tanh_actor().parameters_of(torch.tensor([[1e6, -1e6, -1e6, -1e6]]))
    assert_close(mean, torch.tensor([[5.0, -5.0]]))
    assert_close(std, torch.full((1, 2), 1e-4))
    assert torch.tanh(mean)[0, 0].item() == pytest.approx(0.9999092)


def test_tanh_normal_sample_is_reparameterised() -> None:
    actor, stats = tanh_actor(), torch.randn(3, 2 * A, requires_grad=True)
    noise = torch.randn(3, A)
    mean, std = actor.parameters_of(stats)
    action = actor.sample(stats, noise)
    assert_close(action, torch.tanh(mean + std * noise))
    (grad,) = torch.autograd.grad(action.sum(), stats)
    assert (grad != 0).all()


def test_mode_is_the_likeliest_sample_of_each_row() -> None:
    actor = tanh_actor(50)
    stats, noise = torch.randn(7, 2 * A), torch.randn(7, 50, A)
    stats[:, A:] -= 4  # deviations near one, so that tanh does not saturate
    action = actor.act(stats, noise, torch.ones(7, dtype=torch.bool))
    mean, std = (x.double() for x in actor.parameters_of(stats))
    for i in range(7):
        u = mean[i] + std[i] * noise[i]
        density = torch.distributions.Normal(mean[i], std[i]).log_prob(u).sum(-1)
        density -= torch.log(1 - torch.tanh(u) ** 2).sum(-1)
        assert_close(action[i], torch.tanh(u[density.argmax()]).float())


def test_mode_of_a_fresh_wide_actor_has_no_ties() -> None:
    actor = tanh_actor()
    stats = torch.zeros(64, 2 * A)  # deviation 5: nearly every sample is at +-1 in float32
    noise = torch.randn(64, *actor.noise_shape)
    margin = actor.margin(stats, noise, torch.ones(64, dtype=torch.bool))
    assert (margin > 0).float().mean() > 0.95


def test_sampling_takes_the_first_row_of_noise() -> None:
    actor, stats = tanh_actor(), torch.randn(4, 2 * A)
    noise = torch.randn(4, *actor.noise_shape)
    chosen = torch.tensor([True, False, True, False])
    mixed = actor.act(stats, noise, chosen)
    assert torch.equal(mixed[~chosen], actor.sample(stats, noise[:, 0])[~chosen])
    assert torch.equal(mixed[chosen], actor.act(stats, noise, torch.ones_like(chosen))[chosen])
    margin = actor.margin(stats, noise, chosen)
    assert margin[~chosen].tolist() == [torch.inf, torch.inf]
    assert (margin[chosen] < 10).all()


def test_tanh_normal_entropy_of_a_narrow_distribution_is_the_normals() -> None:
    actor = tanh_actor(50_000)
    stats = torch.tensor([[0.0, 0.0, -9.0, -9.0]])
    std = actor.parameters_of(stats)[1][0, 0].item()
    entropy = actor.entropy(stats, torch.randn(1, *actor.noise_shape))
    expected = A * (0.5 * math.log(2 * math.pi * math.e) + math.log(std))
    assert entropy.item() == pytest.approx(expected, abs=0.05)


def test_onehot_groups_are_independent_categoricals() -> None:
    actor = OneHotActor(F_, [3, 2], 8, 1)
    logits = torch.tensor([[0.1, 0.2, 0.7, 0.4, 0.6]]).log().expand(100_000, -1)
    uniform = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0))
    action = actor.act(logits, uniform, torch.zeros(100_000, dtype=torch.bool))
    assert_close(action.mean(0), logits[0].exp(), atol=0.01, rtol=0)
    assert (action[:, :3].sum(-1) == 1).all()
    assert (action[:, 3:].sum(-1) == 1).all()
    both = action[:, 2] * action[:, 4]
    assert both.mean().item() == pytest.approx(0.42, abs=0.01)
    assert_close(actor.sample(logits, uniform), action)


def test_onehot_mode_and_margin() -> None:
    actor = OneHotActor(F_, [3, 2], 8, 1)
    logits, uniform = torch.tensor([[1.0, 4.0, 2.0, 0.5, 0.0]] * 2), torch.rand(2, 5)
    yes = torch.tensor([True, False])
    action = actor.act(logits, uniform, yes)
    assert action[0].tolist() == [0, 1, 0, 1, 0]
    margin = actor.margin(logits, uniform, yes)
    assert margin[0].item() == 0.5
    scores = logits[1] - torch.log(-torch.log(uniform[1]))
    top = [group.topk(2).values for group in scores.split([3, 2])]
    assert margin[1].item() == pytest.approx(min((t[0] - t[1]).item() for t in top), rel=1e-4)


def test_onehot_entropy() -> None:
    actor = OneHotActor(F_, [4, 2], 8, 1)
    entropy = actor.entropy(torch.zeros(3, 6), torch.rand(3, 6))
    assert_close(entropy, torch.full((3,), math.log(4) + math.log(2)))


def test_onehot_sample_has_a_gradient() -> None:
    actor = OneHotActor(F_, [3], 8, 1)
    logits = torch.randn(2, 3, requires_grad=True)
    weight = torch.tensor([1.0, 2.0, 4.0])
    (grad,) = torch.autograd.grad((actor.sample(logits, torch.rand(2, 3)) * weight).sum(), logits)
    assert (grad.abs().sum(-1) > 0).all()
