"""Serving: run exported policies with numpy and onnxruntime; never imports torch."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bundle.load import inspect, load_policy, verify
    from .client.remote_policy import RemotePolicy
    from .envs import make_env
    from .errors import AgentZooError
    from .evaluation.rollout import Evaluation, evaluate, evaluate_random
    from .evaluation.statistics import (
        comparison_table,
        iqm,
        iqm_interval,
        performance_profile,
        probability_of_improvement,
    )
    from .policy.policy import Policy
    from .spec import PolicySpec
    from .world import DreamEnv, World, load_world

if __name__ != "agentzoo.runtime":  # a checkout's link "runtime" is for people, not for Python
    raise ImportError(f'"{__name__}" is "agentzoo.runtime": write from agentzoo import runtime')

__all__ = [
    "AgentZooError",
    "DreamEnv",
    "Evaluation",
    "Policy",
    "PolicySpec",
    "RemotePolicy",
    "World",
    "comparison_table",
    "evaluate",
    "evaluate_random",
    "inspect",
    "iqm",
    "iqm_interval",
    "load_policy",
    "load_world",
    "make_env",
    "performance_profile",
    "probability_of_improvement",
    "verify",
]

HOMES = {
    "AgentZooError": "errors",
    "DreamEnv": "world.env",
    "Evaluation": "evaluation.rollout",
    "Policy": "policy.policy",
    "PolicySpec": "spec",
    "RemotePolicy": "client.remote_policy",
    "World": "world.world",
    "comparison_table": "evaluation.statistics",
    "evaluate": "evaluation.rollout",
    "evaluate_random": "evaluation.rollout",
    "inspect": "bundle.load",
    "iqm": "evaluation.statistics",
    "iqm_interval": "evaluation.statistics",
    "load_policy": "bundle.load",
    "load_world": "world.load",
    "make_env": "envs",
    "performance_profile": "evaluation.statistics",
    "probability_of_improvement": "evaluation.statistics",
    "verify": "bundle.load",
}


def __getattr__(name: str) -> object:
    """Resolve an exported name on first use, so that importing the package costs nothing."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The exported names beside the module's own."""
    return sorted({*globals(), *__all__})
