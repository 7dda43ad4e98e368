"""A dream as a Gymnasium environment, and a real environment seen through the world model."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, cast, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import ConfigError, EpisodeError
from ..policy.noise import derive_seed
from ..policy.policy import PolicyState
from ..policy.spaces import Observation, action_space, encode, model_action, observation_space
from ..spec import Array
from .world import Start, World

Observe = Literal["state", "decoded"]
CONTEXT = 5  # observations a dream begins after; Hafner et al. 2020 (arXiv:1912.01603), figure 4


@runtime_checkable
class HasWorld(Protocol):
    """An agent, or whatever else has a world model."""

    @property
    def world(self) -> World:
        """World model of the dream."""
        ...


class DreamEnv(gym.Env[Any, Any]):
    """The world model as an environment: any Gymnasium code can run inside the dream.

    Actions are the environment's own. Episodes end where the model holds the end for likelier than
    not, and are truncated after `horizon` steps: errors add up, and a long dream drifts.

    Example:
        env = DreamEnv(agent)  # or DreamEnv(load_world(folder))
        obs, _ = env.reset(seed=0)
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(
        self,
        source: World | HasWorld,
        starts: Observation | Sequence[Start] | None = None,
        *,
        horizon: int = 100,
        observe: Observe = "state",
        context: int = CONTEXT,
        render_mode: str | None = None,
    ) -> None:
        """A dream that has not begun.

        Args:
            source: a world model, or an agent.
            starts: observations (N, ...) as the environment gives them, each the first of its
                episode; or a sequence of `Start`; None takes those that the world
                knows: an agent's replay, a bundle's golden trace.
            horizon: steps after which an episode is truncated.
            observe: "state", the model's state as one vector (F,), or "decoded", what the
                environment would have shown.
            context: observations of a start that are seen before the dream begins, at most.
            render_mode: "rgb_array" draws the decoded image.

        Raises:
            ConfigError: if there is no start, a setting is out of range, or a picture is asked of
                an agent without images.
            ObservationError: if an observation is not what the agent reads.
        """
        self.world = source if isinstance(source, World) else source.world
        spec = self.world.spec
        if horizon < 1 or context < 1 or observe not in ("state", "decoded"):
            raise ConfigError(
                f"DreamEnv got horizon={horizon}, context={context}, observe={observe!r}; expected "
                'at least 1, at least 1, and "state" or "decoded"'
            )
        if "reward" not in self.world.judges:
            raise ConfigError(f"the world model of this {spec.agent} predicts no reward to learn")
        self.horizon, self.observe, self.context = horizon, observe, context
        self._starts = _starts(source, starts)
        self._image = next((k for k, one in spec.obs.items() if one.kind == "image"), None)
        if render_mode is not None and (render_mode != "rgb_array" or self._image is None):
            raise ConfigError(
                f"render_mode={render_mode!r}: a dream is drawn as rgb_array, and only of agents "
                "that see images"
            )
        self.render_mode = render_mode
        self.action_space = action_space(spec.action)
        self.observation_space = (
            feature_space(self.world) if observe == "state" else observation_space(spec.obs)
        )
        self._state: PolicyState | None = None
        self._steps = 0

    @property
    def state(self) -> PolicyState:
        """Latent state of the dream.

        Raises:
            EpisodeError: before the first `reset`.
        """
        if self._state is None:
            raise EpisodeError("the dream has not begun; call reset() first")
        return self._state

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a dream after a start's observations.

        Args:
            seed: decides on the start and the dream's noise; later episodes follow from it.
            options: `{"start": i}` takes the i-th start.

        Raises:
            ConfigError: if there is no such start.
        """
        super().reset(seed=seed)
        rng = self.np_random
        chosen = int(rng.integers(len(self._starts)))
        noise = int(rng.integers(1 << 62))
        if options and "start" in options:
            chosen = int(options["start"])
            if not 0 <= chosen < len(self._starts):
                raise ConfigError(f"there are {len(self._starts)} starts, not a number {chosen}")
        self._state = begun(self.world, self._starts[chosen], noise, self.context)
        self._steps = 0
        return self._observation(), {"start": chosen}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One imagined step."""
        units = model_action(self.world.spec.action, np.asarray(action))[None]
        self._state, judged = self.world.step(self.state, units)
        self._steps += 1
        reward = float(judged["reward"][0])
        goes_on = float(judged["continue"][0]) if "continue" in judged else 1.0
        info = {name: float(one[0]) for name, one in judged.items()}
        return self._observation(), reward, goes_on < 0.5, self._steps >= self.horizon, info

    def render(self) -> Any:
        """The decoded image, (h, w, 3) uint8; None without a render mode."""
        if self.render_mode is None:
            return None
        assert self._image is not None, "checked where it was made"
        image = self.world.decode(self.state)[self._image][0]
        return np.repeat(image, 3, -1) if image.shape[-1] == 1 else image[..., :3]

    def _observation(self) -> Any:
        if self.observe == "state":
            return self.world.features(self.state)[0]
        found = {key: array[0] for key, array in self.world.decode(self.state).items()}
        bare = isinstance(self.observation_space, spaces.Dict)
        return found if bare else next(iter(found.values()))


