"""A categorical sample of few classes as passes over whole classes, for the compiler.

Plain form: `CategoricalLatent.sample` on constants. Its softmax, argmax and scatter go along an
axis of K classes, which compiled code does number by number where K is small; class by class every
pass is over as many numbers as there are groups. Operation by operation this form is slower.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributions import gumbel

FEW = 8  # classes, below which this is the faster form


def sample(stats: Tensor, noise: Tensor, unimix: float) -> Tensor:
    """One-hots by Gumbel-max: logits (..., S*K) and uniform noise (..., S, K) -> (..., S*K)."""
    logits = stats.unflatten(-1, noise.shape[-2:]).unbind(-1)
    top = logits[0]
    for one in logits[1:]:
        top = torch.maximum(top, one)
    parts = [torch.exp(one - top) for one in logits]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    scores = [
        torch.log((1 - unimix) * (part / total) + unimix / len(parts)) + gumbel(eps)
        for part, eps in zip(parts, noise.unbind(-1), strict=True)
    ]
    return torch.stack(largest(scores), -1).flatten(-2)


def largest(scores: Sequence[Tensor]) -> list[Tensor]:
    """For each class 1.0 where its score is the largest, else 0.0; of equals, the first is.

    Args:
        scores: K tensors (...).
    """
    before: list[Tensor] = [torch.full_like(scores[0], -torch.inf)]  # largest of the classes before
    for one in scores[:-1]:
        before.append(torch.maximum(before[-1], one))
    after: list[Tensor] = [torch.full_like(scores[0], -torch.inf)]  # and of those behind
    for one in reversed(scores[1:]):
        after.append(torch.maximum(after[-1], one))
    three = zip(scores, before, reversed(after), strict=True)
    return [((one > left) & (one >= right)).float() for one, left, right in three]
