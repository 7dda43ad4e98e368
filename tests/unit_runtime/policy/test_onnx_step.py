"""Sessions whose carry stays in a bound step act as those whose carry goes in and out."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from agentzoo.runtime import evaluate, load_policy
from agentzoo.runtime.errors import BundleError, ObservationError
from agentzoo.runtime.policy.onnx_step import BoundStep
from agentzoo.runtime.policy.policy import Policy, PolicyState
from tests.unit_runtime.toys import BOX, DISCRETE, VECTOR

STEPS = 10
KINDS = ["box", "vector", "discrete"]


def observations(spec, t, count):
    rng = np.random.default_rng([t, count])
    return [
        {
            key: rng.integers(0, 256, one.source, np.uint8)
            if one.kind == "image"
            else rng.standard_normal(one.source).astype(np.float32)
            for key, one in spec.obs.items()
        }
        for _ in range(count)
    ]


def stacked(each):
    return {key: np.stack([one[key] for one in each]) for key in each[0]}


def predicted(policy, seeds, starts, mode):
    """The same by `predict`, with the sessions' noise; starts has a list of flags for each step."""
    address = np.array([(seed, 0, 0) for seed in seeds], np.int64)
    state = PolicyState(policy.initial(len(seeds)), address)
    for t, first in enumerate(starts):
        obs = stacked(observations(policy.spec, t, len(seeds)))
        actions, state = policy.predict(obs, state, first, mode)
        yield actions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deterministic", [None, True, False])
def test_act_is_predict_bit_for_bit(bundles, kind, deterministic):
    policy = load_policy(bundles(kind)[0], provider="cpu", seed=5)
    starts = [[t in (0, 4)] for t in range(STEPS)]
    found = []
    for t in range(STEPS):
        if starts[t][0]:
            policy.reset()
        (obs,) = observations(policy.spec, t, 1)
        found.append(policy.act(obs, deterministic=deterministic))
    # all at the end: no later step wrote into an earlier answer
    for action, expected in zip(found, predicted(policy, [5], starts, deterministic), strict=True):
        assert np.array_equal(action, expected[0])
        assert action.dtype == expected.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_sessions_together_are_a_batch_of_predict_bit_for_bit(bundles, kind):
    policy = load_policy(bundles(kind)[0], provider="cpu")
    sessions = [policy.session(seed) for seed in (7, 8, 9)]
    starts = [[t == 0, t in (0, 3), t % 4 == 0] for t in range(STEPS)]
    found = []
    for t in range(STEPS):
        for one, is_first in zip(sessions, starts[t], strict=True):
            if is_first:
                one.reset()
        found.append(Policy.act_batch(sessions, observations(policy.spec, t, 3)))
    expected = predicted(policy, [7, 8, 9], starts, policy.deterministic)
    assert all(map(np.array_equal, found, expected))


def test_sessions_act_in_any_company_and_order(bundles):
    """A session goes on from its own carry, whoever acts with it and in which order."""
    policy = load_policy(bundles("vector")[0], provider="cpu")
    mixed, alone = ([policy.session(seed) for seed in range(4)] for _ in range(2))
    companies = [(0, 1, 2), (0, 1, 2), (2, 1, 0), (1,), (0, 1), (3, 2), (0, 1, 2, 3), (0, 3), (2,)]
    for t, company in enumerate(companies):
        seen = observations(policy.spec, t, len(company))
        found = Policy.act_batch([mixed[i] for i in company], seen)
        expected = [alone[i].act(one) for i, one in zip(company, seen, strict=True)]
        # products of a batch round otherwise than those of a single element
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_session_alone_and_in_a_batch_of_one_is_the_same(bundles):
    policy = load_policy(bundles("vector")[0], provider="cpu")
    one, other = policy.session(3), policy.session(3)
    for t in range(STEPS):
        (obs,) = observations(policy.spec, t, 1)
        (found,) = Policy.act_batch([one], [obs])
        assert np.array_equal(found, other.act(obs))


def pickled(policy):
    return pickle.loads(pickle.dumps(policy))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_of_a_session_under_way_goes_on_by_itself(bundles, again):
    policy = load_policy(bundles("vector")[0], provider="cpu", seed=2)
    seen = [observations(policy.spec, t, 1)[0] for t in range(4)]
    policy.act(seen[0])
    policy.act(seen[1])
    copied = again(policy)
    expected = [policy.act(seen[2]), policy.act(seen[3])]
    assert all(map(np.array_equal, [copied.act(seen[2]), copied.act(seen[3])], expected))


def test_a_refused_observation_leaves_the_session_as_it_was(bundles):
    policy = load_policy(bundles("vector")[0], provider="cpu", seed=2)
    other = policy.session()
    first, second = observations(policy.spec, 0, 2)
    policy.act(first)
    other.act(first)
    with pytest.raises(ObservationError, match="NaN"):
        policy.act(np.full(3, np.nan, np.float32))
    assert np.array_equal(policy.act(second), other.act(second))


