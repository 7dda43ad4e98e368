"""Planners: search over action sequences that an exported model imagines and scores.

`cem` is the cross-entropy method (PlaNet's), `mppi` model predictive path integral control
(TD-MPC2's). One loop in numpy for training and serving; what scores and proposes action sequences
are callables, torch's or ONNX Runtime's. Which planner runs, with which settings, is in a policy's
`plan`; all settings can be changed when a policy is loaded.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Literal, NamedTuple

import numpy as np

from ..errors import ConfigError, SpaceError, nearest
from ..spec import (
    MEMORY,
    PLANNED,
    ActionSpec,
    Array,
    Arrays,
    CEMSpec,
    MPPISpec,
    NoiseSpec,
    PlanSpec,
    PolicySpec,
)
from .noise import with_plan_axes
from .spaces import env_action

VARIANCE_FLOOR = 1e-6  # added to the elites' variance; Source: google-research/planet planning.py
NOISE_LIMIT = 1 << 28  # numbers drawn for one decision
TINY = 1e-9  # Source: nicklashansen/tdmpc2 tdmpc2.py:_plan

STRUCTURE = ("driver", "heads")  # what of a plan is the agent's, and no setting

Changes = Mapping[str, int | float]


class ImaginedStep(NamedTuple):
    """One imagined step of N candidates: the next carry, the reward (N,), and whether life goes on.

    `cont` is (N,), the probability that the episode goes on; None where a model does not say.
    """

    carry: Arrays
    reward: Array
    cont: Array | None = None


Observe = Callable[[Arrays, Arrays, Arrays], Arrays]  # carry, obs, noise -> carry
Imagine = Callable[[Arrays, Array, Arrays], ImaginedStep]  # carry (N, ...), action (N, A), noise
Value = Callable[[Arrays, Arrays], Array]  # carry (N, ...), noise (N, ...) -> (N,)
Act = Callable[[Arrays, Arrays, Array], Array]  # carry, noise, deterministic (N,) -> (N, A)


class PlanModel(NamedTuple):
    """An agent as a planner sees it, in numpy: one callable for each graph.

    Attributes:
        observe: the filtering half of a step.
        imagine: one imagined step.
        value: what is expected beyond the horizon, or None.
        policy: an action by a policy network, or None.
    """

    observe: Observe
    imagine: Imagine
    value: Value | None = None
    policy: Act | None = None


class Search(NamedTuple):
    """Whole action sequences, scored and proposed, for a planner's loop.

    Attributes:
        score: returns (B, J) of action sequences (B, J, H, A), given the noise of imagined steps
            (B, J, H, ...) and of the value (B, J, ...) by name.
        propose: action sequences (B, P, H, A) by the policy, given noise (B, P, H, ...) by name and
            whether they are to be its mode (B,); None where there is no policy.
    """

    score: Callable[[Array, Arrays, Arrays], Array]
    propose: Callable[[Arrays, Array], Array] | None = None


class Draws:
    """A decision's planning noise by role.

    Args:
        specs: the policy's noise tensors by name.
        noise: name -> (B, *axes, *shape), whatever else is in it.
    """

    def __init__(self, specs: Mapping[str, NoiseSpec], noise: Arrays) -> None:
        self._by_role: dict[str, Arrays] = {role: {} for role in PLANNED}
        for name, array in noise.items():
            if specs[name].role in PLANNED:
                self._by_role[specs[name].role][name] = array

    def only(self, role: str) -> Array:
        """The one tensor of a role."""
        (array,) = self._by_role[role].values()
        return array

    def imagined(self, iteration: int) -> Arrays:
        """Noise of the imagined steps in one iteration: name -> (B, J, H, ...)."""
        return {name: array[:, iteration] for name, array in self._by_role["score"].items()}

    def valued(self, iteration: int, candidates: int) -> Arrays:
        """Noise of the value at the horizon in one iteration: name -> (B, J, ...)."""
        found = {name: array[:, iteration] for name, array in self._by_role["value"].items()}
        for name, array in self._by_role["shared"].items():
            # (B, I, ...) -> (B, J, ...), the same for every candidate
            once = array[:, iteration, None]
            found[name] = np.broadcast_to(once, (len(once), candidates, *once.shape[2:]))
        return found

    def proposals(self, candidates: int) -> Arrays:
        """Noise of the policy's proposals, imagined steps included: name -> (B, P, H, ...)."""
        imagined = {
            name: array[:, 0, :candidates]
            for name, array in self._by_role["score"].items()
            if array.shape[1]  # a policy that acts without a search imagines nothing
        }
        return {**self._by_role["policy"], **imagined}


