"""`agentzoo doctor`, the machine's inventory: versions, extras, an OpenGL library, accelerators."""

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata, util
from typing import Annotated

import typer

from agentzoo.runtime.errors import ConfigError, ProviderError, pip_line

from .. import EXTRAS, __version__

# in a process of its own: a broken driver ends the process that asks
_PROBE = """
from agentzoo.runtime.envs.opengl import choose_backend
choose_backend()
import mujoco
context = mujoco.GLContext(8, 8)
context.make_current()
context.free()
"""
TESTED_TORCH = (2, 13)  # the newest release that the tests ran with, as in constraints.txt
_BASE = ("numpy", "gymnasium", "huggingface_hub", "typer")


def doctor(
    subject: Annotated[
        str, typer.Argument(help="minedojo, for what it needs; nothing for everything else")
    ] = "",
) -> None:
    """Say what this machine has, and the line that installs what is missing."""
    if subject not in ("", "minedojo"):
        raise ConfigError(f'doctor was asked about "{subject}", expected minedojo or nothing')
    for name, finding in minedojo() if subject else diagnosis():
        typer.echo(f"{name:16} {finding}")


def diagnosis() -> Iterator[tuple[str, str]]:
    """Name and finding, one pair a line of `agentzoo doctor`."""
    yield "agentzoo", __version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for module in _BASE:
        yield module, version(module)
    for extra, modules in EXTRAS.items():
        found = ", ".join(f"{module} {version(module)}" for module in modules)
        if "not installed" in found:
            found += f"; run: {pip_line(extra)}"
        yield f"[{extra}]", found
    yield "PyTorch", torch_note(version("torch"))
    yield from other_suites()
    yield "OpenGL", opengl() or "rendering works"
    yield "CUDA", cuda()
    yield "ONNX Runtime", providers()


def minedojo() -> Iterator[tuple[str, str]]:
    """Name and finding, one pair a line of `agentzoo doctor minedojo`."""
    from agentzoo.runtime.envs.minedojo import BRIDGE, INSTALL, PYTHON, interpreter

    try:
        python = interpreter()
    except ProviderError as error:
        yield PYTHON, str(error)
        return
    yield PYTHON, python
    command = [python, "-I", str(BRIDGE), "--check"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        yield "MineDojo", f"that Python ended with exit status {asked.returncode}: {last}"
        return
    found = json.loads(asked.stdout)
    packages = ", ".join(
        f"{name} {found[name]}" for name in ("minedojo", "gym", "numpy") if name in found
    )
    yield "python", found["python"]
    yield "MineDojo", f"{found['missing']}; run: {INSTALL}" if "missing" in found else packages
    java = found["java"]
    is_right = java.startswith("1.8.")
    yield (
        "Java",
        java if is_right else f"{java or 'none'}; Minecraft 1.11.2 needs JDK 8, see JAVA_HOME",
    )
    build = "not built; the first reset does it, with gradle and Mojang's client from the net"
    yield "Minecraft", found["mod"] or build
    yield "xvfb-run", found["xvfb"] or "not found; run: apt-get install xvfb"


def other_suites() -> Iterator[tuple[str, str]]:
    """The suites that other installed packages bring, with the package and its version."""
    for entry in metadata.entry_points(group="agentzoo.envs"):
        if entry.dist is not None:
            yield f"{entry.name}:", f"{entry.dist.name} {entry.dist.version}"


def version(module: str) -> str:
    """The installed version of an importable module, or "not installed"."""
    if util.find_spec(module) is None:
        return "not installed"
    names = metadata.packages_distributions().get(module, [module])
    return metadata.version(names[0])


def torch_note(found: str) -> str:
    """Finding about PyTorch's version: one newer than the tested one is allowed, and said."""
    if found == "not installed":
        return found
    release = tuple(int(part) for part in found.split(".")[:2])
    if release > TESTED_TORCH:
        tested = ".".join(map(str, TESTED_TORCH))
        return f"{found} is newer than {tested}, the newest that agentzoo's tests ran with"
    return found


def opengl() -> str:
    """Reason why rendering off screen does not work here, or "" when it does."""
    from agentzoo.runtime.envs.dmc import INSTALL_OPENGL

    if util.find_spec("mujoco") is None:
        return f"not tried, mujoco is not installed; run: {pip_line('dmc')}"
    command = [sys.executable, "-c", _PROBE]
    if subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0:
        return ""
    return f"nothing here renders off screen; {INSTALL_OPENGL}"


def cuda() -> str:
    """CUDA as torch sees it."""
    if util.find_spec("torch") is None:
        return "not tried, torch is not installed"
    import torch

    if not torch.cuda.is_available():
        return "torch sees no device"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def providers() -> str:
    """The execution providers ONNX Runtime was built with."""
    try:
        import onnxruntime
    except ImportError:
        return 'not installed; run: pip install "agentzoo-rl[onnx]" (or "agentzoo-rl[onnx-gpu]")'
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if len(both) == 2:
        return (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
            "run: pip uninstall onnxruntime onnxruntime-gpu, "
            'then pip install "agentzoo-rl[onnx-gpu]"'
        )
    return ", ".join(onnxruntime.get_available_providers())


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
