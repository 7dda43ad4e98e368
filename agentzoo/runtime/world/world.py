"""A world model one can call: encode what was seen, imagine what follows, look at it, judge it.

The model behind it is torch's (`agent.world`) or ONNX Runtime's (`load_world`); states, noise and
actions are kept here, so the same seed gives the same dreams whoever computes them. A world's state
is the state that `predict` hands back, so both take each other's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigError, ObservationError
from ..policy.noise import draw, with_plan_axes
from ..policy.planners import Draws, PlanModel, Rollouts, decide
from ..policy.policy import NEXT_STEP, SEEDS, PolicyState
from ..policy.spaces import (
    Observation,
    encode,
    env_action,
    is_batched,
    model_action,
    raw_observation,
)
from ..spec import MEMORY, PLANNED, Array, Arrays, NoiseSpec, ObsSpec, PolicySpec
from .signature import WorldSpec, latent_tensors

Chooser = Callable[
    [PolicyState], ArrayLike
]  # a state of a batch -> the environment's actions (B, ...)


class WorldFunctions(Protocol):
    """The computations of a world model: pure functions of a batch in numpy.

    A carry holds the state's tensors and, where `world.acts`, the policy's action in that state
    under `prev_action`, in model units.
    """

    @property
    def world(self) -> WorldSpec:
        """The judgements it gives, and whether it acts."""
        ...

    def observe(self, carry: Arrays, obs: Arrays, noise: Arrays, deterministic: Array, /) -> Arrays:
        """The carry after an observation; `obs` holds "is_first" (B,) bool."""
        ...

    def imagine(
        self, carry: Arrays, action: Array, noise: Arrays, deterministic: Array, /
    ) -> tuple[Arrays, Arrays]:
        """The carry an action (B, A) leads to, and its judgements by name, (B,) each."""
        ...

    def decode(self, carry: Arrays, /) -> tuple[Arrays, Arrays]:
        """Observations by key (B, *shape), images in [0, 1], and judgements by name (B,)."""
        ...

    @property
    def planned(self) -> PlanModel | None:
        """The agent as a planner sees it, where it plans."""
        ...


@dataclass(frozen=True)
class Dream:
    """An imagined rollout: H steps from B states.

    Attributes:
        carry: name -> (B, H+1, *shape); the first is where the dream began.
        address: (B, 3) noise addresses it began at.
        actions: (B, H, *action.shape), the environment's own; action t leads from t to t+1.
        judgements: name -> (B, H) of the states that were arrived at.
        agent: whose world it is, for messages.
    """

    carry: Arrays
    address: Array
    actions: Array
    judgements: Arrays
    agent: str

    def __len__(self) -> int:
        """H, the number of imagined steps."""
        return self.actions.shape[1]

    @property
    def reward(self) -> Array:
        """(B, H) rewards on arriving, as the model learned them.

        Raises:
            ConfigError: if the agent predicts none; so do the two below.
        """
        return self._judged("reward")

    @property
    def continues(self) -> Array:
        """(B, H) probabilities that the episode goes on."""
        return self._judged("continue")

    @property
    def value(self) -> Array:
        """(B, H) what the critic expects from each arrived state on."""
        return self._judged("value")

    @property
    def final(self) -> PolicyState:
        """The last state, from which the dream goes on as if it had never stopped."""
        return self.state(len(self))

    def state(self, t: int) -> PolicyState:
        """The state after `t` steps, 0 to H."""
        if not 0 <= t <= len(self):
            raise ConfigError(f"the dream has the states 0 to {len(self)}, not {t}")
        address = self.address + t * NEXT_STEP
        return PolicyState({name: array[:, t] for name, array in self.carry.items()}, address)

    def _judged(self, name: str) -> Array:
        if name not in self.judgements:
            raise _absent(self.agent, name)
        return self.judgements[name]


def _absent(agent: str, name: str) -> ConfigError:
    return ConfigError(f"the world model of this {agent} has no {name}; it learned none")


@dataclass(frozen=True, kw_only=True)
class Start:
    """The context of a dream: T consecutive observations from an episode's first.

    Attributes:
        obs: key -> (T, *source), as the environment gave them.
        actions: (T-1, *action.shape), the environment's own; action t led to observation t+1. None
            for those that the policy would have taken.
    """

    obs: Mapping[str, Array]
    actions: Array | None = None

    def __len__(self) -> int:
        """T, the number of observations."""
        return len(next(iter(self.obs.values())))


class World:
    """A world model.

    Shapes: B batch elements, H imagined steps. States are `predict`'s: a carry and a noise address
    for each element. Actions are the environment's own, as `act` gives them.

    Attributes:
        spec: what the agent reads, keeps, draws and gives.
        model: the computations alone, torch's or ONNX Runtime's.
        judges: of `reward`, `continue` and `value` those that it predicts.
        seed: what its noise is keyed by where nothing else is said.
        deterministic: whether the policy's actions are the distribution's mode by default.

    Example:
        state = agent.world.encode(obs)
        dream = agent.world.imagine(state, steps=15)
        frames = agent.world.decode(dream)["image"]  # (1, 16, 64, 64, 3)
    """

    def __init__(
        self,
        model: WorldFunctions,
        spec: PolicySpec,
        *,
        seed: int | None = None,
        deterministic: bool | None = None,
        starts: Callable[[], Sequence[Start]] | None = None,
    ) -> None:
        """Wrap what computes.

        Args:
            model: torch's or ONNX Runtime's.
            spec: the policy's.
            seed: keys the noise; None is the spec's.
            deterministic: None is the spec's, the paper's evaluation protocol.
            starts: gives what was seen before a dream may begin; asked once.

        Raises:
            ConfigError: if the seed is negative or does not fit 63 bits.
        """
        self.spec, self.model, self._find_starts = spec, model, starts
        self._starts: Sequence[Start] | None = None
        self.judges = tuple(model.world.judges)
        self.seed = spec.seed if seed is None else seed
        self.deterministic = spec.deterministic if deterministic is None else deterministic
        if not 0 <= self.seed < SEEDS:
            raise ConfigError(f"the seed is {self.seed}, expected 0 <= seed < 2**63; pass another")
        every = with_plan_axes(spec.noise, spec.plan)
        self._seen = _only(every, "latent", "action", "dequantise")
        self._dreamt = _only(every, "latent", "action")
        self._planned = _only(every, *PLANNED)

    def __repr__(self) -> str:
        """Say whose world it is and what it judges."""
        return f"World({self.spec.agent}, {self.spec.env!r}, judges={self.judges})"

    @property
    def latent_size(self) -> int:
        """F, the size of a state's `features`."""
        return sum(int(np.prod(one.shape)) for one in latent_tensors(self.spec).values())

    def start(self, batch: int = 1, *, seed: int | None = None) -> PolicyState:
        """The state before any observation: element i draws at (seed, i, 0), (seed, i, 1), ..."""
        seed = self.seed if seed is None else seed
        if not 0 <= seed < SEEDS:
            raise ConfigError(f"the seed is {seed}, expected 0 <= seed < 2**63; pass another")
        carry = {k: np.zeros((batch, *s.shape), s.dtype) for k, s in self.spec.carry.items()}
        address = [(seed, i, 0) for i in range(batch)]
        return PolicyState(carry, np.array(address, np.int64).reshape(-1, 3))

    def starts(self) -> Sequence[Start]:
        """The contexts from which a dream may begin: of an agent's replay, or a bundle's trace.

        Empty where nothing is known.
        """
        if self._starts is None:
            self._starts = () if self._find_starts is None else self._find_starts()
        return self._starts

    def encode(
        self,
        obs: Observation,
        state: PolicyState | None = None,
        *,
        actions: ArrayLike | None = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool | None = None,
    ) -> PolicyState:
        """The state after one more observation of each batch element.

        Args:
            obs: observations as the environment gives them, (B, ...), or one without the axis B.
            state: the state before; None begins episodes.
            actions: (B, *action.shape) that led here from `state`; None means those of the policy.
            episode_start: (B,) bool, whether an element begins an episode; None means all do if
                `state` is None, else none does.
            deterministic: whether the action that the policy would take here is the mode.

        Returns:
            A state of the batch, of one element where `obs` has no axis B.

        Raises:
            ObservationError: if the observation is not what the spec says, or batch sizes differ in
                number.
            SpaceError: if an action is out of the action space.
        """
        batched = is_batched(self.spec.obs, obs)
        encoded = encode(self.spec.obs, obs, batched=batched)
        batch = len(next(iter(encoded.values())))
        if episode_start is None:
            episode_start = np.full(batch, state is None)
        first = np.array(episode_start, bool).reshape(-1)
        state = self.start(batch) if state is None else state
        if not len(state) == len(first) == batch:
            raise ObservationError(
                f"the observation has batch size {batch}, the state {len(state)}, episode_start "
                f"{len(first)}; pass as many of each"
            )
        carry = dict(state.carry)
        if actions is not None:
            carry["prev_action"] = self._units(actions, batch)
        elif (
            self.spec.plan is not None and not first.all() and np.isnan(carry["prev_action"]).any()
        ):
            raise ConfigError(
                f"a {self.spec.agent} plans its actions, so encode cannot know which one led here; "
                "pass actions="
            )
        noise = draw(self._seen, state.address)
        mode = np.full(batch, self._mode(deterministic))
        carry = self.model.observe(carry, {**encoded, "is_first": first}, noise, mode)
        return PolicyState(self._acting(carry), state.address + NEXT_STEP)

    def imagine(
        self,
        state: PolicyState,
        actions: ArrayLike | Chooser | None = None,
        steps: int | None = None,
        *,
        deterministic: bool | None = None,
    ) -> Dream:
        """Roll the model forward: no observation, only actions.

        A dream draws the noise that the next real steps would have drawn. A state of one element
        fans out over the batch of `actions`, element i with noise of its own.

        Args:
            state: where to begin, of a batch.
            actions: (B, H, *action.shape); or a function from a state to actions
                (B, *action.shape); or None for the agent's own policy, PlaNet's its planner.
            steps: H; not needed where `actions` is an array.
            deterministic: whether the policy's actions are the distribution's mode.

        Returns:
            States, actions and judgements.

        Raises:
            ConfigError: if `steps` is missing, below 1, or contradicts `actions`.
            SpaceError: if an action is out of the action space.
        """
        if actions is None or callable(actions):
            sequence, horizon = None, steps
        else:
            sequence = self._sequence(actions)
            state = fanned_out(state, len(sequence))
            horizon = sequence.shape[1] if steps is None else steps
            if horizon != sequence.shape[1]:
                raise ConfigError(
                    f"steps={steps} contradicts the {sequence.shape[1]} actions of each element; "
                    "leave steps out"
                )
        if horizon is None or horizon < 1:
            raise ConfigError(f"a dream needs steps of at least 1, not {steps}; pass steps=15")
        chooser = actions if callable(actions) else None
        return self._roll(state, sequence, chooser, horizon, self._mode(deterministic))

    def _roll(
        self,
        state: PolicyState,
        sequence: Array | None,
        chooser: Chooser | None,
        horizon: int,
        deterministic: bool,
    ) -> Dream:
        start, states, moves = state, [state], list[Array]()
        judged: list[Arrays] = []
        for t in range(horizon):
            if sequence is not None:
                units = sequence[:, t]
            elif chooser is not None:
                units = self._units(chooser(state), len(state))
            else:
                units = self.proposal(state)
            state, judgement = self.step(state, units, deterministic=deterministic)
            states.append(state)
            moves.append(units)
            judged.append(judgement)
        carry = {name: np.stack([one.carry[name] for one in states], 1) for name in state.carry}
        return Dream(
            carry=carry,
            address=start.address,
            actions=env_action(self.spec.action, np.stack(moves, 1)),
            judgements={name: np.stack([one[name] for one in judged], 1) for name in self.judges},
            agent=self.spec.agent,
        )

    def step(
        self, state: PolicyState, units: Array, *, deterministic: bool | None = None
    ) -> tuple[PolicyState, Arrays]:
        """One imagined step with actions (B, A) in model units: the next state, its judgements."""
        noise = draw(self._dreamt, state.address)
        mode = np.full(len(state), self._mode(deterministic))
        carry, judgement = self.model.imagine(state.carry, units, noise, mode)
        return PolicyState(self._acting(carry), state.address + NEXT_STEP), judgement

    def proposal(self, state: PolicyState) -> Array:
        """The policy's action in a state, (B, A) in model units; a planner plans it."""
        planned, spec = self.model.planned, self.spec
        if planned is None or spec.plan is None:
            return state.carry["prev_action"]
        noise, mode = draw(self._planned, state.address), np.full(len(state), self._mode(None))
        rollouts = Rollouts(planned, state.carry, spec.plan.discount)
        # a dream keeps no plan: each one is made anew
        memory = {
            name: np.zeros((len(state), *one.shape), np.float32)
            for name, one in spec.plan.memory(spec.action.size).items()
        }
        return decide(
            rollouts.search(),
            spec.plan,
            spec.action,
            Draws(spec.noise, noise),
            mode,
            memory.get(MEMORY),
        )[0]

    def decode(self, state: PolicyState | Dream) -> dict[str, Array]:
        """States as observations, in the environment's own form: images uint8.

        Returns:
            key -> (B, *source), or (B, H+1, *source) of a dream.
        """
        carry, lead = _flat(state)
        found, _ = self.model.decode(carry)
        return {
            key: _drawn(spec, found[key]).reshape(*lead, *spec.source)
            for key, spec in self.spec.obs.items()
        }

    def reward(self, state: PolicyState | Dream) -> Array:
        """The reward on arriving in a state, (B,), or (B, H+1) of a dream.

        Raises:
            ConfigError: if the agent predicts none; so do the two below.
        """
        return self._judge(state, "reward")

    def continues(self, state: PolicyState | Dream) -> Array:
        """The probability that the episode goes on after a state, in [0, 1]: (B,) or (B, H+1)."""
        return self._judge(state, "continue")

    def value(self, state: PolicyState | Dream) -> Array:
        """The critic's value: (B,) or (B, H+1).

        Of Dreamer and DreamerV2 it includes the reward of arriving in the state, of DreamerV3 it
        does not (each paper's own definition).
        """
        return self._judge(state, "value")

    def features(self, state: PolicyState) -> Array:
        """All of a state, joined: (B, F) float32, the carry's tensors in their order."""
        parts = [state.carry[name].reshape(len(state), -1) for name in latent_tensors(self.spec)]
        return np.concatenate(parts, axis=1).astype(np.float32, copy=False)

    # -- inside ---------------------------------------------------------------------------------

    def _judge(self, state: PolicyState | Dream, name: str) -> Array:
        if name not in self.judges:
            raise _absent(self.spec.agent, name)
        carry, lead = _flat(state)
        return self.model.decode(carry)[1][name].reshape(lead)

    def _mode(self, deterministic: bool | None) -> bool:
        return self.deterministic if deterministic is None else bool(deterministic)

    def _acting(self, carry: Arrays) -> Arrays:
        """The carry with the policy's action; NaN of a planner, which has not planned yet."""
        if self.model.world.acts:
            return carry
        batch = len(next(iter(carry.values())))
        unknown = np.full((batch, self.spec.action.size), np.nan, np.float32)
        return {**carry, "prev_action": unknown}

    def _units(self, actions: ArrayLike, batch: int) -> Array:
        spec = self.spec.action
        array = np.asarray(actions)
        if array.shape == spec.shape and batch == 1:
            array = array[None]
        if array.shape != (batch, *spec.shape):
            raise ConfigError(
                f"the actions have shape {array.shape}, expected {(batch, *spec.shape)}: one of "
                "the environment's own for each batch element"
            )
        return model_action(spec, array)

    def _sequence(self, actions: ArrayLike) -> Array:
        spec = self.spec.action
        array = np.asarray(actions)
        if array.ndim != 2 + len(spec.shape) or array.shape[2:] != spec.shape:
            raise ConfigError(
                f"the actions have shape {array.shape}, expected (B, H, {str(spec.shape)[1:-1]}): "
                "H of the environment's own for each of B batch elements"
            )
        return model_action(spec, array)


