"""Agent: what the user holds. learn, act, predict, evaluate, save, load, export."""

import secrets
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from agentzoo import hub
from agentzoo.runtime import envs
from agentzoo.runtime.envs import require_environment_like
from agentzoo.runtime.envs.opengl import load_triton
from agentzoo.runtime.errors import BundleError, ConfigError, RunError, SpaceError, nearest
from agentzoo.runtime.evaluation.rollout import MAX_STEPS, Evaluation, evaluate
from agentzoo.runtime.files import at_home
from agentzoo.runtime.policy.noise import derive_seed
from agentzoo.runtime.policy.planners import check_roles
from agentzoo.runtime.policy.policy import Policy
from agentzoo.runtime.policy.spaces import space_differences
from agentzoo.runtime.spec import ActionSpec, Array, ObsSpec, PolicySpec
from agentzoo.runtime.world.world import World

from .agents.registry import agents
from .algorithm import (
    Algorithm,
    Partwise,
    PlanningAlgorithm,
    Probing,
    Several,
    WorldModel,
    missing_parts,
    module,
)
from .arguments import home, require_float32, step_budget, suggest_arguments, whole_number
from .blocks.optim import RateDecay, decay_rates
from .blocks.seeded_init import SeededInit
from .compiling import require_compiling, resolve_compile, wanted
from .config import AgentConfig, EnvFacts, configure, one_of, parse_setting, setting, to_json
from .contract import (
    building,
    check_acting,
    check_class,
    check_declarations,
    check_env_overrides,
    check_plan,
    check_presets,
    check_schedule,
    check_world,
)
from .device import find_device
from .environment import (
    OBJECTS,
    EnvLike,
    collecting,
    facts_of,
    open_environment,
    require_environment,
    spaces_of,
)
from .precision import resolve_precision, slower_here
from .purity import check_purity
from .ranks import Ranks, joined, ranks
from .replay.datasets import Dataset, open_dataset
from .saved import (
    CONFIG,
    WEIGHTS,
    read_settings,
    read_spaces,
    read_weights,
    same,
    write_settings,
    write_weights,
)
from .torch_step import TorchStep
from .train import checkpoint
from .train.allocator import keep_freed_memory
from .train.callbacks import Callbacks, check_callbacks, ready_callbacks
from .train.checkpoint import Counters
from .train.collector import noise_for_step
from .train.cuda_graph import require_capture
from .train.events import Callback, Learner
from .train.loop import interruption, train
from .train.offline import train_offline
from .train.parent import Parent, require_parts
from .train.run_folder import locked, new_run_folder, write_total
from .train.schedule import Schedule
from .train.sinks.sink import Sinks, chosen_sinks

load_triton()  # before anything here draws or builds a network

RESUMABLE = {  # what may differ where a run is resumed
    "total_steps",
    "checkpoint_every",
    "checkpoint_grace",
    "log_every",
    "eval_every",
    "eval_episodes",
    "final_episodes",
    "report_every",
    "parallel",
    "worker_timeout",
    "capture",
}


class NoEnvironmentError(RunError, AttributeError):
    """An agent was asked for what only its environment decides, and has none yet."""


