"""Dataclasses from parsed JSON, strictly: a file from elsewhere has no say in what is optional."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from types import UnionType
from typing import TYPE_CHECKING, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from .errors import BundleError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

D = TypeVar("D", bound="DataclassInstance")


def read_fields(cls: type[D], value: object, where: str) -> D:
    """A dataclass from parsed JSON; unknown, missing and ill-typed fields are errors.

    Understands the annotations our files use: numbers, strings, Literal, `X | None`, homogeneous
    tuples, Mapping[str, X] and nested dataclasses.

    Args:
        cls: the dataclass.
        value: parsed JSON, supposed to be an object with the fields of `cls`.
        where: path of the value, for messages ("policy.obs.image").

    Raises:
        BundleError: naming the field, what stands there and what was expected.
    """
    entries = read_object(value, where)
    known = [field.name for field in fields(cls)]
    unknown = [name for name in entries if name not in known]
    if unknown:
        hint = nearest(unknown[0], known, "known fields")
        raise BundleError(f'"{where}" has the unknown field "{unknown[0]}"; {hint}')
    optional = {field.name for field in fields(cls) if field.metadata.get("optional")}
    known = [name for name in known if name in entries or name not in optional]
    missing = [name for name in known if name not in entries]
    if missing:
        raise BundleError(f'"{where}" lacks the field "{missing[0]}"; export the policy again')
    kinds = get_type_hints(cls)
    return cls(**{name: _read(kinds[name], entries[name], f"{where}.{name}") for name in known})


def write_fields(value: "DataclassInstance") -> dict[str, object]:
    """A dataclass as a plain JSON object, for `read_fields`; empty optional fields are left out."""
    return {
        field.name: _plain(getattr(value, field.name))
        for field in fields(value)
        if getattr(value, field.name) or not field.metadata.get("optional")
    }


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return write_fields(value)
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, object]", value)
        return {key: _plain(item) for key, item in entries.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[object]", value)]
    return value


def read_object(value: object, where: str) -> dict[str, object]:
    """The value, supposed to be a JSON object.

    Raises:
        BundleError: if it is something else.
    """
    if not isinstance(value, dict):
        raise BundleError(f'"{where}" is {value!r:.80}, expected an object')
    return cast("dict[str, object]", value)


def _read(kind: object, value: object, where: str) -> object:
    origin, args = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return read_fields(cast("type[DataclassInstance]", kind), value, where)
    if origin is UnionType:
        return None if value is None else _read(_chosen(args, value, where), value, where)
    if origin is tuple:
        return tuple(_read(args[0], item, where) for item in _list(value, where))
    if origin is Mapping:
        entries = read_object(value, where)
        return {key: _read(args[1], item, f"{where}.{key}") for key, item in entries.items()}
    if origin is Literal:
        return _one_of(args, value, where)
    return _scalar(cast("type", kind), value, where)


def _chosen(kinds: tuple[object, ...], value: object, where: str) -> object:
    """Dataclass of an object, among several: its `driver` names it, in all but the first."""
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    if len(kinds) == 1:
        return kinds[0]
    drivers = {_driver(kind): kind for kind in kinds}
    driver = read_object(value, where).get("driver")
    if not isinstance(driver, str | None) or driver not in drivers:
        known = ", ".join(sorted(name for name in drivers if name))
        raise BundleError(f'"{where}.driver" is {driver!r:.80}, expected none, or one of {known}')
    return drivers[driver]


def _driver(kind: object) -> str | None:
    named = get_type_hints(kind).get("driver")
    return None if named is None else str(get_args(named)[0])


def _scalar(kind: type, value: object, where: str) -> object:
    if kind is float and type(value) is int:
        return _as_float(value, where)
    if type(value) is not kind:  # exactly: isinstance takes a bool for an int
        raise BundleError(f'"{where}" is {value!r:.80}, expected {kind.__name__}')
    if isinstance(value, float) and not isfinite(value):
        raise BundleError(f'"{where}" is {value!r}, expected a finite number')
    return value


def _as_float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise BundleError(f'"{where}" is a number beyond a float, expected a float') from error


def _one_of(choices: tuple[object, ...], value: object, where: str) -> object:
    if value not in choices:
        expected = ", ".join(map(str, choices))
        raise BundleError(f'"{where}" is {value!r:.80}, expected one of {expected}')
    return value


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list | tuple):
        raise BundleError(f'"{where}" is {value!r:.80}, expected a list')
    return list(cast("list[object]", value))