# -- the loops -------------------------------------------------------------------------------------


def decide(
    search: Search,
    spec: PlanSpec,
    action: ActionSpec,
    draws: Draws,
    deterministic: Array,
    memory: Array | None,
) -> tuple[Array, Array | None]:
    """The action of each batch element by the planner that `spec` names, and the plan it remembers.

    Args:
        search: scores and proposes action sequences.
        spec: the planner's settings.
        action: the environment's action, a box.
        draws: of this decision.
        deterministic: (B,) bool.
        memory: (B, H, A), the plan of the decision before, zeros at an episode's start; None for
            planners without memory.

    Returns:
        (B, A) float32 in model units, and the memory for the next decision.
    """
    if isinstance(spec, CEMSpec):
        return cem(search, spec, action.size, draws), None
    assert memory is not None, "mppi keeps its plan in the carry"
    return mppi(search, spec, action.size, draws, deterministic, memory)


def cem(search: Search, spec: CEMSpec, size: int, draws: Draws) -> Array:
    """The first action of the mean of the best plans found, for each batch element on its own.

    Starts from a standard normal over action sequences at every decision, without memory of the
    plan before. The elites' spread is their population standard deviation; proposals are clipped
    to [-1, 1]. Of equal returns the earlier candidate is the elite.

    Args:
        search: returns of action sequences (B, J, H, A).
        spec: horizon H, candidates J, elites, iterations I.
        size: A.
        draws: `plan` (B, I, J, H, A) standard normal, and what scoring draws.

    Returns:
        (B, A) float32 in model units.

    Source: Hafner et al. 2019 (arXiv:1811.04551), algorithm 2; clipping, the 1/K variance and its
    floor are the released code's (google-research/planet planning.py), which we follow.
    """
    normals = draws.only("plan")
    # (B, 1, H, A): broadcasts over candidates
    mean = np.zeros((len(normals), 1, spec.horizon, size), np.float32)
    std = np.ones_like(mean)
    for i in range(spec.iterations):
        actions = np.clip(mean + std * normals[:, i], -1.0, 1.0)
        returns = _scored(search, actions, draws, i)
        elites, _ = _best(actions, returns, spec.elites)
        mean = elites.mean(1, keepdims=True)
        std = np.sqrt(elites.var(1, keepdims=True) + np.float32(VARIANCE_FLOOR))
    return mean[:, 0, 0]