class Agent:
    """A world-model agent: construct it with an environment, learn, act, save, export.

    Args:
        env: an environment string ("dmc:walker-walk"), a gymnasium.Env or VectorEnv, a function
            that makes a gymnasium.Env, or None to name it later.
        preset: settings by name; None lets the suite and the observations choose.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", "mps".
        seed: of weights, environments, exploration and replay; None draws one and records it.
        **overrides: any field of the agent's configuration.

    Raises:
        ConfigError: for an unknown preset or field, or an ill-typed value.
        EnvironmentStringError: for an unknown suite, task or key.
        ProviderError: if the device is not there.
    """

    config_class: ClassVar[type[AgentConfig]]
    algorithm_class: ClassVar[type[nn.Module]]
    presets: ClassVar[Mapping[str, Mapping[str, object]]]  # the first is the one for any world
    tasks: ClassVar[Mapping[str, Mapping[str, object]]] = {}  # a paper's settings of single tasks
    deterministic: ClassVar[bool] = True  # the paper's evaluation protocol
    paper: ClassVar[str] = ""  # authors, year and arXiv number, for the model card

    config: AgentConfig
    algorithm: Algorithm
    spec: PolicySpec
    policy: Policy

    def __init__(
        self,
        env: EnvLike | None = None,
        *,
        preset: str | None = None,
        device: str = "auto",
        seed: int | None = None,
        **overrides: object,
    ) -> None:
        require_class(type(self))
        self.device = find_device(device)
        if self.device.type == "cpu":
            keep_freed_memory()  # before the first tensor
        self.seed = secrets.randbits(31) if seed is None else whole_number("seed", seed)
        self._seed_given = seed is not None
        self.run: Path | None = None
        self.run_dir: Path | None = None  # the run that tells how, not always to be gone on in
        self.took = ""  # newest|best, of the run it was loaded from
        self.parent: Parent | None = None  # what its run began with
        self.offline: dict[str, Any] | None = None  # the data set its run learned from
        self._loaded: Path | None = None  # where its weights were read, until it learns
        self._origin_env = ""  # where these had learned
        self.env_steps = 0  # learned for so far, repeat included
        self.env = ""  # resolved string, or "" for an environment object
        self._source: EnvLike | None = None
        self._world: World | None = None
        self._looked_at = False  # whether its acting methods were, since they were made
        self._facts: EnvFacts | None = None
        self._preset, self._overrides = preset, overrides
        self._facts: EnvFacts | None = None  # where it is to learn; unknown of a loaded agent
        self._loaded_differs: dict[str, list[str]] = {}
        self._precision_open = False  # whether "auto" chose it, so that a run has the last word
        known = sorted(self.presets)
        if preset is not None and preset not in known:
            raise ConfigError(
                f"{type(self).__name__} has no preset {preset!r}; {nearest(preset, known)}"
            )
        fields = {} if preset is None else self.presets[preset]
        # errors come early; the environment may change more
        self.config = configure(self.config_class, fields, overrides, name=type(self).__name__)
        if env is not None:
            self._build(env)

    def __getattr__(self, name: str) -> Any:
        """A sentence for what an environment brings, where there is none yet."""
        if name in ("algorithm", "spec", "policy"):
            raise NoEnvironmentError(
                f"this {type(self).__name__} has no environment yet, so its sizes are unknown; "
                f'give one: {type(self).__name__}("dmc:walker-walk")'
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    # -- acting ---------------------------------------------------------------------------------

    def act(self, obs: Array | Mapping[str, Array], *, deterministic: bool | None = None) -> Array:
        """The action for one observation, in the environment's own form; keeps recurrent state."""
        return self._acting().policy.act(obs, deterministic=deterministic)

    def predict(
        self,
        observation: Array | Mapping[str, Array],
        state: Any = None,
        episode_start: Array | None = None,
        deterministic: bool | None = False,
    ) -> tuple[Array, Any]:
        """Stable-Baselines3's stateless form of `act`, for one or many environments."""
        return self._acting().policy.predict(observation, state, episode_start, deterministic)

    def reset(self) -> None:
        """Start a new episode: the next `act` begins from the initial state."""
        self._built().policy.reset()

    def session(self, seed: int | None = None) -> Policy:
        """The same weights with a recurrent state and noise of its own."""
        return self._acting().policy.session(seed)

    def evaluate(
        self,
        env: EnvLike | None = None,
        *,
        episodes: int = 10,
        seed: int = 0,
        deterministic: bool | None = None,
        video: str | Path | None = None,
        override: bool = False,
        max_steps: int = MAX_STEPS,
    ) -> Evaluation:
        """Score the agent; the same function that scores an exported policy.

        Raises:
            ConfigError: if it is given a vector environment, or learned on an object.
            EpisodeError: if an episode has no end within `max_steps` decisions.
        """
        with self._acting().evaluation_env(env) as where:
            return evaluate(
                self.policy,
                where,
                episodes=episodes,
                seed=seed,
                deterministic=deterministic,
                video=video,
                override=override,
                max_steps=max_steps,
            )

    @contextmanager
    def evaluation_env(
        self, env: EnvLike | None = None
    ) -> Iterator[str | gym.Env[Any, Any] | None]:
        """The arguments of `agentzoo.runtime.evaluate` for an environment, or for the agent's own.

        What a function has made is closed again at the block's end.

        Raises:
            ConfigError: if it is a vector environment.
        """
        if isinstance(env, gym.vector.VectorEnv):
            raise ConfigError(
                "evaluate was given a vector environment; give it one environment, a function that "
                "makes one, or a string"
            )
        given = self._source if env is None else env
        if not callable(given):
            # a vector environment it learned in is no environment to evaluate in
            yield given if isinstance(given, str | gym.Env) else None
            return
        made = given()
        try:
            yield made
        finally:
            made.close()

    # -- learning -------------------------------------------------------------------------------

    @suggest_arguments
    def learn(
        self,
        total_steps: float | EnvLike | None = None,
        env: EnvLike | None = None,
        *,
        run: str | Path | None = None,
        offline: str | Path | None = None,
        parts: Sequence[str] = (),
        callbacks: Callbacks = (),
        log: Sinks = "tensorboard",
        progress: bool = True,
        on_interrupt: Literal["raise", "return"] = "raise",
    ) -> Self:
        """Learn for `total_steps` environment steps, action repeat included.

        Called again it goes that many steps further, in the same run. With `run` the number is that
        run's total: an interrupted run goes on, a finished one says so, a larger total extends it.
        Processes that torchrun started learn one run together; docs/cluster.md tells how.

        Args:
            total_steps: environment steps; None is the preset's budget. An environment in this
                place is the same as `env`.
            env: where to learn, if the agent was made without one.
            run: the run's folder, new or to be resumed; None makes one under runs/.
            offline: a Minari data set, by its id or folder, to learn from alone; `total_steps` is
                then a number of updates. To learn on in the environment call `learn` without it:
                that is another run, which begins with the policy, its optimisers and the data set's
                episodes.
            parts: of a policy that has learned, those that alone learn on in a new run, such as
                ["reward"]; everything else stays bit for bit. PlaNet's; () is all of them.
            callbacks: told about everything that happens; one, or several. A function is told each
                line of the log, as a dict.
            log: where the log goes beside metrics.jsonl: "tensorboard", "wandb", "mlflow",
                "trackio", a `Sink`, or several ("tensorboard,wandb"); "none" is nowhere else.
            progress: show a progress bar.
            on_interrupt: what a first Ctrl-C or SIGTERM leads to once the run's checkpoint stands:
                "raise" KeyboardInterrupt (of SIGTERM: SystemExit 143), or "return" like a run that
                a callback stopped. A second one stops at once.

        Returns:
            The agent itself.

        Raises:
            ConfigError: for a number of steps below 1, what is no callback, an unknown part, or an
                unknown sink.
            DatasetError: if the data set is missing, damaged, or of other spaces.
            MissingExtraError: if the package of a sink is not installed.
            RunError: without an environment, if `run` holds a run with other settings, if a sink
                cannot be opened, or if the run has diverged.
            KeyboardInterrupt: after Ctrl-C.
        """
        if on_interrupt not in ("raise", "return"):
            raise ConfigError(
                f'on_interrupt={on_interrupt!r} is not known; it is "raise" or "return"'
            )
        if total_steps is not None and not isinstance(total_steps, int | float | np.number):
            total_steps, env = None, total_steps
        with joined(self.device):
            signalled = self._learn(total_steps, env, run, offline, parts, callbacks, log, progress)
        if signalled is not None and on_interrupt == "raise":
            raise interruption(signalled)
        return self

    def _learn(
        self,
        total_steps: float | np.number | None,
        env: EnvLike | None,
        run: str | Path | None,
        offline: str | Path | None,
        parts: Sequence[str],
        callbacks: Callbacks,
        log: Sinks,
        progress: bool,
    ) -> signal.Signals | None:
        """`learn`, alone or beside other processes; the signal that stopped it, if one did."""
        dataset = self._prepared(env, offline)
        if parts:
            require_parts(type(self).__name__, self.algorithm, parts)
        assert self._source is not None
        require_float32()
        if run is None or checkpoint.newest(at_home(run) / "checkpoints") is None:
            require_compiling(self.config, self.device.type)  # a run that is resumed has its own
        config, self.took = self.config, ""
        budget = self._budget(dataset) if total_steps is None else step_budget(total_steps)
        told, sinks = self._callbacks(callbacks), chosen_sinks(log)
        if ranks().count > 1:
            self._join(ranks(), dataset)
            config = replace(config, envs=ranks().part("envs", config.envs))
        with collecting(self._source, config) as adapter:
            self._require_same_spaces(adapter.obs, adapter.action)  # before anything is written
            self._acting()
            folder = self._run_folder(run)
            with locked(folder) if ranks().first else nullcontext():
                updates = self._updates(budget, dataset)
                counters, newest = self._open_run(folder, tuple(parts), dataset, updates)
                total = budget if run is not None else counters.env_step + budget
                unit = "environment steps" if dataset is None else "updates"
                done = f"{counters.env_step:,} of {total:,} {unit}"
                finished = counters.env_step >= total and not counters.final_due
                if newest is not None and finished:
                    if ranks().first:
                        print(f"{folder} is finished: {done}")
                    return None
                if ranks().first:
                    write_total(folder, total)
                learner, self._loaded = self._learner(), None
                sitting = train if dataset is None else partial(train_offline, dataset=dataset)
                return sitting(
                    learner, folder, adapter, counters, newest, total, told, sinks, progress
                )

    def _join(self, ranks: Ranks, dataset: Dataset | None) -> None:
        """Begin as rank 0 does, or refuse what several processes cannot do together.

        Raises:
            ConfigError: if a setting cannot be dealt out evenly.
            RunError: if the agent or the environment is for one process, or ranks differ.
        """
        name, settings = type(self).__name__, self.config
        if not (isinstance(self.algorithm, Several) and self.algorithm.several_learners):
            raise RunError(
                f"{name} learns in one process: {self.algorithm_class.__name__} does not say "
                "several_learners = True, that is, that it brings together what is no mean over "
                "a batch; docs/own_agent.md tells what that asks for"
            )
        if dataset is not None:
            raise RunError("a data set is learned from by one process; leave torchrun out")
        if isinstance(self._source, OBJECTS):
            raise RunError(
                "an environment object is in one process alone; give several a function that makes "
                "the environment, or a string"
            )
        dealt = ("envs", "batch_size", "imagine_starts")
        for field in dealt:
            ranks.part(field, getattr(settings, field, None) or 0)
        require_capture(self.device, settings.capture)
        seed = ranks.exchange(self.seed)[0]
        if seed != self.seed and not self._seed_given:
            self.seed = seed
            self._wire(self.spec.obs, self.spec.action)
        precision = ranks.exchange(self.config.precision)[0]
        if precision != self.config.precision and self._precision_open:
            self._set("precision", precision)
            self._wire(self.spec.obs, self.spec.action)
        said = ranks.exchange(self._settings())
        if differing := [rank for rank, one in enumerate(said) if one != said[0]]:
            raise RunError(
                f"rank {differing[0]} was given another agent, environment or setting than rank 0; "
                "give every process the same"
            )

    def take_in(self, offline: str | Path, run: Path) -> None:
        """Begin a run that holds a data set's episodes, and learn nothing yet.

        Raises:
            DatasetError: if the data set is missing, damaged, or of other spaces.
        """
        dataset = self._prepared(None, offline)
        assert self._source is not None
        assert dataset is not None
        with collecting(self._source, self.config) as adapter, locked(run):
            counters, newest = self._open_run(run, (), dataset)
            train_offline(
                self._learner(), run, adapter, counters, newest, 0, (), (), False, dataset=dataset
            )

    def _prepared(self, env: EnvLike | None, offline: str | Path | None) -> Dataset | None:
        """Build for the environment, leave the run of another one, open the data set."""
        dataset = None if offline is None else open_dataset(offline)
        if dataset is not None and env is None and self._source is None:
            env = dataset.env or None
        before, source = self.env, self._source
        if env is not None:
            self._build(env)
        require_environment(self._source)
        elsewhere = self.env != before or (dataset is None) != (self.offline is None)
        elsewhere |= not isinstance(self._source, str) and self._source is not source
        if self.run is not None and elsewhere:
            self._leave_run(before)  # another task is another run, and so is a data set
        if dataset is not None:
            dataset.require_spaces(self.spec.obs, self.spec.action)
        return dataset

    def _budget(self, dataset: Dataset | None) -> int:
        """The preset's environment steps, or the updates that it would take in them."""
        steps = self.config.total_steps
        if dataset is None:
            return steps
        return max(1, self._schedule().due(steps, dataset.episodes))

    def _updates(self, budget: int, dataset: Dataset | None) -> int:
        """Updates in that many environment steps; of a data set, the budget is their number."""
        if dataset is not None:
            return budget
        return self._schedule().due(budget, 0)

    def _schedule(self) -> Schedule:
        """Schedule of updates in the agent's environment."""
        repeat = int(envs.settings_of(self.env).get("repeat", 1)) if self.env else 1
        schedule = self.config.schedule(repeat)
        check_schedule(self.config, schedule)
        return schedule

    def _run_folder(self, run: str | Path | None) -> Path:
        """The folder of the run that was named, is gone on with, or begins."""
        if run is not None:
            return at_home(run)
        if self.run is not None:
            return self.run
        made = str(new_run_folder(type(self).__name__, self.env)) if ranks().first else ""
        return Path(ranks().exchange(made)[0])

    def _open_run(
        self,
        folder: Path,
        parts: tuple[str, ...],
        dataset: Dataset | None = None,
        updates: int = 0,
    ) -> tuple[Counters, Path | None]:
        """Counters of the run in a folder, and the checkpoint to go on from.

        A new run decides by the number of `updates` that it will make whether it compiles.
        """
        newest = checkpoint.newest(folder / "checkpoints")
        if newest is not None:
            checkpoint.require_whole(newest)
            _require_same_source(folder, read_settings(newest).get("offline"), dataset)
        offline = None if dataset is None else _record(dataset)
        if newest is None:
            self._descend(parts, dataset)
            self._choose_compile(updates)
            self.offline = offline
            folder.mkdir(parents=True, exist_ok=True)
            if ranks().first:
                write_settings(folder, self._settings())
            self.run = self.run_dir = folder
            return Counters(), None
        require_same_ranks(folder, newest)
        settings = read_settings(newest)
        if self._precision_open:
            default = self.config_class().precision
            self._set("precision", settings["config"].get("precision", default))
        if wanted(self.config) == "auto":
            self._set("compile", settings["config"].get("compile", "off"))
        self._require_same_settings(newest)
        self._require_descent(folder, settings)
        require_compiling(self.config, self.device.type)
        self._loaded = None
        slower = slower_here(self.config.precision, device=self.device.type)
        if slower and ranks().first:
            print(f"{folder}: {slower}")
        self.seed = settings["seed"]
        self.parent = Parent(**settings["parent"]) if "parent" in settings else None
        self._require_same_parts(folder, parts)
        self.offline = offline
        self._wire(self.spec.obs, self.spec.action)
        self._load_weights(newest)
        self.run = self.run_dir = folder
        counters = Counters.read(ranks().own(newest / "training"))
        self.env_steps = self.steps_before + (0 if self.offline else counters.env_step)
        if self.offline is not None:
            self.offline["updates"] = counters.env_step
        return counters, newest

    def _leave_run(self, env: str) -> None:
        """Take the newest policy of the run in `env` for the parent of the next one."""
        assert self.run is not None, "there is a run to leave"
        newest = checkpoint.newest(self.run / "checkpoints")
        assert newest is not None, f"{self.run} has a checkpoint from its start on"
        self._origin_env, self._loaded, self.run = env, newest, None

    def _descend(self, parts: tuple[str, ...], dataset: Dataset | None) -> None:
        """Name the policy that was loaded for the parent of a new run, which draws other seeds."""
        if ranks().count > 1 and (parts or self._loaded is not None):
            raise RunError(
                "several processes begin a run with fresh weights, or resume one; to continue from "
                "a policy that has learned, leave torchrun out"
            )
        if self._loaded is None:
            if parts:
                raise RunError(
                    f"parts={list(parts)} would keep the other parts, but they have learned "
                    "nothing yet; load a policy that has, and let it learn on"
                )
            return
        parent = Parent.of(self._loaded, self._origin_env, self.env_steps)
        # transitions of another task have its rewards
        same = parent.has_optimizer and self.env == parent.env and self.env != ""
        same = same and dataset is None  # whose transitions are the data set's
        # several learners' transitions are in as many folders
        same = same and Counters.read(self._loaded / "training").ranks == 1
        whole = not parts and self._parts == ()  # an optimiser of some parts fits no others
        self.parent = replace(
            parent,
            has_replay=same,
            has_optimizer=parent.has_optimizer and whole,
            parts=parts,
        )
        self.seed = derive_seed(self.seed, "continued", parent.sha256) >> 33

    @property
    def steps_before(self) -> int:
        """Environment steps of the policies that this one's run continues from."""
        return 0 if self.parent is None else self.parent.env_steps

    @property
    def _parts(self) -> tuple[str, ...]:
        """Parts that alone learn in its run; () is all of them."""
        return () if self.parent is None else self.parent.parts

    def _require_descent(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """A policy that was loaded goes on with its own run, or with one that began with it."""
        own = self.run_dir is not None and folder.resolve() == self.run_dir.resolve()
        if self._loaded is None or own:
            return
        ours = Parent.of(self._loaded, self._origin_env, self.env_steps).sha256
        if settings.get("parent", {}).get("sha256") != ours:
            raise RunError(
                f"the run {folder} did not begin with the policy that was loaded from "
                f"{self._loaded}; name another folder to continue from that, or go on with the run "
                f"itself: agentzoo resume {folder}"
            )

    def _require_same_parts(self, folder: Path, parts: tuple[str, ...]) -> None:
        """A resumed run goes on with the parts that it began with."""
        if parts and parts != self._parts:
            raise RunError(
                f"in the run {folder} {', '.join(self._parts) or 'every part'} learns, not "
                f"{', '.join(parts)} alone; for another run from its policy: "
                f"agentzoo.load({str(folder)!r}).learn(..., parts={list(parts)})"
            )

    def _learner(self) -> Learner:
        if isinstance(self.algorithm, Partwise):
            self.algorithm.learn_only(self._parts)
        c = self.config
        if c.lr_decay == "linear" or c.lr_decay == "cosine":
            decay = RateDecay(c.lr_decay, c.lr_decay_updates, c.lr_final)
            decay_rates(self.algorithm.optimizers(), decay)
        return Learner(
            algorithm=self.algorithm,
            config=self.config,
            policy=self.policy,
            seed=self.seed,
            device=self.device,
            env=self.env,
            save=self._save_at,
            open_environment=self.open_environment,
            parent=self.parent,
            loaded=self._loaded,
        )

    def _save_at(self, folder: Path, env_steps: int) -> None:
        """Save as what has learned for so many environment steps of this run, or updates."""
        if self.offline is not None:
            self.offline["updates"], env_steps = env_steps, 0
        self.env_steps = self.steps_before + env_steps
        self.save(folder)

    def _callbacks(self, given: Callbacks) -> list[Callback]:
        """The ready callbacks, then those given.

        Raises:
            ConfigError: for what is no callback, or one that would wait for ever.
        """
        can = not isinstance(self._source, OBJECTS)
        during = can and self.config.eval_every != 0 and self.config.eval_episodes != 0
        told = check_callbacks(ready_callbacks(self.config, evaluates=can), given, evaluates=during)
        return told if ranks().first else []

    # -- saving ---------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write config.json and model.safetensors; `load` reads them back.

        A folder that this made is removed again where writing fails.

        Raises:
            RunError: without an environment.
        """
        folder = at_home(folder)
        self._built()
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_settings(folder, self._settings())
            write_weights(folder, module(self.algorithm))
        except BaseException:
            if new:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    @classmethod
    def load(cls, folder: str | Path, *, which: str = "newest", device: str = "auto") -> Self:
        """Read a saved agent, a run's newest or best policy, or a published agent.

        Args:
            folder: a folder; or, where none of this name is, `me/name`, `file:DIR/name` or
                `zoo:name`, perhaps with `@revision`.
            which: of a run: "newest", its last checkpoint, or "best", by its evaluations.
            device: as in the constructor.

        Raises:
            BundleError: if the folder holds no agent, another class of agent, or a newer format.
            HubError: if the published agent cannot be had; see `agentzoo.hub.pull`.
        """
        given, folder = folder, hub.locate(home(folder))
        folder, run = stored(folder, which)
        checkpoint.require_whole(folder, (CONFIG, WEIGHTS))
        settings = read_settings(folder)
        if settings["agent"] != cls.__name__:
            raise BundleError(
                f"{given} holds a {settings['agent']}, not a {cls.__name__}; "
                f"use {settings['agent']}.load or agentzoo.load"
            )
        training = settings["training"]
        overrides = _overrides_of(cls.config_class, training["overrides"], settings["config"])
        preset = training["preset"]
        agent = cls(device=device, seed=settings["seed"], preset=preset, **overrides)
        agent._seed_given = False  # a run that continues from it draws its own
        agent.env_steps = training["env_steps"]
        agent.run_dir, agent.took = run, "" if run is None else which
        agent._loaded, agent._origin_env = folder, settings["env"]
        agent.parent = Parent(**settings["parent"]) if "parent" in settings else None
        agent.offline = settings.get("offline")
        agent._loaded_differs = training["differs"]
        agent.env = settings["env"]
        agent._source = agent.env or None
        agent.config = configure(cls.config_class, settings["config"], name=cls.__name__)
        agent._wire(*read_spaces(settings))
        agent._load_weights(folder)
        return agent

    def export(self, folder: str | Path, *, golden_steps: int = 100, world: bool = False) -> Path:
        """Save, and add what the runtime needs: ONNX graphs, manifest, golden trace.

        Args:
            folder: the bundle's; made if it is not there.
            golden_steps: steps of the recorded trace.
            world: add the world model, for `agentzoo.runtime.load_world` and the server's page. The
                trace is then recorded in the agent's environment, where it can be opened again.

        Raises:
            BundleError: if ONNX Runtime's actions or dreams differ from torch's.
        """
        from .export import export
        from .export_world import export_world, require_world_model

        algorithm = self._acting().algorithm
        if world:
            check_world(require_world_model(algorithm), self.spec)
        folder = self.save(folder)
        if self.origin:
            print(f"exporting {self.origin}")
        if not world:
            return export(algorithm, self.spec, folder, golden_steps=golden_steps)
        env = self.open_environment() if self.can_open_environment else None
        try:
            export(self.algorithm, self.spec, folder, golden_steps=golden_steps, env=env)
        finally:
            if env is not None:
                env.close()
        return export_world(self.algorithm, self.spec, folder)

    @property
    def world(self) -> World:
        """The world model: encode what was seen, imagine, decode and judge; see `World`."""
        from .starts import starts_of
        from .torch_world import torch_world

        if self._world is None:
            self._built()
            world = torch_world(self.algorithm, self.spec, self.device, lambda: starts_of(self))
            check_world(cast("WorldModel", self.algorithm), self.spec)
            self._world = world
        return self._world

    def push_to_hub(
        self,
        repo_id: str,
        *,
        folder: str | Path | None = None,
        episodes: int = 20,
        private: bool | None = None,
        token: str | None = None,
        license_id: str = "mit",
        without: Sequence[str] = (),
    ) -> str:
        """Export, score, film and publish, as one commit with a model card.

        Args:
            repo_id: `me/name`, or `file:DIR` for a folder that is, or becomes, a hub.
            folder: where to leave the bundle; None is a temporary folder.
            episodes: to score the exported policy over.
            private: whether a new repo is private; None is the account's default.
            token: of an account that may write there; None is the one logged in.
            license_id: of the weights, as the Hub spells it.
            without: `replay.mp4` or `learning_curve.png`, where a machine cannot draw.

        Returns:
            The address with the commit: what was published, for good.

        Raises:
            BundleError: if the repo holds something else.
            HubError: if the Hub refuses or fails.
            RunError: if there is no run to draw the learning curve of.
        """
        from .publish import publish

        return publish(
            self,
            repo_id,
            folder=folder,
            episodes=episodes,
            private=private,
            token=token,
            license_id=license_id,
            without=without,
        )

    # -- inside ---------------------------------------------------------------------------------

    @classmethod
    def default_preset(cls, suite: str, obs: Mapping[str, ObsSpec]) -> str:
        """The preset for a suite ("" for an environment object) and observations."""
        return next(iter(cls.presets))

    @classmethod
    def env_overrides(cls, config: Any, world: EnvFacts) -> Mapping[str, object]:
        """Fields that the world decides, between the preset's and the user's own.

        Args:
            config: the preset's.
            world: where the agent is to learn.
        """
        return {}

    def _build(self, env: EnvLike) -> None:
        """Read the spaces, choose the settings, resolve the string, make the networks.

        An agent that has networks already keeps them and its settings.
        """
        require_environment_like(env)
        require_float32()
        built = hasattr(self, "algorithm")
        specs = None
        if not built:
            self._facts = facts_of(env, self._overrides)
            specs = self._facts.obs, self._facts.action
            preset = self._choose_preset(self._facts.suite, specs[0])
            self.config = self._configure(self._facts, preset, self._overrides)
            self._choose_precision(specs[0])
            self._require_device()
        if isinstance(env, gym.vector.VectorEnv) and "envs" not in self._overrides:
            self.config = replace(self.config, envs=env.num_envs)
        source = self._resolved(env)
        if not built:
            self._refuse_without_effect(source)
        decided = self.config.protocol or self.config.frames
        if specs is None or (decided and isinstance(source, str)):
            specs = spaces_of(source)  # they decide on pictures, and a protocol on actions, too
        if built:
            self._require_same_spaces(*specs)
        if isinstance(source, str):
            self.env = source
        elif source is not self._source:
            self.env = ""  # nothing says which task it is
        self._source = source
        if built:
            self.spec = replace(self.spec, env=self.env)
            self.policy = Policy(self.policy.step, self.spec, digest=self.policy.digest)
        if not built:
            self._wire(*specs)

    def _resolved(self, env: EnvLike) -> EnvLike:
        """A string with every key written out, the settings' where it leaves them open."""
        if not isinstance(env, str):
            return env
        fields = ("repeat", "render", "frames", "protocol")
        return envs.resolve(env, {name: getattr(self.config, name) for name in fields})

    def _refuse_without_effect(self, source: EnvLike) -> None:
        """Overrides of what an environment brings along itself.

        Raises:
            ConfigError: naming the field, and what to do instead.
        """
        for name in ("repeat", "render", "frames", "protocol"):
            value = self._overrides.get(name)
            if value is None or (name == "repeat" and value == 1):
                continue
            if not isinstance(source, str):
                instead = "agentzoo.runtime.envs.Repeat(env, times)" if name == "repeat" else "it"
                raise ConfigError(
                    f"{name}={value!r} has no effect on an environment object or function, which "
                    f"is used as it is; leave {name} out, and make the environment with {instead}"
                )
            if name != "protocol" and envs.settings_of(source).get(name) != value:
                raise ConfigError(
                    f'{name}={value!r} has no effect on "{source}", which says otherwise or has '
                    f"no such key; leave {name} out, or change the string"
                )

    def _configure(
        self, world: EnvFacts, preset: str, overrides: Mapping[str, object]
    ) -> AgentConfig:
        """The preset's fields, what the world and the task decide, then the user's overrides."""
        name, fields = type(self).__name__, self.presets[preset]
        before = configure(self.config_class, fields, name=name)
        of_world = self.env_overrides(before, world)
        check_env_overrides(of_world, name)
        decided = {**of_world, **self.tasks.get(world.task, {})}
        return configure(self.config_class, fields, decided, overrides, name=name)

    def _require_device(self) -> None:
        """Settings that only some devices have."""
        require_capture(self.device, self.config.capture)
        if self.config.precision == "tf32" and self.device.type != "cuda":
            raise ConfigError(f"precision='tf32' is CUDA's, the device is {self.device}; use fp32")

    def _choose_precision(self, obs: Mapping[str, ObsSpec]) -> None:
        """Resolve precision="auto"; from now on it stands everywhere as what it is here."""
        self._precision_open = self.config.precision == "auto"
        images = any(spec.kind == "image" for spec in obs.values())
        name, device = type(self).__name__, self.device.type
        self._set("precision", resolve_precision(name, self.config, images=images, device=device))

    def _choose_compile(self, updates: int) -> None:
        """Resolve compile="auto" for a new run, whose config.json says what it stands for."""
        if wanted(self.config) == "auto":
            images = any(spec.kind == "image" for spec in self.spec.obs.values())
            name, device = type(self).__name__, self.device.type
            found = resolve_compile(
                name, self.config, images=images, device=device, updates=updates
            )
            # one word for all: a process without a compiler keeps the others eager
            word, said = min(ranks().exchange(found), key=lambda one: one[0])
            self._set("compile", word)
            if said and ranks().first:
                print(said)

    def _set(self, name: str, word: str) -> None:
        """Write down the word that "auto" stands for."""
        self.config = replace(self.config, **{name: word})
        if name in self._overrides:
            self._overrides = {**self._overrides, name: word}

    def _choose_preset(self, suite: str, obs: Mapping[str, ObsSpec]) -> str:
        image = any(spec.kind == "image" for spec in obs.values())
        preset = self._preset or self.default_preset(suite, obs)
        if preset not in self.presets:
            raise ConfigError(
                f"{type(self).__name__}.default_preset gives {preset!r}, which is none of its "
                f"presets; {nearest(str(preset), self.presets)}"
            )
        variant = f"{preset}_pixels"
        return variant if image and variant in self.presets else preset

    def _wire(self, obs: Mapping[str, ObsSpec], action: ActionSpec) -> None:
        """Networks from spaces and configuration, with weights drawn from the seed."""
        if self.device.type == "cuda":
            tf32 = self.config.precision == "tf32"
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        kind = self.algorithm_class
        with SeededInit(derive_seed(self.seed, "weights")):
            with building(kind, obs):
                network = kind(obs, action, self.config)
            network = network.to(self.device)
        check_plan(network)
        if lacking := missing_parts(network):
            raise ConfigError(
                f"{self.algorithm_class.__name__} lacks {', '.join(lacking)}; "
                "agentzoo/algorithm.py says what each part is"
            )
        assert isinstance(network, Algorithm), type(network)
        check_declarations(network, action)
        taken = [key for key in obs if key in network.columns]
        if taken:
            raise SpaceError(
                f'the observation key "{taken[0]}" is the name of a column that '
                f"{type(self).__name__} stores itself ({', '.join(network.columns)}); rename it "
                "with gymnasium.wrappers.TransformObservation"
            )
        self.algorithm = network
        self.spec = PolicySpec(
            agent=type(self).__name__,
            env=self.env,
            obs=obs,
            action=action,
            carry=network.carry_spec,
            noise=noise_for_step(network.noise_spec),
            deterministic=self.deterministic,
            plan=network.plan_spec if isinstance(network, PlanningAlgorithm) else None,
            precision=self.config.precision,
            seed=self.seed,
            probes=network.probes if isinstance(network, Probing) else {},
        )
        if self.spec.plan is not None:
            check_roles(self.spec)
        self.policy = Policy(TorchStep(network, self.device), self.spec)
        self._world, self._looked_at = None, False

    @property
    def can_open_environment(self) -> bool:
        """Whether it learned in what can be made again: a string, or a function."""
        return self._source is not None and not isinstance(self._source, OBJECTS)

    def open_environment(self) -> gym.Env[Any, Any]:
        """An environment to evaluate in, made like those to learn in; not for an object."""
        source = self._built()._source
        assert source is not None, "the agent has no environment"
        assert not isinstance(source, OBJECTS), "there is one object, and it is in use"
        return open_environment(envs.for_evaluation(source) if isinstance(source, str) else source)

    def _built(self) -> Self:
        _ = self.algorithm  # says what is missing
        return self

    def _acting(self) -> Self:
        """The agent, whose acting methods were looked at once."""
        if not self._built()._looked_at:
            check_acting(self.algorithm, self.spec)
            check_purity(self.algorithm, self.spec)
            self._looked_at = True
        return self

    def _training(self) -> dict[str, Any]:
        """Record of this agent's training, for whoever wants to do it again."""
        chosen = self._choose_preset(envs.EnvName.read(self.env).suite, self.spec.obs)
        return {
            "preset": chosen,
            "overrides": [f"{name}={setting(one)}" for name, one in self._overrides.items()],
            "env_steps": self.env_steps,
            "paper": self.paper,
            "differs": self._differs(),
        }

    def _differs(self) -> dict[str, list[str]]:
        """Fields that are otherwise than in the paper: name -> theirs and ours.

        Of a loaded agent what its folder says: how long episodes were is not known any more.
        """
        if self._facts is None:
            return self._loaded_differs
        paper = self.default_preset(self._facts.suite, self.spec.obs)
        theirs, ours = to_json(self._configure(self._facts, paper, {})), to_json(self.config)
        return {
            name: [setting(theirs[name]), setting(one)]
            for name, one in ours.items()
            if name not in RESUMABLE and not same(theirs[name], one)
        }

    def _settings(self) -> dict[str, Any]:
        """The content of config.json, but for what `write_settings` adds."""
        policy = asdict(self.spec)
        return {
            "agent": type(self).__name__,
            "env": self.env,
            "seed": self.seed,
            "config": to_json(self.config),
            "policy": {"obs": policy["obs"], "action": policy["action"]},
            "training": self._training(),
            **({"took": self.took} if self.took else {}),
            **({"parent": self.parent.to_json()} if self.parent else {}),
            **({"offline": self.offline} if self.offline else {}),
        }

    def _load_weights(self, folder: Path) -> None:
        read_weights(folder, module(self.algorithm), type(self).__name__)

    def _require_same_settings(self, folder: Path) -> None:
        """A resumed run keeps its settings; what differs is listed."""
        theirs, ours = read_settings(folder), self._settings()
        defaults = to_json(self.config_class())  # of fields that are younger than the run
        names = ("agent", "env", "seed") if self._seed_given else ("agent", "env")
        pairs = {name: (theirs[name], ours[name]) for name in names}
        for name, mine in ours["config"].items():
            if name not in RESUMABLE:
                pairs[name] = (theirs["config"].get(name, defaults[name]), mine)
        differing = [f"{n} was {a!r}, is {b!r}" for n, (a, b) in pairs.items() if not same(a, b)]
        spaces = read_spaces(theirs)
        differing += space_differences(spaces, (self.spec.obs, self.spec.action))
        if not differing and list(spaces[0]) != list(self.spec.obs):
            order, now = ", ".join(spaces[0]), ", ".join(self.spec.obs)
            differing.append(f"the observations were in the order {order}, are in the order {now}")
        if differing:
            raise RunError(
                f"the run {folder.parent.parent} has other settings: {'; '.join(differing)}; "
                "resume it with its own, or name another folder"
            )

    def _require_same_spaces(self, obs: Mapping[str, ObsSpec], action: ActionSpec) -> None:
        differing = space_differences((self.spec.obs, self.spec.action), (obs, action))
        if differing:
            raise RunError(
                f"the environment has other spaces than this agent was made for: "
                f"{'; '.join(differing)}; make a new agent for it, or give the environment it had"
            )

    @property
    def origin(self) -> str:
        """Text of which policy of its run this is; "" for one that was not loaded from a run."""
        if not self.took or self.run_dir is None:
            return ""
        said = f"the {self.took} policy of {self.run_dir}, of step {self.env_steps:,}"
        newest = checkpoint.newest(self.run_dir / "checkpoints")
        found = Counters() if newest is None else Counters.read(newest / "training")
        if found.best_return is None:
            return f"{said}; none was evaluated"
        mean = f"(mean {found.best_return:.1f})"
        if self.steps_before + found.best_step == self.env_steps:
            return f"{said}, the best by evaluation {mean}"
        best = self.steps_before + found.best_step
        return f"{said}; the best by evaluation is that of step {best:,} {mean}"

    def __repr__(self) -> str:
        """The class, its environment, and parameters per block."""
        if not hasattr(self, "algorithm"):
            return f"{type(self).__name__}()"
        blocks = module(self.algorithm).named_children()
        sizes = {name: sum(p.numel() for p in block.parameters()) for name, block in blocks}
        lines = [f"  {name:<12}{count:>12,}" for name, count in sizes.items() if count]
        total = f"  {'parameters':<12}{sum(sizes.values()):>12,}"
        return "\n".join([f"{type(self).__name__}({self.env!r})", *lines, total])


def load(folder: str | Path, *, which: str = "newest", device: str = "auto") -> Agent:
    """Read a saved agent of any class, a run's newest or best policy, or a published agent.

    Args and what is raised are those of `Agent.load`.

    Example:
        agent = load("me/dreamer-dmc-walker-walk@main")
    """
    given, folder = folder, hub.locate(home(folder))
    name = read_settings(stored(folder, which)[0])["agent"]
    found = agents()
    if name not in found:
        raise BundleError(
            f"{given} holds a {name!r}, which no installed package registers "
            f"({nearest(str(name), sorted(found), 'agents')}); install the package that brings it, "
            f"or import its class and use {name}.load"
        )
    kind = found[name].load()
    return kind.load(folder, which=which, device=device)


def stored(folder: Path, which: str) -> tuple[Path, Path | None]:
    """Folder of the policy to load, and the run that it is of, if it is of one.

    Raises:
        ConfigError: if `which` is neither newest nor best.
        BundleError: if the best one is asked for where there is none.
    """
    one_of("which", which, ("newest", "best"))
    newest, best = (checkpoint.newest(folder / name) for name in ("checkpoints", "best"))
    if which == "best" and best is None:
        why = "it is no run's folder" if newest is None else "nothing was evaluated in that run yet"
        raise BundleError(f'{folder} holds no best policy: {why}; take which="newest"')
    if which == "best":
        assert best is not None, folder
        return best, folder
    return (folder, None) if newest is None else (newest, folder)


def _record(dataset: Dataset) -> dict[str, Any]:
    """The entry of config.json on the data set that a run learns from."""
    found = {"dataset": dataset.id, "env": dataset.env}
    return {**found, "episodes": dataset.episodes, "transitions": dataset.transitions, "updates": 0}


def _overrides_of(
    kind: type[AgentConfig], written: Sequence[str], config: Mapping[str, object]
) -> dict[str, Any]:
    """The fields that were set by hand; their values as `config` has them.

    field=value is what a shell would be told, and no shell can say a text with a comma in a tuple.
    """
    names = [one.partition("=")[0] for one in written]
    return dict(
        (name, config[name]) if name in config else parse_setting(kind, one)
        for name, one in zip(names, written, strict=True)
    )


def _require_same_source(folder: Path, before: object, dataset: Dataset | None) -> None:
    """A resumed run goes on with the data set, or the environment, that it began with.

    Raises:
        RunError: saying how to go on otherwise.
    """
    theirs = before.get("dataset") if isinstance(before, dict) else None
    ours = None if dataset is None else dataset.id
    if theirs == ours:
        return
    if theirs is None:
        raise RunError(
            f"the run {folder} learns in its environment, not from the data set {ours}; name "
            "another folder"
        )
    if ours is None:
        raise RunError(
            f"the run {folder} learns from the data set {theirs}; pass offline= (--offline) to go "
            f"on with it, or learn on in the environment: agentzoo.load({str(folder)!r}).learn(...)"
        )
    raise RunError(
        f"the run {folder} learns from the data set {theirs}, not from {ours}; name another folder"
    )


def require_same_ranks(folder: Path, newest: Path) -> None:
    """Refuse to go on with a run that other numbers of processes learn.

    Raises:
        RunError: saying how to go on.
    """
    count = Counters.read(newest / "training").ranks
    if count != ranks().count:
        start = f"torchrun --nproc-per-node {count}" if count > 1 else "one process, no torchrun"
        raise RunError(
            f"the run {folder} is learned by {count} process(es), each with a replay of its own, "
            f"not by {ranks().count}; go on with it by {start}, or begin another run"
        )


def require_class(kind: type[Agent]) -> None:
    """Refuse a class that lacks what every agent has.

    Raises:
        ConfigError: naming what is missing.
    """
    needed = {
        "config_class": "its configuration, a subclass of AgentConfig",
        "algorithm_class": "its networks, an nn.Module that is an Algorithm",
        "presets": 'settings by name, such as {"debug": {"prefill": 100}}',
    }
    lacking = [f"{name} ({what})" for name, what in needed.items() if not hasattr(kind, name)]
    if lacking or not kind.presets:
        raise ConfigError(
            f"{kind.__name__} lacks {', '.join(lacking) or 'a preset'}; docs/own_agent.md tells "
            "how an agent is made"
        )
    check_presets(kind.presets, kind.__name__)
    check_class(kind.config_class, kind.algorithm_class, kind.__name__)
