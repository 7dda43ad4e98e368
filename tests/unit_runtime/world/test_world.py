"""The world model as an object: what it takes, what it gives, and that its dreams are seeded."""

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from agentzoo import DreamEnv, Dreamer, DreamerV2, DreamerV3, PlaNet
from agentzoo.agent import Agent
from agentzoo.algorithm import Carry, Noise
from agentzoo.runtime import World, make_env
from agentzoo.runtime.errors import ConfigError, EpisodeError, ObservationError, SpaceError
from agentzoo.runtime.policy.spaces import (
    action_space,
    action_spec,
    observation_space,
    observation_specs,
)
from agentzoo.runtime.world import Start, WorldObservation, begun


class Camera(gym.Env):
    """Two pictures and a vector; nothing happens in it."""

    observation_space = gym.spaces.Dict(
        {
            "image": gym.spaces.Box(0, 255, (64, 64, 3), np.uint8),
            "mode": gym.spaces.Discrete(3, start=1),
            "speed": gym.spaces.Box(-1, 1, (2,)),
        }
    )
    action_space = gym.spaces.Box(
        np.array([-2.0, 0.0], np.float32), np.array([2.0, 3.0], np.float32)
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(0 if seed is None else seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


MAKES: dict[str, Callable[[], Agent]] = {
    "dreamer": lambda: Dreamer(Camera, preset="debug", seed=3, cont=False),
    "dreamer-discrete": lambda: Dreamer("gym:CartPole-v1", preset="debug", seed=3),
    "dreamerv2": lambda: DreamerV2("gym:CartPole-v1", preset="debug", seed=3),
    "dreamerv3": lambda: DreamerV3(Camera, preset="debug", seed=3),
    "planet": lambda: PlaNet(Camera, preset="debug", seed=3),
}
JUDGES = {
    "dreamer": ("reward", "value"),
    "dreamer-discrete": ("reward", "continue", "value"),
    "dreamerv2": ("reward", "continue", "value"),
    "dreamerv3": ("reward", "continue", "value"),
    "planet": ("reward",),
}


@pytest.fixture(scope="module")
def agents() -> Callable[[str], Agent]:
    made: dict[str, Agent] = {}

    def get(name: str) -> Agent:
        if name not in made:
            made[name] = MAKES[name]()
        return made[name]

    return get


@pytest.fixture(params=MAKES)
def agent(request: pytest.FixtureRequest, agents: Callable[[str], Agent]) -> Agent:
    return agents(request.param)


def first(agent: Agent, seed: int = 0):
    env = agent.open_environment()
    obs, _ = env.reset(seed=seed)
    env.close()
    return obs


def test_it_judges_what_its_agent_learns_and_nothing_else(agents) -> None:
    for name, judges in JUDGES.items():
        world = agents(name).world
        assert world.judges == judges
        dream = world.imagine(world.encode(first(agents(name))), steps=2)
        asked = {"reward": world.reward, "continue": world.continues, "value": world.value}
        for judgement in asked.keys() - {*judges}:
            with pytest.raises(ConfigError, match=f"has no {judgement}; it learned none"):
                asked[judgement](dream)


def test_shapes_and_that_judgements_agree_wherever_they_are_asked(agent: Agent) -> None:
    world = agent.world
    state = world.encode(first(agent))
    dream = world.imagine(state, steps=3)
    assert len(state) == 1
    assert len(dream) == 3
    assert dream.reward.shape == (1, 3)
    assert dream.actions.shape == (1, 3, *agent.spec.action.shape)
    assert world.reward(dream).shape == (1, 4)
    np.testing.assert_allclose(world.reward(dream)[:, 1:], dream.reward, atol=1e-4)
    np.testing.assert_allclose(world.reward(dream.state(2)), dream.reward[:, 1], atol=1e-4)
    decoded = world.decode(dream)
    space = observation_space(agent.spec.obs)
    spaces = space.spaces if isinstance(space, gym.spaces.Dict) else {"observation": space}
    assert decoded.keys() == spaces.keys()
    for key, part in spaces.items():
        assert decoded[key].shape == (1, 4, *part.shape)
        assert decoded[key].dtype == part.dtype
        assert part.contains(decoded[key][0, 2])
    if "continue" in world.judges:
        assert ((dream.continues >= 0) & (dream.continues <= 1)).all()


def test_a_dream_goes_on_as_if_it_had_never_stopped(agent: Agent) -> None:
    world = agent.world
    state = world.encode(first(agent))
    whole = world.imagine(state, steps=4)
    half = world.imagine(state, steps=2)
    rest = world.imagine(half.final, steps=2)
    np.testing.assert_array_equal(whole.actions[:, 2:], rest.actions)
    np.testing.assert_array_equal(whole.reward[:, 2:], rest.reward)


def test_the_same_seed_dreams_the_same_and_no_batch_element_disturbs_another(agent: Agent) -> None:
    world, obs = agent.world, first(agent)
    one = world.encode(obs, world.start(seed=5), episode_start=[True])
    again = world.encode(obs, world.start(seed=5), episode_start=[True])
    other = world.encode(obs, world.start(seed=6), episode_start=[True])
    np.testing.assert_array_equal(one.carry["stoch"], again.carry["stoch"])
    assert not np.array_equal(world.features(one), world.features(other))
    sequences = np.stack([agent_actions(agent, seed) for seed in range(4)])
    fan = world.imagine(one, sequences)
    alone = world.imagine(one, sequences[:1])
    np.testing.assert_allclose(fan.reward[0], alone.reward[0], atol=1e-5)
    same = world.imagine(one, np.repeat(sequences[:1], 2, 0))
    assert not np.array_equal(same.carry["stoch"][0], same.carry["stoch"][1])  # noise of their own


def agent_actions(agent: Agent, seed: int, steps: int = 3) -> np.ndarray:
    space = action_space(agent.spec.action)
    space.seed(seed)
    return np.stack([space.sample() for _ in range(steps)])


def test_encoding_is_what_acting_does(agents) -> None:
    agent = agents("dreamer-discrete")
    env = agent.open_environment()
    obs, _ = env.reset(seed=1)
    state = seen = None
    for _ in range(4):
        action, state = agent.predict(obs[None], state, deterministic=None)
        seen = agent.world.encode(obs[None], seen)
        for name, array in state.carry.items():
            np.testing.assert_array_equal(array, seen.carry[name])
        obs, *_ = env.step(action[0])
    env.close()


def test_an_action_of_ones_own_is_what_led_to_the_next_state(agents) -> None:
    agent = agents("dreamer-discrete")
    world, obs = agent.world, first(agent)
    state = world.encode(obs)
    own = world.encode(obs, state)
    action = agent.session(agent.seed).act(obs)
    given = world.encode(obs, state, actions=action)
    np.testing.assert_array_equal(world.features(own), world.features(given))
    other = world.encode(obs, state, actions=1 - action)
    assert not np.array_equal(world.features(own), world.features(other))


def test_a_planner_says_that_it_needs_the_action(agents) -> None:
    agent = agents("planet")
    world, obs = agent.world, first(agent)
    state = world.encode(obs)
    with pytest.raises(ConfigError, match=r"plans its actions.*pass actions="):
        world.encode(obs, state)
    action = agent_actions(agent, 0)[0]
    assert np.isfinite(world.features(world.encode(obs, state, actions=action))).all()


def test_a_planners_dream_follows_its_plan(agents) -> None:
    agent = agents("planet")
    obs = first(agent)
    planned = agent.session(agent.seed).act(obs)
    world = agent.world
    # the state that acting leaves draws the next step's noise; the plan was drawn one before
    state = world.encode(obs)
    before = type(state)(state.carry, state.address - np.array([0, 0, 1]))
    np.testing.assert_allclose(world.imagine(before, steps=1).actions[0, 0], planned, atol=1e-5)


def test_a_function_chooses_actions_from_states(agents) -> None:
    agent = agents("dreamer-discrete")
    seen: list[int] = []

    def choose(state) -> np.ndarray:
        seen.append(len(state))
        return np.ones(len(state), int)

    dream = agent.world.imagine(agent.world.encode(first(agent)), choose, steps=3)
    assert seen == [1, 1, 1]
    assert (dream.actions == 1).all()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({}, ConfigError, "a dream needs steps of at least 1, not None"),
        ({"steps": 0}, ConfigError, "not 0"),
        ({"actions": np.zeros((1, 3), int), "steps": 2}, ConfigError, "contradicts the 3 actions"),
        ({"actions": np.zeros(3, int)}, ConfigError, r"expected \(B, H, \)"),
        ({"actions": np.full((1, 3), 7)}, SpaceError, "7"),
    ],
)
def test_what_makes_no_dream_is_refused(agents, arguments, error, match) -> None:
    world = agents("dreamer-discrete").world
    with pytest.raises(error, match=match):
        world.imagine(world.encode(first(agents("dreamer-discrete"))), **arguments)


