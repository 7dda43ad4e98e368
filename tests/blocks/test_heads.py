"""Heads: constants of the paper, samples, modes, entropies and margins."""

import math

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.actors import (
    OneHotActor,
    TanhNormalActor,
    TruncatedNormalActor,
    tanh_normal_mode,
)
from agentzoo.blocks.heads import BernoulliHead, NormalHead, fused_outputs
from agentzoo.blocks.layers import LayerNorm

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
    loss = head.prediction(best).loss(label)
    loss.backward()
    assert loss.item() == pytest.approx(0.0560015, abs=1e-7)
    assert best.grad is not None
    assert best.grad.item() == pytest.approx(0, abs=1e-7)
    assert head.prediction(torch.zeros_like(best)).loss(label).item() == pytest.approx(0.6931472)


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


def test_mode_is_the_likeliest_sample_of_each_state() -> None:
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


def test_exact_mode_is_what_a_grid_search_finds() -> None:
    mean = torch.tensor([-5.0, -2.0, -0.7, -0.1, -1e-3, 1e-3, 0.05, 0.3, 1.0, 3.0, 5.0])
    std = torch.tensor([1e-4, 0.1, 0.5, 0.69, 0.7071, 0.72, 0.8, 1.0, 2.0, 5.0])
    grid = torch.arange(-60_000, 60_001, dtype=torch.float64) / 1000
    far = grid.abs() > 15  # where tanh is 1 in float64: log(4) - 2 |u|
    log_det = torch.where(far, math.log(4) - 2 * grid.abs(), torch.log(1 - torch.tanh(grid) ** 2))
    for m, s in torch.cartesian_prod(mean, std).tolist():
        density = -0.5 * ((grid - m) / s) ** 2 - log_det
        found = tanh_normal_mode(torch.tensor(m), torch.tensor(s))
        expected = torch.tanh(grid[density.argmax()])
        assert torch.tanh(found).item() == pytest.approx(expected.item(), abs=1e-3), (m, s)


def test_exact_mode_solves_its_equation_also_where_the_slope_vanishes() -> None:
    """u = mean + 2 std^2 tanh(u), by bisection between the mean and mean + 2 std^2."""
    mean = torch.cat([torch.zeros(1), torch.logspace(-7, 1.5, 200)]).double()[:, None]
    twice = torch.cat([torch.logspace(-8, 2, 200), 1 + torch.linspace(-0.2, 0.2, 101)]).double()
    std = (twice / 2).sqrt().float()
    twice = 2 * std.double().square()
    low, high = torch.broadcast_tensors(mean + 0 * twice, mean + twice)
    low = torch.where((mean == 0) & (twice > 1), 1e-9, low)  # 0 is the valley's
    for _ in range(200):
        middle = (low + high) / 2
        is_beyond = middle > mean + twice * torch.tanh(middle)
        low, high = torch.where(is_beyond, low, middle), torch.where(is_beyond, middle, high)
    found = tanh_normal_mode(mean.float(), std).double()
    assert (torch.tanh(found) - torch.tanh(high)).abs().max() < 2e-5


def test_exact_mode_has_the_gradient_of_its_equation() -> None:
    mean = torch.tensor([-2.0, -0.3, 1e-3, 0.4, 1.5], requires_grad=True)
    std = torch.tensor([0.1, 0.5, 0.6, 1.0, 2.0])
    mode = tanh_normal_mode(mean, std)
    (slope,) = torch.autograd.grad(mode.sum(), mean)
    expected = 1 / (1 - 2 * std.square() * (1 - torch.tanh(mode).square()))
    assert torch.allclose(slope, expected.detach(), rtol=1e-4)


def test_exact_mode_points_where_the_mean_does_however_wide() -> None:
    mean = torch.linspace(-5, 5, 101)[:, None].expand(-1, 50)
    mode = tanh_normal_mode(mean, torch.logspace(-4, 1, 50).expand_as(mean))
    assert torch.isfinite(mode).all()
    assert ((mode > 0) == (mean >= 0))[mean != 0].all()
    assert (mode.abs() >= mean.abs() - 1e-5).all()


def test_exact_mode_of_a_mean_of_zero_is_a_maximum() -> None:
    """Between two maxima as high as each other the upper one is taken, never the valley."""
    assert tanh_normal_mode(torch.tensor(0.0), torch.tensor(5.0)).item() == pytest.approx(50.0)
    assert tanh_normal_mode(torch.tensor(0.0), torch.tensor(0.5)).item() == pytest.approx(0.0)


def test_exact_mode_acts_without_noise_and_samples_with_it() -> None:
    actor, stats = tanh_actor(0), torch.randn(4, 2 * A)
    assert actor.noise_shape == (1, A)
    noise, chosen = torch.randn(4, 1, A), torch.tensor([True, False, True, False])
    action = actor.act(stats, noise, chosen)
    mode = torch.tanh(tanh_normal_mode(*actor.parameters_of(stats)))
    assert torch.equal(action[chosen], mode[chosen])
    assert torch.equal(action[~chosen], actor.sample(stats, noise[:, 0])[~chosen])
    entropy = actor.entropy(stats, torch.randn(4, *actor.entropy_shape))
    assert entropy.shape == (4,)


