"""Several policies beside each other, and one number for many tasks and seeds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..envs import EnvName, settings_of
from ..errors import ConfigError
from ..spec import Array
from .rollout import LEVEL, RESAMPLES, Evaluation

TRIM = 0.25  # of the scores, left out at either end
TABLES = 100  # resampled at once
Scores = ArrayLike | Mapping[str, ArrayLike]  # a table (runs, tasks), or the runs of each task
AGENTS = ("repeat", "obs", "render", "size", "camera")  # keys of how an agent sees and decides


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean: the mean of the middle half of all scores, runs and tasks pooled.

    Less swayed by outliers than the mean, and surer than the median with few runs. Scores of
    different tasks have to be normalised before they are pooled.

    Args:
        scores: (runs, tasks), or any other shape.

    Raises:
        ConfigError: if there are no scores, or one is not finite.

    Source: Agarwal et al. 2021 (arXiv:2108.13264), section 4.3; the number trimmed at either end is
    rounded down, as google-research/rliable metrics.py:aggregate_iqm has it.
    """
    return float(_iqm(_checked(scores).reshape(1, -1))[0])


def iqm_interval(scores: Scores) -> tuple[float, float]:
    """95 % stratified bootstrap interval of the IQM: runs are drawn again within each task.

    Args:
        scores: (runs, tasks), or task -> runs where their numbers differ; normalised.

    Raises:
        ConfigError: if the scores have another shape, are none, or one is not finite.

    Source: Agarwal et al. 2021 (arXiv:2108.13264), section 4.1; 10,000 resamples from a fixed seed.
    """
    by_task = _by_task(scores)
    found = [_iqm(_resampled(by_task, rng)) for rng in _rounds()]
    return _ends(np.concatenate(found))


class Estimate(NamedTuple):
    """A number with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Profile(NamedTuple):
    """A performance profile: arrays over its thresholds.

    Attributes:
        thresholds: normalised scores, (n,).
        share: of all runs, tasks pooled, those that score above each threshold.
        low: lower ends of 95 % stratified bootstrap intervals, threshold by threshold.
        high: their upper ends.
    """

    thresholds: Array
    share: Array
    low: Array
    high: Array


def performance_profile(scores: Scores, thresholds: ArrayLike) -> Profile:
    """The share of runs, over all tasks, that score above each threshold.

    Args:
        scores: (runs, tasks), or task -> runs where their numbers differ; normalised.
        thresholds: (n,) scores.

    Raises:
        ConfigError: if the scores or thresholds have another shape, are none, or are not finite.

    Source: Agarwal et al. 2021 (arXiv:2108.13264), section 4.2, score distributions, as
    google-research/rliable library.py:create_performance_profile makes them.
    """
    by_task, at = _by_task(scores), _checked(thresholds)
    if at.ndim != 1:
        raise ConfigError(f"the thresholds have shape {at.shape}, expected (n,)")

    def shares(pools: Array) -> Array:  # (k, scores) -> (k, n)
        return np.stack([(pools > one).mean(1) for one in at], axis=1)

    found = np.concatenate([shares(_resampled(by_task, rng)) for rng in _rounds()])
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Profile(at, shares(np.concatenate(by_task)[None])[0], low, high)


def probability_of_improvement(ours: Scores, theirs: Scores) -> Estimate:
    """Probability that a run of ours scores above one of theirs in a task; a tie counts half.

    The mean over tasks, each with a 95 % interval from runs drawn again on either side. Scores need
    no normalisation, since only those of one task are compared.

    Args:
        ours: (runs, tasks), or task -> runs.
        theirs: the same tasks, in the same order or by the same names; the number of runs may be
            another.

    Raises:
        ConfigError: if the tasks differ, or scores are none or not finite.

    Source: Agarwal et al. 2021 (arXiv:2108.13264), section 4.3, equation 2: Mann and Whitney's U
    over the number of pairs, as google-research/rliable metrics.py:probability_of_improvement.
    """
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        if ours.keys() != theirs.keys():
            raise ConfigError(
                f"ours are of {', '.join(ours)} and theirs of {', '.join(theirs)}; give both the "
                "same tasks"
            )
        theirs = {task: theirs[task] for task in ours}
    x, y = _by_task(ours), _by_task(theirs)
    if len(x) != len(y):
        raise ConfigError(
            f"ours are of {len(x)} tasks and theirs of {len(y)}; give both the same tasks in the "
            "same order"
        )

    def within(a: Array, b: Array) -> Array:  # (k, runs) each -> (k,)
        above, level = a[:, :, None] > b[:, None], a[:, :, None] == b[:, None]
        return (above + 0.5 * level).mean((1, 2))

    def over_tasks(drawn: Callable[[Array], Array]) -> Array:
        return np.mean([within(drawn(a), drawn(b)) for a, b in zip(x, y, strict=True)], axis=0)

    value = float(over_tasks(lambda runs: runs[None])[0])
    found = [over_tasks(lambda runs, rng=rng: _drawn(runs, rng)) for rng in _rounds()]
    return Estimate(value, *_ends(np.concatenate(found)))


def _rounds() -> Iterator[np.random.Generator]:
    """One generator, from a fixed seed, as often as it takes for all resamples."""
    rng = np.random.default_rng(0)
    return repeat(rng, RESAMPLES // TABLES)


def _drawn(runs: Array, rng: np.random.Generator) -> Array:
    """(TABLES, runs): one task's runs drawn again."""
    return runs[rng.integers(0, len(runs), (TABLES, len(runs)))]


