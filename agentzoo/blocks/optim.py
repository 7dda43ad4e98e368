"""Optimisers on lists of tensors, without host synchronisation."""
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agentzoo.runtime.errors import ConfigError, RunError

SMALLEST_NORM = 1e-3  # a tensor of zeros may still move


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all tensors taken together, a scalar."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))


def clip_by_global_norm(grads: Sequence[Tensor], limit: float) -> tuple[list[Tensor], Tensor]:
    """Scale all gradients by one factor so that their joint norm is at most `limit`.

    Returns:
        The scaled gradients and the norm before scaling.
    """
    norm = global_norm(grads)
    return list(torch._foreach_mul(list(grads), torch.clamp(limit / norm, max=1))), norm


@dataclass(frozen=True)
class RateDecay:
    """Decay of a learning rate over updates: to a share of itself, then it stays there.

    Attributes:
        form: linear, or cosine, half a wave.
        updates: until the last share is reached.
        final: the last share.
    """

    form: Literal["linear", "cosine"]
    updates: int
    final: float = 0.0

    def share(self, step: Tensor) -> Tensor:
        """The share in the update that `step` updates came before, a scalar."""
        gone = (step / self.updates).clamp(max=1)
        left = 1 - gone if self.form == "linear" else (1 + torch.cos(math.pi * gone)) / 2
        return self.final + (1 - self.final) * left


class Moments:
    """Parameters by name and running moments of their gradients: what optimisers here share.

    State is allocated at first use, on the parameters' device.
    """

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self.names = list(params)
        self.params = list(params.values())
        self.rate_decay: RateDecay | None = None  # of the learning rate; none is constant
        self._state: dict[str, Tensor] = {}

    @property
    def state(self) -> dict[str, Tensor]:
        """The live state: `step` (float32 scalar) and `mean.NAME`, `square.NAME` tensors."""
        if not self._state:
            self._state["step"] = torch.zeros((), device=self.params[0].device)
            for name, param in zip(self.names, self.params, strict=True):
                self._state[f"mean.{name}"] = torch.zeros_like(param, requires_grad=False)
                self._state[f"square.{name}"] = torch.zeros_like(param, requires_grad=False)
        return self._state

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the state's tensors, flat, by name."""
        return {name: tensor.detach().clone() for name, tensor in self.state.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Read the state back.

        Raises:
            RunError: if a name is missing or unknown, or a shape or dtype differs.
        """
        if wrong := sorted(self.state.keys() ^ state.keys()):
            raise RunError(
                f"the optimiser's state does not fit these parameters: {wrong[:5]} stand on one "
                "side only; load the state of an agent with the same settings"
            )
        for name, tensor in self.state.items():
            given = state[name]
            if tensor.shape != given.shape:
                raise RunError(
                    f'the optimiser\'s "{name}" has shape {tuple(given.shape)}, expected '
                    f"{tuple(tensor.shape)}; load the state of an agent with the same settings"
                )
            if tensor.dtype != given.dtype:
                raise RunError(
                    f'the optimiser\'s "{name}" stands as {given.dtype}, expected {tensor.dtype}; '
                    "load the state of an agent with the same settings"
                )
            tensor.copy_(given)

    def _moments(self, kind: str) -> list[Tensor]:
        return [self.state[f"{kind}.{name}"] for name in self.names]


class Adam(Moments):
    """Adam in TensorFlow's form, with clipping by global norm; takes gradients as an argument.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g^2
        p = p - lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)

    with p = (1 - decay) p before that. eps is added before bias correction, so the effective one is
    larger in early steps than PyTorch's of the same value.

    Args:
        params: parameters by name.
        lr: learning rate.
        eps: the "epsilon hat" of the paper.
        clip: largest global norm of the gradients.
        betas: decay rates of the two moments.
        decay: share of every parameter that is taken away each step, whatever the learning rate;
            torch.optim.AdamW's `weight_decay` times `lr`.
        torch_eps: add eps after bias correction, as torch.optim.Adam does.

    Source: Kingma & Ba 2015 (arXiv:1412.6980), end of section 2; tf.keras.optimizers.Adam. Decay
    Loshchilov & Hutter 2019 (arXiv:1711.05101), in the form of danijar/dreamerv2
    common/tfutils.py:Optimizer.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        *,
        lr: float,
        eps: float = 1e-7,
        clip: float = torch.inf,
        betas: tuple[float, float] = (0.9, 0.999),
        decay: float = 0.0,
        torch_eps: bool = False,
    ) -> None:
        super().__init__(params)
        self.lr, self.eps, self.clip, self.betas, self.decay = lr, eps, clip, betas, decay
        self.warmup = 0  # updates in which the rate rises from 0
        self.torch_eps = torch_eps

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> Tensor:
        """Update the parameters in place.

        Args:
            grads: one gradient for each parameter, in the order of `params`.

        Returns:
            The gradients' global norm before clipping, a scalar on the device.
        """
        assert len(grads) == len(self.params), (len(grads), len(self.params))
        clipped, norm = clip_by_global_norm(grads, self.clip)
        mean, square, step = self._moments("mean"), self._moments("square"), self.state["step"]
        b1, b2 = self.betas
        step.add_(1)
        torch._foreach_lerp_(mean, clipped, 1 - b1)
        torch._foreach_mul_(square, b2)
        torch._foreach_addcmul_(square, clipped, clipped, 1 - b2)
        scale = torch._foreach_sqrt(square)
        # expm1: 1 - 0.999 in float32 has four digits
        spread = torch.sqrt(-torch.expm1(step * math.log(b2)))
        bias = (1 if self.torch_eps else spread) / -torch.expm1(step * math.log(b1))
        if self.torch_eps:
            torch._foreach_div_(scale, spread)
        torch._foreach_add_(scale, self.eps)
        change = torch._foreach_div(mean, scale)
        rate = self.lr * (step / self.warmup).clamp(max=1) if self.warmup else self.lr
        if self.rate_decay is not None:
            rate = rate * self.rate_decay.share(step - 1)
        torch._foreach_mul_(change, rate * bias)
        if self.decay:
            torch._foreach_mul_(self.params, 1 - self.decay)
        torch._foreach_sub_(self.params, change)
        return norm


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
        """Norms of the wholes that the tensors are parts of: (P,)."""
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
        if self.rate_decay is not None:
            rate = rate * self.rate_decay.share(step)
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


def decay_rates(optimizers: Mapping[str, object], decay: RateDecay) -> None:
    """Let every optimiser's learning rate fall.

    Raises:
        ConfigError: for an optimiser that is none of this module's.
    """
    for name, optimizer in optimizers.items():
        if not isinstance(optimizer, Moments):
            raise ConfigError(
                f"lr_decay={decay.form!r} is for Adam and LaProp of agentzoo.blocks.optim; "
                f"{name!r} is a {type(optimizer).__name__}: leave lr_decay out, or let its rate "
                "fall in the agent's own update"
            )
        optimizer.rate_decay = decay
