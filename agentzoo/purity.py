"""Checks that an algorithm's acting is a function of its inputs, each batch element by itself.

A policy is exported, served to many at a time and resumed bit for bit, so that acting may not draw
or keep anything by itself. Here its methods are called a few times on made-up inputs, once, before
an agent first acts or learns. `agentzoo.contract` has looked at shapes and types before.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from agentzoo.runtime.policy.noise import draw, with_plan_axes
from agentzoo.runtime.spec import MEMORY, NoiseSpec, ObsSpec, PolicySpec

from .algorithm import Algorithm, PlanningAlgorithm
from .contract import ContractError, asked, device_of

DRAWS = 8  # of an action, from one state
TOLERANCE = 1e-5
ACTION = "the action"

Inputs = Mapping[str, dict[str, Tensor]]  # a method's arguments: tensors by name
Call = Callable[[Inputs], Mapping[str, Tensor]]


def check_purity(algorithm: Algorithm, spec: PolicySpec) -> None:
    """Act on made-up inputs again and again; changes nothing.

    Of a planner it looks at what the search asks for, without searching.

    Raises:
        ContractError: naming the method that draws or keeps something by itself, writes into what
            it was given, mixes batch elements, ignores `deterministic`, or explores beyond a box.
    """
    name = type(algorithm).__name__
    with torch.no_grad():
        if isinstance(algorithm, PlanningAlgorithm):
            with asked(algorithm, "observe"):
                ours, theirs = (_planner_inputs(algorithm, spec, element) for element in range(2))
                _check(f"{name}.observe", _observe(algorithm), ours, theirs)
            latents = [_imagine_inputs(algorithm, spec, one) for one in (ours, theirs)]
            with asked(algorithm, "imagine"):
                _check(f"{name}.imagine", _imagine(algorithm), *latents)
        else:
            with asked(algorithm, "step"):
                ours, theirs = (_step_inputs(algorithm, spec, element) for element in range(2))
                _check(f"{name}.step", _step(algorithm), ours, theirs)
                _check_deterministic(algorithm, spec, ours)
        with asked(algorithm, "explore"):
            _check_explore(algorithm, spec, ours["carry"])


def _check(where: str, call: Call, ours: Inputs, theirs: Inputs) -> None:
    """Refuse a method whose outcome for the first element is not that of its inputs alone."""
    found = _called(where, call, ours)
    if differing := _differing(found, _called(where, call, ours)):
        raise ContractError(
            f"{where} gives two outcomes for the same inputs ({_list(differing)} differ); draw "
            "what is random from `noise` (declared in noise_spec), not by torch.randn or dropout, "
            "and keep state in the carry, not in self"
        )
    mixed = {
        part: {key: torch.cat([one[:1], theirs[part][key][1:]]) for key, one in tensors.items()}
        for part, tensors in ours.items()
    }
    apart = _called(where, call, mixed)
    if differing := _differing(_first(found), _first(apart)):
        raise ContractError(
            f"{where} mixes batch elements: {_list(differing)} of one element changes with what "
            "another one is given; reduce over the axes behind the batch, such as .mean(-1) for "
            ".mean(), and reset by torch.where(is_first, ...), not by is_first.any()"
        )


def _called(where: str, call: Call, inputs: Inputs) -> Mapping[str, Tensor]:
    """The outcome of a method that has to leave its inputs as they are."""
    given = {part: {k: one.clone() for k, one in x.items()} for part, x in inputs.items()}
    found = call({part: dict(tensors) for part, tensors in given.items()})
    for part, tensors in inputs.items():
        if changed := _differing(tensors, given[part]):
            raise ContractError(
                f"{where} writes into {_list(changed)} of the {part} that it was given, which "
                "others still read; make new tensors, such as x = x * keep for x *= keep, or take "
                "x.clone() first"
            )
    return found


def _check_deterministic(algorithm: Algorithm, spec: PolicySpec, inputs: Inputs) -> None:
    """Refuse actions that are the same samples with `deterministic` and without it.

    A deterministic action may use the noise, as the best of some samples does.
    """
    drawn = _noise(spec, ("action",), DRAWS, device_of(algorithm))
    if not drawn:
        return
    carry, obs, noise = (_repeated(inputs[part]) for part in ("carry", "obs", "noise"))

    def units(mode: bool) -> Tensor:
        flag = torch.full((DRAWS,), mode, device=device_of(algorithm))
        return algorithm.step(dict(carry), dict(obs), noise | drawn, flag)[0]["prev_action"]

    sampled = units(mode=False)
    if _close(sampled, units(mode=True)) and not _close(sampled, sampled[:1].expand_as(sampled)):
        raise ContractError(
            f"{type(algorithm).__name__}.step ignores `deterministic`: its action follows the "
            "noise of the role action in the same way where that is true; take "
            "torch.where(deterministic[:, None], mode, sample)"
        )


def _check_explore(algorithm: Algorithm, spec: PolicySpec, carry: Mapping[str, Tensor]) -> None:
    """Refuse exploring that draws by itself, or that leaves a box from its bound."""
    where, device = f"{type(algorithm).__name__}.explore", device_of(algorithm)
    specs = with_plan_axes(spec.noise, spec.plan and spec.plan.idle)
    specs |= {key: one for key, one in algorithm.noise_spec.items() if one.role == "explore"}
    noise, repeated = _drawn(specs, DRAWS, device), _repeated(carry)
    if spec.action.kind == "box":
        repeated["prev_action"] = torch.ones_like(repeated["prev_action"])

    def explored() -> Mapping[str, Tensor]:
        given = {key: one.clone() for key, one in repeated.items()}
        return algorithm.explore(given, dict(noise), 0, 1)[0]

    found = explored()
    if differing := _differing(found, explored()):
        raise ContractError(
            f"{where} gives two outcomes for the same inputs ({_list(differing)} differ); draw "
            "what is random from `noise`, of the role explore"
        )
    largest = float(found["prev_action"].abs().max())
    if spec.action.kind == "box" and largest > 1 + TOLERANCE:
        raise ContractError(
            f'{where} gives a "prev_action" of {largest:.2f} where the step\'s action was 1, '
            "expected model units in [-1, 1], as replay stores it and the environment gets it; "
            "add .clamp(-1, 1) before to_env"
        )


# -- made-up inputs ------------------------------------------------------------------------------


def _step_inputs(algorithm: Algorithm, spec: PolicySpec, number: int) -> Inputs:
    """Inputs of a second step, of two elements; in those of number 1 an episode begins."""
    obs, noise = _seen(algorithm, spec, 2 * number, first=True)
    mode = torch.zeros(2, dtype=torch.bool, device=device_of(algorithm))
    carry, _ = algorithm.step(algorithm.initial(2), obs, noise, mode)
    obs, noise = _seen(algorithm, spec, 2 * number + 1, first=bool(number))
    return {"carry": dict(carry), "obs": obs, "noise": noise}


def _planner_inputs(algorithm: PlanningAlgorithm, spec: PolicySpec, number: int) -> Inputs:
    """The same for a planner's filter."""
    obs, noise = _seen(algorithm, spec, 2 * number, first=True)
    start = algorithm.initial(2)
    carry = {**start, **algorithm.observe(dict(start), obs, noise)}
    obs, noise = _seen(algorithm, spec, 2 * number + 1, first=bool(number))
    return {"carry": carry, "obs": obs, "noise": noise}


