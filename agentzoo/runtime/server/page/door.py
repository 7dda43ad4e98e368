"""The page's paths: its files, and the websocket they speak through.

The files hold nothing of the server and are given to whoever asks; the websocket asks for the
server's key in its first message, since a key in an address ends up in logs and histories.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from aiohttp import WSMsgType, web

from ...errors import AgentZooError, ServingError
from ...evaluation.rollout import SEEDS
from ...world import has_world
from ..connections import ClientConnection
from ..history import History
from ..models import Model
from ..service import Service
from ..settings import same_key
from ..transport import HttpResponse
from .job import Job
from .runs import Runs
from .shows import MESSAGE_LIMIT as FRAME_LIMIT
from .shows import Show, Shows

log = logging.getLogger(__name__)

PATH = "/page/socket"
FILES = {
    "index.html": "text/html",
    "app.js": "text/javascript",
    "style.css": "text/css",
}
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
FAILED = 1011  # close code of RFC 6455, section 7.4.1: something unexpected
UNAUTHORIZED = 4401  # close code; 4000 to 4999 are an application's own (RFC 6455, section 7.4.2)
KEY_S = 10.0  # for the first message
MESSAGE_LIMIT = 1 << 14
BACKLOG = 1 << 18  # bytes that a watcher has not read yet; further frames are left out
UNREAD = 1 << 22  # with so many, told anything further, a watcher is let go
WAITS = UNREAD + FRAME_LIMIT  # with more, answers wait; a show never sends so much
STATS_S = 1.0
MOST_SOCKETS = 64
SPEEDS = (0.05, 8.0)
LARGEST = 1e6  # of an action's numbers, which are from -1 to 1; JSON has some that no float holds


def is_page(request: web.Request) -> bool:
    """Whether a request is for the page; `/` is openpi's where it asks for a websocket."""
    if request.path == "/":
        return "upgrade" not in request.headers.get("Connection", "").lower()
    return request.path.startswith("/page/")


def check_visitor(request: web.Request) -> None:
    """Refuse other people's pages, whose requests carry their own origin.

    A page whose name has been pointed at this machine (DNS rebinding) has the same origin; that is
    what the server looks at Host for.

    Raises:
        ServingError: "forbidden".
    """
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        raise ServingError("this server speaks to no other page than its own", "forbidden")


class Page:
    """The page's view of one server.

    Attributes:
        service: the server's.
        shows: episodes and dreams that run for it.
        runs: the folder of runs, if one was given.
    """

    def __init__(self, service: Service) -> None:
        """Begin with nothing shown."""
        settings = service.settings
        self.service = service
        self.shows = Shows(
            settings.max_dreams, settings.dream_s, service.metrics.page_commands_waited
        )
        self.runs = Runs(settings.runs) if settings.runs is not None else None
        self.started = time.monotonic()
        self.sockets = 0
        self._told = (-STATS_S, "")
        service.metrics.histories = {}

    def file(self, name: str) -> HttpResponse:
        """Serve one of the page's files."""
        if name not in FILES:
            raise ServingError("the page has no such file", "unknown")
        content = Path(__file__).with_name(name).read_bytes()
        return HttpResponse(body=content, kind=f"{FILES[name]}; charset=utf-8", headers={**HEADERS})

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """The websocket that the page speaks through."""
        if self.sockets >= MOST_SOCKETS:
            raise ServingError("too many people have this page open; close one", "overloaded")
        if not web.WebSocketResponse().can_prepare(request):
            raise ServingError("this path speaks websocket; open / instead", "malformed")
        visitor = Visitor(self, web.WebSocketResponse(max_msg_size=MESSAGE_LIMIT, compress=False))
        self.sockets += 1
        try:
            await visitor.serve(request)
        finally:
            self.sockets -= 1
        return visitor.channel

    async def close(self) -> None:
        """End what runs."""
        await self.shows.close()

    def stats(self) -> str:
        """Sessions, requests and latencies, now and over the last minutes; the same for all."""
        at, text = self._told
        if time.monotonic() - at >= 0.9 * STATS_S:
            text = json.dumps(self._stats())
            self._told = (time.monotonic(), text)
        return text

    def _stats(self) -> dict[str, object]:
        service = self.service
        histories = service.metrics.histories
        assert histories is not None, "a page keeps them"
        return {
            "kind": "stats",
            "sessions": len(service.sessions),
            "requests": sum(one.total for one in histories.values()),
            "watchers": self.shows.watchers,
            "dreams": len(self.shows),
            "max_dreams": self.shows.limit,
            "up_s": time.monotonic() - self.started,
            "models": [
                {
                    "name": name,
                    "version": model.current.label if model.current else "",
                    **histories.setdefault(name, History()).summary(),
                }
                for name, model in service.models.items()
            ],
        }

    def hello(self) -> dict[str, object]:
        """First message to the page: the models, and whether there are runs."""
        found = [_described(model) for model in self.service.models.values() if model.current]
        return {"kind": "hello", "models": found, "runs": self.runs is not None}


