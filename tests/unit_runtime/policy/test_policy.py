"""act, predict, reset and session: whose noise, whose memory, what shapes."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from agentzoo.runtime.errors import ConfigError, ObservationError
from agentzoo.runtime.policy.noise import draw, generator, with_plan_axes
from agentzoo.runtime.policy.policy import Policy, PolicyState
from agentzoo.runtime.spec import CEMSpec, NoiseSpec
from tests.unit_runtime.toys import BOX, DISCRETE, PICTURE, VECTOR, Toy, seeded, torch_policy

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def policy():
    return torch_policy(seeded(Toy, VECTOR, BOX), deterministic=False)


def picture(*lead):
    return {
        "image": RNG.integers(0, 256, (*lead, 6, 5, 3), np.uint8),
        "Zoom/v": RNG.standard_normal((*lead, 2, 2)),
    }


def test_act_equals_the_element_of_predict_with_the_same_address(policy):
    alone = policy.session(seed=5)
    state = None
    for obs in VECTORS[:5]:
        batch = np.stack([obs, -obs])
        actions, state = policy.session(seed=5).predict(batch, state, deterministic=None)
        np.testing.assert_allclose(alone.act(obs), actions[0], atol=1e-6)
    assert isinstance(state, PolicyState)
    assert state.address.tolist() == [[5, 0, 5], [5, 1, 5]]


def test_elements_of_a_batch_draw_their_own_noise(policy):
    actions, _ = policy.predict(np.stack([VECTORS[0]] * 4))
    assert len(np.unique(actions, axis=0)) == 4


@pytest.mark.parametrize("seed", [-1, 1 << 63, 1.5, "3"])
def test_a_seed_is_a_whole_number(policy, seed):
    with pytest.raises(ConfigError, match=r"the seed is .*, expected 0 <= seed < 2\*\*63"):
        policy.session(seed=seed)


def test_a_ragged_observation_is_a_sentence_in_predict_as_well(policy):
    with pytest.raises(ObservationError, match="cannot be made an array"):
        policy.predict([[0.0, 1.0], [1.0]])


def test_same_seed_same_actions_and_another_seed_others(policy):
    runs = [[policy.session(seed=s).act(obs) for obs in VECTORS[:3]] for s in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_interleaved_sessions_get_what_they_would_get_alone(policy):
    alone = []
    for seed in (1, 2):
        session = policy.session(seed)
        alone.append([session.act(obs) for obs in VECTORS[:6]])
    sessions = [policy.session(1), policy.session(2)]
    mixed = [[s.act(obs) for s in sessions] for obs in VECTORS[:6]]
    assert np.array_equal(np.swapaxes(mixed, 0, 1), alone)


def test_sessions_together_act_as_alone(policy):
    alone = [policy.session(seed) for seed in (1, 2, 3)]
    joined = [policy.session(seed) for seed in (1, 2, 3)]
    alone[1].act(VECTORS[9])  # sessions at different steps of their episodes
    joined[1].act(VECTORS[9])
    for t in range(3):
        expected = [one.act(VECTORS[t + i]) for i, one in enumerate(alone)]
        found = Policy.act_batch(joined, [VECTORS[t + i] for i in range(3)])
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_session_does_not_disturb_its_parent(policy):
    first, second = policy.session(4), policy.session(4)
    first.act(VECTORS[0])
    second.act(VECTORS[0])
    second.session(9).act(VECTORS[3])
    assert np.array_equal(first.act(VECTORS[1]), second.act(VECTORS[1]))


def test_reset_forgets_the_past_and_noise_goes_on(policy):
    session = policy.session(3)
    session.act(VECTORS[0])
    session.reset()
    state = PolicyState(policy.initial(1), np.array([[3, 0, 1]]))
    expected, _ = policy.predict(VECTORS[1], state, [True], None)
    assert np.array_equal(session.act(VECTORS[1]), expected)
    assert not np.array_equal(policy.session(3).act(VECTORS[1]), expected)


def test_episode_start_defaults_follow_the_state(policy):
    batch = VECTORS[:2]
    _, state = policy.predict(batch)
    implicit, _ = policy.predict(batch, state)
    explicit, _ = policy.predict(batch, state, [False, False])
    restarted, _ = policy.predict(batch, state, [False, True])
    assert np.array_equal(implicit, explicit)
    assert np.array_equal(implicit[0], restarted[0])
    assert not np.array_equal(implicit[1], restarted[1])


def test_predict_leaves_state_and_session_alone(policy):
    session = policy.session(1)
    _, state = session.predict(VECTORS[:2])
    assert isinstance(state, PolicyState)
    kept = {name: array.copy() for name, array in state.carry.items()}
    again = [session.predict(VECTORS[2:4], state)[0] for _ in range(2)]
    assert np.array_equal(*again)
    assert all(np.array_equal(kept[name], state.carry[name]) for name in kept)
    assert np.array_equal(session.act(VECTORS[0]), policy.session(1).act(VECTORS[0]))


def test_deterministic_concerns_the_call(policy):
    one = policy.session(1).act(VECTORS[0], deterministic=True)
    other = policy.session(1).act(VECTORS[0], deterministic=False)
    assert not np.array_equal(one, other)
    assert np.array_equal(other, policy.session(1).act(VECTORS[0]))  # its spec says sampled


@pytest.mark.parametrize(
    ("observation", "action", "single", "batch", "shape"),
    [
        (VECTOR, BOX, VECTORS[0], VECTORS[:4], (2,)),
        (VECTOR, DISCRETE, {"observation": VECTORS[0]}, {"observation": VECTORS[:4]}, ()),
        (PICTURE, BOX, picture(), picture(4), (2,)),
        (spaces.Discrete(5), DISCRETE, 3, np.arange(4), ()),
    ],
)
def test_predict_shapes(observation, action, single, batch, shape):
    policy = torch_policy(seeded(Toy, observation, action))
    space = action
    one, state = policy.predict(single)
    assert one.shape == shape
    assert space.contains(one)
    assert policy.predict(single, state, [False])[0].shape == shape
    many, _ = policy.predict(batch)
    assert many.shape == (4, *shape)
    assert all(space.contains(one) for one in many)
    assert space.contains(policy.act(single))


def test_wrong_inputs_are_sentences(policy):
    _, state = policy.predict(VECTORS[:3])
    with pytest.raises(ObservationError, match=r"batch size 2, the state 3, episode_start 2"):
        policy.predict(VECTORS[:2], state)
    with pytest.raises(ObservationError, match="episode_start 3"):
        policy.predict(VECTORS[:2], None, [True] * 3)
    with pytest.raises(ObservationError, match="state is a tuple"):
        policy.predict(VECTORS[0], (np.zeros(3),))
    with pytest.raises(ObservationError, match="shape"):
        policy.act(VECTORS[:2])
    with pytest.raises(ConfigError, match="seed is -1"):
        policy.session(-1)


def test_stable_baselines_evaluates_a_policy():
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    env = gym.make("CartPole-v1")
    policy = torch_policy(seeded(Toy, env.observation_space, env.action_space))
    pair = vec_env.DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2)
    pair.seed(0)
    returns, lengths = evaluation.evaluate_policy(
        policy, pair, n_eval_episodes=3, return_episode_rewards=True, warn=False
    )
    assert len(returns) == 3
    assert [int(r) for r in returns] == lengths  # CartPole pays 1 a step
    pair.close()


def test_noise_is_that_of_its_address():
    specs = {"a": NoiseSpec(shape=(3,)), "b": NoiseSpec(shape=(2, 2), kind="uniform")}
    found = draw(specs, [(5, 0, 7), (1 << 62, 3, 9)])
    assert np.array_equal(found["a"][0], generator(5, 0, 7, 0).standard_normal(3, np.float32))
    expected = generator(1 << 62, 3, 9, 1).random((2, 2), np.float32)
    assert np.array_equal(found["b"][1], expected)


def test_drawn_noise_has_the_planners_axes_and_no_exploration():
    specs = {
        "latent": NoiseSpec(shape=(3,)),
        "plan": NoiseSpec(shape=(2,), role="plan"),
        "explore": NoiseSpec(shape=(2,), role="explore"),
    }
    plan = CEMSpec(horizon=4, candidates=5, elites=2, iterations=6)
    shapes = {name: spec.shape for name, spec in with_plan_axes(specs, plan).items()}
    assert shapes == {"latent": (3,), "plan": (6, 5, 4, 2)}


def test_runtime_brings_no_torch():
    code = (
        "import sys\n"
        "from agentzoo import runtime\n"
        "from agentzoo.runtime.evaluation import rollout, video\n"
        "from agentzoo.runtime.policy import planners\n"
        "runtime.load_policy, runtime.evaluate, runtime.verify, runtime.make_env\n"
        "print(sorted({'torch', 'agentzoo.agent', 'agentzoo.hub', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
