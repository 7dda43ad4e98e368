"""Lambda returns against hand-computed numbers and a direct sum of n-step returns."""

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.returns import lambda_return


def sequence(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


REWARD, DISCOUNT, NEXT_VALUE = sequence(1, 2, 3), sequence(0.99, 0.99, 0.99), sequence(20, 30, 40)


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        (0.95, (42.94905715, 43.5503, 42.6)),
        (0.0, (20.8, 31.7, 42.6)),
        (1.0, (44.73226, 44.174, 42.6)),
    ],
)
def test_known_returns(lam: float, expected: tuple[float, ...]) -> None:
    assert_close(
        lambda_return(REWARD, DISCOUNT, NEXT_VALUE, lam), sequence(*expected), atol=1e-8, rtol=0
    )


def test_nothing_flows_across_a_termination() -> None:
    ret = lambda_return(REWARD, sequence(0.99, 0.0, 0.99), NEXT_VALUE, 0.95)
    assert_close(ret, sequence(3.871, 2.0, 42.6))


def test_equals_the_weighted_sum_of_n_step_returns() -> None:
    generator = torch.Generator().manual_seed(0)
    reward, discount, value = torch.rand(3, 2, 6, generator=generator, dtype=torch.float64)
    lam, H = 0.7, 6

    def n_step(t: int, n: int) -> torch.Tensor:
        total, scale = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
        for k in range(t, t + n):
            total, scale = total + scale * reward[:, k], scale * discount[:, k]
        return total + scale * value[:, t + n - 1]

    for t in range(H):
        last = H - t
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, last)] + [lam ** (last - 1)]
        expected = sum(w * n_step(t, n) for n, w in enumerate(weights, 1))
        assert_close(lambda_return(reward, discount, value, lam)[:, t], expected)


def test_lambda_may_differ_from_step_to_step() -> None:
    ret = lambda_return(REWARD, DISCOUNT, NEXT_VALUE, sequence(0.95, 0.0, 0.95))
    assert_close(ret[0, 1:], sequence(31.7, 42.6)[0])
    assert_close(ret[0, 0].item(), 1 + 0.99 * (0.05 * 20 + 0.95 * 31.7))


def test_dtype_is_kept() -> None:
    args = (x.float() for x in (REWARD, DISCOUNT, NEXT_VALUE))
    assert lambda_return(*args, 0.95).dtype is torch.float32


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"reward \(1, 3\), discount \(1, 2\)"):
        lambda_return(REWARD, DISCOUNT[:, 1:], NEXT_VALUE, 0.95)


def test_a_state_can_own_the_reward_it_is_read_from() -> None:
    # DreamerV2: reward and discount of z_0 .. z_2, values of z_1 .. z_3
    found = lambda_return(sequence(1, 2, 3), sequence(0.9, 0.9, 0.9), sequence(20, 30, 40), 0.5)
    assert_close(found, sequence(24.8725, 33.05, 39.0), atol=1e-9, rtol=0)