class WorldObservation(gym.Wrapper[Any, Any, Any, Any]):
    """A real environment whose observations are the world model's states, (F,).

    What has learned in a `DreamEnv` that shows states acts in the real environment through this.
    """

    def __init__(self, env: gym.Env[Any, Any], source: World | HasWorld) -> None:
        """Wrap an environment of the kind that the agent learned in."""
        super().__init__(env)
        self.world = source if isinstance(source, World) else source.world
        self.observation_space = feature_space(self.world)
        self._state: PolicyState | None = None
        self._seed = self._episode = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; its noise follows from the last seed and the episodes since."""
        obs, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._seed, self._episode = seed, 0
        address = derive_seed(self.world.seed, "episode", self._seed)
        if self._episode:
            address = derive_seed(address, "next", self._episode)
        self._episode += 1
        start = self.world.start(seed=address)
        self._state = self.world.encode(obs, start, episode_start=np.ones(1, bool))
        return self.world.features(self._state)[0], info

    def step(self, action: Any) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """One real step, and the state after what it showed."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._state = self.world.encode(obs, self._state, actions=np.asarray(action))
        return self.world.features(self._state)[0], reward, terminated, truncated, info


def feature_space(world: World) -> spaces.Box:
    """The space of a world model's states."""
    return spaces.Box(-np.inf, np.inf, (world.latent_size,), np.float32)


def begun(world: World, start: Start, seed: int, context: int = CONTEXT) -> PolicyState:
    """The state after the first `context` observations of a start, by the noise of `seed`."""
    state = world.start(seed=seed)
    for t in range(min(context, len(start))):
        obs = {key: array[t] for key, array in start.obs.items()}
        if t == 0:
            state = world.encode(obs, state, episode_start=np.ones(1, bool))
        else:
            led = None if start.actions is None else start.actions[t - 1]
            state = world.encode(obs, state, actions=led)
    return state


def _starts(
    source: World | HasWorld, given: Observation | Sequence[Start] | None
) -> Sequence[Start]:
    world = source if isinstance(source, World) else source.world
    if given is None:
        found = world.starts()
    elif isinstance(given, Sequence) and all(isinstance(one, Start) for one in given):
        found = cast("Sequence[Start]", given)
    else:
        found = _first_observations(world, cast("Observation", given))
    if not len(found):
        raise ConfigError(
            "the dream has nowhere to begin: pass starts=, such as the observations that "
            "env.reset() gave, stacked"
        )
    for one in found:
        encode(world.spec.obs, one.obs, batched=True)  # refused here, not in the middle of a run
    return found


def _first_observations(world: World, given: Observation) -> list[Start]:
    specs = world.spec.obs
    by_key = (
        cast("Mapping[str, Array]", given)
        if isinstance(given, Mapping)
        else {next(iter(specs)): np.asarray(given)}
    )
    count = len(next(iter(encode(specs, by_key, batched=True).values())))
    arrays = {key: np.asarray(by_key[key]) for key in specs}
    return [Start(obs={k: x[i : i + 1] for k, x in arrays.items()}) for i in range(count)]
