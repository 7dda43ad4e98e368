"""A policy: an acting step with a memory, a source of noise, and Stable-Baselines' way of calling.

The step is any callable in numpy, ONNX Runtime's or torch's; everything a caller may hold on to
(carry, noise address) is kept here, so the same seed and observations give the same actions whoever
computes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigError, ObservationError
from ..spec import Array, Arrays, PolicySpec
from .noise import draw, with_plan_axes
from .spaces import Observation, encode, is_batched

SEEDS = 1 << 63  # seeds fit a signed 64-bit address
NEXT_STEP = np.array([0, 0, 1])  # (seed, environment, step)
ONE = {flag: np.array([flag]) for flag in (False, True)}  # a batch of one, made once


class Step(Protocol):
    """One acting step of a batch: pure, resets where is_first, each element by itself."""

    def __call__(
        self, carry: Arrays, obs: Arrays, noise: Arrays, deterministic: Array, /
    ) -> tuple[Arrays, Array]:
        """Observe and act.

        Args:
            carry: name -> (B, *shape) of the spec's carry.
            obs: key -> (B, *shape) of the spec's observations, and "is_first" (B,) bool.
            noise: name -> (B, *shape) float32.
            deterministic: (B,) bool; concerns the action only.

        Returns:
            The new carry, and (B, *action.shape) in the environment's own form.
        """
        ...


class KeepingStep(Protocol):
    """An acting step of a fixed number of batch elements, which keeps their carry."""

    elements: int
    carry: Arrays

    def __call__(
        self, obs: Arrays, is_first: Array, noise: Arrays, deterministic: Array, /
    ) -> Array:
        """Observe and act; see `Step`."""
        ...


class Bindable(Protocol):
    """A step that can keep the carry of batch elements that act again and again."""

    def bound(self, elements: int) -> KeepingStep:
        """The same step for so many batch elements."""
        ...


class Seat(NamedTuple):
    """The place of a session's carry while it stays in a bound step.

    Attributes:
        step: that keeps it.
        of: the step that it is of.
        element: which one of its batch elements.
    """

    step: KeepingStep
    of: Step
    element: int


@dataclass(frozen=True)
class PolicyState:
    """The state that `predict` returns and takes again; opaque to callers.

    Attributes:
        carry: name -> (B, *shape).
        address: (B, 3) int64, noise addresses (seed, environment, step).
    """

    carry: Arrays
    address: Array

    def __len__(self) -> int:
        """B, the number of batch elements."""
        return len(self.address)

    def element(self, i: int) -> "PolicyState":
        """The state of one batch element, still with its axis B."""
        carry = {name: array[i : i + 1] for name, array in self.carry.items()}
        return PolicyState(carry, self.address[i : i + 1])

    @staticmethod
    def joined(states: "Sequence[PolicyState]") -> "PolicyState":
        """Several states as one, along their axis B."""
        if len(states) == 1:
            return states[0]
        address = np.concatenate([one.address for one in states])
        return PolicyState(stack([one.carry for one in states]), address)


class Policy:
    """Weights one can act with; local, and the shape of everything else that acts.

    A policy is one session: it keeps its own recurrent carry and noise counter. `session` gives
    further ones of the same weights. A session is not for several threads at once; sessions are.

    Attributes:
        spec: what the policy reads, keeps, draws and gives.
        step: the acting step.
        seed: what its noise is keyed by.
        deterministic: whether actions are the distribution's mode where the caller says nothing.
        digest: sha256 of the graph that runs, or of all graphs and the plan; "" for a policy that
            is still in training.
    """

    def __init__(
        self,
        step: Step,
        spec: PolicySpec,
        *,
        seed: int | None = None,
        deterministic: bool | None = None,
        digest: str = "",
    ) -> None:
        """A session at the start of its first episode.

        Args:
            step: the acting step.
            spec: what it reads, keeps, draws and gives.
            seed: keys the noise; None is the spec's.
            deterministic: None is the spec's, the paper's evaluation protocol.
            digest: sha256 of what it runs, for the record.

        Raises:
            ConfigError: if the seed is negative or does not fit 63 bits.
        """
        self.spec, self.step, self.digest = spec, step, digest
        self.seed = spec.seed if seed is None else seed
        self.deterministic = spec.deterministic if deterministic is None else deterministic
        if not hasattr(self.seed, "__index__") or not 0 <= self.seed < SEEDS:  # NumPy's, too
            raise ConfigError(
                f"the seed is {self.seed!r}, expected 0 <= seed < 2**63; pass another whole number"
            )
        self._noise = with_plan_axes(spec.noise, spec.plan)
        self.reset()
        start = self.start(1)
        self._address = start.address
        self._carry: Arrays | None = start.carry  # None while it has a seat
        self._seat: Seat | None = None

    def __getstate__(self) -> dict[str, object]:
        """The session with its carry, which leaves its seat, to be pickled and copied."""
        return {**self.__dict__, "_carry": self._where_it_was(), "_seat": None}

    def __repr__(self) -> str:
        """Say which agent, where it learned, and whose noise it draws."""
        return f"Policy({self.spec.agent}, {self.spec.env!r}, seed={self.seed})"

    def initial(self, batch: int) -> Arrays:
        """A carry of zeros; the step itself puts an agent's first state in where is_first."""
        return {
            name: np.zeros((batch, *tensor.shape), tensor.dtype)
            for name, tensor in self.spec.carry.items()
        }

    def start(self, batch: int) -> PolicyState:
        """The state `predict` starts from: element i has noise (seed, i, 0), ..."""
        address = [(self.seed, i, 0) for i in range(batch)]
        return PolicyState(self.initial(batch), np.array(address, np.int64).reshape(-1, 3))

    def reset(self) -> None:
        """Start a new episode: the next `act` forgets the past; the noise goes on."""
        self._is_first = True

    def session(self, seed: int | None = None) -> "Policy":
        """The same weights with their own carry and noise.

        Args:
            seed: keys the noise; None is this policy's, so both draw the same numbers.
        """
        return Policy(
            self.step,
            self.spec,
            seed=self.seed if seed is None else seed,
            deterministic=self.deterministic,
            digest=self.digest,
        )

    def act(self, obs: Observation, *, deterministic: bool | None = None) -> Array:
        """The action for one observation of one environment; remembers the episode so far.

        Args:
            obs: one observation as the environment gives it, without a batch axis.
            deterministic: whether the action is the distribution's mode; None is the protocol.

        Returns:
            The environment's own action, ready for `env.step`.

        Raises:
            ObservationError: if the observation is not what the spec says.
        """
        encoded = encode(self.spec.obs, obs, batched=False)
        first, mode = ONE[self._is_first], ONE[self._mode(deterministic)]
        return _acted((self,), encoded, first, mode)[0]

    def predict(
        self,
        observation: Observation,
        state: object = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool | None = False,
    ) -> tuple[Array, PolicyState]:
        """Actions for a batch, or for one observation, as Stable-Baselines' recurrent `predict`.

        Reads nothing of the session and changes nothing in it.

        Args:
            observation: raw observations, with or without a batch axis B in front.
            state: what the call before gave; None starts anew from the policy's seed.
            episode_start: (B,) bool, whether each observation is its episode's first. None
                means all are if `state` is None, else none is.
            deterministic: whether actions are the distribution's mode, as in Stable-Baselines
                sampled unless said otherwise; None is the paper's evaluation protocol.

        Returns:
            Actions (B, *shape), without B for a single observation, and the state to
            pass next.

        Raises:
            ObservationError: if the observation is not what the spec says, or differs from `state`
                or `episode_start` in its batch size.
        """
        batched = is_batched(self.spec.obs, observation)
        obs = encode(self.spec.obs, observation, batched=batched)
        batch = len(next(iter(obs.values())))
        if episode_start is None:
            episode_start = np.full(batch, state is None)
        is_first = np.array(episode_start, bool).reshape(-1)
        state = self.start(batch) if state is None else state
        if not isinstance(state, PolicyState):
            raise ObservationError(
                f"the state is a {type(state).__name__}; pass what predict gave before, or None"
            )
        if not len(state) == len(is_first) == batch:
            raise ObservationError(
                f"the observation has batch size {batch}, the state {len(state)}, episode_start "
                f"{len(is_first)}; pass as many of each, and the state that this batch had"
            )
        modes = np.full(batch, self._mode(deterministic))
        actions, state = self.advance(obs, is_first, state, modes)
        return (actions if batched else actions[0]), state

    @staticmethod
    def act_batch(
        sessions: "Sequence[Policy]",
        observations: Sequence[Observation],
        *,
        deterministic: bool | None = None,
    ) -> list[Array]:
        """`act` for several sessions of the same weights in one call of their step.

        Each session gets what it would get alone, up to the rounding of batched matrix products.

        Args:
            sessions: sessions that share their step; each at most once.
            observations: one for each session, without a batch axis.
            deterministic: as in `act`.

        Returns:
            The environment's own action for each session.

        Raises:
            ObservationError: if an observation is not what the spec says.
        """
        first = sessions[0]
        assert all(one.step is first.step for one in sessions), "sessions of different weights"
        assert len({id(one) for one in sessions}) == len(sessions), "a session acts twice"
        obs = stack([encode(first.spec.obs, obs, batched=False) for obs in observations])
        is_first = np.array([one._is_first for one in sessions])
        modes = np.array([one._mode(deterministic) for one in sessions])
        return list(_acted(sessions, obs, is_first, modes))

    def advance(
        self, obs: Arrays, is_first: Array, state: PolicyState, deterministic: Array
    ) -> tuple[Array, PolicyState]:
        """One step of a batch: draws the noise of their addresses and calls the acting step.

        Reads and changes nothing of the session, so several threads may call it.

        Args:
            obs: key -> (B, *shape) as `spaces.encode` gives them.
            is_first: (B,) bool.
            state: of the batch elements.
            deterministic: (B,) bool.

        Returns:
            The environment's own actions (B, *action.shape), and the next state.
        """
        noise = draw(self._noise, state.address)
        carry, action = self.step(state.carry, {**obs, "is_first": is_first}, noise, deterministic)
        expected = (len(is_first), *self.spec.action.shape)
        assert action.shape == expected, (action.shape, expected)
        action = action.astype(self.spec.action.dtype, copy=False)
        return action, PolicyState(carry, state.address + NEXT_STEP)

    def _where_it_was(self) -> Arrays:
        """The carry, wherever it is: name -> (1, *shape)."""
        if self._seat is None:
            assert self._carry is not None, self
            return self._carry
        i = self._seat.element
        return {name: array[i : i + 1] for name, array in self._seat.step.carry.items()}

    def _mode(self, deterministic: bool | None) -> bool:
        return self.deterministic if deterministic is None else bool(deterministic)