def test_margin_of_the_exact_mode_is_the_distance_to_the_other_side() -> None:
    actor = tanh_actor(0)
    wide, narrow = actor.raw_init_std, -9.0  # std of about 10 and of 1e-3
    stats = torch.tensor(
        [[0.3, -0.2, wide, wide], [0.3, -0.2, wide, narrow], [0.3, -0.2, narrow, narrow]] * 2
    )
    modes = torch.tensor([True] * 3 + [False] * 3)
    margin = actor.margin(stats, torch.randn(6, 1, A), modes)
    mean = actor.parameters_of(stats)[0].abs()
    assert margin[0].item() == mean[0, 1].item()
    assert margin[1].item() == mean[1, 0].item()
    assert margin[2:].tolist() == [torch.inf] * 4


def test_sampling_takes_the_first_sample_of_noise() -> None:
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
    top = [group.topk(2).values.tolist() for group in scores.split([3, 2])]
    expected = min((one - two) / max(1, abs(one), abs(two)) for one, two in top)
    assert margin[1].item() == pytest.approx(expected, rel=1e-4)


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


# -- DreamerV2's -----------------------------------------------------------------------------------


def truncated_actor(layers: int = 2) -> TruncatedNormalActor:
    torch.manual_seed(0)
    return TruncatedNormalActor(F_, A, 8, layers)


def test_parameters_of_the_truncated_normal_at_paper_size() -> None:
    with torch.device("meta"):
        assert count(TruncatedNormalActor(1224, 6, 400, 4)) == 976_012
        assert count(OneHotActor(1624, [18], 400, 4)) == 1_138_418
        assert count(NormalHead(1624, 400, 4)) == 1_131_601


def test_a_silent_truncated_normal_is_wide_and_centred() -> None:
    actor = truncated_actor()
    for layer in (actor.mean, actor.std):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    loc, scale = actor(torch.randn(3, F_)).chunk(2, -1)
    assert (loc == 0).all()
    assert_close(scale, torch.full((3, A), 1.1))


@pytest.mark.parametrize(("raw", "scale"), [(-1e3, 0.1), (1e3, 2.1)])
def test_the_truncated_normals_scale_is_bounded(raw: float, scale: float) -> None:
    actor = truncated_actor()
    torch.nn.init.constant_(actor.std.bias, raw)
    assert_close(actor(torch.randn(3, F_))[:, A:], torch.full((3, A), scale))


def test_truncated_samples_stay_inside_and_keep_their_gradient() -> None:
    actor = truncated_actor()
    stats = torch.tensor([[0.9, -0.9, 2.1, 2.1]], requires_grad=True)
    inside = actor.sample(stats, torch.tensor([[0.6, 0.3]]))
    edge = actor.sample(stats, torch.tensor([[1 - 1e-7, 0.0]]))
    assert_close(edge, torch.tensor([[1 - 1e-6, 1e-6 - 1]]), rtol=0, atol=1e-7)
    for action in (inside, edge):
        (grad,) = torch.autograd.grad(action.sum(), stats, retain_graph=True)
        assert torch.isfinite(grad).all()
    (grad,) = torch.autograd.grad(inside.sum(), stats)
    assert (grad != 0).all()


def test_the_mode_of_a_truncated_normal_is_its_location_state_by_state() -> None:
    actor = truncated_actor()
    stats, noise = actor(torch.randn(2, F_)), torch.rand(2, A)
    action = actor.act(stats, noise, torch.tensor([False, True]))
    assert_close(action[0], actor.sample(stats, noise)[0])
    assert_close(action[1], stats[1, :A])
    assert (actor.margin(stats, noise, torch.tensor([False, True])) == math.inf).all()


def test_truncated_density_and_entropy_are_summed_over_dimensions() -> None:
    actor = truncated_actor()
    stats = torch.tensor([[0.3, -0.2, 0.5, 1.1]])
    action = torch.tensor([[0.1, 0.9]])
    alone = [stats[:, [i, A + i]] for i in range(A)]
    densities = [actor.log_prob(s, action[:, [i]]) for i, s in enumerate(alone)]
    assert_close(actor.log_prob(stats, action), densities[0] + densities[1])
    assert_close(actor.entropy(stats), actor.entropy(alone[0]) + actor.entropy(alone[1]))


def test_joined_one_hots_have_the_log_probability_of_their_classes() -> None:
    actor = OneHotActor(F_, [4, 2], 8, 2)
    stats, noise = actor(torch.randn(5, F_)), torch.rand(5, 6)
    groups = [torch.distributions.Categorical(logits=x) for x in stats.split([4, 2], -1)]
    action = actor.sample(stats, noise).detach()
    index = [x.argmax(-1) for x in action.split([4, 2], -1)]
    expected = sum(g.log_prob(i) for g, i in zip(groups, index, strict=True))
    assert_close(actor.log_prob(stats, action), expected)
    assert_close(actor.entropy(stats), sum(g.entropy() for g in groups))


def test_heads_share_their_first_products() -> None:
    torch.manual_seed(0)
    heads = (
        NormalHead(F_, 8, 3, norm=LayerNorm),
        BernoulliHead(F_, 8, 2),
        OneHotActor(F_, [3], 8, 1),
    )
    heads = (*heads, truncated_actor())
    feat = torch.randn(4, 5, F_)
    for head, found in zip(heads, fused_outputs(feat, *heads), strict=True):
        assert_close(found, head(feat))