def mppi(
    search: Search, spec: MPPISpec, size: int, draws: Draws, deterministic: Array, memory: Array
) -> tuple[Array, Array]:
    """An action of one of the best plans, drawn by their returns, for each element on its own.

    The mean starts from the plan before, one step on, the spread from `max_std`. Of the candidates
    of each iteration the first `proposals` are the policy's, the same ones every time. Mean and
    spread of the next iteration are those of the elites, weighted by exp(temperature * return). The
    action is the first one of an elite drawn by its weight; unless deterministic, noise of the
    last spread is added. Returns that are NaN count as 0.

    Without iterations nothing is searched, and the policy acts by itself.

    Args:
        search: returns of action sequences, and the policy's.
        spec: the settings.
        size: A.
        draws: `plan` (B, I, J, H, A) and `perturb` (B, A) standard normal, `elite` (B, K) uniform,
            and what scoring and proposing draw.
        deterministic: (B,) bool.
        memory: (B, H, A), the mean of the decision before, zeros at an episode's start.

    Returns:
        (B, A) float32 in model units, and the mean (B, H, A).

    Source: Williams et al. 2015 (arXiv:1509.01149); Hansen et al. 2024 (arXiv:2310.16828), section
    3.2 and appendix; nicklashansen/tdmpc2 tdmpc2.py:_plan.
    """
    if not spec.iterations:
        assert search.propose is not None, "check_plan asks for a policy"
        return search.propose(draws.proposals(1), deterministic)[:, 0, 0], memory
    normals = draws.only("plan")
    batch, own = len(normals), spec.proposals
    # (B, 1, H, A): broadcasts over candidates; one step on, the last one is new
    mean = np.zeros((batch, 1, spec.horizon, size), np.float32)
    mean[:, 0, :-1] = memory[:, 1:]
    std = np.full_like(mean, spec.max_std)
    actions = np.empty((batch, spec.candidates, spec.horizon, size), np.float32)
    if own:
        assert search.propose is not None, "check_plan asks for a policy"
        actions[:, :own] = search.propose(draws.proposals(own), np.zeros(batch, bool))
    elites, weights = actions[:, : spec.elites], np.empty(0, np.float32)
    for i in range(spec.iterations):
        actions[:, own:] = np.clip(mean + std * normals[:, i, own:], -1.0, 1.0)
        returns = np.nan_to_num(_scored(search, actions, draws, i))
        elites, best = _best(actions, returns, spec.elites)
        weights = np.exp(np.float32(spec.temperature) * (best - best.max(1, keepdims=True)))
        weights /= weights.sum(1, keepdims=True)
        mean, std = _weighted(elites, weights[:, :, None, None])
        std = np.clip(std, spec.min_std, spec.max_std)
    chosen = elites[np.arange(batch), _gumbel_argmax(weights, draws.only("elite"))]
    spread = np.where(deterministic[:, None], np.float32(0), std[:, 0, 0])
    first = chosen[:, 0] + spread * draws.only("perturb")
    return np.clip(first, -1.0, 1.0), mean[:, 0]


def _scored(search: Search, actions: Array, draws: Draws, iteration: int) -> Array:
    valued = draws.valued(iteration, actions.shape[1])
    returns = search.score(actions, draws.imagined(iteration), valued)
    assert returns.shape == actions.shape[:2], (returns.shape, actions.shape)
    return returns


def _best(actions: Array, returns: Array, elites: int) -> tuple[Array, Array]:
    """Action sequences (B, K, H, A) and returns (B, K) of the best, in falling order."""
    # (B, J) -> (B, K); stable, so ties do not depend on the sort's inner workings
    order = np.argsort(-returns, axis=1, kind="stable")[:, :elites]
    best = np.take_along_axis(returns, order, axis=1)
    return np.take_along_axis(actions, order[:, :, None, None], axis=1), best


def _weighted(elites: Array, weights: Array) -> tuple[Array, Array]:
    """Mean and deviation (B, 1, H, A) of elites (B, K, H, A) by their weights (B, K, 1, 1)."""
    total = weights.sum(1, keepdims=True) + np.float32(TINY)
    mean = (weights * elites).sum(1, keepdims=True) / total
    return mean, np.sqrt((weights * np.square(elites - mean)).sum(1, keepdims=True) / total)


def _gumbel_argmax(weights: Array, uniform: Array) -> Array:
    """(B,) an index drawn by its weight from (B, K) uniform numbers."""
    tiny = np.finfo(np.float32).tiny
    inside = np.clip(uniform, tiny, 1 - np.finfo(np.float32).epsneg)
    with np.errstate(divide="ignore"):  # a weight of 0 is never drawn
        return (np.log(weights) - np.log(-np.log(inside))).argmax(1)


# -- action sequences in the model -----------------------------------------------------------------


