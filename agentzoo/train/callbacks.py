"""Callbacks: hooks into a run, and the ready ones."""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agentzoo.runtime.envs import FiveTuple, dimensions_of, reset_env, step_env
from agentzoo.runtime.errors import ConfigError, MissingExtraError
from agentzoo.runtime.evaluation.rollout import MAX_STEPS, evaluate
from agentzoo.runtime.policy.noise import derive_seed
from agentzoo.runtime.spec import Array

from ..algorithm import Imagining, NoiseSource
from ..config import AgentConfig
from ..replay.samplers import EpisodeSampler
from . import plots
from .background import Background
from .events import Callback, Run
from .sinks.sink import Film

UNLIMITED_STEPS = 10_000  # decisions of an evaluation episode that declares no limit of its own
UNKNOWN_LENGTH = 10_000  # steps that an episode may have where no time limit is known
LINES = 3  # sequences of a vector side by side: there is a panel for each dimension of each
CHOOSING_SEEDS = 2**30  # and above: of episodes that choose the best policy; scores have lower ones


def ready_callbacks(config: AgentConfig, *, evaluates: bool) -> list[Callback]:
    """The callbacks of every run, by its settings: evaluations where possible, and pictures."""
    ready: list[Callback] = [Evaluate()] if evaluates else []
    if config.report_every:
        ready.append(Report(config.report_every))
    return ready


@dataclass(frozen=True)
class EvaluationPlan:
    """Plan of a run's evaluations: when, and over how many episodes.

    Attributes:
        steps: environment steps at which an evaluation is due, in order.
        episodes: in each of them.
        final: episodes that score the final policy; 0 is none.
    """

    steps: tuple[int, ...]
    episodes: int
    final: int


