"""Functions of tensors in two forms: as they stand, and compiled by `torch.compile`.

An imagined step is 150 small operations, each a call and a pass over memory. Compiled, what lies
between two products is one loop in C++ (Inductor), and a step is one call. Numbers differ by
rounding. Only what has no gradient is compiled: with one, compiling takes three times as long.

The compiler keeps what it made in `TORCHINDUCTOR_CACHE_DIR`, here by default the user's cache
folder, so that another process of the same shapes and number of threads compiles nothing anew.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any, ParamSpec, TypeVar

import torch

FOLDER = "TORCHINDUCTOR_CACHE_DIR"  # PyTorch's name for where compiled code is kept
THEIRS = str(Path(gettempdir()) / "torchinductor_")  # beginning of the one that it takes otherwise
_ENABLED: ContextVar[bool] = ContextVar("compiled", default=False)
P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def compiled(on: bool) -> Iterator[None]:
    """Use compiled forms inside the block, or do not."""
    token = _ENABLED.set(on)
    try:
        yield
    finally:
        _ENABLED.reset(token)


def enabled() -> bool:
    """Whether a compiled form is to be used here: it is asked for, and no gradient is."""
    return _ENABLED.get() and not torch.is_grad_enabled()


def compiled_form(function: Callable[P, R]) -> Callable[P, R]:
    """The function compiled: when it is first called with modules and tensors of these shapes."""
    return _compiled(function)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # PyTorch may have named its own by now, in the folder for temporary files
    if os.environ.get(FOLDER, THEIRS).startswith(THEIRS):
        os.environ[FOLDER] = str(cache_folder())
    # a pool of processes costs more than it gains where there are a dozen small files
    alone: dict[str, str | int | bool | Callable[..., Any]] = {"compile_threads": 1}
    return torch.compile(function, dynamic=False, fullgraph=True, options=alone)


def cache_folder() -> Path:
    """The user's folder of compiled code, which may be deleted at any time."""
    if sys.platform == "darwin":
        above = "~/Library/Caches"
    elif sys.platform == "win32":
        above = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    else:
        above = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(above).expanduser() / "agentzoo" / "compiled"