class Rollouts:
    """Action sequences in a model, in numpy: their returns, and the policy's own ones.

    Args:
        model: imagines one step, and may value and propose.
        carry: name -> (B, *shape), as the filtering step left it.
        discount: of a step.
        memory: names of the carry that belong to the planner.
    """

    def __init__(self, model: PlanModel, carry: Arrays, discount: float = 1.0) -> None:
        self.model, self.discount = model, np.float32(discount)
        self.carry = {k: x for k, x in carry.items() if k not in ("prev_action", MEMORY)}

    def search(self) -> Search:
        """The search of a planner's loop."""
        return Search(self.score, None if self.model.policy is None else self.propose)

    def score(self, actions: Array, imagined: Arrays, valued: Arrays) -> Array:
        """Returns (B, J) of action sequences (B, J, H, A).

        Rewards are added up, discounted, as long as the episode goes on; to the end comes the value
        of where the plan leads, if the model has one.

        Args:
            actions: in model units.
            imagined: noise of imagined steps, name -> (B, J, H, ...).
            valued: noise of the value, name -> (B, J, ...).
        """
        batch, candidates, horizon = actions.shape[:3]
        carry = self._repeated(candidates)
        moves = _by_step(actions)
        draws = {name: _by_step(x) for name, x in imagined.items()}
        returns = np.zeros(batch * candidates, np.float32)
        weight = np.ones(1, np.float32)
        for t in range(horizon):
            step = {name: x[t] for name, x in draws.items()}
            carry, reward, cont = self.model.imagine(carry, moves[t], step)
            returns += weight * reward
            weight = weight * self.discount if cont is None else weight * self.discount * cont
        if self.model.value is not None:
            flat = {n: x.reshape(batch * candidates, *x.shape[2:]) for n, x in valued.items()}
            returns += weight * self.model.value(carry, flat)
        return returns.reshape(batch, candidates)

    def propose(self, noise: Arrays, deterministic: Array) -> Array:
        """Action sequences (B, P, H, A) that the policy takes in the model.

        Args:
            noise: name -> (B, P, H, ...).
            deterministic: (B,) bool.
        """
        assert self.model.policy is not None, "there is no policy"
        batch, candidates, horizon = next(iter(noise.values())).shape[:3]  # the policy's
        carry, mode = self._repeated(candidates), np.repeat(deterministic, candidates)
        draws = {name: _by_step(x) for name, x in noise.items()}
        actions: list[Array] = []
        for t in range(horizon):
            step = {name: x[t] for name, x in draws.items()}
            actions.append(self.model.policy(carry, step, mode))
            if t + 1 < horizon:
                carry = self.model.imagine(carry, actions[t], step).carry
        return np.stack(actions, 1).reshape(batch, candidates, horizon, -1)

    def _repeated(self, candidates: int) -> Arrays:
        # (B, ...) -> (B*J, ...): a batch element's candidates stand together, as in `actions`
        return {name: np.repeat(x, candidates, axis=0) for name, x in self.carry.items()}


def _by_step(array: Array) -> Array:
    # (B, J, H, ...) -> (H, B*J, ...); spelled out, since an empty array has no -1
    batch, candidates, horizon, *rest = array.shape
    steps = np.ascontiguousarray(np.moveaxis(array, 2, 0))
    return steps.reshape(horizon, batch * candidates, *rest)


class PlanStep:
    """The acting step of a planning agent: filter, then plan.

    Attributes:
        model: the agent's graphs.
        spec: names and roles of the noise, the planner's settings, the action.
    """

    def __init__(self, model: PlanModel, spec: PolicySpec) -> None:
        """Join model and planner.

        Raises:
            ConfigError: if the spec has no planner, a contradicting one, or lacks noise for it.
            SpaceError: if the action is not a box.
        """
        if spec.plan is None:
            raise ConfigError(f"{spec.agent} has no planner's settings; use its step instead")
        check(spec.plan, spec.action)
        check_roles(spec)
        self.model, self.spec, self.plan = model, spec, spec.plan

    def __call__(
        self, carry: Arrays, obs: Arrays, noise: Arrays, deterministic: Array, /
    ) -> tuple[Arrays, Array]:
        """Observe and plan; what `deterministic` changes is the planner's to say."""
        spec = self.spec
        filtering = {n: array for n, array in noise.items() if spec.noise[n].role not in PLANNED}
        carry = {**carry, **self.model.observe(carry, obs, filtering)}
        rollouts = Rollouts(self.model, carry, self.plan.discount)
        memory = remembered(carry.get(MEMORY), obs["is_first"])
        draws = Draws(spec.noise, noise)
        action, memory = decide(
            rollouts.search(), self.plan, spec.action, draws, deterministic, memory
        )
        kept = {} if memory is None else {MEMORY: memory}
        return {**carry, **kept, "prev_action": action}, env_action(spec.action, action)


