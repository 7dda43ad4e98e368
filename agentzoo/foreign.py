"""Policies that were trained elsewhere, as bundles like any other.

A bundle needs a module that acts, a spec of what it reads and gives, and two files that say whose
it is: config.json names the library, model.safetensors holds the weights.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from agentzoo import hub
from agentzoo.hub.package import EPISODES, VIDEO
from agentzoo.runtime import evaluate, load_policy
from agentzoo.runtime.bundle.agent_config import Library, TrainingRecord
from agentzoo.runtime.envs.opengl import load_triton
from agentzoo.runtime.errors import BundleError, ConfigError
from agentzoo.runtime.evaluation.results import write_results
from agentzoo.runtime.evaluation.rollout import Evaluation
from agentzoo.runtime.files import at_home
from agentzoo.runtime.policy.policy import Policy
from agentzoo.runtime.spec import Array, PolicySpec

from .algorithm import Algorithm, Carry, Noise, Obs
from .publish import FIRST_SEED
from .saved import write_settings, write_weights
from .torch_step import TorchStep

load_triton()

OWN_CODE = Library(name="", version="")  # of a module that no library trained


class Acting(Protocol):
    """An acting step: all that a module needs to be exported."""

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        """Observe and act, as `Algorithm.step`."""
        ...


class Memoryless(nn.Module):
    """A module that only has `forward(obs)` as an acting step without memory or noise."""

    def __init__(self, module: nn.Module, spec: PolicySpec) -> None:
        super().__init__()
        self.module = module
        self.is_bare = list(spec.obs) == ["observation"]

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        """The action that `forward` gives; nothing is kept."""
        seen = {key: value for key, value in obs.items() if key != "is_first"}
        return {}, self.module(seen["observation"] if self.is_bare else seen)


def bundle(
    module: nn.Module,
    spec: PolicySpec,
    folder: str | Path,
    *,
    golden_steps: int = 100,
    observations: Mapping[str, Array] | None = None,
    library: Library = OWN_CODE,
    settings: Mapping[str, object] | None = None,
    env_steps: int = 0,
) -> Path:
    """Make a bundle of any torch module that acts; ONNX Runtime has to agree with it first.

    Args:
        module: has `step(carry, obs, noise, deterministic)` as `agentzoo.algorithm.Algorithm`, and
            perhaps `margin`; or, of a policy without memory or noise, `forward(obs)`, which is
            given the one tensor of a bare observation, or tensors by key, and gives the
            environment's own action (B, *shape).
        spec: what it reads, keeps, draws and gives; `carry` and `noise` may be empty.
        folder: the bundle's; made if it is not there.
        golden_steps: steps of the recorded trace.
        observations: key -> (golden_steps, *shape) for the trace; None draws them at random.
        library: what trained it.
        settings: its hyper-parameters, for config.json; plain JSON.
        env_steps: environment steps it learned for; 0 if that is not known.

    Returns:
        The folder.

    Raises:
        BundleError: if the step gives something else than the spec says, cannot be traced, or ONNX
            Runtime's outputs differ from torch's.
        ConfigError: if the module cannot act.
    """
    from .export import export, resting

    folder = at_home(folder)
    acting = as_acting(module, spec)
    with resting(cast("Algorithm", acting)) as still:
        _check_step(cast("Acting", still), spec)
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder, _settings(spec, library, settings or {}, env_steps))
    write_weights(folder, acting)
    algorithm = cast("Algorithm", acting)
    with _traced(module):
        return export(algorithm, spec, folder, golden_steps=golden_steps, observations=observations)


def as_acting(module: object, spec: PolicySpec) -> nn.Module:
    """The module itself if it has a step, or its `forward` as one.

    Raises:
        ConfigError: if it is no torch module, or has no step where the spec wants memory or noise.
    """
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"bundle was given a {type(module).__name__}, expected a torch.nn.Module; wrap what "
            "acts in one (a Stable-Baselines3 model goes through agentzoo.from_sb3)"
        )
    if callable(getattr(module, "step", None)):
        return module
    if spec.carry or spec.noise:
        raise ConfigError(
            f"{type(module).__name__} has no step(carry, obs, noise, deterministic), and its spec "
            "has a carry or noise; write one, or leave both empty and act in forward(obs)"
        )
    return Memoryless(module, spec)


def _check_step(module: Acting, spec: PolicySpec) -> None:
    """Take one step of two batch elements and refuse outputs that the spec does not foresee."""
    batch = 2
    carry = {
        name: torch.zeros(batch, *one.shape, dtype=getattr(torch, one.dtype))
        for name, one in spec.carry.items()
    }
    obs = {
        name: torch.zeros(batch, *one.shape, dtype=getattr(torch, one.dtype))
        for name, one in spec.obs.items()
    }
    obs["is_first"] = torch.ones(batch, dtype=torch.bool)
    noise = {name: torch.full((batch, *one.shape), 0.5) for name, one in spec.noise.items()}
    carried, action = module.step(carry, obs, noise, torch.zeros(batch, dtype=torch.bool))
    found = {name: tuple(one.shape) for name, one in carried.items()}
    expected = {name: (batch, *one.shape) for name, one in spec.carry.items()}
    shape = (batch, *spec.action.shape)
    if found != expected or tuple(action.shape) != shape:
        raise BundleError(
            f"for a batch of two the step of {type(module).__name__} gave the action "
            f"{[*action.shape]} and the carry {found}, its spec says {[*shape]} and {expected}; "
            "mend one of the two"
        )


@contextmanager
def _traced(module: nn.Module) -> Iterator[None]:
    """Say in a sentence that torch cannot trace a module."""
    try:
        yield
    except BundleError as error:
        if not isinstance(error.__cause__, torch.onnx.OnnxExporterError):
            raise
        raise BundleError(
            f"torch.export cannot trace the step of {type(module).__name__}, so there is no ONNX "
            f"graph of it ({error}): write it without branches on tensors' values"
        ) from error.__cause__


def _settings(
    spec: PolicySpec, library: Library, settings: Mapping[str, object], env_steps: int
) -> dict[str, object]:
    policy = spec.to_json()
    training = TrainingRecord(preset="", overrides=(), env_steps=env_steps, paper="", differs={})
    return {
        "agent": spec.agent,
        "env": spec.env,
        "seed": spec.seed,
        "config": dict(settings),
        "policy": {"obs": policy["obs"], "action": policy["action"]},
        "training": asdict(training),
        "library": asdict(library),
    }


class ForeignPolicy(Policy):
    """A policy of another library: acts by torch, exports and publishes as a bundle.

    Attributes:
        module: what acts; a copy on the CPU, so that learning on changes nothing here.
        library: what trained it.
        settings: its hyper-parameters.
        env_steps: environment steps it learned for.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: PolicySpec,
        *,
        library: Library = OWN_CODE,
        settings: Mapping[str, object] | None = None,
        env_steps: int = 0,
    ) -> None:
        """A session at the start of its first episode; arguments as those of `bundle`."""
        self.module = as_acting(module, spec).eval()
        super().__init__(TorchStep(cast("Algorithm", self.module)), spec)
        self.library, self.settings, self.env_steps = library, dict(settings or {}), env_steps

    def evaluate(
        self,
        env: str | gym.Env[Any, Any] | None = None,
        *,
        episodes: int = 10,
        seed: int = 0,
        deterministic: bool | None = None,
    ) -> Evaluation:
        """Score it; see `agentzoo.evaluate`."""
        return evaluate(self, env, episodes=episodes, seed=seed, deterministic=deterministic)

    def export(
        self,
        folder: str | Path,
        *,
        golden_steps: int = 100,
        observations: Mapping[str, Array] | None = None,
    ) -> Path:
        """Make a bundle of it; see `bundle`."""
        return bundle(
            self.module,
            self.spec,
            folder,
            golden_steps=golden_steps,
            observations=observations,
            library=self.library,
            settings=self.settings,
            env_steps=self.env_steps,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        env: str | gym.Env[Any, Any] | None = None,
        folder: str | Path | None = None,
        episodes: int = 20,
        private: bool | None = None,
        token: str | None = None,
        license_id: str = "mit",
        without: Collection[str] = (),
    ) -> str:
        """Export, score, film and publish, as `Agent.push_to_hub`; there is no learning curve.

        Args:
            repo_id: `me/name`, or `file:DIR` for a folder that is, or becomes, a hub.
            env: where to score it; None is the policy's own environment string.
            folder: where to leave the bundle; None is a temporary folder.
            episodes: to score the exported policy over.
            private: whether a new repo is private; None is the account's default.
            token: of an account that may write there; None is the one logged in.
            license_id: of the weights, as the Hub spells it.
            without: `replay.mp4`, where a machine cannot draw.

        Returns:
            The address with the commit.

        Raises:
            ConfigError: if there are fewer than 10 episodes.
        """
        if episodes < EPISODES:
            raise ConfigError(
                f"a score is published over at least {EPISODES} episodes, and episodes={episodes}"
            )
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch) / "bundle" if folder is None else at_home(folder)
            self.export(place)
            found = evaluate(
                load_policy(place),
                env,
                episodes=episodes,
                seed=FIRST_SEED,
                video=None if VIDEO in without else place / VIDEO,
            )
            write_results(found, place)
            return hub.push(
                place,
                repo_id,
                private=private,
                token=token,
                license_id=license_id,
                without=without,
            )


def plain_numbers(values: Mapping[str, object]) -> dict[str, object]:
    """The numbers and flags among named values: hyper-parameters that JSON can hold."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, bool | int | float)
        and not name.startswith("_")
        and bool(np.isfinite(value))
    }