def evaluation_plan(config: AgentConfig, total: int, limit: int | None) -> EvaluationPlan:
    """Evaluations whose episodes take a tenth of the run's steps at most, but for the final one.

    What the configuration names is taken as it is; it leaves open what is None. Evaluations of 5 to
    20 episodes come in equal distances, 50 at most; where a tenth holds fewer than 5 episodes, one
    evaluation of these in the middle.

    Args:
        config: the agent's.
        total: environment steps of the run.
        limit: environment steps that no episode exceeds; None counts as 10,000.
    """
    fitting = total // (10 * (limit or UNKNOWN_LENGTH))
    final = config.final_episodes
    if config.eval_every == 0:
        return EvaluationPlan((), 0, final)
    episodes = config.eval_episodes
    if config.eval_every is not None:
        times = total // config.eval_every
        steps = [config.eval_every * (i + 1) for i in range(times)]
        episodes = min(20, max(1, fitting // max(times, 1))) if episodes is None else episodes
    else:
        episodes = min(fitting, max(5, min(20, fitting // 10))) if episodes is None else episodes
        times = min(50, fitting // episodes) if episodes else 0
        steps = [total * (i + 1) // (times + 1) for i in range(times)]
    within = tuple(step for step in steps if step < total or not final)
    return EvaluationPlan(within if episodes else (), episodes, final)


class Evaluate(Callback):
    """Runs evaluation episodes during a run and at its end, and keeps the best policy.

    They run in an environment of their own, from the agent's string or function. A user's
    environment object is one, and inside an episode of its own: with it there are none. An episode
    that meets no end is cut. Seeds that choose the best policy are 2^30 or more, and those of
    published scores below.
    """

    _env: gym.Env[Any, Any] | None = None

    def on_start(self, training: Run) -> None:
        """Plan the evaluations to come."""
        total, limit = training.bar.total, training.adapter.time_limit
        self.plan = evaluation_plan(training.learner.config, total, limit)
        self._due = [step for step in self.plan.steps if step > training.counters.env_step]
        if self.plan.final or self._due:
            self._env = _Watched(training.learner.open_environment(), training)

    def on_end(self, training: Run) -> None:
        """Close the environment."""
        if self._env is not None:
            self._env.close()

    def on_step(self, training: Run) -> None:
        """Evaluate when due; the weights are those before this step's updates."""
        if self._due and training.counters.env_step >= self._due[0]:
            self._due = [step for step in self._due if step > training.counters.env_step]
            self.run(training, self.plan.episodes)

    def on_total(self, training: Run) -> None:
        """Evaluate the final policy."""
        if self.plan.final:
            training.counters.final_due = not self.run(training, self.plan.final)

    def run(self, training: Run, episodes: int) -> bool:
        """Evaluate now, log the mean return, keep the policy if it is the best so far.

        Returns:
            Whether it was evaluated: an evaluation that the run's end overtakes is left.
        """
        assert self._env is not None, "an evaluation is due that was not planned"
        counters = training.counters
        drawn = derive_seed(training.learner.seed, "evaluate", counters.evaluations)
        seed = CHOOSING_SEEDS + drawn % CHOOSING_SEEDS
        try:
            result = evaluate(training.learner.policy, self._env, episodes=episodes, seed=seed)
        except _RunStoppedError:
            return False
        counters.evaluations += 1
        line = {
            "eval/mean_reward": result.mean,
            "eval/std_reward": result.std,
            "eval/episodes": episodes,
            "eval/is_best": float(training.keep_best(result.mean)),
        }
        if result.success_rate is not None:
            line["eval/success_rate"] = result.success_rate
        training.log(line)
        for callback in training.callbacks:
            callback.on_evaluation(training, result.mean)
        return True


class _RunStoppedError(Exception):
    """The run was stopped inside an evaluation."""


class _Watched(gym.Wrapper[Any, Any, Any, Any]):
    """An environment of evaluations in a run: leaves when the run stops, ends endless episodes."""

    def __init__(self, env: gym.Env[Any, Any], training: Run) -> None:
        super().__init__(env)
        self._training, self._steps, self._told = training, 0, False
        limited = training.learner.env or (env.spec and env.spec.max_episode_steps)
        self._limit = MAX_STEPS if limited else UNLIMITED_STEPS

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._steps = 0
        return reset_env(self.env, seed, options)

    def step(self, action: Any) -> FiveTuple:
        """One decision, or none any more where the run is to end."""
        if self._training.stop:
            raise _RunStoppedError
        observation, reward, terminated, truncated, info = step_env(self.env, action)
        self._steps += 1
        if self._steps >= self._limit and not (terminated or truncated):
            truncated = True
            if not self._told:
                self._training.bar.warn(
                    f"an evaluation episode had no end after {self._limit:,} decisions and was "
                    "cut there; give the environment a time limit, such as "
                    "gymnasium.wrappers.TimeLimit(env, 1000)"
                )
            self._told = True
        return observation, reward, terminated, truncated, info


class Report(Callback):
    """Keeps a learning curve and the model's open-loop predictions, in the folder and the log.

    `learning_curve.png`; for each image observation `dream_KEY.mp4` (truth, model, error: 5 frames
    seen, 45 dreamed), for each vector `dream_KEY.png`. They are drawn in a thread of their own: the
    run computes what they show and goes on. What fails or takes too long costs a picture, and is
    said. `report_every=0` leaves all of it out.

    Args:
        every: environment steps between refreshes; they are made at the end as well.
        sequences: episodes shown side by side.
        length: steps shown, the seen ones included.
        limit_s: seconds that drawing may take; after that there are no pictures in this sitting.
    """

    def __init__(
        self,
        every: int = 100_000,
        *,
        sequences: int = 6,
        length: int = 50,
        limit_s: float = 60.0,
    ) -> None:
        self.every, self.sequences, self.length, self.limit_s = every, sequences, length, limit_s
        self._due, self._begun = 0, 0.0
        self._thread: Background | None = None
        self._names: Mapping[str, Sequence[str]] | None = None

    def on_start(self, training: Run) -> None:
        """The next multiple of `every` is due."""
        self._due = (training.counters.env_step // self.every + 1) * self.every
        self._thread = None

    def on_checkpoint(self, training: Run, path: Path) -> None:
        """Refresh when due, at a checkpoint, where no environment is inside an episode."""
        if training.counters.env_step >= self._due:
            self._due = (training.counters.env_step // self.every + 1) * self.every
            self.draw(training)

    def on_end(self, training: Run) -> None:
        """Refresh once more, and wait for the pictures."""
        self.draw(training)
        if self._thread is not None:
            self._thread.close(self.limit_s)

    def draw(self, training: Run) -> None:
        """Have the pictures drawn as the run stands now; left out while the last are drawn."""
        if self._thread is None:
            self._thread = Background(
                "pictures", lambda why: training.bar.warn(f"no more pictures of this run: {why}")
            )
        if self._thread.is_busy:
            if time.monotonic() - self._begun > self.limit_s:
                self._thread.close(0.0)
            return
        self._begun = time.monotonic()
        if training.counters.episodes:
            self._thread.put(self._drawn(training, self._curve, training.counters.env_step))
        try:
            if isinstance(training.learner.algorithm, Imagining) and training.replay.episodes:
                self._dream(training, training.learner.algorithm, self._thread)
        except Exception as error:  # a picture is worth no run, whatever went wrong in dreaming it
            training.bar.warn(f"no dream of this step: {type(error).__name__}: {error}")

    def _drawn(
        self, training: Run, draw: Callable[..., None], env_step: int, *shown: object
    ) -> Callable[[], None]:
        """A picture to be drawn; what goes wrong in drawing it costs no other."""

        def work() -> None:
            try:
                draw(training, env_step, *shown)
            except Exception as error:  # a picture is worth no run
                training.bar.warn(f"no picture of this step: {type(error).__name__}: {error}")

        return work

    def _curve(self, training: Run, env_step: int) -> None:
        path = training.folder / "learning_curve.png"
        plots.learning_curve(training.folder, path, title=training.learner.title)
        training.logger.picture(env_step, "learning_curve", path)

    def _dream(self, training: Run, algorithm: Imagining, thread: Background) -> None:
        learner, seed = training.learner, derive_seed(training.learner.seed, "dream")
        batch, _ = training.replay.sample(
            EpisodeSampler(), self.sequences, self.length, np.random.default_rng(seed)
        )
        batch = {name: column.to(learner.device) for name, column in batch.items()}
        model = algorithm.open_loop(batch, NoiseSource(seed, learner.device))
        for key, dreamed in model.items():
            is_image = learner.policy.spec.obs[key].kind == "image"
            show = self._film if is_image else self._lines
            truth, dream = batch[key].numpy(force=True), dreamed.float().numpy(force=True)
            thread.put(self._drawn(training, show, training.counters.env_step, key, truth, dream))

    def _film(self, training: Run, env_step: int, key: str, truth: Array, dream: Array) -> None:
        name = f"dream_{key}"
        path: Path | None = training.folder / f"{name}.mp4"
        frames = plots.open_loop_frames(truth, dream, zoom=1)
        try:
            plots.open_loop_video(truth, dream, path, fps=plots.FPS)
        except MissingExtraError as error:
            path = None
            training.bar.note(f"no video of the model's dreams: {error}")
        film = Film(frames=frames, fps=plots.FPS, path=path)
        training.logger.film(env_step, name, film)

    def _lines(self, training: Run, env_step: int, key: str, truth: Array, dream: Array) -> None:
        name = f"dream_{key}"
        path = training.folder / f"{name}.png"
        if self._names is None:
            env = training.learner.env
            self._names = dimensions_of(env) if env else {}
        names = self._names.get(key, ())
        few = slice(0, min(self.sequences, LINES))
        plots.open_loop_plot(
            truth[few], dream[few], path, names=names, title=training.learner.title
        )
        training.logger.picture(env_step, name, path)


class LogFunction(Callback):
    """A plain function that is told each line of the log.

    Args:
        function: called with `env_step` and the metrics, as a dict.
    """

    def __init__(self, function: "Callable[[dict[str, float]], object]") -> None:
        self.function = function

    def on_log(self, training: Run, line: Mapping[str, float]) -> None:
        """Tell it."""
        self.function(dict(line))


class StopOnReturn(Callback):
    """Ends the run once an evaluation's mean return reaches a threshold.

    Args:
        threshold: mean return, undiscounted.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def on_evaluation(self, training: Run, mean_reward: float) -> None:
        """Stop when the threshold is reached."""
        if mean_reward >= self.threshold:
            training.stop = True


Function = Callable[[dict[str, float]], object]  # told each line of the log
Callbacks = Callback | Function | Sequence[Callback | Function]  # as users give them


def check_callbacks(ready: Sequence[Callback], given: object, *, evaluates: bool) -> list[Callback]:
    """The callbacks that a run brings along, then those given, each of which can be told.

    Args:
        ready: the run's own.
        given: the user's.
        evaluates: whether there are evaluations before the final one.

    Raises:
        ConfigError: for what is no Callback, or a StopOnReturn in a run without evaluations.
    """
    checked = [*ready, *map(_callback, given if isinstance(given, list | tuple) else [given])]
    stops = any(isinstance(one, StopOnReturn) for one in checked)
    if stops and not evaluates:
        raise ConfigError(
            "StopOnReturn waits for evaluations, and this run has none: an environment object is "
            "in use by the run itself, and eval_every=0 or eval_episodes=0 ask for none; give a "
            "function that makes the environment, such as lambda: MyEnv(), or set eval_every"
        )
    return checked


def _callback(given: object) -> Callback:
    if isinstance(given, Callback):
        return given
    if callable(given) and not isinstance(given, type):
        try:
            inspect.signature(given).bind({})
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"callbacks holds the function {given!r}, which cannot be called with one line of "
                f"the log, a dict ({error}); derive a class from "
                "agentzoo.train.callbacks.Callback to hear of anything else"
            ) from error
        return LogFunction(given)
    made = f"the class {given.__name__}; call it" if isinstance(given, type) else f"{given!r}"
    raise ConfigError(
        f"callbacks holds {made}, expected functions that are told each line of the log, or "
        "objects of classes derived from agentzoo.train.callbacks.Callback, which say by their "
        "methods (on_step, on_episode, ...) what they want to hear"
    )