def remembered(memory: Array | None, is_first: Array) -> Array | None:
    """The plan of the decision before (B, H, A), zeros where an episode begins (B,)."""
    return None if memory is None else np.where(is_first[:, None, None], np.float32(0), memory)


def first_returns(model: PlanModel, spec: PolicySpec, carry: Arrays, noise: Arrays) -> Array:
    """Returns (B, J) of what a planner scores first, without a plan before.

    It runs every graph but the filtering one, and makes no choice that a rounding could turn.

    Args:
        model: the agent's graphs.
        spec: the policy's, with a planner.
        carry: name -> (B, *shape), as the filtering step left it.
        noise: name -> (B, *axes, *shape) of at least one iteration.
    """
    assert spec.plan is not None, spec.agent
    draws, rollouts = Draws(spec.noise, noise), Rollouts(model, carry, spec.plan.discount)
    actions = first_candidates(rollouts.search(), spec.plan, draws)
    return rollouts.score(actions, draws.imagined(0), draws.valued(0, spec.plan.candidates))


def first_candidates(search: Search, spec: PlanSpec, draws: Draws) -> Array:
    """The action sequences (B, J, H, A) of a planner's first iteration, without a plan before."""
    spread = 1.0 if isinstance(spec, CEMSpec) else spec.max_std
    actions = np.clip(np.float32(spread) * draws.only("plan")[:, 0], -1.0, 1.0)
    own = 0 if isinstance(spec, CEMSpec) else spec.proposals
    if own:
        assert search.propose is not None, "check_plan asks for a policy"
        actions[:, :own] = search.propose(draws.proposals(own), np.zeros(len(actions), bool))
    return actions


# -- settings --------------------------------------------------------------------------------------


def replanned(spec: PolicySpec, changes: Changes | str) -> PolicySpec:
    """The same policy with some of its planner's settings changed.

    Args:
        spec: a planning agent's.
        changes: settings by name, or as a command line has them; "off" leaves the search out, so
            that the policy network acts by itself.

    Raises:
        ConfigError: if the policy has no planner, a setting is unknown or ill-typed, or they
            contradict each other; "off" also where there is no policy network.
    """
    if spec.plan is None:
        raise ConfigError(
            f"the policy is a {spec.agent}, which acts without planning; leave out plan"
        )
    if isinstance(changes, str):
        changes = parse_plan(changes)
    plan = unplanned(spec) if isinstance(changes, str) else _changed(spec.plan, changes)
    check(plan, spec.action)
    check_draws(plan, spec.noise)
    return replace(spec, plan=plan, carry={**spec.carry, **plan.memory(spec.action.size)})


def can_leave_out(spec: PolicySpec) -> bool:
    """Whether a policy network could act where a planner does: whether `plan="off"` is possible."""
    return isinstance(spec.plan, MPPISpec) and "policy" in spec.plan.heads


def unplanned(spec: PolicySpec) -> PlanSpec:
    """The planner's settings without any search.

    Raises:
        ConfigError: if the agent has no policy network.
    """
    if not isinstance(spec.plan, MPPISpec) or not can_leave_out(spec):
        raise ConfigError(
            f'plan="off" needs a policy network, which {spec.agent} has none of: it can only '
            "plan; fewer candidates or iterations make it faster"
        )
    return replace(spec.plan, iterations=0, horizon=1, candidates=1, elites=1, proposals=1)