def _imagine_inputs(algorithm: PlanningAlgorithm, spec: PolicySpec, inputs: Inputs) -> Inputs:
    """Inputs of an imagined step from what the filter gave."""
    device = device_of(algorithm)
    latent = {k: x for k, x in inputs["carry"].items() if k not in ("prev_action", MEMORY)}
    action = torch.zeros(2, spec.action.size, device=device)
    return {
        "carry": latent,
        "action": {"action": action},
        "noise": _noise(spec, ("score",), 2, device),
    }


def _seen(
    algorithm: Algorithm, spec: PolicySpec, step: int, *, first: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Observations and noise of two elements at a step, all different."""
    rng, device = np.random.default_rng(step), device_of(algorithm)
    arrays = {key: _observation(rng, one) for key, one in spec.obs.items()}
    obs = {key: torch.from_numpy(array).to(device) for key, array in arrays.items()}
    obs["is_first"] = torch.full((2,), first, device=device)
    return obs, _noise(spec, ("latent", "action", "dequantise"), 2, device, step)


def _observation(rng: np.random.Generator, spec: ObsSpec) -> np.ndarray:
    if spec.kind == "image":
        return rng.integers(0, 256, (2, *spec.shape), np.uint8)
    if spec.kind == "vector":
        return rng.standard_normal((2, *spec.shape), np.float32)
    groups = [np.eye(n, dtype=np.float32)[rng.integers(0, n, 2)] for n in spec.nvec]
    return np.concatenate(groups, axis=1)


def _noise(
    spec: PolicySpec, roles: tuple[str, ...], batch: int, device: torch.device, step: int = 0
) -> dict[str, Tensor]:
    specs = {key: one for key, one in spec.noise.items() if one.role in roles}
    return _drawn(specs, batch, device, step)


def _drawn(
    specs: Mapping[str, NoiseSpec], batch: int, device: torch.device, step: int = 0
) -> dict[str, Tensor]:
    drawn = draw(specs, [(0, element, step) for element in range(batch)])
    return {key: torch.from_numpy(array).to(device) for key, array in drawn.items()}


def _repeated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first element `DRAWS` times."""
    return {k: one[:1].expand(DRAWS, *one.shape[1:]).clone() for k, one in tensors.items()}


# -- methods as functions of inputs by name ------------------------------------------------------


def _step(algorithm: Algorithm) -> Call:
    def call(given: Inputs) -> Mapping[str, Tensor]:
        mode = torch.zeros(2, dtype=torch.bool, device=device_of(algorithm))
        carry, action = algorithm.step(given["carry"], given["obs"], given["noise"], mode)
        return {**carry, ACTION: action}

    return call


def _observe(algorithm: PlanningAlgorithm) -> Call:
    return lambda given: algorithm.observe(given["carry"], given["obs"], given["noise"])


def _imagine(algorithm: PlanningAlgorithm) -> Call:
    def call(given: Inputs) -> Mapping[str, Tensor]:
        action = given["action"]["action"]
        carry, reward = algorithm.imagine(given["carry"], action, given["noise"])
        return {**carry, "the reward": reward}

    return call


# -- comparison ----------------------------------------------------------------------------------


def _first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: one[:1] for key, one in tensors.items()}


def _differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    return [key for key, tensor in one.items() if not _close(tensor, other[key])]


def _close(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _list(names: list[str]) -> str:
    return ", ".join(name if name.startswith("the ") else f'"{name}"' for name in names)
