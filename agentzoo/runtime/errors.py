"""Every error this project raises on purpose: one root, few leaves, each also a builtin.

`except AgentZooError` catches all of them. Messages are full sentences: what was given, what was
expected, what to do.
"""

import sys
from collections.abc import Iterable
from difflib import get_close_matches


class AgentZooError(Exception):
    """Root of all errors raised by runtime, hub and agentzoo."""


class ConfigError(AgentZooError, ValueError):
    """A setting has an unknown name, an ill-typed value, or contradicts another one."""


class EnvironmentStringError(AgentZooError, ValueError):
    """A `suite:task?key=value` string names something unknown or is ill-formed."""


class SpaceError(AgentZooError, ValueError):
    """An observation or action space is of a kind that agents here cannot read or fill."""


class ObservationError(AgentZooError, ValueError):
    """An observation has the wrong key, shape, dtype or is not finite."""


class NotFiniteError(ObservationError):
    """An observation holds NaN or infinity."""


class EpisodeError(AgentZooError, RuntimeError):
    """An environment broke its own contract: a reward that is not finite, a step after the end."""


class WorkerError(AgentZooError, RuntimeError):
    """A process that holds an environment raised, died or hangs; the message names it."""


class BundleError(AgentZooError, ValueError):
    """A bundle's folder is incomplete, damaged, foreign, or from a newer version."""


class ReplayError(AgentZooError, RuntimeError):
    """The replay buffer cannot do what it was asked: empty, too large, unwritable."""


class DatasetError(AgentZooError, ValueError):
    """A data set is missing, damaged, foreign or of other spaces; or one cannot be written."""


class RunError(AgentZooError, RuntimeError):
    """A training run cannot start, go on or be resumed."""


class ProviderError(AgentZooError, RuntimeError):
    """The device that was asked for is not there, and nothing else was silently used instead."""


class ServingError(AgentZooError, RuntimeError):
    """A policy server cannot or will not answer.

    Attributes:
        reason: why, in one word of `server.error_codes.REFUSALS`; "failed" says no more.
    """

    def __init__(self, message: str, reason: str = "failed") -> None:
        """Say what happened and what to do, and file it under a reason."""
        super().__init__(message)
        self.reason = reason


class MissingExtraError(AgentZooError, ImportError):
    """An optional package is not installed; the message holds the pip line that mends it."""

    def __init__(self, package: str, extra: str) -> None:
        """Say which package is missing and which extra brings it."""
        super().__init__(
            f'this needs the package "{package}", which is not installed; run: {pip_line(extra)}'
        )


class MissingPackageError(AgentZooError, ImportError):
    """A package that another one's environments need is not installed; names both."""

    def __init__(self, package: str, brought: str) -> None:
        """Say which package is missing, and which distribution asks for it."""
        super().__init__(
            f'this needs the package "{package}", which is not installed; {brought} brings the '
            f"environments: run pip install {brought}, or see what else it asks for"
        )


def pip_line(extras: str) -> str:
    """The command that installs extras on this Python."""
    line = f'pip install "agentzoo-rl[{extras}]"'
    if "dmc" in extras.split(",") and sys.version_info >= (3, 13):
        # its dependency labmaze has no wheel there, and the suite does not need it
        line += " && pip install --no-deps dm_control"
    return line


def nearest(given: str, known: Iterable[str], noun: str = "choices") -> str:
    """A clause that names the closest known names, or all of them when none is close."""
    names = sorted(known)
    close = get_close_matches(given, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f'"{name}"' for name in close) + "?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{noun}: {shown}"
