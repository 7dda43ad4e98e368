"""Arguments that users pass, checked and made plain before they are used."""

import inspect
import math
import operator
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import torch

from agentzoo.runtime.errors import ConfigError, nearest
from agentzoo.runtime.files import at_home

from .fields import ARGUMENTS

P = ParamSpec("P")
R = TypeVar("R")


def suggest_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Answer an unknown keyword argument with the one that means it, or the nearest ones.

    The function's type stays as it is, so type checkers say it earlier.
    """
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for word in kwargs:
            if word in known:
                continue
            meant = " or ".join(f'"{name}"' for name in ARGUMENTS.get(word, ()) if name in known)
            advice = f"did you mean {meant}?" if meant else nearest(word, known, "arguments")
            raise ConfigError(f"{function.__name__} has no argument {word!r}; {advice}")
        return function(*args, **kwargs)

    return checked


def whole_number(name: str, value: object) -> int:
    """A whole number of Python's or numpy's as an int.

    Raises:
        ConfigError: if it is none.
    """
    try:
        return operator.index(cast("int", value))
    except TypeError as error:
        raise ConfigError(
            f"{name}={value!r} is a {type(value).__name__}, expected a whole number"
        ) from error


def step_budget(total_steps: Any) -> int:
    """A number of environment steps that a run can take.

    Raises:
        ConfigError: if it is not finite, or below 1.
    """
    if not (math.isfinite(total_steps) and total_steps >= 1):
        raise ConfigError(
            f"learn got {total_steps} environment steps, expected a finite number of at least 1"
        )
    return round(total_steps)


def require_float32() -> None:
    """Refuse another default dtype of torch's than the one that networks and updates are made in.

    Raises:
        ConfigError: saying how to set it back.
    """
    if torch.get_default_dtype() != torch.float32:
        raise ConfigError(
            f"torch's default dtype is {torch.get_default_dtype()}, and agents learn in float32; "
            "call torch.set_default_dtype(torch.float32) first"
        )


def home(folder: str | Path) -> str | Path:
    """A folder with its leading ~ as the home it stands for; other names as they are."""
    return at_home(folder) if str(folder).startswith("~") else folder
