"""Several policies beside each other, and one number for many tasks and seeds."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ..envs import EnvName, settings_of
from ..errors import ConfigError
from ..spec import Array
from .rollout import LEVEL, RESAMPLES, Evaluation

TRIM = 0.25  # of the scores, left out at either end
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


def iqm_interval(scores: ArrayLike) -> tuple[float, float]:
    """95 % stratified bootstrap interval of the IQM: runs are drawn again within each task.

    Args:
        scores: (runs, tasks), normalised.

    Raises:
        ConfigError: if the scores have another shape, are none, or one is not finite.

    Source: Agarwal et al. 2021 (arXiv:2108.13264), section 4.1; 10,000 resamples from a fixed seed.
    """
    table = _checked(scores)
    if table.ndim != 2:
        raise ConfigError(f"the scores have shape {table.shape}, expected (runs, tasks)")
    runs, tasks = table.shape
    rng = np.random.default_rng(0)
    found = [_iqm(_resampled(table, rng)) for _ in range(RESAMPLES // 100)]
    assert found[0].shape == (100,), (runs, tasks)
    low, high = np.quantile(np.concatenate(found), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _resampled(table: Array, rng: np.random.Generator) -> Array:
    """(100, runs * tasks): a hundred tables whose columns were drawn again, each on its own."""
    runs, tasks = table.shape
    chosen = rng.integers(0, runs, (100, runs, tasks))
    return table[chosen, np.arange(tasks)].reshape(100, -1)


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
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|---|", *rows])


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
    """The settings of a string that decide a score, apart from how an agent sees and decides."""
    settings = settings_of(env) if env else {}
    deciding = (f"{k}={v}" for k, v in sorted(settings.items()) if k not in AGENTS)
    return "&".join([EnvName.read(env).head, *deciding])
