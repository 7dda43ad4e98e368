"""Policies that are served: opened, proven, warmed up, and replaced while they run."""

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ..bundle.load import load_verified
from ..errors import AgentZooError
from ..policy.planners import parse_plan
from ..policy.policy import Policy
from ..spec import PolicySpec
from .batcher import Batch, Batcher, BatchLimits
from .reserved_keys import check_names
from .settings import ModelSettings

log = logging.getLogger(__name__)

Locate = Callable[[ModelSettings], Path]
Observe = Callable[["Version", Batch], None]


def local_folder(model: ModelSettings) -> Path:
    """A model's source as a folder on this machine."""
    return Path(model.source)


@dataclass(eq=False)
class Version:
    """One opened policy; a model has one that new sessions get, and those that are running out.

    Attributes:
        model: its name.
        number: 1 for the first, counted up with each reload.
        policy: what acts.
        folder: its bundle's.
        provider: what it runs on.
        revision: that was asked for; "" for a folder.
        plan: changes of its planner's settings, as models.toml has them; "" is none.
        batcher: computes its requests.
        sessions: open ones.
        steps: under way that belong to no session.
        coming: requests that are about to be computed alone or submitted.
        is_current: whether new sessions get it.
    """

    model: str
    number: int
    policy: Policy
    folder: Path
    provider: str
    revision: str
    plan: str = ""
    batcher: Batcher = field(init=False)
    sessions: int = 0
    steps: int = 0
    coming: int = 0
    is_current: bool = True

    @property
    def label(self) -> str:
        """Number as a text, as replies and metrics have it."""
        return str(self.number)

    def leave(self) -> None:
        """Count a session less; a version nobody needs any more ends."""
        self.sessions -= 1
        self._end_if_unused()

    @contextmanager
    def kept(self) -> Generator[None, None, None]:
        """Keep it for a step of no session: that is answered, whatever replaces the policy."""
        self.steps += 1
        try:
            yield
        finally:
            self.steps -= 1
            self._end_if_unused()

    @property
    def is_needed(self) -> bool:
        """Whether anybody may still ask it, or waits for it."""
        return self.is_current or self.sessions > 0 or self.steps > 0

    def replace(self) -> None:
        """New sessions get another version from now on."""
        self.is_current = False
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if not self.is_needed:
            self.batcher.close()


class Model:
    """A name under which a policy is served, whichever version that is now.

    Attributes:
        settings: name, source and limits.
        current: the version that new sessions get; None until the first is ready.
        versions: the current one, and those with sessions left or a step under way.
    """

    def __init__(self, settings: ModelSettings, locate: Locate, observe: Observe) -> None:
        """Keep the settings; `open` opens the policy.

        Args:
            settings: name, source and limits.
            locate: a source as a folder on this machine; may download.
            observe: told of every batch, in the event loop.
        """
        self.settings = settings
        self.current: Version | None = None
        self.versions: list[Version] = []
        self._locate, self._observe = locate, observe
        self._count = 0

    async def open(self, settings: ModelSettings) -> Version:
        """Open a source beside what is served; nothing changes until it is adopted.

        Raises:
            AgentZooError: if it cannot be had, does not pass its checks, or fails its trace.
        """
        return await asyncio.to_thread(_open, settings, self._locate, self._count + 1)

    def adopt(self, settings: ModelSettings, version: Version) -> None:
        """Let new sessions have a version that `open` gave."""
        deliver = partial(self._deliver, asyncio.get_running_loop(), version)
        version.batcher = Batcher(version.policy, deliver, _limits(settings, version))
        self.settings, self._count, before = settings, version.number, self.current
        self.current = version
        self.versions.append(version)
        if before is not None:
            before.replace()

    def forget_ended(self) -> None:
        """Drop versions that nobody uses any more, and whose last step has come to its end."""
        self.versions = [one for one in self.versions if one.is_needed or one.batcher.is_running]

    def close(self) -> None:
        """Compute nothing further."""
        for version in self.versions:
            version.batcher.close()

    def _deliver(self, loop: asyncio.AbstractEventLoop, version: Version, batch: Batch) -> None:
        try:
            loop.call_soon_threadsafe(self._observe, version, batch)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            log.warning("%d answers came after the end", len(batch.requests))


def _open(settings: ModelSettings, locate: Locate, number: int) -> Version:
    folder = locate(settings)
    plan = parse_plan(settings.plan) if settings.plan else None
    policy, found = load_verified(
        folder, provider=settings.provider, threads=settings.threads, plan=plan
    )
    check_names(settings.name, policy.spec)
    for batch in _warm_sizes(policy.spec, settings.max_batch):
        _warm_up(policy, batch)
    log.info("%s version %d is ready: %s", settings.name, number, found)
    return Version(
        model=settings.name,
        number=number,
        policy=policy,
        folder=folder,
        provider=found.provider,
        revision=settings.revision,
        plan=settings.plan,
    )


def _limits(settings: ModelSettings, version: Version) -> BatchLimits:
    return BatchLimits(
        max_batch=settings.max_batch,
        max_wait_s=settings.max_wait_ms / 1e3,
        max_queue=settings.max_queue,
        # on a GPU a step is never so short, and CUDA keeps its own state for each thread
        lone_steps=settings.lone_steps == "auto" and version.provider == "cpu",
    )


def _warm_sizes(spec: PolicySpec, largest: int) -> Iterable[int]:
    """Batch sizes that are run once before the first request: powers of two, and the largest."""
    if spec.plan is not None:
        return (1,)  # a planner's decision takes long and is the same graphs at any size
    return sorted({*(1 << k for k in range(largest.bit_length())), largest})


def _warm_up(policy: Policy, batch: int) -> None:
    spec = policy.spec
    obs = {key: np.zeros((batch, *one.shape), one.dtype) for key, one in spec.obs.items()}
    actions, _ = policy.advance(
        obs, np.ones(batch, bool), policy.start(batch), np.full(batch, policy.deterministic)
    )
    if actions.dtype.kind == "f" and not np.isfinite(actions).all():
        raise AgentZooError("the policy gives NaN for an observation of zeros; export it again")
