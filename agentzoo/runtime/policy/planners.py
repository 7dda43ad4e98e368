"""The cross-entropy planner: proposals, their returns, the mean of the best, again.

One loop in numpy for training and serving; what scores the proposals is a callable, torch's or ONNX
Runtime's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import numpy as np

from ..errors import ConfigError, SpaceError, nearest
from ..spec import (
    ActionSpec,
    Array,
    Arrays,
    NoiseSpec,
    PlanSpec,
    PolicySpec,
)
from .noise import PLANNED, with_plan_axes
from .spaces import env_action

VARIANCE_FLOOR = 1e-6  # added to the elites' variance; Source: google-research/planet planning.py
NOISE_LIMIT = 1 << 28  # numbers drawn for one decision

Observe = Callable[[Arrays, Arrays, Arrays], Arrays]  # carry, obs, noise -> carry
Imagine = Callable[
    [Arrays, Array, Arrays], tuple[Arrays, Array]
]  # carry (N, ...), action (N, A), noise (N, ...) -> carry, reward (N,)
Score = Callable[
    [Arrays, Array, Arrays], Array
]  # carry, (B, J, H, A), noise (B, J, H, ...) -> (B, J)


def plan(score: Score, carry: Arrays, spec: PlanSpec, action: ActionSpec, noise: Arrays) -> Array:
    """The first action of the best plan found, for each row on its own.

    Starts from a standard normal over action sequences at every decision, without memory of the
    plan before. The elites' spread is their population standard deviation; proposals are clipped
    to [-1, 1]. Of equal returns the earlier candidate is the elite.

    Args:
        score: returns (B, J) of action sequences (B, J, H, A) from `carry`.
        carry: name -> (B, *shape), as the filtering step left it.
        spec: horizon H, candidates J, elites, iterations I.
        action: the environment's action, a box.
        noise: "plan" (B, I, J, H, A) standard normal proposals; of the others those that begin
            with (B, I, J, H) go to `score`, without their iteration axis.

    Returns:
        (B, A) float32 in model units.

    Raises:
        ConfigError: if the planner's settings contradict each other.
        SpaceError: if the action is not a box.

    Source: Hafner et al. 2019 (arXiv:1811.04551), algorithm 2; clipping, the 1/K variance and its
    floor are the released code's (google-research/planet planning.py), which we follow.
    """
    check(spec, action)
    proposals = noise["plan"]
    lead = proposals.shape[:4]
    rollouts = {n: array for n, array in noise.items() if n != "plan" and array.shape[:4] == lead}
    # (B, 1, H, A): broadcasts over candidates
    mean = np.zeros((len(proposals), 1, spec.horizon, action.size), np.float32)
    std = np.ones_like(mean)
    for i in range(spec.iterations):
        actions = np.clip(mean + std * proposals[:, i], -1.0, 1.0)
        returns = score(carry, actions, {name: array[:, i] for name, array in rollouts.items()})
        assert returns.shape == actions.shape[:2], (returns.shape, actions.shape)
        elites = _best(actions, returns, spec.elites)
        mean = elites.mean(1, keepdims=True)
        std = np.sqrt(elites.var(1, keepdims=True) + np.float32(VARIANCE_FLOOR))
    return mean[:, 0, 0]


def _best(actions: Array, returns: Array, elites: int) -> Array:
    # (B, J) -> (B, K); stable, so ties do not depend on the sort's inner workings
    order = np.argsort(-returns, axis=1, kind="stable")[:, :elites]
    return np.take_along_axis(actions, order[:, :, None, None], axis=1)


class Rollouts:
    """Returns of action sequences: one imagined step after the other, their rewards added up.

    No discount and no value at the end; what lies beyond the horizon does not count.

    Attributes:
        imagine: one imagined step of N rows.
    """

    def __init__(self, imagine: Imagine) -> None:
        """Roll out by `imagine`."""
        self.imagine = imagine

    def __call__(self, carry: Arrays, actions: Array, noise: Arrays, /) -> Array:
        """Returns (B, J) of action sequences (B, J, H, A), with noise (B, J, H, ...)."""
        batch, candidates, horizon = actions.shape[:3]
        # (B, ...) -> (B*J, ...): a row's candidates stand together, as in `actions`
        carry = {
            name: np.repeat(array, candidates, axis=0)
            for name, array in carry.items()
            if name != "prev_action"
        }
        moves = _by_step(actions)
        draws = {name: _by_step(array) for name, array in noise.items()}
        returns = np.zeros(batch * candidates, np.float32)
        for t in range(horizon):
            step = {name: array[t] for name, array in draws.items()}
            carry, reward = self.imagine(carry, moves[t], step)
            returns += reward
        return returns.reshape(batch, candidates)


def _by_step(array: Array) -> Array:
    # (B, J, H, ...) -> (H, B*J, ...); spelled out, since an empty array has no -1
    batch, candidates, horizon, *rest = array.shape
    steps = np.ascontiguousarray(np.moveaxis(array, 2, 0))
    return steps.reshape(horizon, batch * candidates, *rest)


def replanned(spec: PolicySpec, changes: Mapping[str, int]) -> PolicySpec:
    """The same policy with some of its planner's settings changed.

    Args:
        spec: a planning agent's.
        changes: any of horizon, candidates, elites, iterations.

    Raises:
        ConfigError: if the policy has no planner, a setting is unknown or no whole number, or they
            contradict each other.
    """
    if spec.plan is None:
        raise ConfigError(
            f"the policy is a {spec.agent}, which acts without planning; leave out plan"
        )
    known = asdict(spec.plan)
    for name, value in changes.items():
        if name not in known:
            raise ConfigError(f"the planner has no setting {name!r}; {nearest(name, known)}")
        if type(value) is not int:
            raise ConfigError(f"the planner's {name} is {value!r}, expected a whole number")
    plan = replace(spec.plan, **changes)
    check(plan, spec.action)
    check_draws(plan, spec.noise)
    return replace(spec, plan=plan)


def check_plan(spec: PlanSpec) -> None:
    """Refuse settings that contradict each other.

    Without iterations nothing is searched, and the action is zero: with exploration noise that is
    random collection, the reference's ablation.

    Raises:
        ConfigError: if a setting is below its least value or there are more elites than candidates.
    """
    least = {"horizon": 1, "candidates": 1, "elites": 1, "iterations": 0}
    for name, bound in least.items():
        if getattr(spec, name) < bound:
            raise ConfigError(
                f"the planner's {name} is {getattr(spec, name)}, expected at least {bound}"
            )
    if spec.elites > spec.candidates:
        raise ConfigError(
            f"the planner keeps {spec.elites} elites of {spec.candidates} candidates; "
            "choose at most as many elites as candidates"
        )


def check(spec: PlanSpec, action: ActionSpec) -> None:
    """Refuse what cannot be planned.

    Raises:
        ConfigError: if the planner's settings contradict each other.
        SpaceError: if the action is not a box.
    """
    check_plan(spec)
    if action.kind != "box":
        raise SpaceError(
            f"the planner searches over a Box of actions and the environment's is {action.kind}; "
            "use an agent with a policy network, such as Dreamer"
        )


def check_draws(spec: PlanSpec, noise: Mapping[str, NoiseSpec]) -> None:
    """Refuse a planner whose decisions would draw more random numbers than a machine holds.

    Raises:
        ConfigError: if there are more than `NOISE_LIMIT`.
    """
    numbers = sum(math.prod(one.shape) for one in with_plan_axes(noise, spec).values())
    if numbers > NOISE_LIMIT:
        raise ConfigError(
            f"one decision by {spec} would draw {numbers:,} random numbers, {NOISE_LIMIT:,} are "
            "allowed; choose fewer candidates, iterations or steps"
        )


class PlanStep:
    """The acting step of a planning agent: filter, then plan.

    Attributes:
        observe: the filtering half of the step.
        score: returns of action sequences.
        spec: names and roles of the noise, the planner's settings, the action.
    """

    def __init__(self, observe: Observe, score: Score, spec: PolicySpec) -> None:
        """Join the two halves.

        Raises:
            ConfigError: if the spec has no planner, a contradicting one, or not exactly one noise
                tensor for proposals.
            SpaceError: if the action is not a box.
        """
        if spec.plan is None:
            raise ConfigError(f"{spec.agent} has no planner's settings; use its step instead")
        check(spec.plan, spec.action)
        self.observe, self.score, self.spec, self.plan = observe, score, spec, spec.plan
        planning_noise(spec, dict.fromkeys(spec.noise, np.empty(0)))  # its names, checked once

    def __call__(
        self, carry: Arrays, obs: Arrays, noise: Arrays, deterministic: Array, /
    ) -> tuple[Arrays, Array]:
        """Observe and plan; `deterministic` changes nothing: a planner plans with its noise."""
        roles = {name: self.spec.noise[name].role for name in noise}
        filtering = {name: noise[name] for name, role in roles.items() if role not in PLANNED}
        carry = self.observe(carry, obs, filtering)
        action = plan(
            self.score, carry, self.plan, self.spec.action, planning_noise(self.spec, noise)
        )
        return {**carry, "prev_action": action}, env_action(self.spec.action, action)


def planning_noise(spec: PolicySpec, noise: Arrays) -> Arrays:
    """A step's noise as `plan` takes it: the proposals under the name "plan", and the rollouts'.

    Raises:
        ConfigError: if the spec has not exactly one noise tensor for proposals.
    """
    proposals = [name for name, one in spec.noise.items() if one.role == "plan"]
    if len(proposals) != 1:
        raise ConfigError(
            f"{spec.agent} draws {len(proposals)} noise tensors of the role plan, expected one, of "
            "shape (A,), for the proposals"
        )
    rollouts = {name: array for name, array in noise.items() if spec.noise[name].role == "score"}
    return {**rollouts, "plan": noise[proposals[0]]}


def first_proposals(spec: PolicySpec, noise: Arrays) -> tuple[Array, Arrays]:
    """The candidates of a planner's first iteration, before it has learned anything.

    Args:
        spec: names and roles of the noise.
        noise: name -> (B, I, J, H, ...).

    Returns:
        Action sequences (B, J, H, A) and the rollouts' noise (B, J, H, ...).
    """
    planning = planning_noise(spec, noise)
    actions = np.clip(planning.pop("plan")[:, 0], -1.0, 1.0)
    return actions, {name: array[:, 0] for name, array in planning.items()}
