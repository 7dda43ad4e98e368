"""Episodes and dreams that run for the page, each in a process of its own, within limits.

Watchers of one episode share its process, its pause and its speed. A dream that a person acts in is
that person's alone.
"""

import asyncio
import contextlib
import json
import logging
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from prometheus_client import Counter

from ...errors import AgentZooError, ServingError
from .job import Job

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[4]  # the folder that holds the package
MESSAGE_LIMIT = 1 << 22
UNREAD = 1 << 16  # bytes of commands that a worker has not read; with more, further ones wait
GONE = "its process ended; the server's log says why"
SILENT_S = 60.0  # a worker that says nothing for so long hangs
PATIENCE_S = 3.0  # between the last watcher's leaving and the end
KILL_S = 2.0
HEAD = struct.Struct("<Ic")


class Audience(Protocol):
    """A watcher, who is shown something."""

    async def frame(self, content: bytes) -> None:
        """Take a frame; it may be dropped if the last ones have not been read yet."""
        ...

    async def tell(self, message: Mapping[str, object]) -> None:
        """Take a fact."""
        ...


@dataclass(eq=False)
class Show:
    """One worker and those who look on.

    Attributes:
        model: name of the model.
        job: what the worker does.
        audience: who is shown its frames.
        is_paused, speed: as last asked for.
        is_ready: whether the worker plays.
        has_begun: whether the show's task runs.
        is_ending: whether the show's end was asked for or has come.
        held: commands that the worker has not had room for: of each kind the latest.
    """

    model: str
    job: Job
    audience: list[Audience] = field(default_factory=list[Audience])
    is_paused: bool = False
    speed: float = 1.0
    dreams: bool = False
    is_ready: bool = False
    has_begun: bool = False
    is_ending: bool = False
    why: str = ""
    held: dict[str, object] = field(default_factory=dict[str, object])
    process: asyncio.subprocess.Process | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> tuple[object, ...]:
        """Settings that have to be equal for two watchers to share an episode."""
        return (self.model, self.job.folder, self.job.seed, self.job.deterministic)

    @property
    def goes_on(self) -> bool:
        """Whether another watcher may come in."""
        return not self.why and not self.is_ending

    def facts(self) -> dict[str, object]:
        """The message to a watcher when the show begins for them."""
        return {
            "kind": "watching" if self.job.view == "watch" else "playing",
            "model": self.model,
            "seed": self.job.seed,
            "context": self.job.context,
            "dreams": self.dreams,
            "paused": self.is_paused,
            "speed": self.speed,
        }

    def control(self) -> dict[str, object]:
        """Pause, speed and how many look on."""
        return {
            "kind": "control",
            "paused": self.is_paused,
            "speed": self.speed,
            "watchers": len(self.audience),
        }

    async def tell(self, message: Mapping[str, object]) -> None:
        """Tell everybody."""
        for one in list(self.audience):
            await one.tell(message)

    def command(self, command: Mapping[str, object]) -> bool:
        """Tell the worker; False if that waits, as it has not read what it was told before."""
        self.held |= command
        return self.pass_on()

    def pass_on(self) -> bool:
        """Write what is held, once the worker has its job and has read most of what it was told."""
        worker = None if self.process is None else self.process.stdin
        if worker is not None and worker.is_closing():
            self.held = {}
        elif (
            worker is not None and self.held and worker.transport.get_write_buffer_size() <= UNREAD
        ):
            worker.write(json.dumps(self.held).encode() + b"\n")
            self.held = {}
        return not self.held


