"""The subjects of the benchmarks: spaces, untrained Dreamers, versions."""

import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import torch

from agentzoo.agents.dreamer import Dreamer, DreamerAlgorithm, DreamerConfig
from agentzoo.config import configure
from agentzoo.runtime.spec import ActionSpec, ObsSpec, PolicySpec
from agentzoo.train.allocator import keep_freed_memory
from agentzoo.train.collector import noise_for_step

STATE_SIZE, ACTION_SIZE = 24, 6  # walker-walk's, joined
WALKER_STATE = {"state": ObsSpec(kind="vector", shape=(STATE_SIZE,), source=(STATE_SIZE,))}
CARTPOLE_STATE = {"state": ObsSpec(kind="vector", shape=(5,), source=(5,))}
PIXELS = {"image": ObsSpec(kind="image", shape=(64, 64, 3), source=(64, 64, 3))}

Clock = Callable[[], float]  # seconds since some moment


def box(size: int) -> ActionSpec:
    """An action of `size` numbers in [-1, 1], as all of the DeepMind Control Suite's."""
    low, high = (-1.0,) * size, (1.0,) * size
    return ActionSpec(kind="box", size=size, shape=(size,), dtype="float32", low=low, high=high)


def untrained(preset: str, obs: Mapping[str, ObsSpec], action: ActionSpec) -> DreamerAlgorithm:
    """A Dreamer of that preset with the weights of seed 0, in a process set up as an agent's is."""
    keep_freed_memory()
    config = configure(DreamerConfig, Dreamer.presets[preset], name="Dreamer")
    torch.manual_seed(0)
    return DreamerAlgorithm(obs, action, config)


def policy_spec(algorithm: DreamerAlgorithm, obs: Mapping[str, ObsSpec]) -> PolicySpec:
    """The spec of an exported policy of the algorithm."""
    return PolicySpec(
        agent="Dreamer",
        env="",
        obs=obs,
        action=algorithm.action,
        carry=algorithm.carry_spec,
        noise=noise_for_step(algorithm.noise_spec),
    )


def seconds(call: Callable[[], object], clock: Clock = perf_counter) -> float:
    """Time of one call."""
    start = clock()
    call()
    return clock() - start


def processor() -> str:
    """The processor's name, as the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def setting(threads: int, *packages: str) -> str:
    """One line on where the numbers were taken: processor, threads, versions."""
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{processor()}, threads: {threads}, Python {platform.python_version()}, {versions}"
