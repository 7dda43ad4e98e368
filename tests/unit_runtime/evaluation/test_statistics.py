"""Numbers over policies, tasks and seeds: closed forms, and what rliable computes."""

import numpy as np
import pytest

from agentzoo.runtime import comparison_table, iqm, iqm_interval
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
