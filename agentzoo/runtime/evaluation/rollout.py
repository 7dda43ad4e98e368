"""Episodes, their returns, and how sure one can be of the mean."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, cast, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from ..bundle.manifest import RESULTS
from ..envs import (
    Env,
    Outcome,
    for_evaluation,
    make_env,
    merge,
    protocol_of,
    require_environment_like,
    reset_env,
    resolve,
    scores_of,
    settings_of,
    step_env,
)
from ..envs.success import Success, successes
from ..errors import BundleError, ConfigError, EpisodeError, SpaceError
from ..notebook import escaped, film_html
from ..policy.policy import Policy
from ..policy.spaces import (
    Observation,
    action_spec,
    env_action,
    observation_specs,
    space_differences,
)
from ..spec import Array, Arrays, NoiseSpec, PolicySpec, TensorSpec
from ..strict_json import read_fields, read_object
from .vector_rollout import Vector, play_vector
from .video import VideoWriter

FORMAT = 1  # of results.json
DERIVED = ("mean", "std", "interval", "protocol", "success_rate")  # made anew from the rest
RESAMPLES = 10_000
RESAMPLED = 1 << 21  # numbers of a bootstrap in memory at once
EPISODES, RETURN = 10_000, 1e30  # what a results.json may hold: as many, up to that in magnitude
LEVEL = 0.95  # of the bootstrap interval
MAX_STEPS = 100_000  # decisions of an episode, after which it counts as one without an end
SEEDS = 1 << 32  # that every environment takes: NumPy's RandomState has seeds of 32 bits
FPS = 30.0  # of a film whose environment does not say


class PolicySession(Protocol):
    """A player of one episode."""

    deterministic: bool
    digest: str

    def act(self, obs: Observation, *, deterministic: bool | None = None) -> Array:
        """The action for one observation; remembers the episode so far."""
        ...


@runtime_checkable
class JointSession(PolicySession, Protocol):
    """A session that can act in one go with others of its kind."""

    @staticmethod
    def act_batch(
        sessions: Sequence[PolicySession],
        observations: Sequence[Observation],
        *,
        deterministic: bool | None = None,
    ) -> list[Array]:
        """The action of each session for its observation."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A session that holds something, such as a connection."""

    def close(self) -> None:
        """Let go of it."""
        ...


