"""Several learners: processes that torchrun started, and what they have to bring together.

A run of N processes ("ranks") is the run of one process with its environments dealt out. Every rank
steps envs / N environments into a replay of its own and draws batch_size / N windows; weights,
moments and counters are the same on all of them. So gradients are averaged before anything is done
with them, and what is no mean over a batch is reduced where it stands: a recipe or a block says
`ranks().mean(...)` or `ranks().gather(...)`. In one process all of it gives back what it was given.
"""

import atexit
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor

from agentzoo.runtime.errors import ConfigError, RunError
from agentzoo.runtime.policy.noise import derive_seed

PATIENCE = timedelta(hours=2)  # that ranks wait for rank 0, which alone evaluates
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # variables that torchrun sets


class LostRankError(RunError):
    """Another process of the run is gone, or has not answered for `PATIENCE`."""


@dataclass(frozen=True)
class Ranks:
    """The processes that learn together, as one of them sees them.

    Attributes:
        rank: this one's number.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes, evaluates and reports."""
        return self.rank == 0

    # -- inside an update ------------------------------------------------------------------------

    def mean(self, x: Tensor) -> Tensor:
        """The mean over ranks of the means over equally large parts of a batch, of any shape.

        Its gradient reaches this rank's x whole: `grad` averages over the ranks.
        """
        return x if self.count == 1 else cast("Tensor", _Sum.apply(x)) / self.count

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, of any shape; differentiable as `mean` is."""
        return x if self.count == 1 else cast("Tensor", _Sum.apply(x))

    def gather(self, x: Tensor) -> Tensor:
        """The batch elements of all ranks, (n, ...) -> (count * n, ...), as constants."""
        if self.count == 1:
            return x
        x = x.detach().contiguous()
        found = [torch.empty_like(x) for _ in range(self.count)]
        with _answered():
            dist.all_gather(found, x)
        return torch.cat(found)

    def share(self, x: Tensor, axis: int = 0) -> Tensor:
        """This rank's part of an axis of what all of them hold: n / count of n."""
        return x if self.count == 1 else x.chunk(self.count, axis)[self.rank]

    def largest(self, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Indices of the k largest of all ranks' scores (n,), as far as they are this rank's.

        Returns:
            Positions in `scores` (m,), m being the smaller of k and n; the place of each among the
            k, (m,); and (m,) bool, False where fewer than m of the k are here.
        """
        top = torch.topk(self.gather(scores), k).indices
        if self.count == 1:
            return top, torch.arange(k, device=top.device), torch.ones_like(top, dtype=torch.bool)
        n = len(scores)
        mine = top.div(n, rounding_mode="floor") == self.rank
        here, place = torch.topk(mine.float(), min(k, n))
        return torch.where(here > 0, top[place] % n, 0), place, here > 0

    def grad(self, loss: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
        """Gradients of the ranks' mean loss; every rank gives its own."""
        grads = list(torch.autograd.grad(loss, params))
        if self.count == 1:
            return grads
        flat = torch.cat([one.reshape(-1) for one in grads])
        with _answered():
            dist.all_reduce(flat)
        parts = (flat / self.count).split([one.numel() for one in grads])
        return [part.view_as(one) for part, one in zip(parts, grads, strict=True)]

    # -- between updates: small numbers, on the host ---------------------------------------------

    def total(self, number: int) -> int:
        """The sum of the ranks' whole numbers."""
        return self._agreed(number, dist.ReduceOp.SUM)

    def most(self, number: int) -> int:
        """The largest of the ranks' whole numbers."""
        return self._agreed(number, dist.ReduceOp.MAX)

    def any(self, said: bool) -> bool:
        """Whether it is so on any rank."""
        return self.most(said) > 0

    def all(self, said: bool) -> bool:
        """Whether it is so on all ranks."""
        return not self.any(not said)

    def exchange(self, said: Any) -> list[Any]:
        """Every rank's word, as JSON can hold it, in their order."""
        if self.count == 1:
            return [said]
        content = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
        longest = self.most(len(content))
        padded = torch.full((1, longest), ord(" "), dtype=torch.uint8)
        padded[0, : len(content)] = content
        return [json.loads(bytes(one.tolist())) for one in self.gather(padded)]

    def _agreed(self, number: int, how: Any) -> int:
        if self.count == 1:
            return int(number)
        value = torch.tensor(int(number))
        with _answered():
            dist.all_reduce(value, how)
        return int(value)

    # -- this rank's own -------------------------------------------------------------------------

    def part(self, name: str, number: int) -> int:
        """This rank's share of a setting.

        Raises:
            ConfigError: if it cannot be dealt out evenly.
        """
        if number % self.count:
            raise ConfigError(
                f"{name}={number} cannot be dealt out to {self.count} processes; give a multiple "
                f"of {self.count}"
            )
        return number // self.count

    def seed(self, seed: int) -> int:
        """The seed of what every rank draws for itself; that of rank 0 is the run's."""
        return seed if self.first else derive_seed(seed, "rank", self.rank)

    def own(self, folder: Path) -> Path:
        """This rank's place in a folder of the run; that of rank 0 is the folder."""
        return folder if self.first else folder / f"rank-{self.rank}"

    def require_same(self, state: dict[str, Tensor], what: str) -> None:
        """Refuse to go on where a tensor differs from rank 0's.

        Raises:
            RunError: naming what differs.
        """
        if self.count == 1:
            return
        sums = {name: _checksum(tensor) for name, tensor in state.items()}
        first, mine = self.exchange(sums)[0], sums
        differing = [name for name in mine if first.get(name) != mine[name]]
        lost = self.exchange(differing)
        for rank, names in enumerate(lost):
            if names:
                raise RunError(
                    f"{what} of rank {rank} differ from those of rank 0: {', '.join(names[:3])}; "
                    "several processes learn on equal machines, with equal packages, and what an "
                    "agent draws or measures has to be the same on all of them"
                )


class RunningMoments(NamedTuple):
    """Number, mean and summed squared distances to the mean of samples, in float64.

    Source: Chan, Golub, LeVeque 1979 (Updating formulae and a pairwise algorithm for computing
    sample variances).
    """

    samples: Tensor  # ()
    mean: Tensor  # (...)
    squares: Tensor  # (...)

    def plus(self, other: "RunningMoments") -> "RunningMoments":
        """Moments of the samples of both."""
        total, away = self.samples + other.samples, other.mean - self.mean
        share = other.samples / total.clamp(min=1)
        squares = self.squares + other.squares + away.square() * self.samples * share
        return RunningMoments(total, self.mean + away * share, squares)

    def minus(self, before: "RunningMoments") -> "RunningMoments":
        """Moments of the samples that came after those of `before`."""
        added = self.samples - before.samples
        mean = (self.mean * self.samples - before.mean * before.samples) / added.clamp(min=1)
        away = (mean - before.mean).square() * before.samples * added / self.samples.clamp(min=1)
        return RunningMoments(added, mean, (self.squares - before.squares - away).clamp(min=0))

    def pooled(self, before: "RunningMoments") -> "RunningMoments":
        """Moments of every rank's samples since `before`, and of `before`, which all ranks know."""
        added = self.minus(before)
        flat = torch.cat([part.reshape(-1) for part in added]).unsqueeze(0)
        result = before
        for one in ranks().gather(flat):
            count, mean, squares = one.split([1, self.mean.numel(), self.mean.numel()])
            result = result.plus(
                RunningMoments(count[0], mean.view_as(self.mean), squares.view_as(self.mean))
            )
        return result


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient is what `Ranks.grad` averages to the sum's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        with _answered():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * ranks().count


_current = Ranks()


def ranks() -> Ranks:
    """The processes that learn together with this one: itself alone, but inside `joined`."""
    return _current


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Learn together with the processes that torchrun has started; alone where it has not.

    The group is torch.distributed's: gloo on CPUs, NCCL between GPUs, or the one that the program
    has made itself. It stands until the process ends.

    Raises:
        RunError: if the others do not come, or this device has no such group.
    """
    global _current
    before = _current
    if not _have_met() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _meet(device)
    if _have_met():
        _current = Ranks(dist.get_rank(), dist.get_world_size())
    try:
        yield _current
    finally:
        _current = before


def is_follower() -> bool:
    """Whether torchrun started this process beside others, and it is not their first."""
    return int(os.environ.get("RANK", "0")) > 0 and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _meet(device: torch.device) -> None:
    missing = [name for name in LAUNCHED if name not in os.environ]
    if missing:
        raise RunError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} asks for several processes, but "
            f"{', '.join(missing)} is not set; start them with torchrun, or unset WORLD_SIZE"
        )
    if device.type == "mps":
        raise RunError(
            "several processes learn on CPUs or on CUDA devices, not on mps; use device=cpu"
        )
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"the {os.environ['WORLD_SIZE']} processes cannot meet at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: {error}"
        ) from error
    atexit.register(_part)


def _have_met() -> bool:
    return dist.is_available() and dist.is_initialized()


def _part() -> None:
    if _have_met():
        dist.destroy_process_group()


@contextmanager
def _answered() -> Iterator[None]:
    """Turn torch.distributed's error about a process that is gone into a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(
            f"another process of this run is gone or does not answer ({_short(error)})"
        ) from error


def _short(error: Exception) -> str:
    """First sentence of an error, without the place in torch's sources."""
    line = str(error).strip().splitlines()[0]
    return re.sub(r"^\[[^]]*\] *", "", line).split(". ")[0].rstrip(".")


def _checksum(tensor: Tensor) -> int:
    """A number that hardly any other content has."""
    return zlib.crc32(
        tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
    )