def test_a_step_that_takes_its_place_goes_on_from_the_same_carry(bundles):
    policy = load_policy(bundles("vector")[0], provider="cpu", seed=2)
    plain = policy.session()
    first, second = observations(policy.spec, 0, 2)
    policy.act(first)
    plain.act(first)
    step = policy.step
    policy.step = lambda *inputs: step(*inputs)  # cannot keep a carry
    assert np.array_equal(policy.act(second), plain.act(second))


def test_the_carry_of_a_bound_step_is_read_and_set(bundles):
    policy = load_policy(bundles("vector")[0], provider="cpu")
    spec = policy.spec
    one, other = BoundStep(policy.step.graph, 2), policy.step.bound(2)
    assert all(not array.any() for array in one.carry.values())

    def inputs(t):
        rng = np.random.default_rng(t)
        noise = {k: rng.standard_normal((2, *n.shape), np.float32) for k, n in spec.noise.items()}
        return stacked(observations(spec, t, 2)), np.array([t == 0, True]), noise, np.zeros(2, bool)

    one(*inputs(0))
    carry = one.carry
    other.carry = carry
    assert np.array_equal(one(*inputs(1)), other(*inputs(1)))
    assert not np.array_equal(carry["deter"], one.carry["deter"])  # a copy, not the memory


def single_inputs(policy, t):
    spec, rng = policy.spec, np.random.default_rng(t)
    (obs,) = observations(spec, t, 1)
    return (
        {k: rng.standard_normal((1, *one.shape), one.dtype) for k, one in spec.carry.items()},
        {**{k: one[None] for k, one in obs.items()}, "is_first": np.array([t % 3 == 0])},
        {k: rng.standard_normal((1, *one.shape), np.float32) for k, one in spec.noise.items()},
        np.array([t % 2 == 0]),
    )


def plain(policy, carry, obs, noise, mode):
    values = {"carry": carry, "obs": obs, "noise": noise}
    one = {"is_first": {"": obs["is_first"]}, "deterministic": {"": mode}}
    return policy.step.graph.run(values | one)


def test_a_single_step_is_the_graph_s_bit_for_bit_and_keeps_no_answer(bundles):
    policy = load_policy(bundles("vector")[0], provider="cpu")
    found = [policy.step(*single_inputs(policy, t)) for t in range(STEPS)]
    for t, (carry, action) in enumerate(found):  # no later step wrote into an earlier answer
        expected = plain(policy, *single_inputs(policy, t))
        assert np.array_equal(action, expected["action", ""])
        assert carry.keys() == policy.spec.carry.keys()
        assert all(np.array_equal(array, expected["carry", k]) for k, array in carry.items())


def test_single_steps_in_several_threads_do_not_meet(bundles):
    policy = load_policy(bundles("vector")[0], provider="cpu")
    expected = [policy.step(*single_inputs(policy, t))[1] for t in range(200)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda t: policy.step(*single_inputs(policy, t))[1], range(200)))
    assert all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("wrong", [np.zeros((1, 1), np.float32), np.zeros((1, 6))], ids=str)
def test_a_single_step_does_not_stretch_or_convert_what_does_not_fit(bundles, wrong):
    policy = load_policy(bundles("vector")[0], provider="cpu")
    carry, *others = single_inputs(policy, 0)
    assert carry["deter"].shape != wrong.shape or carry["deter"].dtype != wrong.dtype
    with pytest.raises(BundleError, match=r"onnxruntime cannot run policy\.onnx"):
        policy.step({**carry, "deter": wrong}, *others)


# -- evaluation ----------------------------------------------------------------------------------


class Paid(gym.Env):
    """Episodes of three to five decisions by the seed, which pay what was done."""

    observation_space = VECTOR

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3 + int(self.np_random.integers(3))
        return self.seen(), {}

    def seen(self):
        return self.np_random.standard_normal(3).astype(np.float32)

    def step(self, action):
        self.left -= 1
        return self.seen(), float(np.sum(action)), self.left == 0, False, {}


def scores(policy, space, envs):
    if envs == 1:
        return evaluate(policy, Paid(space), episodes=7, seed=3, deterministic=False)
    vector = SyncVectorEnv([lambda: Paid(space)] * envs)
    return evaluate(policy, vector, episodes=7, seed=3, deterministic=False)


@pytest.mark.parametrize("envs", [2, 3, 7])
def test_discrete_actions_score_the_same_however_many_run_at_once(bundles, envs):
    policy = load_policy(bundles("discrete")[0], provider="cpu")
    assert scores(policy, DISCRETE, envs) == scores(policy, DISCRETE, 1)


@pytest.mark.parametrize("envs", [2, 3, 7])
def test_continuous_actions_score_the_same_up_to_the_rounding_of_a_batch(bundles, envs):
    policy = load_policy(bundles("vector")[0], provider="cpu")
    found, expected = scores(policy, BOX, envs), scores(policy, BOX, 1)
    assert (found.seeds, found.lengths) == (expected.seeds, expected.lengths)
    np.testing.assert_allclose(found.returns, expected.returns, rtol=1e-5, atol=1e-5)


def test_an_evaluation_repeats_itself_bit_for_bit(bundles):
    policy = load_policy(bundles("vector")[0], provider="cpu")
    assert scores(policy, BOX, 3) == scores(policy, BOX, 3)