def test_parts_that_differ_in_batch_size_are_refused(agents) -> None:
    world, obs = agents("dreamer-discrete").world, first(agents("dreamer-discrete"))
    with pytest.raises(ObservationError, match="batch size 2, the state 1"):
        world.encode(np.stack([obs, obs]), world.start(1), episode_start=[True, True])
    two = world.encode(np.stack([obs, obs]))
    with pytest.raises(ConfigError, match="the state has batch size 2, the actions 3"):
        world.imagine(two, np.zeros((3, 1), int))
    with pytest.raises(ConfigError, match=r"expected 0 <= seed < 2\*\*63"):
        world.start(seed=-1)


def test_an_algorithm_without_a_world_model_says_what_it_lacks() -> None:
    agent = Dreamer("gym:CartPole-v1", preset="debug")

    class Blind(torch.nn.Module):
        noise_spec = agent.algorithm.noise_spec

        def dream(self, carry: Carry, action: torch.Tensor, noise: Noise) -> Carry:
            return carry

    agent.algorithm = Blind()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigError, match="Blind lacks dream, decode or judge"):
        _ = agent.world


# -- environments --------------------------------------------------------------------------------


def starts(agent: Agent, count: int = 3):
    found = [first(agent, seed) for seed in range(count)]
    if isinstance(found[0], dict):
        return {key: np.stack([one[key] for one in found]) for key in found[0]}
    return np.stack(found)


