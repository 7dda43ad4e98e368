"""Serving: run exported policies with numpy and onnxruntime; never imports torch."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .aggregate import comparison_table, iqm, iqm_interval
    from .bundle import inspect, load_policy, verify
    from .client import RemotePolicy
    from .device import DeviceRows, load_rows
    from .envs import make_env
    from .errors import AgentZooError
    from .evaluation import Evaluation, evaluate, evaluate_random
    from .policy import Policy
    from .spec import PolicySpec

__distribution__ = "agentzoo"  # tells this package from a foreign one of the same name

__all__ = [
    "AgentZooError",
    "DeviceRows",
    "Evaluation",
    "Policy",
    "PolicySpec",
    "RemotePolicy",
    "comparison_table",
    "evaluate",
    "evaluate_random",
    "inspect",
    "iqm",
    "iqm_interval",
    "load_policy",
    "load_rows",
    "make_env",
    "verify",
]

_HOMES = {
    "AgentZooError": "errors",
    "DeviceRows": "device",
    "Evaluation": "evaluation",
    "Policy": "policy",
    "PolicySpec": "spec",
    "RemotePolicy": "client",
    "comparison_table": "aggregate",
    "evaluate": "evaluation",
    "evaluate_random": "evaluation",
    "inspect": "bundle",
    "iqm": "aggregate",
    "iqm_interval": "aggregate",
    "load_policy": "bundle",
    "load_rows": "device",
    "make_env": "envs",
    "verify": "bundle",
}


def __getattr__(name: str) -> object:
    """Resolve an exported name on first use, so that importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The exported names beside the module's own."""
    return sorted({*globals(), *__all__})
