"""The word that `compile="auto"` stands for, and what a machine needs for it.

Compiling pays where a run makes so many updates that what they save is more than compiling takes.
Both were measured (benchmarks/compiled.py) and are held in a table, so that a resumed run, or
another machine, comes to the same word. What was not measured stays eager.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentzoo.runtime.errors import ConfigError

MARGIN = 2  # compiling is worth it from so many times the updates on that repay it


@dataclass(frozen=True)
class Repaid:
    """The gain of a compiled update on a CPU.

    Attributes:
        agent: the agent's class.
        images: whether it saw images.
        times: eager's processor time over the compiled update's.
        updates: after how many updates what they saved is what compiling took.
        fields: the settings that decide on the sizes of its networks and of the batch.
    """

    agent: str
    images: bool
    times: float
    updates: int
    fields: Mapping[str, Any] = field(default_factory=dict)


_V3 = {"size": "1m", "units": None, "hidden": None, "classes": None, "depth": None}
_CPU = {"deter": 256, "batch_size": 32, "batch_length": 17, "imag_last": 4}
_PAPER = {"deter": None, "batch_size": 16, "batch_length": 65, "imag_last": None}
# benchmarks/README.md, 2026-12-01; a user's other sizes are not measured
TABLE = (
    Repaid("DreamerV3", images=False, times=1.10, updates=2_508, fields={**_V3, **_CPU}),
    Repaid("DreamerV3", images=False, times=1.10, updates=527, fields={**_V3, **_PAPER}),
)


def lacking() -> str:
    """A sentence on what compiling needs and this machine has not, or ""."""
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(
        sys.platform, "g++"
    )
    if shutil.which(compiler) is None:
        brought = {
            "darwin": "run xcode-select --install",
            "win32": "install Visual Studio's C++ build tools",
        }.get(sys.platform, "install the package g++ (Debian, Ubuntu) or gcc-c++ (Fedora)")
        return f"there is no C++ compiler {compiler} here; {brought}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return (
            "Python's headers (Python.h) are not here; install the package "
            f"python{version}-dev (Debian, Ubuntu) or python{version}-devel (Fedora)"
        )
    return ""


def require_compiling(config: Any, device: str) -> None:
    """Refuse `compile="on"` where nothing can be compiled.

    Args:
        config: an agent's configuration; one without the field asks for nothing.
        device: where it learns.

    Raises:
        ConfigError: saying what to install, or what to set instead.
    """
    if wanted(config) != "on":
        return
    if device != "cpu":
        raise ConfigError(
            f"compile='on' is for learning on a CPU, the device is {device}; leave compile out"
        )
    if config.precision != "fp32":
        raise ConfigError(
            f"compile='on' is for precision='fp32', which is {config.precision!r} here; "
            "leave one of them out"
        )
    if said := lacking():
        raise ConfigError(f"compile='on' needs a C++ compiler and Python's headers: {said}")


def resolve_compile(
    agent: str,
    config: Any,
    *,
    images: bool,
    device: str,
    updates: int,
    table: Collection[Repaid] | None = None,
) -> tuple[str, str]:
    """The word for a run, "on" or "off", and a sentence where "auto" lacks tools for "on".

    Args:
        agent: the agent's class.
        config: its configuration; a word other than "auto" is what it says.
        images: whether it sees images.
        device: where it learns.
        updates: that the whole run will make.
        table: what was measured; None is `TABLE`.
    """
    if wanted(config) != "auto":
        return wanted(config), ""
    if device != "cpu" or config.precision != "fp32":
        return "off", ""
    repaid = [
        one
        for one in (TABLE if table is None else table)
        if (one.agent, one.images) == (agent, images)
        and updates >= MARGIN * one.updates
        and all(getattr(config, name) == value for name, value in one.fields.items())
    ]
    if not repaid:
        return "off", ""
    said = lacking()
    return ("off", f"compile='auto' stays eager: {said}") if said else ("on", "")


def wanted(config: Any) -> str:
    """The word of a configuration; "off" where it has none."""
    return getattr(config, "compile", "off")