def _changed(plan: PlanSpec, changes: Changes) -> PlanSpec:
    if not isinstance(changes, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(
            f'plan is {changes!r:.80}, expected "off" or settings such as {{"candidates": 200}}'
        )
    known = {one.name: one.type for one in fields(plan) if one.name not in STRUCTURE}
    for name, value in changes.items():
        if name not in known:
            raise ConfigError(f"the planner has no setting {name!r}; {nearest(name, known)}")
        whole = isinstance(getattr(plan, name), int)
        if type(value) is not int and (whole or type(value) is not float):
            expected = "a whole number" if whole else "a number"
            raise ConfigError(f"the planner's {name} is {value!r}, expected {expected}")
    typed = {n: v if isinstance(getattr(plan, n), int) else float(v) for n, v in changes.items()}
    return replace(plan, **typed)


def as_changes(plan: PlanSpec) -> Changes:
    """All settings of a plan, as `replanned` takes them."""
    return {name: value for name, value in asdict(plan).items() if name not in STRUCTURE}


def parse_plan(text: str) -> Changes | Literal["off"]:
    """A command line's `off`, or `candidates=200,elites=20`, as settings.

    Raises:
        ConfigError: if it is neither.
    """
    if text.strip() == "off":
        return "off"
    changes: dict[str, int | float] = {}
    for part in text.split(","):
        name, equals, number = part.partition("=")
        value = _number(number)
        if not equals or value is None:
            raise ConfigError(
                f'plan takes "off" or settings such as candidates=200,elites=20; it was given '
                f"{part.strip()!r:.80}"
            )
        changes[name.strip()] = value
    return changes


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def check_plan(spec: PlanSpec) -> None:
    """Refuse settings that contradict each other.

    Without iterations nothing is searched. A cross-entropy planner's action is zero then: with
    exploration noise that is random collection, the reference's ablation. MPPI's is the policy's.

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
    if isinstance(spec, MPPISpec):
        _check_mppi(spec)


def _check_mppi(spec: MPPISpec) -> None:
    if not 0 <= spec.proposals <= spec.candidates:
        raise ConfigError(
            f"the planner takes {spec.proposals} of {spec.candidates} candidates from the policy; "
            "choose from 0 to as many as there are candidates"
        )
    if (spec.proposals or not spec.iterations) and "policy" not in spec.heads:
        raise ConfigError(
            f"the planner's proposals are {spec.proposals} and its iterations {spec.iterations}, "
            "but the agent has no policy network; choose 0 proposals and at least one iteration"
        )
    if spec.heads and not spec.iterations and not spec.proposals:
        raise ConfigError(
            "the planner has no iterations and no proposals, so there is nothing to choose from; "
            'plan="off" lets the policy network act by itself'
        )
    if not 0 <= spec.discount <= 1:
        raise ConfigError(f"the planner's discount is {spec.discount}, expected from 0 to 1")
    if not 0 <= spec.min_std <= spec.max_std or not math.isfinite(spec.max_std):
        raise ConfigError(
            f"the planner's spread goes from {spec.min_std} to {spec.max_std}; choose finite "
            "numbers with 0 <= min_std <= max_std"
        )
    if not 0 <= spec.temperature < math.inf:
        raise ConfigError(f"the planner's temperature is {spec.temperature}, expected 0 or more")


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


def check_roles(spec: PolicySpec) -> None:
    """Refuse a policy that lacks the noise of its planner, or has it twice.

    Raises:
        ConfigError: naming the role and what its shape has to be.
    """
    assert spec.plan is not None, spec.agent
    for role, shape in spec.plan.needs(spec.action.size).items():
        found = [one.shape for one in spec.noise.values() if one.role == role]
        if found != [shape]:
            raise ConfigError(
                f"{spec.agent} draws {len(found)} noise tensors of the role {role}, expected one, "
                f"of shape {shape}, for its planner"
            )


def check_draws(spec: PlanSpec, noise: Mapping[str, NoiseSpec]) -> None:
    """Refuse a planner whose decisions would draw more random numbers than a machine holds.

    Raises:
        ConfigError: if there are more than `NOISE_LIMIT`.
    """
    numbers = sum(math.prod(one.shape) for one in with_plan_axes(noise, spec).values())
    if numbers > NOISE_LIMIT:
        raise ConfigError(
            f"one decision would draw {numbers:,} random numbers, {NOISE_LIMIT:,} are allowed; "
            "choose fewer candidates, iterations or steps"
        )
