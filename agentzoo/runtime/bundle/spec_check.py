"""Checks that a spec from elsewhere can be true of some policy, before anything relies on it."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import BundleError, ConfigError, SpaceError
from ..policy.planners import check, check_draws, check_roles
from ..spec import ActionSpec, ObsSpec, PlanSpec, PolicySpec, TensorSpec

TENSOR_LIMIT = 1 << 28  # numbers in one tensor of one batch element
AXES_LIMIT = 16  # of one batch element; NumPy has 64
INDEX_LIMIT = 1 << 62  # of a class: what int64 holds with room to add
DTYPES = ("bool", "float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64")
INDICES = ("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")


def check_spec(spec: PolicySpec, *, has_world: bool = False) -> None:
    """Refuse a spec whose fields contradict each other, or that no policy has.

    Args:
        spec: the policy's.
        has_world: whether a world model stands beside it.

    Raises:
        BundleError: naming the field, what stands there and what was expected.
    """
    for shape in _shapes(spec):
        if not _is_shape(shape):
            raise BundleError(f"the manifest holds the shape {shape!s:.80}, which no policy has")
    tensors = (*spec.obs.values(), *spec.carry.values(), *spec.probes.values())
    for dtype in (one.dtype for one in tensors):
        if dtype not in DTYPES:
            raise BundleError(f'the manifest holds the dtype "{dtype:.40}", which no policy has')
    check_spaces(spec.obs, spec.action)
    _check_prev_action(spec, is_needed=has_world or spec.plan is not None)
    if spec.plan is not None:
        _check_planner(spec, spec.plan)


def _is_shape(shape: Sequence[int]) -> bool:
    """Whether a tensor of one batch element may have this shape; looks at each size first."""
    plain = len(shape) <= AXES_LIMIT and all(0 <= size <= TENSOR_LIMIT for size in shape)
    return plain and math.prod(shape) <= TENSOR_LIMIT


def _check_planner(spec: PolicySpec, plan: PlanSpec) -> None:
    """A planner's settings, its noise, and where it keeps its plan."""
    try:
        check(plan, spec.action)
        check_roles(spec)
        check_draws(plan, spec.noise)
    except (ConfigError, SpaceError) as error:
        raise BundleError(f"the manifest holds a planner that cannot plan: {error}") from error
    for name, expected in plan.memory(spec.action.size).items():
        if spec.carry.get(name) != expected:
            raise _wrong(f"the carry holds {name} as {spec.carry.get(name)}", f"{expected}")


def check_spaces(obs: Mapping[str, ObsSpec], action: ActionSpec) -> None:
    """Refuse observations and actions whose fields contradict each other.

    Raises:
        BundleError: naming the field, what stands there and what was expected.
    """
    if not obs:
        raise BundleError("the policy reads no observation; export or save it again")
    for key, one in obs.items():
        _check_observation(key, one)
    _check_action(action)


def _check_prev_action(spec: PolicySpec, *, is_needed: bool) -> None:
    """Planners and world models read it from the carry; any other policy may keep it."""
    found, expected = spec.carry.get("prev_action"), TensorSpec(shape=(spec.action.size,))
    if found is None and is_needed:
        raise BundleError(
            "the manifest's carry lacks prev_action in model units, which planners and world "
            "models read; export it again"
        )
    if found is not None and found != expected:
        raise BundleError(
            f"the manifest's carry holds a prev_action of {found.dtype} and shape {found.shape}, "
            f"expected model units, float32 and {expected.shape}; export it again"
        )


def _shapes(spec: PolicySpec) -> Sequence[tuple[int, ...]]:
    tensors = [
        *spec.obs.values(),
        *spec.carry.values(),
        *spec.noise.values(),
        *spec.probes.values(),
    ]
    shapes = [one.shape for one in tensors]
    return [*shapes, *(one.source for one in spec.obs.values()), spec.action.shape]


def _check_observation(key: str, spec: ObsSpec) -> None:
    size = math.prod(spec.source)
    expected = {
        "image": (*spec.source, 1) if len(spec.source) == 2 else spec.source,
        "vector": (size,),
        "onehot": (sum(spec.nvec),),
    }[spec.kind]
    where = f'the observation "{key:.40}"'
    if spec.kind == "image" and len(spec.source) not in (2, 3):
        raise _wrong(f"{where} is an image of the source {spec.source}", "(h, w, c) or (h, w)")
    if size < 1:
        raise _wrong(f"{where} has the source {spec.source}", "at least one number")
    if spec.kind == "onehot":
        _check_classes(where, spec.nvec, spec.start, size, INDEX_LIMIT)
    elif spec.nvec or spec.start:
        raise _wrong(f"{where} is a {spec.kind} with nvec or start", "those of a onehot alone")
    if spec.shape != expected:
        raise _wrong(f"{where} of the source {spec.source} has shape {spec.shape}", f"{expected}")


def _check_action(spec: ActionSpec) -> None:
    size = math.prod(spec.shape)
    if spec.kind == "box":
        _check_box(spec, size)
        return
    if spec.low or spec.high:
        raise _wrong(f"the action is {spec.kind} with low or high", "those of a box alone")
    if spec.dtype not in INDICES:
        raise _wrong(f'the action is {spec.kind} of the dtype "{spec.dtype:.40}"', "whole numbers")
    if spec.kind == "discrete" and spec.shape:
        raise _wrong(f"the action is discrete of the shape {spec.shape}", "()")
    limit = min(int(np.iinfo(spec.dtype).max), INDEX_LIMIT)
    _check_classes("the action", spec.nvec, spec.start, size, limit)
    if any(one < np.iinfo(spec.dtype).min for one in spec.start):
        raise _wrong(f"the action's start is {spec.start}", f"indices that {spec.dtype} holds")
    if spec.size != sum(spec.nvec):
        raise _wrong(f"the action's size is {spec.size}", f"{sum(spec.nvec)}, the sum of its nvec")


def _check_box(spec: ActionSpec, size: int) -> None:
    if spec.nvec or spec.start:
        raise _wrong("the action is a box with nvec or start", "low and high")
    if spec.dtype not in ("float16", "float32", "float64"):
        raise _wrong(f'the action is a box of the dtype "{spec.dtype:.40}"', "a float")
    lengths = (len(spec.low), len(spec.high), spec.size)
    if lengths != (size,) * 3 or size < 1:
        raise _wrong(
            f"the action's low, high and size say {lengths} numbers", f"{size} of each, at least 1"
        )
    for i, (low, high) in enumerate(zip(spec.low, spec.high, strict=True)):
        if not low < high:
            raise _wrong(f"dimension {i} of the action reaches from {low} to {high}", "low < high")


def _check_classes(
    where: str, nvec: Sequence[int], start: Sequence[int], size: int, limit: int
) -> None:
    if not len(nvec) == len(start) == size:
        raise _wrong(f"{where} has {len(nvec)} nvec and {len(start)} start", f"{size} of each")
    if min(nvec, default=0) < 1:
        raise _wrong(f"{where} has the nvec {min(nvec, default=0)}", "at least one class each")
    # limit on the sum, too: it is a tensor's size
    reach = max((first + n - 1 for first, n in zip(start, nvec, strict=True)), default=0)
    if reach > limit or min(start, default=0) < -INDEX_LIMIT or sum(nvec) > TENSOR_LIMIT:
        raise _wrong(f"{where} has classes up to {reach}", "indices that its dtype holds")


def _wrong(found: str, expected: str) -> BundleError:
    return BundleError(
        f"the manifest contradicts itself: {found}, expected {expected}; export the policy again"
    )
