"""Percentiles, the return scale without bias correction, and slow copies."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from agentzoo.blocks.ema import ema_update, hard_update, target_copy
from agentzoo.blocks.normalize import PercentileScale, percentile


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_percentiles_are_those_of_torch(share: float) -> None:
    x = torch.randn(7, 13, generator=torch.Generator().manual_seed(0))
    assert_close(percentile(x, share), torch.quantile(x, share))


def test_the_scale_grows_without_bias_correction() -> None:
    scale, returns = PercentileScale(), torch.linspace(0, 100 / 0.9, 10_001)
    ranges = []
    for _ in range(3):
        scale.update(returns)  # p95 - p5 is 100
        ranges.append((scale.upper - scale.lower).item())
    assert ranges == pytest.approx([100 * (1 - 0.99**n) for n in (1, 2, 3)], rel=1e-4)
    assert ranges[1] == pytest.approx(1.99, rel=1e-4)
    assert scale().item() == pytest.approx(100 * (1 - 0.99**3), rel=1e-4)


def test_small_returns_are_not_blown_up() -> None:
    scale = PercentileScale()
    scale.update(torch.linspace(-0.1, 0.1, 100))
    assert scale().item() == 1.0


def test_its_state_is_saved() -> None:
    scale, other = PercentileScale(), PercentileScale()
    scale.update(1000 * torch.randn(100))
    other.load_state_dict(scale.state_dict())
    assert other() == scale() > 1


def test_a_slow_copy_follows_by_a_share_of_the_distance() -> None:
    net = nn.Linear(3, 2)
    slow = target_copy(net)
    start, goal = net.weight.detach().clone(), torch.ones(2, 3)
    assert not any(p.requires_grad for p in slow.parameters())
    assert torch.equal(slow.weight, net.weight)
    with torch.no_grad():
        net.weight.copy_(goal)
    for n in range(1, 4):
        ema_update(slow, net, 0.02)
        assert_close(slow.weight, goal + (start - goal) * 0.98**n)
    ema_update(slow, net, 1.0)
    assert_close(slow.weight, goal)
    assert net.weight.requires_grad


@pytest.mark.parametrize("due", [True, False])
def test_a_copy_takes_over_all_or_nothing(due: bool) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    slow = target_copy(net)
    before = [p.clone() for p in slow.parameters()]
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.rand_like(p))
    hard_update(torch.tensor(due), slow, net)
    expected = list(net.parameters()) if due else before
    assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), expected, strict=True))
    assert not any(p.requires_grad for p in slow.parameters())