@pytest.mark.filterwarnings("ignore:.*Box observation space m.*imum value is")  # they are
@pytest.mark.parametrize("observe", ["state", "decoded"])
def test_a_dream_is_a_gymnasium_environment(agents, observe) -> None:
    agent = agents("dreamer-discrete")
    env = DreamEnv(agent, starts(agent), observe=observe, horizon=5)
    check_env(env, skip_render_check=True)
    env.reset(seed=1)
    ends = [env.step(0)[2:4] for _ in range(5)]
    assert ends[-1][1]
    assert not any(truncated for _, truncated in ends[:-1])


def test_a_dream_is_drawn_where_the_agent_sees_images(agents) -> None:
    agent = agents("dreamer")
    env = DreamEnv(agent, starts(agent), render_mode="rgb_array")
    env.reset(seed=0)
    image = env.render()
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    blind = agents("dreamer-discrete")
    with pytest.raises(ConfigError, match="only of agents that see images"):
        DreamEnv(blind, starts(blind), render_mode="rgb_array")


def test_a_dream_follows_its_seed_and_begins_where_it_is_told(agents) -> None:
    agent = agents("dreamer-discrete")
    env = DreamEnv(agent, starts(agent))
    one, info = env.reset(seed=4)
    again, _ = env.reset(seed=4)
    np.testing.assert_array_equal(one, again)
    _, told = env.reset(seed=4, options={"start": 2})
    assert told == {"start": 2}
    assert info["start"] in range(3)
    with pytest.raises(ConfigError, match="there are 3 starts, not a number 3"):
        env.reset(options={"start": 3})