class SessionMaker(Protocol):
    """A policy that can be evaluated: a Policy, an Agent, a policy behind a network."""

    spec: PolicySpec

    def session(self, seed: int | None = None) -> PolicySession:
        """The same weights with their own carry and noise."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Episodes of one policy in one environment.

    Attributes:
        agent: class name of the agent ("random" for the baseline).
        env: resolved environment string, or "" for an environment object.
        returns: undiscounted sum of rewards of each episode.
        lengths: decisions in each episode.
        seeds: environment and noise seed of each episode.
        deterministic: whether actions were the distribution's mode.
        repeat: environment steps in one decision.
        policy_sha256: of the graph that ran, or of all graphs and the plan
            (`manifest.policy_digest`); "" for a policy that is still in training.
        scores: what the environment's suite makes of the episodes, such as `human_normalized`.
        successes: whether each episode reached its goal, where the environment says so
            (`info["is_success"]` and its other spellings, see `envs.success`); else empty.
    """

    agent: str
    env: str
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    deterministic: bool
    repeat: int = 1
    policy_sha256: str = ""
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    successes: tuple[bool, ...] = ()
    film: ClassVar[Path | None] = None  # of one that was filmed its own; results.json has none

    @property
    def seed(self) -> int:
        """The first episode's seed."""
        return self.seeds[0]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns over these episodes (population, as in SB3)."""
        return float(np.std(self.returns))

    @property
    def success_rate(self) -> float | None:
        """Share of the episodes that reached their goal; None where the environment has no word."""
        return float(np.mean(self.successes)) if self.successes else None

    @property
    def success_interval(self) -> tuple[float, float] | None:
        """95 % interval of the success rate, by Wilson's score (1927), which is never empty."""
        return wilson(sum(self.successes), len(self.successes)) if self.successes else None

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean return (see `bootstrap`)."""
        return bootstrap(self.returns)

    @property
    def protocol(self) -> dict[str, object]:
        """The settings that have to be equal for two scores to be compared.

        `name`, if the environment's settings are a named protocol of its suite; every one of these
        settings; and `deterministic`.
        """
        name = protocol_of(self.env) if self.env else ""
        settings = settings_of(self.env) if self.env else {}
        named = {"name": name} if name else {}
        return {**named, **settings, "deterministic": self.deterministic}

    def to_json(self) -> dict[str, object]:
        """The content of results.json."""
        derived = {"mean": self.mean, "std": self.std, "interval": list(self.interval)}
        whole: dict[str, object] = {
            "format": FORMAT,
            **asdict(self),
            **derived,
            "protocol": self.protocol,
        }
        if self.successes:
            return {**whole, "success_rate": self.success_rate}
        del whole["successes"]  # most environments know of none
        return whole

    def filmed(self, path: Path) -> Self:
        """The same, and where its first episode lies as an MP4, for notebooks to play."""
        object.__setattr__(self, "film", path)
        return self

    def _repr_html_(self) -> str:
        """HTML for a notebook: mean and interval, each episode, and the film, which plays."""
        low, high = self.interval
        actions = "the mode of" if self.deterministic else "sampled from"
        rows = [
            f"<tr><td>{seed}</td><td>{one:,.1f}</td><td>{length:,}</td></tr>"
            for seed, one, length in zip(self.seeds, self.returns, self.lengths, strict=True)
        ]
        scores = "".join(
            f"<div>{escaped(name)}: {value:.3g}</div>" for name, value in self.scores.items()
        )
        return (
            f"<div><b>{self.mean:,.1f}</b> mean return of {len(self.returns)} episodes "
            f"(95 % interval {low:,.1f} to {high:,.1f})</div>"
            f"<div>{escaped(self.agent)} in {escaped(self.env or 'an environment object')}, "
            f"actions {actions} the policy</div>{scores}"
            "<details><summary>episodes</summary><table>"
            f"<tr><th>seed</th><th>return</th><th>decisions</th></tr>{''.join(rows)}</table></details>"
            + ("" if self.film is None else film_html(self.film))
        )

    @classmethod
    def from_json(cls, value: object) -> "Evaluation":
        """Read what `to_json` gave, strictly; mean, deviation and interval are computed anew.

        Raises:
            BundleError: naming the field, what stands there and what was expected.
        """
        entries = read_object(value, RESULTS)
        found = entries.pop("format", None)
        if found != FORMAT:
            raise BundleError(
                f"{RESULTS} has format {found}, this version reads {FORMAT}; evaluate the policy "
                "again, or run: pip install --upgrade agentzoo-rl"
            )
        kept = {name: one for name, one in entries.items() if name not in DERIVED}
        kept.setdefault("successes", [])  # written only where an environment knows of them
        read = read_fields(cls, kept, RESULTS)
        check_episodes(read)
        counts = {len(read.returns), len(read.lengths), len(read.seeds)}
        if len(counts) != 1 or 0 in counts:
            raise BundleError(
                f"{RESULTS} lists {len(read.returns)} returns, {len(read.lengths)} lengths and "
                f"{len(read.seeds)} seeds, expected as many of each; evaluate the policy again"
            )
        if len(read.successes) not in (0, len(read.returns)):
            raise BundleError(
                f"{RESULTS} lists {len(read.successes)} successes of {len(read.returns)} episodes, "
                "expected one of each; evaluate the policy again"
            )
        return read


def check_episodes(found: Evaluation) -> None:
    """Refuse more episodes or larger returns than a results.json may hold.

    Raises:
        BundleError: saying how many, or how large.
    """
    if len(found.returns) > EPISODES:
        raise BundleError(
            f"{RESULTS} holds {len(found.returns):,} episodes, expected at most {EPISODES:,}; "
            "evaluate the policy over fewer"
        )
    largest = max(map(abs, found.returns), default=0.0)
    if largest > RETURN:  # beyond this the deviation is infinite, and the score no number
        raise BundleError(
            f"{RESULTS} holds a return of {largest:.2e} in magnitude, expected at most "
            f"{RETURN:.0e}; look at the environment's rewards"
        )


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean: 10,000 resamples from a fixed seed, 95 %.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    sample = np.asarray(values, np.float64)
    rng = np.random.default_rng(0)
    most = max(1, RESAMPLED // len(sample))  # at once; the numbers drawn are the same
    counts = [min(most, RESAMPLES - at) for at in range(0, RESAMPLES, most)]
    means = np.concatenate(
        [sample[rng.integers(0, len(sample), (count, len(sample)))].mean(1) for count in counts]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def wilson(reached: int, episodes: int) -> tuple[float, float]:
    """95 % interval of a rate: so many episodes of so many.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    z = 1.959963984540054  # of a normal distribution, 2.5 % lie above it
    rate, spread = reached / episodes, z * z / episodes
    middle = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def evaluate(
    policy: SessionMaker,
    env: str | Env | Vector | None = None,
    *,
    episodes: int = 10,
    seed: int = 0,
    deterministic: bool | None = None,
    envs: int = 1,
    progress: bool = False,
    video: str | Path | None = None,
    override: bool = False,
    max_steps: int = MAX_STEPS,
) -> Evaluation:
    """Play episodes and add up their rewards.

    Episode i has environment seed and noise seed `seed + i`, however many run at once. Settings
    that are for learning only, such as `life_loss` of atari, are those of evaluation.

    Args:
        policy: a Policy or whatever else gives sessions.
        env: an environment string, whose missing keys are the policy's; an environment object or
            a `gymnasium.vector.VectorEnv`, taken as it is; or None for the policy's own
            environment.
        episodes: how many.
        seed: of the first episode.
        deterministic: whether actions are the distribution's mode; None is the policy's protocol.
        envs: how many environments run at once; their actions are computed in one batch.
        progress: print a line for each episode.
        video: mp4 to film the first episode to.
        override: let `env` contradict the environment the policy was trained in.
        max_steps: decisions of an episode that may be; a longer one is an error, not a score.

    Raises:
        ConfigError: if `episodes`, `envs` or `max_steps` is below 1, one object should run several
            times, or a vector environment should be filmed.
        EnvironmentStringError: if the string is unknown or contradicts the policy's.
        SpaceError: if the environment's spaces are not the policy's.
        EpisodeError: if the environment gives a reward that is not finite, no picture to film, or
            no end of an episode.
    """
    if episodes < 1 or envs < 1 or max_steps < 1:
        raise ConfigError(
            f"evaluate got episodes={episodes}, envs={envs}, max_steps={max_steps}; expected at "
            "least 1"
        )
    if not 0 <= seed <= SEEDS - episodes:
        raise ConfigError(
            f"evaluate got seed={seed} for {episodes} episodes; expected 0 <= seed <= "
            f"2**32 - {episodes}, since environments take seeds of 32 bits"
        )
    name = _resolved(policy.spec, env, override)
    seeds = range(seed, seed + episodes)
    if isinstance(env, VectorEnv):
        return _evaluate_vector(policy, env, seeds, deterministic, video, progress, max_steps)
    with ExitStack() as stack:
        places = _open(name, env, min(envs, episodes), video is not None, stack)
        _check_spaces(policy.spec, places[0].observation_space, places[0].action_space)
        fps = float(places[0].metadata.get("render_fps", FPS))
        film = None if video is None else stack.enter_context(VideoWriter(video, fps=fps))
        played = [_Episode(policy.session(one), one, max_steps) for one in seeds]
        _play(places, played, deterministic, film, _tell if progress else _silent)
    scored = _scored(policy, name, played, deterministic)
    return scored if video is None else scored.filmed(Path(video))


