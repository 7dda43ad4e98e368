"""A normal truncated to [-1, 1]: density, entropy, and samples by operations that export.

torch.erfinv has no ONNX counterpart, so the inverse normal is a rational approximation.
"""

import math

import torch
from torch import Tensor

from .distributions import HALF_LOG_2PI

# lowest power first; all positive, so float32 loses nothing to cancellation
CENTRE_NUMERATOR = (3.3871327179e00, 5.0434271938e01, 1.5929113202e02, 5.9109374720e01)
CENTRE_DENOMINATOR = (1.0, 1.7895169469e01, 7.8757757664e01, 6.7187563600e01)
TAIL_NUMERATOR = (1.4234372777e00, 2.7568153900e00, 1.3067284816e00, 1.7023821103e-01)
TAIL_DENOMINATOR = (1.0, 7.3700164250e-01, 1.2021132975e-01)
CENTRE, SHIFT = 0.425, 1.6  # |p - 0.5| of the centre's formula; origin of the tail's
SMALLEST = 1e-7  # keeps the logarithm finite; float32 resolves no less below one


def polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Horner's scheme, lowest power first."""
    result = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def normal_cdf(x: Tensor) -> Tensor:
    """Probability that a standard normal is below x."""
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def inverse_normal_cdf(p: Tensor) -> Tensor:
    """The x below which a standard normal lies with probability p.

    Args:
        p: probabilities, clamped to [1e-7, 1 - 1e-7].

    Returns:
        Same shape; relative error about 1e-7, the rounding of float32 aside.

    Source: Wichura 1988, algorithm AS 241 (PPND7), Applied Statistics 37(3). Its third branch
    begins below p = 1.4e-11, which the clamp leaves out.
    """
    p = p.clamp(SMALLEST, 1 - SMALLEST)
    q = p - 0.5
    r = CENTRE**2 - q * q
    centre = q * polynomial(CENTRE_NUMERATOR, r) / polynomial(CENTRE_DENOMINATOR, r)
    t = torch.sqrt(-torch.log(torch.minimum(p, 1 - p))) - SHIFT
    tail = torch.sign(q) * polynomial(TAIL_NUMERATOR, t) / polynomial(TAIL_DENOMINATOR, t)
    return torch.where(q.abs() <= CENTRE, centre, tail)


def sample(loc: Tensor, scale: Tensor, uniform: Tensor) -> Tensor:
    """A sample of N(loc, scale^2) truncated to [-1, 1], differentiable in loc and scale.

    Args:
        loc: (...) location; the distribution's mode where it lies in [-1, 1].
        scale: (...) scale before truncation, positive.
        uniform: (...) noise in [0, 1).

    Returns:
        (...) in [-1, 1].

    Source: inversion of the distribution function; DreamerV2's actor for continuous actions is
    this distribution (Hafner et al. 2021, arXiv:2010.02193).
    """
    low, high = normal_cdf((-1 - loc) / scale), normal_cdf((1 - loc) / scale)
    x = loc + scale * inverse_normal_cdf(low + uniform * (high - low))
    return x.clamp(-1, 1)


def log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log-density in nats at x in [-1, 1], element by element: (...) each -> (...)."""
    within = normal_cdf((1 - loc) / scale) - normal_cdf((-1 - loc) / scale)
    return -0.5 * ((x - loc) / scale).square() - torch.log(scale * within) - HALF_LOG_2PI


def entropy(loc: Tensor, scale: Tensor) -> Tensor:
    """Entropy in nats, element by element: (...) each -> (...).

    Source: Johnson, Kotz & Balakrishnan 1994, Continuous Univariate Distributions 1, 10.1.
    """
    low, high = (-1 - loc) / scale, (1 - loc) / scale
    within = normal_cdf(high) - normal_cdf(low)
    # z times the standard normal density at z
    edges = [z * torch.exp(-0.5 * z.square() - HALF_LOG_2PI) for z in (low, high)]
    lost = (edges[0] - edges[1]) / (2 * within)
    return torch.log(scale * within) + (0.5 + HALF_LOG_2PI) + lost