def test_a_dream_begins_after_a_whole_context(agents) -> None:
    agent = agents("dreamer-discrete")
    context = Start(obs={"observation": starts(agent)}, actions=np.array([0, 1]))
    world: World = agent.world
    state = begun(world, context, seed=2)
    by_hand = world.start(seed=2)
    for t, obs in enumerate(context.obs["observation"]):
        led = None if t == 0 else np.array(context.actions[t - 1])
        by_hand = world.encode(obs, by_hand, actions=led, episode_start=[t == 0])
    np.testing.assert_array_equal(world.features(state), world.features(by_hand))


def test_without_a_start_a_dream_says_what_to_pass(agents) -> None:
    agent = agents("dreamer-discrete")
    with pytest.raises(ConfigError, match="nowhere to begin: pass starts="):
        DreamEnv(World(agent.world.model, agent.spec))
    with pytest.raises(EpisodeError, match="call reset"):
        DreamEnv(agent, starts(agent)).step(0)
    with pytest.raises(ObservationError):
        DreamEnv(agent, np.zeros((2, 5)))
    with pytest.raises(ConfigError, match="horizon=0"):
        DreamEnv(agent, starts(agent), horizon=0)


def test_an_agent_knows_starts_of_its_environment_and_then_of_its_replay(tmp_path) -> None:
    agent = DreamerV3("gym:CartPole-v1", preset="debug", seed=1, total_steps=600)
    assert len(agent.world.starts()) == 8
    agent.learn(run=tmp_path / "run", progress=False)
    fresh = DreamerV3.load(tmp_path / "run")
    found = fresh.world.starts()
    assert len(found) > 8
    for one in found:
        assert one.actions is not None
        assert len(one) == len(one.actions) + 1 <= 16
    real = gym.make("CartPole-v1")
    real.reset(seed=0)
    real.unwrapped.state = found[0].obs["observation"][0].astype(float)
    for t, action in enumerate(found[0].actions):
        obs, *_ = real.step(int(action))
        np.testing.assert_allclose(obs, found[0].obs["observation"][t + 1], rtol=1e-3, atol=1e-4)
    real.close()


def test_the_real_environment_through_the_models_eyes(agents) -> None:
    agent = agents("dreamer-discrete")
    env = WorldObservation(make_env(agent.env), agent)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    after, reward, *_ = env.step(1)
    assert reward == 1.0
    assert not np.array_equal(obs, after)
    env.close()


def test_unseeded_episodes_draw_noise_of_their_own(agents) -> None:
    """CartPole's first observation is put back, so that noise alone differs."""

    class Same(gym.ObservationWrapper):
        def observation(self, observation):
            return np.zeros_like(observation)

    agent = agents("dreamer-discrete")

    def states() -> list[np.ndarray]:
        env = WorldObservation(Same(make_env(agent.env)), agent)
        found = [env.reset(seed=5)[0], *(env.reset()[0] for _ in range(3)), env.reset(seed=5)[0]]
        env.close()
        return found

    first, *later, again = states()
    np.testing.assert_array_equal(first, again)
    assert len({one.tobytes() for one in (first, *later)}) == 4
    assert all(np.array_equal(x, y) for x, y in zip(states(), [first, *later, again], strict=True))


def test_spaces_come_back_from_their_specs() -> None:
    space = gym.spaces.Dict(
        {
            "grid": gym.spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 2]]),
            "image": gym.spaces.Box(0, 255, (8, 6), np.uint8),
            "mode": gym.spaces.Discrete(3, start=1),
        }
    )
    assert observation_space(observation_specs(space)) == space
    for action in (
        gym.spaces.Discrete(3, start=2),
        gym.spaces.MultiDiscrete([2, 3], start=[1, 0]),
        Camera.action_space,
    ):
        assert action_space(action_spec(action)) == action