def _evaluate_vector(
    policy: SessionMaker,
    env: Vector,
    seeds: Sequence[int],
    deterministic: bool | None,
    video: str | Path | None,
    progress: bool,
    max_steps: int,
) -> Evaluation:
    if video is not None:
        raise ConfigError("a vector environment is not filmed; pass a string, or leave video out")
    spaces = cast("Any", env)  # the type of a vector environment's spaces is not known
    _check_spaces(policy.spec, spaces.single_observation_space, spaces.single_action_space)
    played = [_Episode(policy.session(one), one, max_steps) for one in seeds]

    def act(running: Sequence[_Episode]) -> list[Array]:
        return _act(running, deterministic)

    play_vector(env, played, act, _tell if progress else _silent)
    return _scored(policy, "", played, deterministic)


def _scored(
    policy: SessionMaker, name: str, played: "Sequence[_Episode]", deterministic: bool | None
) -> Evaluation:
    first = played[0].session
    return Evaluation(
        agent=policy.spec.agent,
        env=name,
        returns=tuple(episode.total for episode in played),
        lengths=tuple(episode.length for episode in played),
        seeds=tuple(episode.seed for episode in played),
        deterministic=first.deterministic if deterministic is None else deterministic,
        repeat=int(settings_of(name).get("repeat", 1)) if name else 1,
        policy_sha256=first.digest,
        scores=scores_of(name, [episode.outcome for episode in played]) if name else {},
        successes=successes([episode.success for episode in played]),
    )