def _resampled(by_task: Sequence[Array], rng: np.random.Generator) -> Array:
    """(TABLES, scores): tables whose tasks were drawn again, each on its own."""
    return np.concatenate([_drawn(runs, rng) for runs in by_task], axis=1)


def _ends(found: Array) -> tuple[float, float]:
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _by_task(scores: Scores) -> list[Array]:
    """The runs of each task."""
    if isinstance(scores, Mapping):
        if not scores:
            raise ConfigError("the scores are of no task; give the runs of at least one")
        return [_checked(runs).ravel() for runs in scores.values()]
    table = _checked(scores)
    if table.ndim != 2:
        raise ConfigError(f"the scores have shape {table.shape}, expected (runs, tasks)")
    return list(table.T)


def _iqm(pools: Array) -> Array:
    """(n,) IQM of each row of (n, scores)."""
    cut = int(TRIM * pools.shape[1])
    return np.sort(pools, axis=1)[:, cut : pools.shape[1] - cut].mean(1)


def _checked(scores: ArrayLike) -> Array:
    table = np.asarray(scores, np.float64)
    if table.size == 0 or not np.isfinite(table).all():
        raise ConfigError(
            f"the scores have shape {table.shape} and hold {int((~np.isfinite(table)).sum())} that "
            "are not finite; give at least one, all finite"
        )
    return table


def comparison_table(results: Mapping[str, Evaluation]) -> str:
    """Several evaluations as a Markdown table, in the order given.

    Args:
        results: name -> evaluation.

    Raises:
        ConfigError: if there is none, or they were not played in the same environment.
    """
    check_comparable(results)
    rows = [
        f"| {name} | {one.mean:.1f} | {one.interval[0]:.1f} to {one.interval[1]:.1f} | "
        f"{one.std:.1f} | {iqm(one.returns):.1f} | {len(one.returns)} | "
        f"{'mode' if one.deterministic else 'sampled'} |"
        for name, one in results.items()
    ]
    head = "| policy | mean | 95 % interval | std | IQM | episodes | actions |"
    rule = "|---|---:|---:|---:|---:|---:|---|"
    if any(one.successes for one in results.values()):
        head, rule = f"{head} success rate |", f"{rule}---|"
        rows = [
            f"{row} {succeeded(one)} |" for row, one in zip(rows, results.values(), strict=True)
        ]
    return "\n".join([head, rule, *rows])


def succeeded(result: Evaluation) -> str:
    """A success rate with its interval, or nothing where there is none."""
    rate, interval = result.success_rate, result.success_interval
    if rate is None or interval is None:
        return ""
    return f"{rate:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def check_comparable(results: Mapping[str, Evaluation]) -> None:
    """Refuse to put numbers beside each other that say nothing of each other.

    Raises:
        ConfigError: if there is none, or they were not played in the same environment; how an
            agent sees it and how often it decides may differ.
    """
    envs = {one.env for one in results.values()}
    if len({scored_in(env) for env in envs}) != 1:
        raise ConfigError(
            f"these were played in {', '.join(sorted(envs)) or 'nothing'}, expected one "
            "environment for all; name it when evaluating"
        )


def scored_in(env: str) -> str:
    """An environment string with only the keys that decide a score, not how an agent sees it."""
    settings = settings_of(env) if env else {}
    deciding = tuple(f"{k}={v}" for k, v in sorted(settings.items()) if k not in AGENTS)
    named = EnvName.read(env)
    return EnvName(named.suite, named.task, deciding).shell
