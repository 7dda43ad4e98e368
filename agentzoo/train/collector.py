"""Collection: the acting half of training. One decision of every environment at a time."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agentzoo.runtime.envs import Adapter, episode_seed
from agentzoo.runtime.policy.noise import derive_seed, draw, with_plan_axes
from agentzoo.runtime.spec import ActionSpec, NoiseSpec

from ..algorithm import (
    Algorithm,
    Annotating,
    Carry,
    Measuring,
    Noise,
    Obs,
    PlanningAlgorithm,
    Transitions,
)
from ..blocks.actions import to_env
from ..contract import asked, check_acted, check_annotation, check_late
from ..replay.buffer import ReplayBuffer, record
from ..replay.chunks import STANDARD
from .checkpoint import Counters


@dataclass(frozen=True)
class Episode:
    """A finished episode of collection, exploration noise included."""

    env: int
    total_reward: float  # undiscounted sum
    length: int  # decisions, the last observation included
    env_steps: int
    success: bool | None = None  # whether it reached its goal, where the environment says so
    unlocked: Mapping[str, bool] = field(default_factory=dict)  # achievements, where there are any


@dataclass
class Collector:
    """Acts in the environments and stores what happens.

    A call of `advance` brings every environment to its next observation (a step, or a seeded reset
    after an episode's end); a call of `decide` chooses the actions there and stores both as
    transitions. `dispatch` between the two, if called, sets environments that run in processes to
    work already. Ended environments are held back while `holding`, so that a checkpoint finds all
    of them at an episode's start.

    Args:
        algorithm: acts and explores.
        adapter: the environments.
        replay: where transitions go.
        counters: the run's; `started` and `transitions` are kept here.
        seed: of the run.
        prefill: environment steps of uniformly random actions.
        device: of the algorithm.
        total_steps: environment steps that the run will have, by which exploration may decay.
        first_env: number of the first environment among those of all learners, by which seeds and
            noise are addressed.
    """

    algorithm: Algorithm
    adapter: Adapter
    replay: ReplayBuffer
    counters: Counters
    seed: int
    prefill: int
    device: torch.device
    total_steps: int = 0
    first_env: int = 0
    holding: bool = False
    newest: Transitions = field(default_factory=dict)  # of `active`, without an action yet
    active: list[int] = field(default_factory=list)  # environments inside an episode
    ended: list[int] = field(default_factory=list)  # environments that wait for a reset
    lost: dict[int, str] = field(default_factory=dict)  # why worlds were lost in this advance
    _cut_short: list[Episode] = field(default_factory=list)  # by that, until it is told
    _resets: list[int] | None = None  # on their way since `dispatch`, with the steps of `active`
    _actions: np.ndarray | None = None
    _carry: Carry = field(default_factory=dict)
    _state: object = None  # what the algorithm's annotate keeps
    _looked_at: set[str] = field(default_factory=set[str])  # methods whose first result was checked

    def __post_init__(self) -> None:
        """Every environment waits for its first reset."""
        envs = len(self.adapter)
        self.counters.started = self.counters.started or [0] * envs
        self.counters.transitions = self.counters.transitions or [0] * envs
        self.ended = list(range(envs))
        self._sums = np.zeros(envs)
        self._lengths = [0] * envs
        self._noise_seed = derive_seed(self.seed, "collect")
        self._noise = noise_for_collection(self.algorithm, self.adapter.action)
        self._prefill_noise = noise_for_collection(
            self.algorithm, self.adapter.action, planning=False
        )

    def dispatch(self) -> None:
        """Send the actions, and resets of the ended environments, on their way."""
        if self.adapter.sync_reset:
            self._begin()
        resets: list[int] = []
        if not self.holding:
            resets, self.ended = sorted(self.ended), []
        if not self.active and not resets:
            return
        self._resets = resets
        actions = np.empty(0) if self._actions is None else self._actions
        self.adapter.send(self.active, actions, resets, self._seeds(resets))

    @property
    def can_advance(self) -> bool:
        """Whether an environment has something to do; not where all are held back."""
        return bool(self.active) or self._resets is not None or not self.holding

    def advance(self) -> int:
        """Step the environments inside an episode, reset the others; the number of env steps."""
        if self._resets is None:
            self.dispatch()
        stepped, begun, self._resets = self.active, self._resets, None
        assert begun is not None, "every environment waits, and is held back"
        envs, newest = self.adapter.receive()
        self.lost = self.adapter.lost
        stepped = self._without_lost(stepped)
        if begun and self.holding:  # only since they were sent: these episodes do not begin
            inside = np.isin(envs, stepped)
            newest = {name: column[inside] for name, column in newest.items()}
            self.ended, begun = self.ended + begun, []
        self.active, self._carry = self._joined(stepped, self._carry, begun)
        self.newest = newest
        return len(stepped) * self.adapter.repeat

    def _without_lost(self, stepped: list[int]) -> list[int]:
        """End episodes whose world is lost at their last transition; the environments left."""
        inside = [i for i, env in enumerate(stepped) if env not in self.lost]
        if len(inside) < len(stepped):
            for env in stepped:
                if env in self.lost:
                    self.replay.end(env)
                    self._cut_short.append(self._finish(env))
            index = torch.tensor(inside, dtype=torch.long, device=self.device)
            self._carry = {name: tensor[index] for name, tensor in self._carry.items()}
        return [stepped[i] for i in inside]

    def cut(self) -> None:
        """End every open episode at its newest transition: is_last without is_terminal."""
        if self.newest:
            self.newest["is_last"] = np.ones(len(self.active), bool)

    def reset_annotation(self) -> None:
        """Drop what `annotate` keeps, as a resumed run must begin without it."""
        self._state = None

    def decide(self) -> list[Episode]:
        """Choose every action, store the transitions, give the episodes that ended."""
        finished, self._cut_short = self._cut_short, []
        if not self.active:
            return finished
        self._carry, self._actions = self._act()
        chosen = {**self.newest, "action": self._carry["prev_action"].cpu().numpy()}
        transitions = self._annotated(chosen)
        if isinstance(self.algorithm, Measuring):
            with self._at_first("measure", transitions):
                self.algorithm.measure(transitions, learning=self.counters.updates > 0)
        last, action = transitions["is_last"], transitions["action"]
        transitions["action"] = np.where(last[:, None], np.float32(0), action)  # unused
        for i, env in enumerate(self.active):
            self.replay.add(env, record(transitions, i))
            self.counters.transitions[env] += 1
            self._sums[env] += transitions["reward"][i]
            self._lengths[env] += 1
            if last[i]:
                finished.append(self._finish(env))
        self._keep(np.flatnonzero(~last))
        return finished

    def _act(self) -> tuple[Carry, np.ndarray]:
        step = self.counters.env_step
        prefilling = step < self.prefill
        address = [
            (self._noise_seed, self.first_env + env, self.counters.transitions[env])
            for env in self.active
        ]
        specs = self._prefill_noise if prefilling else self._noise
        noise = {k: self._tensor(v) for k, v in draw(specs, address).items()}
        obs = {k: self._tensor(self.newest[k]) for k in (*self.adapter.obs, "is_first")}
        with torch.no_grad():
            carry = self._perceive(obs, noise, planning=not prefilling)
            if prefilling:
                random = random_action(noise["prefill"], self.adapter.action)
                carry, action = (
                    {**carry, "prev_action": random},
                    to_env(random, self.adapter.action),
                )
            else:
                carry, action = self.algorithm.explore(carry, noise, step, self.total_steps)
        return carry, action.cpu().numpy()

    def _perceive(self, obs: Obs, noise: Noise, *, planning: bool) -> Carry:
        """The carry after this decision; a random action is not worth a planner's search."""
        if not planning and isinstance(self.algorithm, PlanningAlgorithm):
            return {**self._carry, **self.algorithm.observe(self._carry, obs, noise)}
        greedy = torch.zeros(len(self.active), dtype=torch.bool, device=self.device)
        result = self.algorithm.step(self._carry, obs, noise, greedy)
        if "step" not in self._looked_at:
            self._looked_at.add("step")
            action = self.adapter.action
            return check_acted(self.algorithm, "step", result, action, len(self.active))
        return result[0]

    def _annotated(self, transitions: Transitions) -> Transitions:
        if not isinstance(self.algorithm, Annotating):
            return transitions
        known = "annotate" in self._looked_at
        with self._at_first("annotate", transitions):
            result = self.algorithm.annotate(transitions, self.active, self._carry, self._state)
        if not known:
            stored = (*self.adapter.obs, *STANDARD)
            check_annotation(self.algorithm, result, len(self.active), stored)
        transitions, late, self._state = result
        if late and "late" not in self._looked_at:
            self._looked_at.add("late")
            check_late(self.algorithm, late, self.active)
        for env, back, values in late:
            if back:
                # this decision's are not stored yet: the newest stored transition is one back
                self.replay.write_late(env, back - 1, values)
            else:
                _write(transitions, self.active.index(env), values)
        return transitions

    def _at_first(self, method: str, transitions: Transitions) -> AbstractContextManager[None]:
        """Guard of a method's first call: an error of Python's own in it names the method."""
        if method in self._looked_at:
            return nullcontext()
        self._looked_at.add(method)
        return asked(self.algorithm, method, transitions=transitions)

    def _finish(self, env: int) -> Episode:
        length = self._lengths[env]
        episode = Episode(
            env,
            float(self._sums[env]),
            length,
            (length - 1) * self.adapter.repeat,
            self.adapter.success(env),
            self.adapter.unlocked(env),
        )
        self._sums[env], self._lengths[env] = 0.0, 0
        self.ended.append(env)
        return episode

    def _keep(self, inside: np.ndarray) -> None:
        """Go on with the environments whose episode goes on."""
        assert self._actions is not None, "decide has chosen actions"
        self.active = [self.active[i] for i in inside]
        self._actions = self._actions[inside]
        index = torch.as_tensor(inside, device=self.device)
        self._carry = {name: tensor[index] for name, tensor in self._carry.items()}

    def _begin(self) -> None:
        """Reset the ended environments and decide their first actions: all will step together."""
        if not self.ended or self.holding:
            return
        inside, carry, actions = self.active, self._carry, self._actions
        begun, self.ended = sorted(self.ended), []
        self.active, self.newest = begun, self.adapter.reset(begun, self._seeds(begun))
        self._carry = self.algorithm.initial(len(begun))
        self.decide()
        if inside:
            both = np.concatenate([a for a in (actions, self._actions) if a is not None])
            self._actions = both[np.argsort(inside + begun)]
            self.active, self._carry = self._joined(inside, carry, begun, self._carry)

    def _seeds(self, envs: list[int]) -> list[int]:
        """The seeds of these environments' next episodes, which count as started."""
        seeds = [
            episode_seed(self.seed, self.first_env + env, self.counters.started[env])
            for env in envs
        ]
        for env in envs:
            self.counters.started[env] += 1
        return seeds

    def _joined(
        self, inside: list[int], carry: Carry, begun: list[int], fresh: Carry | None = None
    ) -> tuple[list[int], Carry]:
        """Join both groups in the order of their environments, with their carries."""
        fresh = fresh or self.algorithm.initial(len(begun))
        both = {n: torch.cat([carry[n], fresh[n]]) for n in fresh} if inside else fresh
        index = torch.as_tensor(np.argsort(inside + begun), device=self.device)
        return sorted(inside + begun), {name: tensor[index] for name, tensor in both.items()}

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _write(
    transitions: Transitions, index: int, values: Mapping[str, np.ndarray | float | int | bool]
) -> None:
    """Put values into the columns of one transition of a decision, which others may share."""
    for name, value in values.items():
        transitions[name] = transitions[name].copy()
        transitions[name][index] = value


def random_action(uniform: Tensor, action: ActionSpec) -> Tensor:
    """A uniformly random action (B, A) in model units from uniform noise (B, A)."""
    if action.kind == "box":
        return 2 * uniform - 1
    groups = uniform.split(list(action.nvec), dim=-1)
    hot = [torch.nn.functional.one_hot(g.argmax(-1), g.shape[-1]) for g in groups]
    return torch.cat(hot, -1).to(uniform.dtype)


def noise_for_step(specs: Mapping[str, NoiseSpec]) -> dict[str, NoiseSpec]:
    """The noise tensors that a step takes at run time: all but the exploring ones."""
    return {name: spec for name, spec in specs.items() if spec.role != "explore"}


def noise_for_collection(
    algorithm: Algorithm, action: ActionSpec, *, planning: bool = True
) -> dict[str, NoiseSpec]:
    """The noise of one decision of collection: the step's, the exploring, the random action.

    Without `planning` a planner's tensors are empty; every other one keeps its address.
    """
    specs = algorithm.noise_spec
    exploring = {name: spec for name, spec in specs.items() if spec.role == "explore"}
    prefill = NoiseSpec(shape=(action.size,), kind="uniform", role="explore")
    plan = algorithm.plan_spec if isinstance(algorithm, PlanningAlgorithm) else None
    if plan is not None and not planning:
        plan = plan.idle
    return {**with_plan_axes(specs, plan), **exploring, "prefill": prefill}
