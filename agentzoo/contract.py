"""Checks of an algorithm where it is first used: its declarations, and what its methods give.

A mistake in an agent of one's own is a sentence about that agent: its class and method, what was
given, what was expected, what to do. An agent's class is checked when it is constructed, its
algorithm when it is built, its acting methods before a run, its update at the first one. No step of
a run is checked again. docs/own_agent.md says what each part has to be.
"""

import dataclasses
import inspect
import traceback
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from agentzoo.runtime.errors import AgentZooError
from agentzoo.runtime.policy.noise import draw, with_plan_axes
from agentzoo.runtime.policy.planners import check as check_planner
from agentzoo.runtime.spec import (
    MEMORY,
    PLANNED,
    ActionSpec,
    CEMSpec,
    ColumnSpec,
    MPPISpec,
    NoiseRole,
    NoiseSpec,
    ObsSpec,
    PolicySpec,
    TensorSpec,
)
from agentzoo.runtime.world.signature import JUDGEMENTS, latent_tensors

from .algorithm import (
    Algorithm,
    Annotating,
    Batch,
    Carry,
    Continuing,
    DelayedValue,
    DreamActing,
    Metrics,
    Noise,
    Obs,
    PlanningAlgorithm,
    Proposing,
    Valuing,
    WorldModel,
    WriteBack,
    module,
)
from .blocks.actions import to_env
from .blocks.optim import Moments
from .config import AgentConfig, typed
from .replay.chunks import STANDARD
from .replay.samplers import Sampler
from .train.schedule import Schedule

BATCH = 2  # elements of a step that is only looked at
KINDS = ("normal", "uniform")
SINGLE = (bool, int, float, str)  # types of a configuration's fields, alone or in a tuple
ROLES: tuple[str, ...] = typing.get_args(NoiseRole)
PAGE = "docs/own_agent.md"
WRONG = (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError, AssertionError)


class ContractError(AgentZooError, AssertionError):
    """An agent does not keep the contract; says which part, and what was found."""


# -- the classes ---------------------------------------------------------------------------------


@cache
def check_class(config_class: type, algorithm_class: type, name: str) -> None:
    """Refuse classes that no agent can be made of.

    Args:
        config_class: the agent's configuration.
        algorithm_class: its networks.
        name: the agent's.

    Raises:
        ContractError: naming the class, or the field.
    """
    _check_kind(
        f"{name}.config_class",
        config_class,
        AgentConfig,
        "a subclass of agentzoo.config.AgentConfig; derive it from that",
    )
    _check_kind(
        f"{name}.algorithm_class", algorithm_class, nn.Module, "a torch.nn.Module; derive it from "
        "that, so that weights are found, moved and saved"
    )  # fmt: skip
    try:
        inspect.signature(algorithm_class).bind("obs", "action", "config")
    except TypeError as error:
        raise ContractError(
            f"{algorithm_class.__name__} cannot be made: {error}; it is called as "
            f"{algorithm_class.__name__}(obs, action, config)"
        ) from error
    _check_fields(config_class)


def _check_kind(where: str, found: object, base: type, expected: str) -> None:
    if not isinstance(found, type):
        raise ContractError(
            f"{where} is {_short(found)}, expected a class derived from {base.__name__}; give the "
            "class itself, without brackets"
        )
    if not issubclass(found, base):
        raise ContractError(f"{where} is {found.__name__}, expected {expected}")


def _check_fields(kind: type[AgentConfig]) -> None:
    """Every field of a configuration has a default, of a type that a file and a shell can say."""
    try:
        hints = typing.get_type_hints(kind)
    except NameError as error:
        raise ContractError(
            f"a field of {kind.__name__} has a type that cannot be read: {error}; import it where "
            "the class stands, not for a type checker alone"
        ) from error
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name, hint in hints.items():
        no_field = typing.get_origin(hint) is ClassVar or hint in (ClassVar, dataclasses.KW_ONLY)
        if name not in known and not no_field:
            raise ContractError(
                f"{kind.__name__}.{name} is no field: its class lacks the decorator "
                "@dataclass(frozen=True, kw_only=True); put it above the class"
            )
    for name, field in known.items():
        where = f"{kind.__name__}.{name}"
        has_maker = field.default_factory is not dataclasses.MISSING
        if not _is_plain(hints[name]):
            raise ContractError(
                f"{where} is of the type {_type_name(hints[name])}, expected bool, int, float, "
                "str, a tuple of those, or one of them | None: a configuration is saved as JSON, "
                "and set by field=value"
            )
        if not field.init:
            raise ContractError(
                f"{where} has init=False, so that no preset, file or shell could set it; leave "
                "that out, or make it a property"
            )
        if field.default is dataclasses.MISSING and not has_maker:
            raise ContractError(
                f"{where} has no default, and every field needs one, so that presets may leave it "
                f"out; write {name}: {_type_name(hints[name])} = ..."
            )
        default = cast("object", field.default)
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if isinstance(default, list):
            raise ContractError(
                f"{where}={default!r:.80} is a list, expected a tuple, which is what a file gives "
                "back; write it in round brackets"
            )
        typed(where, default, hints[name])


