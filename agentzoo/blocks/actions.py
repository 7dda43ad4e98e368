"""From an action in model units to the environment's own, inside the exported graph."""

import math

import torch
from torch import Tensor

from agentzoo.runtime.spec import UNBOUNDED, ActionSpec


def to_env(action: Tensor, spec: ActionSpec) -> Tensor:
    """An action in model units as the environment takes it; torch's twin of `spaces.env_action`.

    Box: low + (a + 1) / 2 * (high - low), clipped to the bounds; dimensions with a bound of 1e6 or
    more are clipped only. Discrete and MultiDiscrete: the largest entry of each group, plus start.

    Args:
        action: (B, A) in model units.
        spec: the environment's action.

    Returns:
        (B, *spec.shape), float32 for a Box, int64 for indices.
    """
    if spec.kind == "box":
        flat = _rescale(action.float(), spec)
    else:
        groups = action.split(list(spec.nvec), -1)
        index = torch.stack([group.argmax(-1) for group in groups], -1)
        flat = index + torch.tensor(spec.start, device=action.device)
    # unflatten leaves the batch axis symbolic in an exported graph
    return flat.unflatten(1, spec.shape) if spec.shape else flat.squeeze(1)


def _rescale(action: Tensor, spec: ActionSpec) -> Tensor:
    if set(spec.low) == {-1.0} and set(spec.high) == {1.0}:
        return action.clamp(-1, 1)
    pairs = list(zip(spec.low, spec.high, strict=True))
    finite = [abs(low) < UNBOUNDED and abs(high) < UNBOUNDED for low, high in pairs]
    scale = [(b - a) / 2 if ok else 1.0 for (a, b), ok in zip(pairs, finite, strict=True)]
    shift = [(b + a) / 2 if ok else 0.0 for (a, b), ok in zip(pairs, finite, strict=True)]
    assert all(map(math.isfinite, scale + shift)), spec
    low, high, scale, shift = (action.new_tensor(x) for x in (spec.low, spec.high, scale, shift))
    return torch.minimum(torch.maximum(action * scale + shift, low), high)