def evaluate_random(
    env: str | Env,
    *,
    episodes: int = 10,
    seed: int = 0,
    envs: int = 1,
    progress: bool = False,
    video: str | Path | None = None,
) -> Evaluation:
    """The baseline: actions uniform in the action space (in [-1, 1] where a Box has no bounds).

    Args, seeds and errors are those of `evaluate`.
    """
    if isinstance(env, str):
        with ExitStack() as stack:
            name, probe = resolve(env), stack.enter_context(make_env(env))
            policy = random_policy(probe, name)
    else:
        policy = random_policy(env)
    return evaluate(
        policy, env, episodes=episodes, seed=seed, envs=envs, progress=progress, video=video
    )


def random_policy(env: Env, name: str = "") -> Policy:
    """A policy that draws uniform actions for an environment's spaces."""
    action = action_spec(env.action_space)

    def step(
        carry: Arrays, obs: Arrays, noise: Arrays, deterministic: Array, /
    ) -> tuple[Arrays, Array]:
        # the largest of independent uniforms is uniform among the classes, too
        units = 2.0 * noise["action"] - 1.0
        return {"prev_action": units}, env_action(action, units)

    spec = PolicySpec(
        agent="random",
        env=name,
        obs=observation_specs(env.observation_space),
        action=action,
        carry={"prev_action": TensorSpec(shape=(action.size,))},
        noise={"action": NoiseSpec(shape=(action.size,), kind="uniform", role="action")},
        deterministic=False,
    )
    return Policy(step, spec)


class _Episode:
    """One episode: its session, its environment while it runs, and its sums."""

    def __init__(self, session: PolicySession, seed: int, max_steps: int) -> None:
        self.session, self.seed, self.max_steps = session, seed, max_steps
        self.total, self.length, self.is_over = 0.0, 0, False
        self.info: Mapping[str, Any] = {}
        self.success = Success()
        self.env: Env
        self.obs: Observation

    def start(self, env: Env) -> "_Episode":
        self.env = env
        self.obs, _ = reset_env(env, self.seed)
        return self

    def step(self, action: Array) -> None:
        obs, reward, terminated, truncated, info = step_env(self.env, action)
        self.take(obs, reward, terminated or truncated, info)

    def begin(self, obs: Observation) -> None:
        self.obs = obs

    def take(
        self, obs: Observation, reward: object, is_over: bool, info: Mapping[str, Any]
    ) -> None:
        self.obs, self.info = obs, info
        self.success.take(info)
        array = np.asarray(reward)
        if array.size != 1 or array.dtype.kind not in "fiub" or not math.isfinite(array.item()):
            raise EpisodeError(
                f"the environment gave the reward {array.tolist()!r} at decision "
                f"{self.length + 1} of the episode with seed {self.seed}, expected one finite "
                "number; it has diverged or is broken"
            )
        self.total += float(array.item())
        self.length += 1
        self.is_over = is_over
        if self.length >= self.max_steps and not is_over:
            raise EpisodeError(
                f"the episode with seed {self.seed} has no end after {self.length:,} decisions; "
                "give the environment a time limit, such as gymnasium.wrappers.TimeLimit(env, "
                "1000), or evaluate with a larger max_steps (--max-steps)"
            )
        if is_over and isinstance(self.session, Closing):
            self.session.close()

    @property
    def outcome(self) -> Outcome:
        return Outcome(total=self.total, length=self.length, info=self.info)


