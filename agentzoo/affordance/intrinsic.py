"""The affordance-driven intrinsic reward: more for a larger and more central goal."""

from functools import lru_cache

import numpy as np

from agentzoo.runtime.spec import Array

GATES = ("gated", "ungated", "delta")
SCALE = 0.01  # of the reward


@lru_cache
def gaussian_prior(height: int, width: int, weight: float = 0.5) -> Array:
    """Centrality of each pixel: (h, w) in (0, 1], read-only.

    G(x, y) = exp(-x^2 / 2 (weight w)^2 - y^2 / 2 (weight h)^2) at w points from -w/2 to w/2 and h
    from -h/2 to h/2, both ends included; weight 0 is 1 everywhere.

    Source: qiwang067/LS-Imagine, concentration wrapper.
    """
    if not weight:
        prior = np.ones((height, width))
    else:
        y, x = (
            np.exp(-np.square(np.linspace(-n / 2, n / 2, n)) / (2 * (weight * n) ** 2))
            for n in (height, width)
        )
        prior = y[:, None] * x
    prior.flags.writeable = False
    return prior


def affordance_score(map_: Array, prior: Array) -> float:
    """S = mean(M * G) / mean(G): c for a map that is c everywhere."""
    return float((map_ * prior).mean() / prior.mean())


def intrinsic_reward(score: float, before: float, gate: str = "gated") -> float:
    """A step's pay for its score.

    Args:
        score: S of the step.
        before: with `gated` the episode's best score so far, with `delta` the score of the step
            before; 0 at its start.
        gate: `gated` pays a new best of the episode alone (the released code), `ungated` every
            step (the paper), `delta` what the score has grown by.

    Returns:
        0.01 times what is paid.
    """
    if gate == "gated":
        return SCALE * score if score > before else 0.0
    return SCALE * (score if gate == "ungated" else score - before)
