"""Returns of trajectories that were imagined, and of those that replay holds."""

import torch
from torch import Tensor


def lambda_return(
    reward: Tensor, discount: Tensor, next_value: Tensor, lam: float | Tensor
) -> Tensor:
    """Discounted return that mixes n-step returns with weight `lam`.

    R_t = r_t + d_t * ((1 - lam_t) * v_{t+1} + lam_t * R_{t+1}), bootstrapped from the last
    next_value.

    Args:
        reward: (N, H) reward for the move t -> t+1, in task units.
        discount: (N, H) gamma times the probability that the episode continues.
        next_value: (N, H) value of the state reached; its last column is the bootstrap.
        lam: scalar or (N, H); zero where a stored episode ends cuts the sum there.

    Returns:
        (N, H), same dtype as reward.

    Raises:
        ValueError: if the shapes differ.

    Source: Hafner et al. 2020 (arXiv:1912.01603v3), equation 6; also serves the later Dreamers.
    """
    if not reward.shape == discount.shape == next_value.shape:
        raise ValueError(
            f"lambda_return got reward {tuple(reward.shape)}, discount {tuple(discount.shape)} and "
            f"next_value {tuple(next_value.shape)}; all three must have the same shape (N, H)"
        )
    now = (reward + discount * (1 - lam) * next_value).unbind(1)
    later = (discount * lam).unbind(1)
    ret = next_value[:, -1]
    returns: list[Tensor] = []
    for step, carry_on in zip(reversed(now), reversed(later), strict=True):
        ret = torch.addcmul(step, carry_on, ret)
        returns.append(ret)
    return torch.stack(returns[::-1], 1)
