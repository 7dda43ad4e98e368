"""Actors with log-probabilities: closed forms, modes, margins, one class."""

import math

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.actors import BoundedNormalActor, TanhNormalActor, UnimixActor

NO, YES = torch.tensor([False, True]), torch.tensor([True, True])


def test_a_fresh_normal_is_wide_and_centred() -> None:
    actor = BoundedNormalActor(6, 2, 8, 1)
    actor.scale_output(0.0)
    for layer in (actor.mean, actor.std):
        torch.nn.init.zeros_(layer.bias)
    mean, std = actor(torch.randn(3, 6)).chunk(2, -1)
    assert (mean == 0).all()
    assert_close(std, torch.full((3, 2), 0.8927174))


@pytest.mark.parametrize(
    ("raw", "std", "entropy"), [(-1e3, 0.1, -0.8836466), (1e3, 1.0, 1.4189385)]
)
def test_the_deviation_is_bounded(raw: float, std: float, entropy: float) -> None:
    actor = BoundedNormalActor(6, 1, 8, 1)
    torch.nn.init.constant_(actor.std.bias, raw)
    stats = actor(torch.randn(3, 6))
    assert_close(stats[:, 1], torch.full((3,), std))
    assert_close(actor.entropy(stats), torch.full((3,), entropy))


def test_density_and_entropy_are_the_plain_normals() -> None:
    actor = BoundedNormalActor(6, 3, 8, 2)
    stats, noise = actor(torch.randn(5, 6)), torch.randn(5, 3)
    mean, std = stats.chunk(2, -1)
    normal = torch.distributions.Normal(mean, std)
    action = actor.sample(stats, noise)
    assert_close(action, mean + std * noise)
    assert_close(actor.log_prob(stats, action), normal.log_prob(action).sum(-1))
    assert_close(actor.entropy(stats), normal.entropy().sum(-1))


def test_the_mode_of_a_normal_is_its_mean_state_by_state() -> None:
    actor = BoundedNormalActor(6, 3, 8, 1)
    stats, noise = actor(torch.randn(2, 6)), torch.randn(2, 3)
    action = actor.act(stats, noise, NO)
    assert_close(action[0], actor.sample(stats, noise)[0])
    assert_close(action[1], stats[1, :3])
    assert (actor.margin(stats, noise, NO) == math.inf).all()


def test_no_class_is_rarer_than_its_share() -> None:
    actor = UnimixActor(6, (4, 2), 8, 1)
    torch.nn.init.constant_(actor.logits.bias, 0.0)
    with torch.no_grad():
        actor.logits.bias[0] = actor.logits.bias[4] = 1e4
    probs = actor(torch.zeros(1, 6)).exp()
    assert_close(probs[0, 1:4], torch.full((3,), 0.01 / 4), rtol=1e-3, atol=0)
    assert_close(probs[0, 5], torch.tensor(0.01 / 2), rtol=1e-3, atol=0)


def test_groups_are_independent_categoricals() -> None:
    actor = UnimixActor(6, (4, 2), 8, 2)
    stats, noise = actor(torch.randn(5, 6)), torch.rand(5, 6)
    groups = [torch.distributions.Categorical(logits=x) for x in stats.split([4, 2], -1)]
    action = actor.sample(stats, noise)
    assert not action.requires_grad
    index = [x.argmax(-1) for x in action.split([4, 2], -1)]
    expected = sum(g.log_prob(i) for g, i in zip(groups, index, strict=True))
    assert_close(actor.log_prob(stats, action), expected)
    assert_close(actor.entropy(stats), sum(g.entropy() for g in groups))


def test_the_mode_of_groups_and_the_margin_of_the_choice() -> None:
    actor = UnimixActor(6, (3,), 8, 1, unimix=0.0)
    stats = torch.log_softmax(torch.tensor([[0.0, 2.0, 1.5], [0.0, 2.0, 1.5]]), -1)
    noise = torch.tensor([[0.999, 0.01, 0.01], [0.999, 0.01, 0.01]])
    assert actor.act(stats, noise, NO).tolist() == [[1, 0, 0], [0, 1, 0]]
    second = stats[0, 2].item()
    assert second < -1
    assert actor.margin(stats, noise, YES).tolist() == pytest.approx([0.5 / -second] * 2)
    assert actor.margin(stats, noise, NO)[0] > 0.5


def test_one_class_is_always_chosen() -> None:
    actor = UnimixActor(6, (1,), 8, 1)
    stats = actor(torch.randn(2, 6))
    assert (stats == 0).all()
    assert (actor.sample(stats, torch.rand(2, 1)) == 1).all()
    assert (actor.entropy(stats) == 0).all()
    assert (actor.margin(stats, torch.rand(2, 1), NO) == math.inf).all()


@pytest.mark.parametrize("std", [0.1, 5.0, 29.9, 30.1, 1e6])
def test_a_tanh_normal_begins_with_the_deviation_it_was_given(std: float) -> None:
    actor = TanhNormalActor(4, 2, 8, 1, init_std=std)
    raw = torch.tensor(actor.raw_init_std, dtype=torch.float64)
    assert_close(torch.nn.functional.softplus(raw).item(), std, rtol=1e-12, atol=0)