Tell = Callable[[_Episode], None]


def _play(
    places: Sequence[Env],
    episodes: Sequence[_Episode],
    deterministic: bool | None,
    film: VideoWriter | None,
    tell: Tell,
) -> None:
    """Run all episodes, as many at once as there are environments."""
    waiting = iter(episodes)
    running = [episode.start(env) for env, episode in zip(places, waiting, strict=False)]
    while running:
        _capture_frame(film, episodes[0])
        actions = _act(running, deterministic)
        for episode, action in zip(running, actions, strict=True):
            episode.step(action)
        for episode in running:
            if episode.is_over:
                tell(episode)
        running = list(_next_round(running, waiting))


def _next_round(running: Sequence[_Episode], waiting: Iterator[_Episode]) -> Iterator[_Episode]:
    for episode in running:
        if not episode.is_over:
            yield episode
        elif (following := next(waiting, None)) is not None:
            yield following.start(episode.env)


def _act(running: Sequence[_Episode], deterministic: bool | None) -> list[Array]:
    sessions = [one.session for one in running]
    observations = [one.obs for one in running]
    first = sessions[0]
    if isinstance(first, JointSession) and {type(one) for one in sessions} == {type(first)}:
        return first.act_batch(sessions, observations, deterministic=deterministic)
    return [one.session.act(one.obs, deterministic=deterministic) for one in running]


def _capture_frame(film: VideoWriter | None, episode: _Episode) -> None:
    if film is None or episode.is_over:
        return
    try:
        frame: object = episode.env.render()
    except gym.error.DependencyNotInstalled as error:
        raise EpisodeError(
            f"the environment cannot be drawn: {error}; or leave video out"
        ) from error
    if not isinstance(frame, np.ndarray):
        raise EpisodeError(
            f"the environment drew {type(frame).__name__}, expected an array (h, w, 3); make it "
            'with render_mode="rgb_array", or leave video out'
        )
    film.add(frame)


def _resolved(spec: PolicySpec, env: str | Env | Vector | None, override: bool) -> str:
    if isinstance(env, str):
        return for_evaluation(merge(spec.env, env, override))
    if env is not None:
        return ""
    if not spec.env:
        raise ConfigError(
            f"this {spec.agent} learned on an environment object, which it cannot name; "
            "pass evaluate an environment"
        )
    return for_evaluation(
        resolve(spec.env, trusted=False)
    )  # the string may have come with a download


def _open(name: str, env: str | Env | None, count: int, draws: bool, stack: ExitStack) -> list[Env]:
    if env is not None and not isinstance(env, str):
        if callable(env):
            raise ConfigError(
                "evaluate was given a function as environment; give it the environment that the "
                "function makes, or a string"
            )
        require_environment_like(env)
        if count > 1:
            raise ConfigError(
                f"one environment object cannot run {count} episodes at once; pass envs=1 or a "
                "string"
            )
        return [env]  # the caller's to close
    modes = ["rgb_array" if draws and i == 0 else None for i in range(count)]
    return [stack.enter_context(make_env(name, render_mode=mode)) for mode in modes]


def _check_spaces(
    spec: PolicySpec, observation: gym.Space[object], action: gym.Space[object]
) -> None:
    found = (observation_specs(observation), action_spec(action))
    if found != (dict(spec.obs), spec.action):
        listed = "; ".join(space_differences((spec.obs, spec.action), found))
        raise SpaceError(
            f"the environment has other spaces than the policy was trained for: {listed}; "
            "run it in the environment it was trained in"
        )


def _tell(episode: _Episode) -> None:
    decisions = f"{episode.length} decisions"
    print(f"seed {episode.seed}: return {episode.total:.1f} in {decisions}", flush=True)


def _silent(episode: _Episode) -> None:
    del episode
