"""Vector observations in standard deviations from their mean, whatever their units are."""

import torch
from torch import Tensor, nn

from ..ranks import RunningMoments, ranks

FLOOR = 1e-2  # smallest deviation, in the observations' units: what never moved stays small
LIMIT = 10.0  # deviations at which values are clipped
FORMS = ("none", "prefill", "running")


class Standardizer(nn.Module):
    """Means and deviations of joined vectors, measured as they come, and both ways through them.

    Nothing is changed before the first vector was measured. The numbers are buffers: they are saved
    with the weights, and an exported graph holds them as constants.

    Args:
        measured: for each number of the joined vectors whether it is one to standardise; the others
            (one-hots) pass as they are.
        running: go on measuring while the agent learns; else the statistics stand from the first
            update on.

    Source: batches of vectors are joined as in Chan, Golub, LeVeque 1979 (Updating formulae and a
    pairwise algorithm for computing sample variances). Floor and clip are ours.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    scale: Tensor
    frozen: Tensor

    def __init__(self, measured: list[bool], *, running: bool) -> None:
        super().__init__()
        self.running, self._all = running, all(measured)
        self._measured = measured
        size = len(measured)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("squares", torch.zeros(size))  # summed squared distances to the mean
        self.register_buffer("scale", torch.ones(size))  # one over the deviation
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))
        self._shared: RunningMoments | None = None  # what all learners know

    @torch.no_grad()
    def measure(self, vectors: Tensor, *, learning: bool) -> None:
        """Take in vectors (B, n); once `learning`, that is, updates have begun, only if `running`.

        Statistics that stood once stand for good, in a run of another task, too.
        """
        if learning and not self.running:
            self.frozen.fill_(True)
        if self.frozen:
            return
        added = len(vectors)
        total, center = self.count + added, vectors.mean(0)
        away = center - self.mean
        spread = (vectors - center).square().sum(0)
        self.squares += spread + away.square() * self.count * added / total
        self.mean += away * added / total
        self.count.copy_(total)
        self._rescale()

    @torch.no_grad()
    def pool(self) -> None:
        """Take in the vectors that every learner has measured since the last call."""
        now = RunningMoments(self.count.double(), self.mean.double(), self.squares.double())
        if self._shared is not None:
            pooled = now.pooled(self._shared)
            for buffer, number in zip((self.count, self.mean, self.squares), pooled, strict=True):
                buffer.copy_(number)
            self.frozen.fill_(ranks().any(bool(self.frozen)))
            if self.count:
                self._rescale()
        self._shared = RunningMoments(
            self.count.double(), self.mean.double(), self.squares.double()
        )

    def _rescale(self) -> None:
        self.scale.copy_(1 / (self.squares / self.count).sqrt().clamp(min=FLOOR))
        if not self._all:
            others = ~torch.tensor(self._measured, device=self.mean.device)
            self.mean[others], self.scale[others] = 0.0, 1.0

    def forward(self, vector: Tensor) -> Tensor:
        """Raw (..., n) -> deviations from the mean (..., n), clipped to +-10."""
        return ((vector - self.mean) * self.scale).clamp(-LIMIT, LIMIT)

    def inverse(self, scaled: Tensor) -> Tensor:
        """Deviations from the mean (..., n) -> raw (..., n)."""
        return scaled / self.scale + self.mean
