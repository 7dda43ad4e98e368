"""Sink: one place where the log of a run is shown; the table of those that are known by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from agentzoo.runtime.errors import ConfigError, MissingExtraError, nearest
from agentzoo.runtime.spec import Array

from ..run_folder import run_title

SINKS = {
    "tensorboard": "agentzoo.train.sinks.tensorboard:TensorBoard",
    "wandb": "agentzoo.train.sinks.wandb:Wandb",
    "mlflow": "agentzoo.train.sinks.mlflow:MLflow",
    "trackio": "agentzoo.train.sinks.trackio:Trackio",
}
PROJECT = "agentzoo"  # of trackers, where their own environment variables name none


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run as sinks see it when they open.

    Attributes:
        folder: the run's.
        agent: class of the agent.
        env: resolved environment string, or "" for an environment object.
        seed: of the run.
        settings: every field of its configuration.
        resume_step: the environment step to go on from; None for a run that begins.
        tracker_run: what `open` gave in an earlier sitting of this run; "" where it gave nothing.
    """

    folder: Path
    agent: str = ""
    env: str = ""
    seed: int = 0
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    resume_step: int | None = None
    tracker_run: str = ""

    @property
    def title(self) -> str:
        """Agent, task and seed, as titles of pictures say them."""
        return run_title(self.agent, self.env, self.seed)

    @property
    def hyperparameters(self) -> dict[str, int | float | str]:
        """Agent, task, seed and settings as numbers and text; what is more than that as text."""
        facts = {"agent": self.agent, "env": self.env, "seed": self.seed, **self.settings}
        return {
            name: one if isinstance(one, int | float | str) else str(one)
            for name, one in facts.items()
        }


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film of a run.

    Attributes:
        frames: (T, h, w, 3) uint8.
        fps: frames a second.
        path: the same as an MP4, larger where there is room; None without an encoder.
    """

    frames: Array
    fps: int
    path: Path | None


class Sink:
    """A place for a run's log beside metrics.jsonl; override what it can show.

    `open` is called in the run's own thread, before the run begins, and may raise. Everything after
    it is called in one thread of the sink's, in order: it may wait, and the run does not wait with
    it. Its first error ends it for this sitting, with a line on standard error.
    """

    name: ClassVar[str] = "sink"

    def open(self, run: RunFacts) -> str:
        """Begin, or go on with, the log of a run.

        Returns:
            What identifies the run there, to go on with it in a later sitting; "" where nothing
            is needed.
        """
        return ""

    def scalars(self, env_step: int, metrics: Mapping[str, float]) -> None:
        """A line of the log; numbers that are not finite are among them."""

    def picture(self, env_step: int, name: str, path: Path) -> None:
        """A PNG, such as `learning_curve`."""

    def film(self, env_step: int, name: str, film: Film) -> None:
        """A film, such as `dream_image`."""

    def close(self) -> None:
        """The sitting ends."""


Sinks = str | Sink | Sequence[str | Sink]  # as users give them


def chosen_sinks(given: Sinks) -> list[Sink]:
    """The sinks that a user names or gives, in their order.

    Args:
        given: "tensorboard,wandb", a `Sink`, or several of either; "none" and () are none.

    Raises:
        ConfigError: for what is no sink, or a name that no sink has.
        MissingExtraError: if the package of one is not installed.
    """
    several = [given] if isinstance(given, str | Sink) else given
    if not isinstance(several, list | tuple):
        raise ConfigError(
            f'log is {given!r}, expected names such as "tensorboard,wandb", or objects of classes '
            "derived from agentzoo.train.sinks.sink.Sink"
        )
    found: list[Sink] = []
    for one in several:
        if isinstance(one, str):
            found += [_named(name) for name in filter(None, map(str.strip, one.split(",")))
                      if name != "none"]  # fmt: skip
        elif isinstance(one, Sink):
            found.append(one)
        else:
            raise ConfigError(
                f"log holds {one!r}, expected a name ({', '.join(SINKS)}) or an object of a class "
                "derived from agentzoo.train.sinks.sink.Sink"
            )
    twice = {one.name for one in found if sum(other.name == one.name for other in found) > 1}
    if twice:
        raise ConfigError(f"log names {', '.join(sorted(twice))} more than once; name each once")
    return found


def _named(name: str) -> Sink:
    if name not in SINKS:
        raise ConfigError(
            f"no sink of the log is called {name!r}; {nearest(name, [*SINKS, 'none'], 'sinks')}"
        )
    package = find_spec(name)  # each is called as its package is
    # a folder of that name, such as W&B leaves, is no package
    if package is None or package.origin is None:
        raise MissingExtraError(name, "train" if name == "tensorboard" else name)
    module, _, kind = SINKS[name].partition(":")
    return getattr(import_module(module), kind)()
