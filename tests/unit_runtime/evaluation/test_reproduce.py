"""A published score comes out again, or it is said whether the difference could be chance."""

import json
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest

from agentzoo.runtime import load_policy
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.evaluation.reproduce import Reproduction, reproduce
from agentzoo.runtime.evaluation.results import read_results
from agentzoo.runtime.evaluation.rollout import Evaluation
from tests.unit_runtime.bundles import graph, linear_spec, replace


def scored(*returns: float) -> Evaluation:
    count = len(returns)
    return Evaluation(
        agent="Dreamer",
        env="gym:CartPole-v1?repeat=1",
        returns=returns,
        lengths=(1,) * count,
        seeds=tuple(range(count)),
        deterministic=True,
    )


def test_the_same_seeds_give_the_same_returns(folder: Path) -> None:
    found = reproduce(load_policy(folder), read_results(folder))
    assert found.is_equal
    assert found.agrees
    assert found.worst == 0
    assert "equal: no episode's return differs by more than 1e-06" in str(found)
    assert found.found.seeds == read_results(folder).seeds


def test_chance_is_told_from_a_difference() -> None:
    rng = np.random.default_rng(0)
    published = scored(*rng.normal(100, 10, 40))
    chance = Reproduction(published, scored(*rng.normal(100, 10, 40)))
    assert not chance.is_equal
    assert chance.agrees
    assert "contains zero: the scores agree" in str(chance)
    worse = Reproduction(published, scored(*rng.normal(80, 10, 40)))
    assert not worse.agrees
    assert worse.interval[1] < 0
    assert "does not contain zero" in str(worse)


def test_a_millionth_is_equal_and_more_is_not() -> None:
    published = scored(1.0, 2.0)
    assert Reproduction(published, scored(1.0 + 1e-7, 2.0)).is_equal
    assert not Reproduction(published, scored(1.0 + 1e-5, 2.0)).is_equal


def test_a_score_of_another_graph_is_not_compared(folder: Path) -> None:
    published = read_results(folder)
    replace(folder, "policy.onnx", graph(linear_spec(0), -np.ones((4, 2), np.float32)))
    with pytest.raises(BundleError, match=r"is of another graph or plan, .*; evaluate it anew"):
        reproduce(load_policy(folder), published)


def test_a_score_from_elsewhere_is_not_compared(folder: Path) -> None:
    policy, published = load_policy(folder), read_results(folder)
    with pytest.raises(BundleError, match="there is nothing to run again"):
        reproduce(policy, changed(published, env=""))
    with pytest.raises(BundleError, match="is of the environment 'gym:Acrobot-v1"):
        reproduce(policy, changed(published, env="gym:Acrobot-v1?repeat=1"))
    with pytest.raises(BundleError, match="are no range"):
        reproduce(policy, changed(published, seeds=(3, 1, 2)))


def test_results_survive_json(folder: Path) -> None:
    found = read_results(folder)
    assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"returns": []}, "expected as many of each"),
        ({"returns": [1.0]}, "1 returns, 10 lengths and 10 seeds"),
        ({"returns": ["1", 2, 3]}, "expected float"),
        ({"returns": [float("nan"), 2, 3]}, "expected a finite number"),
        (
            {"returns": [1.7e308] * 10},
            r"a return of 1\.70e.308 in magnitude, expected at most 1e.30",
        ),
        ({"returns": [1] * 20_000}, "holds 20,000 episodes, expected at most 10,000"),
        ({"deterministic": 1}, "expected bool"),
        ({"verified": True}, 'unknown field "verified"'),
    ],
)
def test_results_are_read_strictly(folder: Path, change: dict[str, object], match: str) -> None:
    value = {**json.loads((folder / "results.json").read_text()), **change}
    with pytest.raises(BundleError, match=match):
        Evaluation.from_json(value)


def test_a_mean_that_lies_is_computed_anew(folder: Path) -> None:
    value = {**json.loads((folder / "results.json").read_text()), "mean": 1e9, "std": 0}
    assert Evaluation.from_json(value).mean == 500
