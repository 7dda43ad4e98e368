"""Divergences between posterior and prior, and what the agents do with free nats."""

import torch
from torch import Tensor

from ..ranks import ranks


def gaussian_kl(mean: Tensor, std: Tensor, prior_mean: Tensor, prior_std: Tensor) -> Tensor:
    """KL(N(mean, std) || N(prior_mean, prior_std)) in nats, summed over the last axis.

    Args:
        mean: (..., S) of the posterior, like the other three.
        std: standard deviation of the posterior.
        prior_mean: mean of the prior.
        prior_std: standard deviation of the prior.

    Returns:
        (...), not negative.
    """
    ratio = std / prior_std
    shift = (mean - prior_mean) / prior_std
    return (0.5 * (ratio.square() + shift.square() - 1) - ratio.log()).sum(-1)


def categorical_kl(log_probs: Tensor, prior_log_probs: Tensor) -> Tensor:
    """KL of one group of categoricals from another in nats, summed over the groups.

    Args:
        log_probs: (..., S, K) of the posterior, normalised.
        prior_log_probs: (..., S, K) of the prior.

    Returns:
        (...), not negative.
    """
    return (log_probs.exp() * (log_probs - prior_log_probs)).sum((-2, -1))


def free_nats_on_mean(kl: Tensor, free_nats: float) -> Tensor:
    """max(mean(kl), free_nats): below the threshold the whole batch has no gradient.

    Args:
        kl: (B, T) nats per step.
        free_nats: threshold in nats.

    Returns:
        A scalar.

    Source: danijar/dreamer dreamer.py:_train. The paper's first code hinges every step (see
    `free_nats_per_step`); its author calls either fine (danijar/dreamer#44).
    """
    return torch.clamp(ranks().mean(kl.mean()), min=free_nats)


def kl_balancing(dyn: Tensor, rep: Tensor, balance: float, free_nats: float) -> Tensor:
    """KL balancing: balance * max(mean dyn, free) + (1 - balance) * max(mean rep, free).

    Both have the same value; they differ in what is a constant. So the prior moves towards the
    posterior faster than the posterior towards the prior.

    Args:
        dyn: (B, T) nats per step, KL(constant posterior || prior).
        rep: (B, T) nats per step, KL(posterior || constant prior).
        balance: share of `dyn`.
        free_nats: threshold in nats, on each mean.

    Returns:
        A scalar.

    Source: Hafner et al. 2021 (arXiv:2010.02193), algorithm 2; danijar/dreamerv2
    common/nets.py:kl_loss with `free_avg`.
    """
    prior, posterior = free_nats_on_mean(dyn, free_nats), free_nats_on_mean(rep, free_nats)
    return balance * prior + (1 - balance) * posterior


def free_nats_per_step(kl: Tensor, free_nats: float) -> Tensor:
    """max(0, kl - free_nats), step by step, so each step has its own gradient or none.

    Args:
        kl: (B, T) nats per step.
        free_nats: threshold in nats.

    Returns:
        (B, T).

    Source: google-research/planet, configs `free_nats: 3` and training/utility.py.
    """
    return torch.clamp(kl - free_nats, min=0)


def free_nats_floor(kl: Tensor, free_nats: float) -> Tensor:
    """max(kl, free_nats), step by step: below the threshold a step has no gradient.

    Args:
        kl: (B, T) nats per step.
        free_nats: threshold in nats.

    Returns:
        (B, T).

    Source: danijar/dreamerv3 rssm.py:loss.
    """
    return torch.clamp(kl, min=free_nats)