def _is_plain(hint: object) -> bool:
    if isinstance(hint, types.UnionType):
        return all(_is_plain(one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)  # no tuple in a tuple: a shell's commas are of one depth
        return bool(items) and all(one is Ellipsis or one in SINGLE for one in items)
    return hint in (*SINGLE, types.NoneType)


def _type_name(hint: object) -> str:
    return hint.__name__ if type(hint) is type else str(hint)


def check_presets(presets: object, name: str) -> None:
    """Refuse presets that are no field values by name.

    Raises:
        ContractError: showing what is expected.
    """
    if _is_mapping(presets, str, Mapping):
        return
    raise ContractError(
        f"{name}.presets is {_short(presets)}, expected field values by name, such as "
        '{"small": {}, "debug": {"prefill": 100}}'
    )


def check_env_overrides(overrides: object, name: str) -> None:
    """Refuse what is no field values by name.

    Raises:
        ContractError: saying what is expected.
    """
    if not _is_mapping(overrides, str, object):
        raise ContractError(
            f"{name}.env_overrides gives {_short(overrides)}, expected field values by name; {{}} "
            "where the world decides nothing"
        )


# -- what an algorithm declares ------------------------------------------------------------------


def check_plan(network: nn.Module) -> None:
    """Refuse a `plan_spec` that no planner reads.

    Raises:
        ContractError: naming the planners.
    """
    if not hasattr(network, "plan_spec"):
        return
    plan = cast("object", network.plan_spec)
    if not isinstance(plan, CEMSpec | MPPISpec):
        raise ContractError(
            f"{_name(network)}.plan_spec is {_short(plan)}, expected a CEMSpec or an MPPISpec of "
            "agentzoo.runtime.spec; leave it out where nothing is planned"
        )


def check_declarations(algorithm: Algorithm, action: ActionSpec) -> None:
    """Refuse an algorithm whose specs, first carry, sampler or optimisers nobody could work with.

    Raises:
        ConfigError: if a planner's settings contradict each other.
        ContractError: naming the class, the part, and what it has to be.
        SpaceError: if a planner is to choose discrete actions.
    """
    name = _name(algorithm)
    if isinstance(algorithm, PlanningAlgorithm):
        check_planner(algorithm.plan_spec, action)
    _check_specs(algorithm, "carry_spec", TensorSpec, "TensorSpec(shape=(8,))")
    _check_specs(algorithm, "noise_spec", NoiseSpec, 'NoiseSpec(shape=(8,), role="latent")')
    _check_specs(algorithm, "columns", ColumnSpec, "ColumnSpec(shape=(8,), mutable=True)")
    kept = algorithm.carry_spec.get("prev_action")
    if kept is None or kept.shape != (action.size,):
        found = "lacks it" if kept is None else f"has it in the shape {kept.shape}"
        raise ContractError(
            f'{name}.carry_spec {found}: every carry holds "prev_action", the last action in model '
            f"units; add TensorSpec(shape=({action.size},)), that is, (action.size,)"
        )
    for key, spec in (*algorithm.carry_spec.items(), *algorithm.columns.items()):
        _check_dtype(name, key, spec.dtype)
    _check_noise(algorithm)
    _check_columns(algorithm)
    if isinstance(algorithm.sampler, type) or not isinstance(algorithm.sampler, Sampler):
        raise ContractError(
            f"{name}.sampler is {_short(algorithm.sampler)}, expected a sampler, such as "
            "EpisodeSampler() of agentzoo.replay.samplers, with its brackets"
        )
    with asked(algorithm, "initial"):
        carry = algorithm.initial(BATCH)
    _check_carry(f"{name}.initial", carry, algorithm.carry_spec, device=device_of(algorithm))
    _check_optimizers(algorithm)


def _check_dtype(name: str, key: str, dtype: object) -> None:
    """A name that torch and numpy have, since a carry and a column are held by both."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else None
    try:
        known = isinstance(found, torch.dtype) and torch.empty(0, dtype=found).numpy().dtype.name
    except (TypeError, RuntimeError):  # bfloat16, quantised ones
        known = None
    if known != dtype:
        raise ContractError(
            f'{name} declares "{key}" with dtype={dtype!r}, expected the name of one of torch\'s '
            'that numpy has, too, such as "float32", "int64" or "bool"'
        )


def _check_specs(algorithm: Algorithm, part: str, kind: type, example: str) -> None:
    specs = getattr(algorithm, part)
    if not _is_mapping(specs, str, kind):
        wrong = specs
        if isinstance(specs, Mapping):
            items = cast("Mapping[object, object]", specs).items()
            wrong = next(
                one for key, one in items if not isinstance(one, kind) or type(key) is not str
            )
        raise ContractError(
            f"{_name(algorithm)}.{part} holds {_short(wrong)}, expected {kind.__name__} of "
            f'agentzoo.runtime.spec by name, such as {{"name": {example}}}'
        )
    for key, spec in specs.items():
        if not isinstance(spec.shape, tuple) or not all(type(n) is int for n in spec.shape):
            raise ContractError(
                f'{_name(algorithm)}.{part}["{key}"] has the shape {spec.shape!r}, expected a '
                "tuple of whole numbers without the batch axis; one number's is ()"
            )


def _check_noise(algorithm: Algorithm) -> None:
    plans = isinstance(algorithm, PlanningAlgorithm)
    for key, spec in algorithm.noise_spec.items():
        where = f'{_name(algorithm)}.noise_spec["{key}"]'
        if spec.role not in ROLES:
            close = get_close_matches(str(spec.role), ROLES, 1)
            meant = f'did you mean "{close[0]}"? ' if close else ""
            roles = [role for role in ROLES if plans or role not in PLANNED]
            raise ContractError(
                f"{where} has the role {spec.role!r}; {meant}roles: {', '.join(roles)} ({PAGE} "
                "says what each is for)"
            )
        if spec.kind not in KINDS:
            raise ContractError(
                f'{where} is of the kind {spec.kind!r}, expected "normal" or "uniform"; make '
                "others from one of these in the step"
            )
        if spec.role in PLANNED and not plans:
            raise ContractError(
                f"{where} has the role {spec.role!r}, which a planner draws, and there is no "
                "plan_spec; a step without a planner has latent, action and dequantise"
            )
        if key == "prefill":
            raise ContractError(
                f"{where} has the name of the random actions' own noise; give it another"
            )


def _check_columns(algorithm: Algorithm) -> None:
    for key in algorithm.columns:
        if key in STANDARD or key == "prev_action":
            raise ContractError(
                f'{_name(algorithm)}.columns declares "{key}", which replay stores already; give '
                "the column another name"
            )


def check_collecting(algorithm: Algorithm) -> None:
    """Refuse columns that no collected transition would have; a data set may bring its own.

    Raises:
        ContractError: naming them.
    """
    if algorithm.columns and not isinstance(algorithm, Annotating):
        raise ContractError(
            f"{_name(algorithm)}.columns declares {', '.join(algorithm.columns)}, and no method "
            "annotate gives their values; write one (agentzoo.algorithm.Annotating), or leave "
            "columns empty"
        )


def _check_optimizers(algorithm: Algorithm) -> None:
    where = f"{_name(algorithm)}.optimizers"
    with asked(algorithm, "optimizers"):
        found = cast("object", algorithm.optimizers())
    if not _is_mapping(found, str, object):
        raise ContractError(
            f'{where} gives {_short(found)}, expected optimisers by name, such as {{"model": '
            "self.optimizer}; an empty mapping where there is none"
        )
    optimizers = cast("Mapping[str, object]", found)
    for key, one in optimizers.items():
        if isinstance(one, torch.optim.Optimizer):
            raise ContractError(
                f'{where} gives "{key}", a torch.optim.{type(one).__name__}, whose state is not '
                "tensors by name, as a checkpoint holds them; take Adam or LaProp of "
                "agentzoo.blocks.optim, and call its step(torch.autograd.grad(loss, its params))"
            )
        if not all(
            callable(getattr(one, part, None)) for part in ("state_dict", "load_state_dict")
        ):
            raise ContractError(
                f'{where} gives "{key}", {_short(one)}, without state_dict and load_state_dict, so '
                "that a checkpoint cannot hold it; agentzoo.algorithm.Stateful says what they do"
            )
    _check_owners(algorithm, optimizers)


def _check_owners(algorithm: Algorithm, optimizers: Mapping[str, object]) -> None:
    """Every parameter that learns has an optimiser, as far as it can be seen."""
    ours = [one for one in optimizers.values() if isinstance(one, Moments)]
    owned = {id(p): n for one in ours for n, p in zip(one.names, one.params, strict=True)}
    held = {id(p) for p in module(algorithm).parameters()}
    lost = [name for number, name in owned.items() if number not in held]
    if lost:
        raise ContractError(
            f"{_name(algorithm)}: an optimiser moves {_list(lost)}, which the module does not "
            "hold, so that it is neither saved nor moved to a device; assign the network to self, "
            "and several of them as nn.ModuleList"
        )
    learning = {n: p for n, p in module(algorithm).named_parameters() if p.requires_grad}
    free = [name for name, p in learning.items() if id(p) not in owned]
    if free and len(ours) == len(optimizers):
        raise ContractError(
            f"{_name(algorithm)}: no optimiser of optimizers() moves {_list(free)}; give it to one "
            "(make the optimiser after all networks), or call requires_grad_(False) on what is not "
            "learned by gradients"
        )


# -- what its methods give -----------------------------------------------------------------------


def check_acting(algorithm: Algorithm, spec: PolicySpec) -> None:
    """Act once on empty observations, explore, and look at what comes; changes nothing.

    Of a planner it looks at what the search asks for, without searching.

    Raises:
        ContractError: naming the method, what it gave, and what was expected.
    """
    device = device_of(algorithm)
    with torch.no_grad():
        if isinstance(algorithm, PlanningAlgorithm):
            carry = _planned(algorithm, spec, device)
        else:
            given = _given(spec, device)
            with asked(algorithm, "step", carry=given[0], obs=given[1], noise=given[2]):
                result = algorithm.step(*given)
            carry = check_acted(algorithm, "step", result, spec.action, BATCH)
        explore = {k: one for k, one in algorithm.noise_spec.items() if one.role == "explore"}
        noise = _noise(with_plan_axes(spec.noise, spec.plan and spec.plan.idle) | explore, device)
        with asked(algorithm, "explore", carry=carry, noise=noise):
            result = algorithm.explore(carry, noise, 0, 1)
        check_acted(algorithm, "explore", result, spec.action, BATCH)


def check_acted(
    algorithm: Algorithm, method: str, result: object, action: ActionSpec, batch: int
) -> Carry:
    """The carry of what `step` or `explore` gave for `batch` elements, if it is as expected.

    Raises:
        ContractError: naming the method and the tensor.
    """
    where = f"{_name(algorithm)}.{method}"
    carry, found = _pair(where, result, "the new carry and the environment's action")
    _check_carry(where, carry, algorithm.carry_spec, batch, device_of(algorithm))
    dtype = torch.float32 if action.kind == "box" else torch.int64
    shape = (batch, *action.shape)
    todo = "agentzoo.blocks.actions.to_env(action, self.action) makes it from model units"
    _check_tensor(f"{where} gives an action", found, shape, dtype, todo)
    units = cast("Carry", carry)["prev_action"]
    _check_units(where, units, action)
    same = to_env(units, action), cast("Tensor", found)
    if not torch.allclose(*same, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise ContractError(
            f'{where} gives an action that is not that of its carry\'s "prev_action", which replay '
            'stores: return {**carry, "prev_action": action}, to_env(action, self.action)'
        )
    return cast("Carry", carry)


def _check_units(where: str, units: Tensor, action: ActionSpec) -> None:
    """Joined one-hots; a box's numbers may lie beyond [-1, 1], which `to_env` clips."""
    if action.kind == "box":
        return
    for group in units.split(list(action.nvec), -1):
        if not ((group == 0) | (group == 1)).all() or not (group.sum(-1) == 1).all():
            raise ContractError(
                f'{where} leaves no one-hots in "prev_action" ({_numbers(group[0])}), expected a 1 '
                "at the choice and 0 elsewhere; take a one-hot of argmax, not logits or shares"
            )


def _planned(algorithm: PlanningAlgorithm, spec: PolicySpec, device: torch.device) -> Carry:
    """Look at the methods that a planner calls; a carry after an observation."""
    assert spec.plan is not None, spec.agent
    name, heads, specs = _name(algorithm), spec.plan.heads, dict(algorithm.carry_spec)
    carry, obs, noise, mode = _given(spec, device)
    with asked(algorithm, "observe", carry=carry, obs=obs, noise=noise):
        seen = cast("object", algorithm.observe(carry, obs, noise))
    _check_carry(f"{name}.observe", seen, specs, device=device, whole=False)
    carry = {**carry, **cast("Carry", seen)}
    latent = {k: x for k, x in carry.items() if k not in ("prev_action", MEMORY)}
    action, state = torch.zeros(BATCH, spec.action.size, device=device), latent
    drawn = {role: _noise(_of_roles(spec, role), device) for role in PLANNED}
    for _ in range(2):  # the second step reads what the first one gave
        with asked(algorithm, "imagine", carry=state, noise=drawn["score"]):
            result = cast("object", algorithm.imagine(state, action, drawn["score"]))
        then, reward = _pair(f"{name}.imagine", result, "the next carry and the reward")
        _check_carry(f"{name}.imagine", then, specs, device=device, whole=False)
        _check_number(f"{name}.imagine gives a reward", reward)
        state = cast("Carry", then)
    if "continue" in heads:
        with asked(algorithm, "cont", carry=state):
            found = cast("Continuing", algorithm).cont(state)
        _check_number(f"{name}.cont gives a probability", found)
    if "value" in heads:
        draws = {**drawn["value"], **drawn["shared"]}
        with asked(algorithm, "value", carry=state, noise=draws):
            found = cast("Valuing", algorithm).value(state, draws)
        _check_number(f"{name}.value gives a value", found)
    if "policy" in heads:
        with asked(algorithm, "policy", carry=state, noise=drawn["policy"]):
            found = cast("Proposing", algorithm).policy(state, drawn["policy"], mode)
        todo = "give one action in model units for each imagined state"
        size = (BATCH, spec.action.size)
        _check_tensor(f"{name}.policy gives actions", found, size, torch.float32, todo)
    return {**carry, "prev_action": _any_units(spec.action, device)}


def check_annotation(
    algorithm: Algorithm, result: object, batch: int, stored: Collection[str]
) -> None:
    """Refuse what `annotate` gave for a decision of `batch` environments, if columns are missing.

    Args:
        algorithm: whose.
        result: what it gave.
        batch: the number of transitions.
        stored: the other columns that replay has; side observations are not among them.

    Raises:
        ContractError: naming the column.
    """
    name = _name(algorithm)
    where, parts = f"{name}.annotate", cast("tuple[object, ...]", result)
    if not isinstance(result, tuple) or len(parts) != 3:
        raise ContractError(
            f"{where} gives {_short(result)}, expected three things: the transitions with the new "
            "columns, a list of DelayedValue (often []), and its own state (or None)"
        )
    if not _is_mapping(parts[0], str, object):
        raise ContractError(f"{where} gives {_short(parts[0])}, expected transitions by name")
    if not isinstance(parts[1], Sequence):
        raise ContractError(f"{where} gives {_short(parts[1])}, expected a list of DelayedValue")
    transitions = cast("Mapping[str, object]", parts[0])
    if lost := [key for key in stored if key not in transitions]:
        raise ContractError(
            f"{where} leaves out {_list(lost)}, which it was given; return {{**transitions, ...}}"
        )
    for key, spec in algorithm.columns.items():
        if key not in transitions:
            raise ContractError(
                f'{where} leaves out the column "{key}" that {name}.columns declares; '
                f'return {{**transitions, "{key}": ...}}, zeros where it is not known yet'
            )
        column, shape = transitions[key], (batch, *spec.shape)
        told = f'{where} gives the column "{key}"'
        todo = "a numpy array with one entry for each transition"
        if not isinstance(column, np.ndarray):
            raise ContractError(f"{told} as {_short(column)}, expected {todo}; .numpy(force=True)")
        if column.shape != shape:
            raise ContractError(f"{told} with the shape {column.shape}, expected {shape}: {todo}")
        if column.dtype != spec.dtype:
            raise ContractError(
                f"{told} of {column.dtype}, expected {spec.dtype}, as declared; .astype says so"
            )


def check_late(algorithm: Algorithm, late: Sequence[object], envs: Sequence[int]) -> None:
    """Refuse values for stored transitions that have no place.

    Args:
        algorithm: whose `annotate` gave them.
        late: what should be `DelayedValue`s.
        envs: the environments of this decision.

    Raises:
        ContractError: naming the column.
    """
    where = f"{_name(algorithm)}.annotate"
    mutable = [key for key, spec in algorithm.columns.items() if spec.mutable]
    for one in late:
        triple = cast("tuple[object, ...]", one) if isinstance(one, tuple) else ()
        if len(triple) != 3 or not _is_mapping(triple[2], str, object):
            raise ContractError(
                f"{where} gives {_short(one)} among its late values, expected a DelayedValue(env, "
                "back, values) of agentzoo.algorithm, its values by name"
            )
        env, back, values = DelayedValue(*cast("tuple[int, int, Any]", triple))
        known = mutable if back else [*algorithm.columns]
        if unknown := [key for key in values if key not in known]:
            raise ContractError(
                f"{where} gives a late value of {_list(unknown)}, and {_name(algorithm)}.columns "
                f"declares no {'mutable ' if back else ''}column of that name; there are: "
                f"{', '.join(known) or 'none'}"
            )
        if not back and env not in envs:
            raise ContractError(
                f"{where} gives a value for this decision of environment {env}; its environments "
                f"are {', '.join(map(str, envs))}"
            )


def first_update(
    algorithm: Algorithm,
    update: Callable[[Batch, int], tuple[Metrics, WriteBack]],
    batch: Batch,
    seed: int,
) -> tuple[Metrics, WriteBack]:
    """The first update of a run; what it gives is looked at.

    Raises:
        ContractError: if it raises an error of Python's own, or gives what cannot be logged.
    """
    with asked(algorithm, "update", batch=batch):
        result = cast("object", update(batch, seed))
    return check_updated(algorithm, result, batch)


def check_updated(algorithm: Algorithm, result: object, batch: Batch) -> tuple[Metrics, WriteBack]:
    """The outcome of `update`, if it is metrics and columns to write back.

    Raises:
        ContractError: naming the metric or the column.
    """
    where, device = f"{_name(algorithm)}.update", device_of(algorithm)
    metrics, back = _pair(where, result, "metrics and columns to write back (often {})")
    for part, found in (("metrics", metrics), ("columns to write back", back)):
        if not _is_mapping(found, str, object):
            raise ContractError(f"{where} gives {_short(found)} for {part}, expected them by name")
    if not metrics:
        raise ContractError(
            f"{where} gives no metrics, expected a loss at least, such as "
            '{"loss/model": loss.detach()}: a run that diverges is known by it'
        )
    for key, one in cast("Mapping[str, object]", metrics).items():
        told = f'{where} gives the metric "{key}"'
        if not isinstance(one, Tensor):
            raise ContractError(
                f"{told} as {_short(one)}, expected a tensor of one number, left on the device; "
                "leave out .item() and float(), or make one by weight.new_tensor(number)"
            )
        if one.device.type != device.type:
            raise ContractError(
                f"{told} on {one.device}, the weights are on {device}; leave it on the device, or "
                "make it there: weight.new_tensor(number)"
            )
        if one.ndim:
            raise ContractError(
                f"{told} with the shape {tuple(one.shape)}, expected one number; take its .mean()"
            )
        if one.requires_grad:
            raise ContractError(
                f"{told} with its graph, which would stay in memory until the next line of the "
                "log; give its .detach()"
            )
    _check_back(algorithm, cast("Mapping[str, object]", back), batch)
    return cast("Metrics", metrics), cast("WriteBack", back)


def _check_back(algorithm: Algorithm, back: Mapping[str, object], batch: Batch) -> None:
    where = f"{_name(algorithm)}.update"
    mutable = [key for key, spec in algorithm.columns.items() if spec.mutable]
    size, length = batch["reward"].shape[:2]
    for key, one in back.items():
        if key not in mutable:
            raise ContractError(
                f'{where} writes "{key}" back, and {_name(algorithm)}.columns declares no mutable '
                f"column of that name; mutable: {', '.join(mutable) or 'none'}; to have it "
                "rewritten, declare ColumnSpec(..., mutable=True)"
            )
        shape = algorithm.columns[key].shape
        found = list(one.shape) if isinstance(one, Tensor) else []
        begins = len(found) > 1 and found[0] == size and 0 < found[1] <= length
        if not begins or found[2:] != [*shape]:
            raise ContractError(
                f'{where} writes "{key}" back as {_short(one)}, expected a tensor of the shape '
                f"{(size, length, *shape)}, or of the last transitions alone"
            )
        written, dtype = cast("Tensor", one), algorithm.columns[key].dtype
        if written.dtype != getattr(torch, dtype):
            raise ContractError(
                f'{where} writes "{key}" back as {_short(one)}, expected {dtype}, as the column '
                f"is declared; .to(torch.{dtype}) says so"
            )
        if written.requires_grad:
            raise ContractError(f'{where} writes "{key}" back with its graph; give its .detach()')


def check_names(metrics: Sequence[Metrics]) -> None:
    """Refuse updates that differ in the metrics they give.

    Raises:
        ContractError: naming them.
    """
    for one in metrics[1:]:
        if differing := sorted(one.keys() ^ metrics[0].keys()):
            raise ContractError(
                f"update() gives {_list(differing)} in some updates and not in others; give every "
                "metric in every update, so that their means can be logged"
            )


def check_schedule(config: AgentConfig, schedule: object) -> None:
    """Refuse what is no schedule of updates.

    Raises:
        ContractError: saying what one has.
    """
    if not isinstance(schedule, Schedule):
        raise ContractError(
            f"{type(config).__name__}.schedule gives {_short(schedule)}, expected an object with "
            "prefill, counts_steps and due(env_step, episodes); agentzoo.train.schedule has some"
        )


def check_world(algorithm: WorldModel, spec: PolicySpec) -> None:
    """Imagine, draw and judge once, and look at what comes.

    Raises:
        ContractError: naming the method, what it gave, and what was expected.
    """
    name, device = _name(algorithm), device_of(algorithm)
    latent = latent_tensors(spec)
    carry, noise = _zeros(latent, device), _noise(spec.noise, device)
    size = (BATCH, spec.action.size)
    with torch.no_grad():
        with asked(algorithm, "dream", carry=carry, noise=noise):
            state = cast("object", algorithm.dream(carry, torch.zeros(size, device=device), noise))
        _check_carry(f"{name}.dream", state, latent, device=device)
        with asked(algorithm, "decode", carry=carry):
            drawn = cast("object", algorithm.decode(carry))
        shapes = {key: TensorSpec(shape=one.shape) for key, one in spec.obs.items()}
        _check_carry(f"{name}.decode", drawn, shapes, device=device, noun="observations")
        with asked(algorithm, "judge", carry=carry):
            judged = cast("object", algorithm.judge(carry))
        if not _is_mapping(judged, str, object) or not {*cast("Carry", judged)} <= {*JUDGEMENTS}:
            given = list(judged) if isinstance(judged, Mapping) else judged
            raise ContractError(
                f"{name}.judge gives {_short(given)}, expected by name those of "
                f"{', '.join(JUDGEMENTS)} that the agent has"
            )
        for key, one in cast("Mapping[str, object]", judged).items():
            _check_number(f'{name}.judge gives "{key}"', one)
        if isinstance(algorithm, DreamActing):
            mode = torch.zeros(BATCH, dtype=torch.bool, device=device)
            with asked(algorithm, "propose", carry=carry, noise=noise):
                action = algorithm.propose(carry, noise, mode)
            todo = "give one action in model units for each state"
            _check_tensor(f"{name}.propose gives actions", action, size, torch.float32, todo)


# -- inputs to look at methods with --------------------------------------------------------------


def _given(spec: PolicySpec, device: torch.device) -> tuple[Carry, Obs, Noise, Tensor]:
    """The inputs of one step: empty observations, one of an episode's first."""
    obs = _zeros(spec.obs, device)
    obs["is_first"] = torch.tensor([True, False], device=device)
    roles = ("latent", "action", "dequantise")
    mode = torch.tensor([False, True], device=device)
    return _zeros(spec.carry, device), obs, _noise(_of_roles(spec, *roles), device), mode


def _of_roles(spec: PolicySpec, *roles: str) -> dict[str, NoiseSpec]:
    return {key: one for key, one in spec.noise.items() if one.role in roles}


def _noise(specs: Mapping[str, NoiseSpec], device: torch.device) -> dict[str, Tensor]:
    drawn = draw(specs, [(0, element, 0) for element in range(BATCH)])
    return {key: torch.from_numpy(array).to(device) for key, array in drawn.items()}


def _zeros(specs: Mapping[str, TensorSpec] | Mapping[str, ObsSpec], device: torch.device) -> Carry:
    return {
        key: torch.zeros(BATCH, *one.shape, dtype=getattr(torch, one.dtype), device=device)
        for key, one in specs.items()
    }


def _any_units(action: ActionSpec, device: torch.device) -> Tensor:
    """(B, A) an action in model units: the middle of a box, the first of the choices."""
    units = torch.zeros(BATCH, action.size, device=device)
    if action.kind != "box":
        for group in units.split(list(action.nvec), -1):
            group[:, 0] = 1
    return units


def device_of(algorithm: object) -> torch.device:
    """The device of an algorithm's weights; the CPU where it has none."""
    network = module(cast("Algorithm", algorithm))
    tensors = [*network.parameters(), *network.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


# -- sentences -----------------------------------------------------------------------------------


@contextmanager
def building(kind: type, obs: Mapping[str, ObsSpec]) -> Iterator[None]:
    """Say where an algorithm's constructor raised an error of Python's own.

    Raises:
        ContractError: naming the class, and the observations that it was given.
    """
    with asked(kind, "__init__", obs=obs):
        yield


@contextmanager
def asked(
    algorithm: object,
    method: str,
    **inputs: Mapping[str, Tensor] | Mapping[str, np.ndarray] | Mapping[str, ObsSpec],
) -> Iterator[None]:
    """Say which method raised an error of Python's own, where, and what it was given.

    Raises:
        ContractError: naming the class and the method.
    """
    try:
        yield
    except WRONG as error:
        if isinstance(error, AgentZooError | torch.OutOfMemoryError):
            raise
        told = f"{_name(algorithm)}.{method} raised {type(error).__name__}{_line(algorithm, error)}"
        given = "; ".join(f"{name} holds {_shapes(one)}" for name, one in inputs.items())
        given = f"; {given}" if given else ""
        key = error.args[0] if isinstance(error, KeyError) and error.args else None
        if isinstance(key, str) and _explores(algorithm, key):
            raise ContractError(
                f'{told}: noise_spec["{key}"] has the role explore, which only explore() gets; '
                f"declare a noise of the role action or latent for {method} ({PAGE})"
            ) from error
        if isinstance(key, str):
            close = get_close_matches(key, [n for one in inputs.values() for n in one], 1)
            meant = f' (did you mean "{close[0]}"?)' if close else ""
            raise ContractError(f'{told}: there is no "{key}"{meant}{given} ({PAGE})') from error
        raise ContractError(f"{told}: {error!s:.500}{given} ({PAGE})") from error


def _explores(algorithm: object, key: str) -> bool:
    specs: Mapping[str, NoiseSpec] = getattr(algorithm, "noise_spec", {})
    return key in specs and specs[key].role == "explore"


def _line(algorithm: object, error: BaseException) -> str:
    """The last line of the algorithm's own module, which may be a notebook, on the way to it."""
    name = _class(algorithm).__module__
    walked = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in walked if frame.f_globals.get("__name__") == name]
    return f" in line {lines[-1]} of {name}" if lines else ""


def _shapes(
    tensors: Mapping[str, Tensor] | Mapping[str, np.ndarray] | Mapping[str, ObsSpec],
) -> str:
    return ", ".join(f"{name} {tuple(one.shape)}" for name, one in tensors.items()) or "nothing"


def _pair(where: str, result: object, expected: str) -> tuple[object, object]:
    if not isinstance(result, tuple) or len(cast("tuple[object, ...]", result)) != 2:
        forgotten = "; is its return forgotten?" if result is None else ""
        raise ContractError(
            f"{where} gives {_short(result)}, expected two things: {expected}{forgotten}"
        )
    return cast("tuple[object, object]", result)


def _check_carry(
    where: str,
    carry: object,
    specs: Mapping[str, TensorSpec],
    batch: int = BATCH,
    device: torch.device | None = None,
    *,
    whole: bool = True,
    noun: str = "carry",
) -> None:
    """Tensors by name, as the specs say; with `whole` every one of them."""
    if not _is_mapping(carry, str, object):
        raise ContractError(
            f"{where} gives {_short(carry)}, expected the {noun} as a dict of tensors by name"
        )
    found = cast("Mapping[str, object]", carry)
    missing, unknown = [k for k in specs if k not in found], [k for k in found if k not in specs]
    if unknown or (whole and missing):
        lacks = whole and bool(missing)
        names = f"lacks {_list(missing)}" if lacks else f"gives {_list(unknown)} as well"
        declared = "carry_spec declares" if noun == "carry" else "there are"
        raise ContractError(
            f"{where} {names} in its {noun}; {declared} {', '.join(specs)}, and each has to be "
            "there, under that name"
        )
    for key, one in found.items():
        spec, told = specs[key], f'{where} gives {noun} "{key}"'
        dtype = getattr(torch, spec.dtype)
        _check_tensor(told, one, (batch, *spec.shape), dtype, "the batch comes first")
        if device is not None and cast("Tensor", one).device.type != device.type:
            raise ContractError(
                f"{told} on {cast('Tensor', one).device}, the weights are on {device}; make it "
                "there: weight.new_zeros(batch, *shape), or device=weight.device"
            )


def _check_number(told: str, found: object) -> None:
    _check_tensor(told, found, (BATCH,), torch.float32, "one number for each element: [..., 0]")


def _check_tensor(
    told: str, found: object, shape: tuple[int, ...], dtype: torch.dtype, todo: str
) -> None:
    if not isinstance(found, Tensor):
        raise ContractError(f"{told} as {_short(found)}, expected a tensor of {shape}; {todo}")
    if tuple(found.shape) != shape:
        raise ContractError(
            f"{told} of the shape {tuple(found.shape)}, expected {shape}, for a batch of "
            f"{shape[0]}; {todo}"
        )
    if found.dtype != dtype:
        raise ContractError(f"{told} of {found.dtype}, expected {dtype}; {todo}")


def _is_mapping(value: object, key: type, kind: type) -> bool:
    if not isinstance(value, Mapping):
        return False
    items = cast("Mapping[object, object]", value).items()
    return all(isinstance(name, key) and isinstance(one, kind) for name, one in items)


def _class(algorithm: object) -> type:
    return algorithm if isinstance(algorithm, type) else type(algorithm)


def _name(algorithm: object) -> str:
    return _class(algorithm).__name__


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f'"{name}"' for name in names[:3]) + more


def _numbers(tensor: Tensor) -> str:
    return ", ".join(f"{one:.2f}" for one in tensor.flatten().tolist()[:6])


def _short(value: object) -> str:
    """A value in few words."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    said = " ".join(repr(value).split())[:60]
    if isinstance(value, tuple | list | Mapping):
        return f"a {type(value).__name__} of {len(cast('Sequence[object]', value))}: {said}"
    return f"the {type(value).__name__} {said}"