class Shows:
    """All shows that run for the page.

    Attributes:
        limit: how many workers there may be.
        time_s: how long one may go on.
        waited: counts the commands that a worker had no room for at once.
    """

    def __init__(self, limit: int, time_s: float, waited: Counter) -> None:
        """Begin with nothing running."""
        self.limit, self.time_s, self.waited = limit, time_s, waited
        self._running: dict[Show, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        """Number of running shows."""
        return len(self._running)

    def __iter__(self) -> Iterator[Show]:
        """The running shows."""
        return iter(tuple(self._running))

    @property
    def watchers(self) -> int:
        """Number of people who look on."""
        return sum(len(show.audience) for show in self._running)

    async def join(self, model: str, job: Job, one: Audience) -> Show:
        """Be shown an episode, one that runs already if there is such a one; or play in a dream.

        Where as many run as may, a show without an audience is ended, and its end waited for.

        Raises:
            ServingError: "overloaded", if as many run as may, each with an audience.
        """
        wanted = Show(model, job)
        while True:
            for show in self._running:
                if job.view == "watch" == show.job.view and show.key == wanted.key and show.goes_on:
                    show.audience.append(one)
                    if show.is_ready:
                        await one.tell(show.facts())
                    await show.tell(show.control())
                    return show
            if len(self._running) < self.limit:
                wanted.audience.append(one)
                self._running[wanted] = asyncio.create_task(self._run(wanted))
                return wanted
            left = [show for show in self._running if not show.audience]
            if not left:
                raise ServingError(
                    f"{self.limit} episodes and dreams run already, which is this server's limit "
                    "(--max-dreams); watch one of theirs or come back later",
                    "overloaded",
                )
            for show in left:
                self._end(show)
            tasks = [self._running[show] for show in left]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def leave(self, show: Show, one: Audience) -> None:
        """Look on no longer; a show that nobody watches ends soon."""
        if one in show.audience:
            show.audience.remove(one)
        if show.job.view == "play" and not show.audience:
            self._end(show)
            return
        await show.tell(show.control())

    async def control(self, show: Show, command: Mapping[str, object]) -> None:
        """Pause, go on, step, change speed, dream anew: for all who watch."""
        show.is_paused = bool(command.get("pause", show.is_paused))
        speed = command.get("speed", show.speed)
        assert isinstance(speed, int | float), "checked where it came in"
        show.speed = float(speed)
        self.command(show, command)
        await show.tell(show.control())

    def command(self, show: Show, command: Mapping[str, object]) -> None:
        """Tell a worker; of commands that it has no room for, the latest of each kind waits."""
        if not show.command(command):
            self.waited.inc()

    async def close(self) -> None:
        """End everything."""
        for show in self._running:
            self._end(show)
        tasks = list(self._running.values())
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, show: Show) -> None:
        task = self._running.get(show)
        if task is None or show.is_ending:  # the process is waited for
            return
        show.is_ending = True
        if show.has_begun:
            task.cancel()
        # otherwise the task sees it: cancelled before it begins, it would not clean up

    async def _run(self, show: Show) -> None:
        show.has_begun = True
        if show.is_ending:
            self._running.pop(show, None)
            return
        why = "it ended"
        try:
            async with asyncio.timeout(self.time_s):
                why = await self._play(show)
        except TimeoutError:
            why = f"it was ended after {self.time_s:.0f} s, which is this server's limit"
        except (OSError, ValueError, KeyError, AgentZooError):
            why = "its process could not be heard; the server's log says why"
            log.exception("a show of %s ended", show.job.folder)
        finally:
            show.why, show.is_ending = why, True
            await _ended(show.process)
            self._running.pop(show, None)
        with contextlib.suppress(ConnectionError):
            await show.tell({"kind": "ended", "why": why, "about": show.job.view})

    async def _play(self, show: Show) -> str:
        """Hand the worker's messages on until it or its audience has gone; why it ended."""
        show.process = process = await started()
        assert process.stdin is not None, "it was asked for"
        assert process.stdout is not None, "it was asked for"
        process.stdin.write(json.dumps(asdict(show.job)).encode() + b"\n")
        alone_since: float | None = None
        heard = time.monotonic()
        while True:
            show.pass_on()
            try:
                async with asyncio.timeout(1.0):
                    head = await process.stdout.readexactly(HEAD.size)
            except TimeoutError:
                head = b""
            except asyncio.IncompleteReadError:
                return show.why or GONE
            now = time.monotonic()
            if head:
                heard = now
                try:
                    await self._deliver(show, head, process.stdout)
                except asyncio.IncompleteReadError:
                    return show.why or GONE
            elif now - heard > SILENT_S and not show.is_paused:
                return f"it said nothing for {SILENT_S:.0f} s"
            alone_since = None if show.audience else (alone_since or now)
            if alone_since is not None and now - alone_since > PATIENCE_S:
                return "nobody watched it any longer"

    async def _deliver(self, show: Show, head: bytes, out: asyncio.StreamReader) -> None:
        length, kind = HEAD.unpack(head)
        if length > MESSAGE_LIMIT:
            raise ServingError("a worker sent more than a frame can be", "failed")
        content = await out.readexactly(length)
        if kind == b"F":
            for one in list(show.audience):
                await one.frame(content)
                await asyncio.sleep(0)  # the policy's clients come between two watchers
            return
        message = json.loads(content)
        if message["kind"] == "ready":
            show.is_ready, show.dreams = True, bool(message["dreams"])
            await show.tell(show.facts())
            await show.tell(show.control())
        elif message["kind"] == "end":
            show.why = str(message["why"])
        else:
            await show.tell(message)


async def started() -> asyncio.subprocess.Process:
    """A worker that waits for its job."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    flags = getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0)  # elsewhere it lowers itself
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"{__package__}.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **threads, "PYTHONPATH": path},
        limit=MESSAGE_LIMIT,
        creationflags=flags,
    )


async def _ended(process: asyncio.subprocess.Process | None) -> None:
    """End a process: kindly, then for good."""
    if process is None or process.returncode is not None:
        return
    if process.stdin is not None:
        process.stdin.close()  # it ends when its input does
    ended: Callable[[], object] = process.terminate
    for ended in (process.terminate, process.kill):
        with contextlib.suppress(ProcessLookupError):
            ended()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_S):
                await process.communicate()  # what it still says is read, so that its pipes close
                return