# The functions below are the sessions' own: they share a step, and several may sit in one.
# pyright: reportPrivateUsage=false


def _acted(sessions: Sequence[Policy], obs: Arrays, is_first: Array, deterministic: Array) -> Array:
    """One step of several sessions, in place where their step can keep the carry.

    Returns:
        (B, *action.shape).
    """
    first = sessions[0]
    addresses = [one._address for one in sessions]
    address = addresses[0] if len(addresses) == 1 else np.concatenate(addresses)
    if hasattr(first.step, "bound"):
        noise = draw(first._noise, address)
        actions = _seated(sessions)(obs, is_first, noise, deterministic)
        actions = actions.astype(first.spec.action.dtype, copy=False)
        after = address + NEXT_STEP
    else:
        parts = [one._where_it_was() for one in sessions]
        actions, state = first.advance(
            obs, is_first, PolicyState(stack(parts), address), deterministic
        )
        after = state.address
        for i, one in enumerate(sessions):
            one._carry, one._seat = state.element(i).carry, None
    for i, one in enumerate(sessions):
        one._address, one._is_first = after[i : i + 1], False
    return actions


def _seated(sessions: Sequence[Policy]) -> KeepingStep:
    """The step that keeps the carry of these sessions in this order; they sit down if need be."""
    of, seat, count = sessions[0].step, sessions[0]._seat, len(sessions)
    seats = [one._seat for one in sessions]
    sits = seat is not None and seat.step.elements == count
    if seat is not None and sits and seats == [Seat(seat.step, of, i) for i in range(count)]:
        return seat.step
    step = cast("Bindable", of).bound(count)
    step.carry = stack([one._where_it_was() for one in sessions])
    for i, one in enumerate(sessions):
        one._carry, one._seat = None, Seat(step, of, i)
    return step


def flags(values: Sequence[bool]) -> Array:
    """(B,) bool."""
    return ONE[values[0]] if len(values) == 1 else np.array(values)


def stack(parts: Sequence[Arrays]) -> Arrays:
    """Arrays of several batches, name by name, joined along their first axis."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