def _described(model: Model) -> dict[str, object]:
    assert model.current is not None, "asked before"
    spec = model.current.policy.spec
    action = spec.action
    return {
        "name": model.settings.name,
        "agent": spec.agent,
        "env": spec.env,
        "version": model.current.label,
        "dreams": has_world(model.current.folder),
        "action": {
            "kind": action.kind,
            "size": action.size,
            "nvec": action.nvec,
            "start": action.start,
        },
    }


class Visitor:
    """One browser; an `Audience` of what it watches."""

    def __init__(self, page: Page, channel: web.WebSocketResponse) -> None:
        """Begin as one who is not let in yet."""
        self.page, self.channel = page, channel
        self.show: Show | None = None
        self._transport: asyncio.Transport | None = None
        self._connection: ClientConnection | None = None

    async def serve(self, request: web.Request) -> None:
        """Let in whoever has the key, and answer until they leave."""
        await self.channel.prepare(request)
        transport, connections = request.transport, self.page.service.connections
        if transport is None or transport.is_closing():
            return  # gone already
        # what is read late is kept, up to a limit: a show is not to wait for one of its watchers
        transport.set_write_buffer_limits(high=WAITS)
        self._transport = transport
        self._connection = connections.of(request) if connections else None
        if not await self._has_key():
            await self.channel.close(code=UNAUTHORIZED, message=b"unauthorized")
            return
        telling = asyncio.create_task(self._tell_stats())
        try:
            await self._reply(self.page.hello())
            async for message in self.channel:
                if message.type is WSMsgType.TEXT:
                    await self._answer(message.data)
        except ConnectionError:
            pass  # gone in the middle of an answer
        except Exception:  # the websocket is open: an answer in HTTP would be noise in it
            log.exception("a visitor of the page could not be answered")
            await self.channel.close(code=FAILED, message=b"failed; the server's log says why")
        finally:
            telling.cancel()
            await self._leave()

    async def frame(self, content: bytes) -> None:
        """Send a frame, unless the last ones have not been read yet."""
        if self._unread() > BACKLOG:
            return
        if not self.channel.closed:
            try:
                await self.channel.send_bytes(content)
            except ConnectionError:
                return  # its own loop notices

    async def tell(self, message: Mapping[str, object]) -> None:
        """Send a fact of what is watched; one who has left too much unread is let go instead."""
        if self._unread() <= UNREAD:
            await self._reply(message)
        elif self._connection is not None:
            self._connection.drop("slow_client")

    def _unread(self) -> int:
        """Bytes that have not left yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def _reply(self, message: Mapping[str, object]) -> None:
        await self._send(json.dumps(message))

    async def _send(self, text: str) -> None:
        if not self.channel.closed:
            try:
                await self.channel.send_str(text)
            except ConnectionError:
                return  # its own loop notices

    async def _has_key(self) -> bool:
        expected = self.page.service.settings.api_key
        try:
            async with asyncio.timeout(KEY_S):
                first = await self.channel.receive()
            given = json.loads(first.data)["key"] if first.type is WSMsgType.TEXT else None
        except (TimeoutError, ValueError, KeyError, TypeError, RecursionError):
            return False
        return isinstance(given, str) and (not expected or same_key(given, expected))

    async def _tell_stats(self) -> None:
        while not self.channel.closed:
            await self._send(self.page.stats())
            await asyncio.sleep(STATS_S)

    async def _answer(self, text: str) -> None:
        about = ""
        try:
            message = json.loads(text)
            if not isinstance(message, dict):
                raise ServingError("a message is a JSON object", "malformed")
            command = cast("dict[str, object]", message)
            about = str(command.get("do", ""))[:20]
            await self._do(about, command)
        except AgentZooError as error:  # some are ValueErrors, too
            await self._reply({"kind": "refused", "about": about, "error": str(error)[:500]})
        except (ValueError, RecursionError):
            await self._reply({"kind": "refused", "about": about, "error": "that was no JSON"})

    async def _do(self, what: str, message: Mapping[str, object]) -> None:
        if what in ("watch", "play"):
            await self._leave()
            model, job = self._job(what, message)
            self.show = await self.page.shows.join(model, job, self)
        elif what == "leave":
            await self._leave()
        elif what == "control" and self.show is not None and self.show.job.view == "watch":
            await self.page.shows.control(self.show, _controls(message))
        elif what == "act" and self.show is not None and self.show.job.view == "play":
            self.page.shows.command(self.show, {"action": _numbers(message.get("action"))})
        elif what == "runs":
            await self._list_runs()
        elif what == "curves":
            await self._curve(message)
        elif what not in ("control", "act"):
            raise ServingError("the page does not know how to do that", "malformed")

    def _job(self, view: str, message: Mapping[str, object]) -> tuple[str, Job]:
        name, seed, mode = (message.get(key) for key in ("model", "seed", "deterministic"))
        if not isinstance(name, str) or type(seed) is not int or not 0 <= seed < SEEDS:
            raise ServingError("name a model, and a seed from 0 to 2**32 - 1", "malformed")
        if mode is not None and not isinstance(mode, bool):
            raise ServingError("deterministic is true, false or null", "malformed")
        version = self.page.service.current(name)
        folder = str(version.folder.resolve())
        return name, Job(view=view, folder=folder, seed=seed, deterministic=mode, plan=version.plan)

    async def _leave(self) -> None:
        show, self.show = self.show, None
        if show is not None:
            await self.page.shows.leave(show, self)

    async def _list_runs(self) -> None:
        if self.page.runs is None:
            raise ServingError("this server was started without --runs", "unknown")
        found = await asyncio.to_thread(self.page.runs.refresh)
        await self._reply({"kind": "runs", "runs": [one.facts() for one in found]})

    async def _curve(self, message: Mapping[str, object]) -> None:
        name, metric = str(message.get("run", "")), str(message.get("metric", ""))
        run = None if self.page.runs is None else self.page.runs.find(name)
        if run is None:
            raise ServingError("there is no such run", "unknown")
        await self._reply(
            {"kind": "curves", "run": name, "metric": metric, "points": run.curve(metric)}
        )


def _controls(message: Mapping[str, object]) -> dict[str, object]:
    """Settings that a watcher may choose for an episode; others are left out."""
    kinds = {"pause": bool, "step": bool, "again": bool}
    asked: dict[str, object] = {
        name: message[name] for name, kind in kinds.items() if type(message.get(name)) is kind
    }
    speed = message.get("speed")
    if isinstance(speed, int | float) and SPEEDS[0] <= speed <= SPEEDS[1]:
        asked["speed"] = float(speed)
    return asked


def _numbers(value: object) -> list[float]:
    """An action's numbers; an empty list for anything else, which rests."""
    if not isinstance(value, list):
        return []
    numbers = cast("list[object]", value)
    if not all(isinstance(one, int | float) and abs(one) <= LARGEST for one in numbers):
        return []
    return [float(cast("float", one)) for one in numbers]
