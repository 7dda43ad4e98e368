"""Update schedules: functions of a run's counters, so that a resumed run owes the same."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Schedule(Protocol):
    """Schedule of updates: how many a run should have made by now.

    Attributes:
        prefill: environment steps of random actions, before which none is due.
        counts_steps: whether the steps alone decide, so that it can be told what lies ahead.
    """

    @property
    def prefill(self) -> int:
        """See the class."""
        ...

    @property
    def counts_steps(self) -> bool:
        """See the class."""
        ...

    def due(self, env_step: int, episodes: int) -> int:
        """Updates that should have been made.

        Args:
            env_step: environment steps so far, repeat included.
            episodes: episodes finished since prefill ended.
        """
        ...


@dataclass(frozen=True)
class ByBurst:
    """A burst of updates every so many environment steps.

    Args:
        prefill: environment steps of random actions, before which none is due.
        pretrain: updates at the first opportunity.
        every: environment steps between bursts.
        updates: updates in a burst.
        spread: update as transitions arrive, as many in all, instead of in bursts.
    """

    prefill: int
    pretrain: int
    every: int
    updates: int
    spread: bool = False
    counts_steps: bool = True

    def due(self, env_step: int, episodes: int) -> int:
        """See `Schedule`; episodes do not count."""
        if env_step < self.prefill:
            return 0
        steps = env_step - self.prefill
        if self.spread:
            return self.pretrain + steps * self.updates // self.every
        return self.pretrain + self.updates * (steps // self.every)


@dataclass(frozen=True)
class ByEpisode:
    """A burst of updates at the end of each episode.

    Args:
        prefill: environment steps of random actions, before which none is due.
        pretrain: updates at the first opportunity.
        updates: updates in a burst.
    """

    prefill: int
    pretrain: int
    updates: int
    counts_steps: bool = False

    def due(self, env_step: int, episodes: int) -> int:
        """See `Schedule`."""
        return self.pretrain + self.updates * episodes if env_step >= self.prefill else 0


@dataclass(frozen=True)
class ByDecision:
    """A number of updates for every decision, of all environments taken together.

    Args:
        prefill: environment steps of random actions, before which none is due.
        pretrain: updates at the first opportunity.
        updates: updates for a decision.
        repeat: environment steps in a decision.

    Source: Haarnoja et al. 2018 (arXiv:1812.05905), one gradient step a step; nicklashansen/tdmpc2
    trainer/online_trainer.py.
    """

    prefill: int
    pretrain: int
    updates: int
    repeat: int
    counts_steps: bool = True

    def due(self, env_step: int, episodes: int) -> int:
        """See `Schedule`; episodes do not count."""
        if env_step < self.prefill:
            return 0
        return self.pretrain + self.updates * ((env_step - self.prefill) // self.repeat)


@dataclass(frozen=True)
class ByRatio:
    """Updates in proportion to what was collected, owed in fractions.

    The first update is due when the replay holds as many sequences as one update has transitions.

    Args:
        prefill: environment steps of random actions, before which none is due.
        pretrain: updates at the first opportunity.
        ratio: transitions trained on for each decision collected.
        batch: B, sequences in a batch.
        length: T + 1, transitions in a sequence; the first is context.
        envs: environments collected from at a time.
        repeat: environment steps in a decision.

    Source: danijar/dreamerv3 embodied/run/train.py, elements' when.Ratio: the updates begin at 1088
    decisions of one environment, or 2048 of 16, and the first call makes exactly one.
    """

    prefill: int
    pretrain: int
    ratio: float
    batch: int
    length: int
    envs: int
    repeat: int
    counts_steps: bool = True

    def due(self, env_step: int, episodes: int) -> int:
        """See `Schedule`; episodes do not count."""
        trained = self.batch * (self.length - 1)
        begin = trained + self.envs * (self.length - 1)
        decisions = env_step // self.repeat - max(begin, self.prefill // self.repeat)
        return self.pretrain + int(decisions * self.ratio / trained) if decisions >= 0 else 0