def _only(specs: Mapping[str, NoiseSpec], *roles: str) -> dict[str, NoiseSpec]:
    """The noise of these roles; the rest is empty, but keeps its place and so its address."""
    return {n: s if s.role in roles else replace(s, shape=(0,)) for n, s in specs.items()}


def fanned_out(state: PolicyState, batch: int) -> PolicyState:
    """A state of one element as a batch, each element with its own noise; others as they are.

    Raises:
        ConfigError: if the state has several elements, but not that many.
    """
    if len(state) == batch:
        return state
    if len(state) != 1:
        raise ConfigError(
            f"the state has batch size {len(state)}, the actions {batch}; pass one of each "
            "element, or a state of one"
        )
    address = np.repeat(state.address, batch, 0)
    address[:, 1] += np.arange(batch)
    return PolicyState({k: np.repeat(x, batch, 0) for k, x in state.carry.items()}, address)


def _flat(state: PolicyState | Dream) -> tuple[Arrays, tuple[int, ...]]:
    """A carry with a single leading axis, and the axes that it stands for."""
    if isinstance(state, PolicyState):
        return state.carry, (len(state),)
    lead = (len(state.actions), len(state) + 1)
    return {k: x.reshape(-1, *x.shape[2:]) for k, x in state.carry.items()}, lead


def _drawn(spec: ObsSpec, found: Array) -> Array:
    """The decoder's output, (N, *shape), in the environment's own form."""
    if spec.kind == "image":
        found = np.rint(np.clip(found, 0.0, 1.0) * 255.0).astype(np.uint8)
    return raw_observation(spec, found)
