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
from pathlib import Path
from tempfile import gettempdir
from typing import Any, ParamSpec, TypeVar

import torch

FOLDER = "TORCHINDUCTOR_CACHE_DIR"  # PyTorch's name for where compiled code is kept
THEIRS = str(Path(gettempdir()) / "torchinductor_")  # beginning of the one that it takes otherwise
P = ParamSpec("P")
R = TypeVar("R")


class Forms:
    """Compiled forms of functions that one run uses; those of another run are not looked at.

    PyTorch would share them: a process could compile a function for 8 shapes and no more, and a run
    would be computed by what others have left.
    """

    def __init__(self) -> None:
        """Begin with nothing compiled."""
        self._made: dict[Callable[..., Any], Callable[..., Any]] = {}

    def of(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, compiled when it is first called with tensors of these shapes."""
        if function not in self._made:
            self._made[function] = _compiled(function)
        return self._made[function]


_USED: ContextVar[Forms | None] = ContextVar("compiled", default=None)


@contextmanager
def compiled(forms: Forms | None) -> Iterator[None]:
    """Use compiled forms inside the block; None uses none."""
    token = _USED.set(forms)
    try:
        yield
    finally:
        _USED.reset(token)


def enabled() -> bool:
    """Whether a compiled form is to be used here: it is asked for, and no gradient is."""
    return _USED.get() is not None and not torch.is_grad_enabled()


def compiled_form(function: Callable[P, R]) -> Callable[P, R]:
    """The function's form among those in use here."""
    forms = _USED.get()
    assert forms is not None, "asked for where none are used"
    return forms.of(function)


def is_compilers(error: BaseException) -> bool:
    """Whether an error is the compiler's, not that of the function which it reads."""
    return type(error).__module__.startswith(("torch._dynamo.", "torch._inductor."))


def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    # PyTorch may have named its own by now, in the folder for temporary files
    if os.environ.get(FOLDER, THEIRS).startswith(THEIRS):
        os.environ[FOLDER] = str(cache_folder())
    # a pool of processes costs more than it gains where there are a dozen small files
    alone: dict[str, str | int | bool | Callable[..., Any]] = {"compile_threads": 1}
    compiler: Any = torch.compile  # whose stubs leave isolate_recompiles out
    return compiler(function, dynamic=False, fullgraph=True, options=alone, isolate_recompiles=True)


def cache_folder() -> Path:
    """The user's folder of compiled code, which may be deleted at any time."""
    if sys.platform == "darwin":
        above = "~/Library/Caches"
    elif sys.platform == "win32":
        above = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    else:
        above = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(above).expanduser() / "agentzoo" / "compiled"
