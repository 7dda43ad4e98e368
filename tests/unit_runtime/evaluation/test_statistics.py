"""Numbers over policies, tasks and seeds: closed forms, and what rliable computes."""

import numpy as np
import pytest

from agentzoo.runtime import (
    comparison_table,
    iqm,
    iqm_interval,
    performance_profile,
    probability_of_improvement,
)
from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.evaluation.rollout import Evaluation

# rliable 1.2.0 with arch 7.2, scipy 1.17 and pandas 2: metrics.aggregate_iqm, and the IQM's row of
# library.get_interval_estimates(reps=2000, random_state=RandomState(0)), of `scores(runs, tasks)`
RLIABLE = {
    (5, 3): (1.8670313176555622, 1.06741, 2.79371),
    (4, 1): (2.9883412079185034, 1.78907, 5.40486),
    (10, 7): (2.6736150513909775, 2.20169, 3.15822),
    (3, 2): (2.075993984670289, 1.45716, 2.70478),
}

# the same versions, printed by rliable_numbers.py, beside this file, where rliable is installed
THRESHOLDS = [0.5, 1, 2, 4, 8]
PROFILES = {
    (5, 3): {
        "profile": [0.733333, 0.666667, 0.6, 0.133333, 0.0],
        "low": [0.466667, 0.4, 0.333333, 0.0, 0.0],
        "high": [0.933333, 0.866667, 0.8, 0.333333, 0.0],
        "improvement": [0.272222, 0.116528, 0.455556],
    },
    (4, 1): {
        "profile": [1.0, 1.0, 0.75, 0.25, 0.0],
        "low": [1.0, 1.0, 0.25, 0.0, 0.0],
        "high": [1.0, 1.0, 1.0, 0.75, 0.0],
        "improvement": [0.625, 0.225, 0.95],
    },
    (10, 7): {
        "profile": [0.942857, 0.814286, 0.657143, 0.228571, 0.042857],
        "low": [0.885714, 0.714286, 0.542857, 0.142857, 0.0],
        "high": [0.985714, 0.9, 0.771429, 0.328571, 0.085714],
        "improvement": [0.548052, 0.459091, 0.647403],
    },
    (3, 2): {
        "profile": [1.0, 1.0, 0.5, 0.0, 0.0],
        "low": [1.0, 1.0, 0.166667, 0.0, 0.0],
        "high": [1.0, 1.0, 0.833333, 0.0, 0.0],
        "improvement": [0.395833, 0.125, 0.6875],
    },
}


def scores(runs, tasks):
    return np.random.default_rng([runs, tasks]).gamma(2.0, 1.5, (runs, tasks))


@pytest.mark.parametrize("shape", RLIABLE)
def test_the_iqm_is_rliables(shape):
    assert iqm(scores(*shape)) == pytest.approx(RLIABLE[shape][0], rel=1e-12)


@pytest.mark.parametrize("shape", RLIABLE)
def test_the_interval_is_rliables_up_to_resampling(shape):
    _, low, high = RLIABLE[shape]
    found = iqm_interval(scores(*shape))
    # ends of intervals from 2,000 and from 10,000 resamples differ by a few hundredths of the width
    assert found == pytest.approx((low, high), abs=0.08 * (high - low))


@pytest.mark.parametrize("shape", PROFILES)
def test_the_profile_is_rliables(shape):
    found, theirs = performance_profile(scores(*shape), THRESHOLDS), PROFILES[shape]
    assert found.share == pytest.approx(theirs["profile"], abs=1e-6)
    # shares move by one run in all; the ends of intervals by one such step at most
    step = 1 / (shape[0] * shape[1])
    assert found.low == pytest.approx(theirs["low"], abs=step + 1e-6)
    assert found.high == pytest.approx(theirs["high"], abs=step + 1e-6)


