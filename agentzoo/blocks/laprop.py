"""LaProp with adaptive gradient clipping: one optimiser for networks of any size."""
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .optim import Moments, global_norm

SMALLEST_NORM = 1e-3  # a tensor of zeros may still move


class AdaptiveClip:
    """Scales each gradient down to a share of its own weight's norm.

    g * min(1, limit * max(1e-3, |w|) / |g|) with Euclidean norms over whole tensors, biases and
    gains included.

    Args:
        limit: largest ratio of the gradient's norm to the weight's.
        owners: for each tensor the name of the weight it is a part of; parts share their norms.

    Source: Brock et al. 2021 (arXiv:2102.06171), without its unit-wise norms; danijar/dreamerv3
    embodied/jax/opt.py:clip_by_agc.
    """

    def __init__(self, limit: float, owners: Sequence[str]) -> None:
        numbers = {name: i for i, name in enumerate(dict.fromkeys(owners))}
        self.limit = limit
        self._owner = torch.tensor([numbers[name] for name in owners])
        self._owners = len(numbers)

    def __call__(self, grads: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        """The clipped gradients."""
        self._owner = self._owner.to(grads[0].device)
        limits = self.limit * self._norms(weights).clamp(min=SMALLEST_NORM)
        # the smallest float32 keeps 0 / 0 away
        norms = self._norms(grads).clamp(min=torch.finfo(torch.float32).tiny)
        scale = torch.clamp(limits / norms, max=1)
        return list(torch._foreach_mul(list(grads), list(scale.unbind())))

    def _norms(self, tensors: Sequence[Tensor]) -> Tensor:
        """Of the whole that each tensor is a part of: (P,)."""
        squares = torch.stack(torch._foreach_norm(list(tensors))).square()
        whole = squares.new_zeros(self._owners).index_add(0, self._owner, squares)
        return whole.sqrt()[self._owner]


class LaProp(Moments):
    """Momentum over gradients that were normalised first, with a linear warm-up.

        v = b2 v + (1 - b2) g^2;   m = b1 m + (1 - b1) g / (sqrt(v / (1 - b2^t)) + eps)
        p = p - lr * min(1, (t - 1) / warmup) * m / (1 - b1^t)

    Unlike in Adam, a large gradient cannot push through an old small v. Gradients are clipped by
    `AdaptiveClip` before all this. The first step of a warm-up has a learning rate of 0.

    Args:
        params: parameters by name.
        lr: learning rate after the warm-up.
        warmup: steps in which it rises from 0.
        eps: added to the root of the second moment.
        clip: largest ratio of a gradient's norm to its weight's.
        betas: decay rates of the two moments.
        owner: name of a parameter -> name of the weight that it is a part of, for clipping.

    Source: Ziyin et al. 2020 (arXiv:2002.04839); Hafner et al. 2025 (arXiv:2301.04104v2);
    danijar/dreamerv3 dreamerv3/agent.py:_make_opt.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        *,
        lr: float,
        warmup: int = 1000,
        eps: float = 1e-20,
        clip: float = 0.3,
        betas: tuple[float, float] = (0.9, 0.999),
        owner: Callable[[str], str] = str,
    ) -> None:
        super().__init__(params)
        self.lr, self.warmup, self.eps, self.betas = lr, warmup, eps, betas
        self.clip = AdaptiveClip(clip, [owner(name) for name in self.names])

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> Tensor:
        """Update the parameters in place.

        Args:
            grads: one gradient for each parameter, in the order of `params`.

        Returns:
            The gradients' global norm before clipping, a scalar on the device.
        """
        assert len(grads) == len(self.params), (len(grads), len(self.params))
        clipped = self.clip(grads, self.params)
        mean, square, step = self._moments("mean"), self._moments("square"), self.state["step"]
        b1, b2 = self.betas
        rate = self.lr * torch.clamp(step / self.warmup, max=1) if self.warmup else self.lr
        step.add_(1)
        torch._foreach_mul_(square, b2)
        torch._foreach_addcmul_(square, clipped, clipped, 1 - b2)
        scale = torch._foreach_sqrt(square)
        # expm1: 1 - 0.999 in float32 has four digits
        torch._foreach_div_(scale, torch.sqrt(-torch.expm1(step * math.log(b2))))
        torch._foreach_add_(scale, self.eps)
        torch._foreach_lerp_(mean, torch._foreach_div(clipped, scale), 1 - b1)
        change = torch._foreach_mul(mean, rate / -torch.expm1(step * math.log(b1)))
        torch._foreach_sub_(self.params, change)
        return global_norm(grads)
