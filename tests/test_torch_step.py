"""Torch and ONNX Runtime compute the same step, whatever shares the batch."""

import numpy as np
import pytest

from agentzoo.planning import TorchRollouts
from agentzoo.runtime import load_policy, verify
from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.policy.planners import Rollouts
from agentzoo.runtime.spec import CEMSpec
from agentzoo.torch_step import TorchStep, arrays, tensors
from tests.unit_runtime.toys import PlanningToy, random_inputs, seeded, torch_policy, toy_spec

STEPS = 100


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("kind", ["box", "discrete"])
def test_onnx_equals_torch_teacher_forced(bundles, kind, batch, deterministic):
    folder, toy = bundles(kind)
    spec, ours = toy_spec(toy), load_policy(folder, provider="cpu").step
    mode = np.full(batch, deterministic)
    carry, _, _ = random_inputs(spec, batch, 0)
    for t in range(STEPS):
        _, obs, noise = random_inputs(spec, batch, t)
        expected, expected_action = TorchStep(toy)(carry, obs, noise, mode)
        found, action = ours(carry, obs, noise, mode)
        np.testing.assert_allclose(action, expected_action, atol=1e-4)
        for name in spec.carry:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-4, err_msg=name)
        carry = expected


@pytest.mark.parametrize("batch", [1, 7])
def test_planning_graphs_equal_torch_teacher_forced(bundles, batch):
    folder, toy = bundles("planning")
    spec, step = toy_spec(toy), load_policy(folder, provider="cpu").step
    carry, _, _ = random_inputs(spec, batch, 0)
    for t in range(STEPS):
        _, obs, noise = random_inputs(spec, batch, t)
        latent = {"latent": noise["latent"]}
        expected = arrays(toy.observe(tensors(carry), tensors(obs), tensors(latent)))
        found = step.model.observe(carry, obs, latent)
        for name in spec.carry:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-4, err_msg=name)
        actions = np.clip(noise["plan"][:, t % 3], -1, 1)
        rollout = {"rollout": noise["rollout"][:, t % 3]}
        returns = TorchRollouts(toy, tensors(expected)).score(actions, rollout, {})
        ours = Rollouts(step.model, expected).score(actions, rollout, {})
        np.testing.assert_allclose(ours, returns, atol=1e-4)
        carry = expected | {"prev_action": actions[:, 0, 0]}


def test_planning_policy_plans_by_the_same_loop(bundles):
    folder, toy = bundles("planning")
    policy, trained = load_policy(folder, provider="cpu"), torch_policy(toy)
    obs = np.random.default_rng(0).standard_normal((5, 3))
    for one in obs:
        np.testing.assert_allclose(policy.act(one), trained.act(one), atol=1e-4)


def test_plan_changes_at_load_and_stays_torchs(bundles):
    folder, _ = bundles("planning")
    changed = {"horizon": 5, "candidates": 31, "elites": 3, "iterations": 2}
    policy = load_policy(folder, provider="cpu", plan=changed)
    trained = torch_policy(seeded(PlanningToy, CEMSpec(**changed)))
    assert policy.spec.plan == trained.spec.plan
    usual = load_policy(folder, provider="cpu")
    for obs in np.random.default_rng(0).standard_normal((3, 3)):
        action = policy.act(obs)
        np.testing.assert_allclose(action, trained.act(obs), atol=1e-4)
        assert not np.allclose(action, usual.act(obs), atol=1e-2)


@pytest.mark.parametrize(
    ("plan", "match"),
    [
        ({"candidates": 0}, "candidates is 0, expected at least 1"),
        ({"elites": 1000}, "keeps 1000 elites of .* choose at most as many elites as candidates"),
        ({"horizons": 3}, r"no setting 'horizons'; did you mean \"horizon\""),
    ],
)
def test_a_plan_that_cannot_be_is_refused_at_load(bundles, plan, match):
    with pytest.raises(ConfigError, match=match):
        load_policy(bundles("planning")[0], provider="cpu", plan=plan)


@pytest.mark.parametrize("kind", ["box", "discrete", "planning"])
def test_recording_agrees_without_excuses(bundles, kind):
    found = verify(bundles(kind)[0], provider="cpu")
    assert (found.steps, found.excused, found.provider) == (100, 0, "cpu")
    assert found.worst < 1e-5
    assert "100 recorded steps agree on cpu" in str(found)


@pytest.mark.parametrize("kind", ["box", "discrete"])
def test_reset_of_one_element_leaves_the_others_bit_equal(bundles, kind):
    folder, toy = bundles(kind)
    step, spec = load_policy(folder, provider="cpu").step, toy_spec(toy)
    carry, obs, noise = random_inputs(spec, 5, 1)
    mode = np.array([True, False, True, False, True])
    none = {**obs, "is_first": np.zeros(5, bool)}
    third = {**obs, "is_first": np.arange(5) == 2}
    before, action = step(carry, none, noise, mode)
    after, action_after = step(carry, third, noise, mode)
    others = np.arange(5) != 2
    for name in before:
        assert (before[name][others] == after[name][others]).all(), name
    assert (action[others] == action_after[others]).all()
    assert (before["deter"][2] != after["deter"][2]).any()


def test_reset_forgets_the_carry(bundles):
    step, spec = load_policy(bundles("box")[0], provider="cpu").step, toy_spec(bundles("box")[1])
    _, obs, noise = random_inputs(spec, 2, 1)
    obs["is_first"][:] = True
    runs = [step(random_inputs(spec, 2, t)[0], obs, noise, np.ones(2, bool)) for t in (3, 4)]
    (carry, action), (other_carry, other_action) = runs
    assert (action == other_action).all()
    assert all((carry[name] == other_carry[name]).all() for name in carry)