@pytest.mark.parametrize("shape", PROFILES)
def test_the_probability_of_improvement_is_rliables(shape):
    runs, tasks = shape
    x = np.round(scores(runs, tasks))  # so that there are ties
    y = np.round(np.random.default_rng([runs, tasks, 1]).gamma(2.0, 1.5, (runs + 1, tasks)))
    value, low, high = PROFILES[shape]["improvement"]
    found = probability_of_improvement(x, y)
    assert found.value == pytest.approx(value, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.08 * (high - low))


def test_improvement_counts_pairs_and_halves_ties():
    assert probability_of_improvement([[1.0]], [[0.0]]).value == 1.0
    assert probability_of_improvement([[1.0], [1.0]], [[1.0]]) == (0.5, 0.5, 0.5)
    mixed = probability_of_improvement({"a": [1, 3], "b": [5]}, {"b": [4, 6, 6, 6], "a": [2]})
    assert mixed.value == (0.5 + 0.25) / 2  # by task, whatever their number of runs and order
    with pytest.raises(ConfigError, match="the same tasks"):
        probability_of_improvement({"a": [1]}, {"b": [1]})
    with pytest.raises(ConfigError, match="ours are of 1 tasks and theirs of 2"):
        probability_of_improvement([[1.0]], [[1.0, 2.0]])


def test_tasks_may_differ_in_their_number_of_runs():
    ragged = {"a": [0.0, 1.0], "b": [1.0, 1.0, 1.0]}
    assert performance_profile(ragged, [0.5]).share.tolist() == [0.8]
    low, high = iqm_interval({"a": [3.0, 3.0], "b": [3.0]})
    assert (low, high) == (3.0, 3.0)
    with pytest.raises(ConfigError, match="of no task"):
        iqm_interval({})
    with pytest.raises(ConfigError, match=r"thresholds have shape \(1, 1\)"):
        performance_profile(ragged, [[0.5]])


def test_the_iqm_leaves_out_a_quarter_at_either_end():
    assert iqm([1, 2, 3, 4]) == 2.5
    assert iqm([-1e9, 2, 3, 1e9]) == 2.5
    assert iqm([1, 2, 100]) == pytest.approx(103 / 3)  # a quarter of three is none
    assert iqm([[7.0]]) == 7.0


def test_runs_are_drawn_again_within_their_task():
    constant = np.tile([1.0, 5.0, 9.0], (6, 1))  # tasks differ, runs do not
    assert iqm_interval(constant) == (iqm(constant), iqm(constant))


@pytest.mark.parametrize("bad", [[], [[np.nan]], [[1.0, np.inf]]])
def test_scores_are_finite_and_there(bad):
    with pytest.raises(ConfigError, match="not finite"):
        iqm(bad)


def test_an_interval_needs_runs_and_tasks():
    with pytest.raises(ConfigError, match=r"shape \(3,\), expected \(runs, tasks\)"):
        iqm_interval([1, 2, 3])


def evaluation(returns, env="gym:CartPole-v1"):
    count = len(returns)
    return Evaluation(
        agent="A",
        env=env,
        returns=tuple(returns),
        lengths=(1,) * count,
        seeds=tuple(range(count)),
        deterministic=True,
    )


def test_policies_stand_beside_each_other():
    table = comparison_table({"one": evaluation([1, 2, 3, 4]), "two": evaluation([5, 5])})
    lines = table.splitlines()
    assert lines[0] == "| policy | mean | 95 % interval | std | IQM | episodes | actions |"
    assert lines[2].startswith("| one | 2.5 | ")
    assert lines[2].endswith(" | 1.1 | 2.5 | 4 | mode |")
    assert lines[3] == "| two | 5.0 | 5.0 to 5.0 | 0.0 | 5.0 | 2 | mode |"


def test_other_environments_are_not_compared():
    with pytest.raises(ConfigError, match="expected one environment"):
        comparison_table({"a": evaluation([1]), "b": evaluation([1], env="gym:Acrobot-v1")})
    with pytest.raises(ConfigError, match="played in nothing"):
        comparison_table({})
