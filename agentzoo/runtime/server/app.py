"""Paths: which of them speaks which protocol, and who may ask; the same over every transport."""

import asyncio
import hashlib
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import NamedTuple

from ..client.msgpack_arrays import SMALL
from ..errors import ServingError
from . import open_inference as v2
from . import openpi, vla_eval
from .access_log import record
from .error_codes import REFUSALS, RETRY_AFTER_S, refusal_of
from .message_limits import json_limits
from .replica import SESSION, session_id
from .request_body import read_body
from .service import Service
from .settings import same_key
from .transport import Call, HttpResponse, header

OPEN_PATHS = frozenset({"/health", "/healthz", "/v2/health/live", "/v2/health/ready"})
Handler = Callable[[Service, Call], Awaitable[HttpResponse | None]]  # None: a websocket, now over
Check = Callable[[Service, Call], str]


# -- what every request passes -------------------------------------------------------------------


class Route(NamedTuple):
    """A path, and the function that answers it.

    Attributes:
        method: GET, which stands for HEAD as well, or POST.
        pattern: the path; a part in braces is named so.
        handler: what answers.
    """

    method: str
    pattern: str
    handler: Handler


class Routes:
    """All paths of a server."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """All routes; the first of several that fit counts."""
        self._routes = [(route, route.pattern.split("/")) for route in routes]

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        """The route of a path, and the parts that its pattern names.

        Where there is none the route refuses, and has no pattern.
        """
        parts, is_known = path.split("/"), False
        for route, pattern in self._routes:
            if len(pattern) == len(parts) and all(map(_fits, pattern, parts)):
                is_known = True
                if method == route.method or (method, route.method) == ("HEAD", "GET"):
                    named = zip(pattern, parts, strict=True)
                    return route, {key[1:-1]: part for key, part in named if key[:1] == "{"}
        return Route(method, "", _not_allowed if is_known else _not_found), {}


def _fits(pattern: str, part: str) -> bool:
    return bool(part) if pattern[:1] == "{" else pattern == part


async def _not_found(service: Service, call: Call) -> HttpResponse:
    return refused(ServingError("Not Found", "unknown"))


async def _not_allowed(service: Service, call: Call) -> HttpResponse:
    return refused(ServingError("Method Not Allowed", "unknown"), 405)


async def answer(
    service: Service, routes: Routes, call: Call, check: Check | None = None
) -> HttpResponse | None:
    """Let in who may come in, say no in JSON, and write a line about it.

    Args:
        service: what answers.
        routes: its paths.
        call: the request.
        check: raises a ServingError for who may not come in, and gives the Origin that is allowed;
            None is `check_caller`.

    Returns:
        The answer; None after a websocket, which writes its own line.
    """
    started = time.monotonic()
    route, call.named = routes.find(call.method, call.path)
    call.route = route.pattern
    try:
        origin = (check or check_caller)(service, call)
        is_asked = _is_preflight(call, origin)
        response = _preflight() if is_asked else await route.handler(service, call)
        if origin and response is not None:
            response.headers.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin"})
    except Exception as error:
        response = refused(refusal_of(error))
    if response is None:
        return None
    protocol, model = _meant(service, call)
    version = service.models[model].current if model else None
    if response.reason:
        service.metrics.request(protocol, version, "refused", response.reason)
    response.headers["X-Request-Id"] = call.id
    seconds = time.monotonic() - started
    record(call, status=response.status, model=model, reason=response.reason, seconds=seconds)
    return response


def _meant(service: Service, call: Call) -> tuple[str, str]:
    """Protocol and model of a path; the model is one that is served, or ""."""
    first = (call.route or "/-").split("/")[1]
    protocol = {"": "openpi", "openpi": "openpi", "models": "openpi", "vla": "vla-eval",
                "v2": v2.PROTOCOL}.get(first, "http")  # fmt: skip
    named = call.named.get("model", "")
    if not named and protocol in ("openpi", "vla-eval"):
        named = next(iter(service.models))
    return protocol, named if named in service.models else ""


def check_caller(service: Service, call: Call) -> str:
    """Refuse browsers, which send requests of other people's pages, and callers without the key.

    Returns:
        The Origin, if there is one and it is allowed.

    Raises:
        ServingError: "forbidden" or "unauthorized".
    """
    settings = service.settings
    given = header(call, "Origin")
    if given is not None and given not in settings.allow_origins:
        raise ServingError(
            "this server does not speak to web pages; its operator can name those that may ask "
            "(--allow-origin)",
            "forbidden",
        )
    origin = given or ""
    if call.path in OPEN_PATHS or _is_preflight(call, origin):
        return origin
    if not settings.api_key:
        check_host(service, call)
        return origin
    scheme, _, key = (header(call, "Authorization") or "").partition(" ")
    if scheme.lower() not in ("bearer", "api-key") or not same_key(key.strip(), settings.api_key):
        raise ServingError(
            'a key is needed: send the header "Authorization: Bearer KEY"', "unauthorized"
        )
    return origin


def check_host(service: Service, call: Call) -> None:
    """Refuse names that anybody could point at this machine: a page would then share its origin.

    Raises:
        ServingError: "forbidden".
    """
    known = {"localhost", service.settings.host, *service.settings.allow_hosts}
    for given in call.headers("Host"):
        name = _host_name(given)
        if name not in known and not _is_address(name):
            raise ServingError(
                "this server does not know itself by that name; ask for it by its address, or let "
                "its operator allow the name (--allow-host)",
                "forbidden",
            )


def _host_name(given: str) -> str:
    """The host before the port, without the brackets of IPv6."""
    if given.startswith("["):
        return given[1:].partition("]")[0]
    return given.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_preflight(call: Call, origin: str) -> bool:
    asks = bool(call.headers("Access-Control-Request-Method"))
    return bool(origin) and call.method == "OPTIONS" and asks


def _preflight() -> HttpResponse:
    """The preflight request, which a browser sends before it lets an allowed page ask."""
    allowed = f"Authorization, Content-Type, Content-Encoding, {v2.HEADER_LENGTH}"
    headers = {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": allowed,
    }
    return HttpResponse(204, kind="", headers=headers)


def _caller(call: Call) -> bytes:
    """Owner of the sequences that are meant: all who show the same key."""
    given = header(call, "Authorization") or ""
    return hashlib.sha256(given.encode(errors="replace")).digest()


def refused(error: ServingError, status: int | None = None) -> HttpResponse:
    """A refusal, in JSON."""
    refusal = REFUSALS[error.reason]
    response = _json({"error": str(error), "reason": error.reason}, status or refusal.status)
    response.reason = error.reason
    if refusal.retry:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def _json(content: object, status: int = 200) -> HttpResponse:
    return HttpResponse(status, json.dumps(content).encode())


# -- paths ---------------------------------------------------------------------------------------


async def speak_openpi(service: Service, call: Call) -> HttpResponse | None:
    """Speak openpi's protocol, over a websocket."""
    return await _socket(service, call, openpi.serve)


async def _speak_vla_eval(service: Service, call: Call) -> HttpResponse | None:
    return await _socket(service, call, vla_eval.serve)


async def _socket(
    service: Service, call: Call, serve: Callable[[Service, Call], Awaitable[None]]
) -> HttpResponse | None:
    if not call.wants_socket:
        return refused(
            ServingError("this path speaks websocket; see docs/serving.md", "malformed"), 426
        )
    await serve(service, call)
    return None


async def _healthz(service: Service, call: Call) -> HttpResponse:
    ready = service.is_ready
    text = b"OK\n" if ready else b"not ready\n"
    return HttpResponse(200 if ready else 503, text, "text/plain; charset=utf-8")


async def _health(service: Service, call: Call) -> HttpResponse:
    ready = service.is_ready
    content = {"status": "ok" if ready else "not ready"}
    return _json(content, status=200 if ready else 503)


async def _live(service: Service, call: Call) -> HttpResponse:
    live = service.is_live
    return _json({"live": live}, status=200 if live else 503)


async def _ready(service: Service, call: Call) -> HttpResponse:
    ready = service.is_ready
    return _json({"ready": ready}, status=200 if ready else 503)


async def _metrics(service: Service, call: Call) -> HttpResponse:
    service.observe()
    return HttpResponse(
        body=service.metrics.text(), kind="text/plain; version=0.0.4; charset=utf-8"
    )


async def _server(service: Service, call: Call) -> HttpResponse:
    try:
        version = version_of("agentzoo-rl")
    except PackageNotFoundError:
        version = "checkout"  # run from its sources, without being installed
    return _json(v2.server_metadata("agentzoo", version))


async def _model(service: Service, call: Call) -> HttpResponse:
    name = call.named["model"]
    current = service.current(name)
    asked = call.named.get("version", current.label)
    for version in service.models[name].versions:
        if version.label == asked:
            return _json(v2.model_metadata(service.models[name], version))
    raise ServingError(f"{name} has no version {asked[:20]}", "unknown")


async def _model_ready(service: Service, call: Call) -> HttpResponse:
    name = call.named["model"]
    version = service.current(name)
    asked = call.named.get("version", version.label)
    ready = asked == version.label and service.answers(service.models[name])
    return _json({"ready": ready}, status=200 if ready else 503)


async def _infer(service: Service, call: Call) -> HttpResponse:
    service.requests += 1
    try:
        return await _inferred(service, call)
    finally:
        service.requests -= 1


async def _inferred(service: Service, call: Call) -> HttpResponse:
    name = call.named["model"]
    current = service.current(name)
    limit = service.message_limit(current, v2.PROTOCOL)
    body = await read_body(call, limit, service.settings.deadline_s)
    limits = json_limits(current.policy.spec, service.settings.max_rows)
    given = body, header(call, v2.HEADER_LENGTH), limits
    is_small = len(body) <= SMALL
    asked = (
        v2.read_request(*given) if is_small else await asyncio.to_thread(v2.read_request, *given)
    )
    wanted, caller, session = call.named.get("version", ""), _caller(call), ""
    if service.replica and v2.is_of_sequence(asked):
        session = session_id(service.replica, header(call, SESSION), starts=v2.starts(asked))
        caller += session.encode()
    content, length, version = await v2.infer(service, name, wanted, asked, caller)
    service.metrics.request(v2.PROTOCOL, version)
    service.metrics.traffic(v2.PROTOCOL, "received", len(body))
    service.metrics.traffic(v2.PROTOCOL, "sent", len(content))
    response = HttpResponse(body=content, kind="application/json")
    if length is not None:
        response.kind = "application/octet-stream"
        response.headers[v2.HEADER_LENGTH] = str(length)
    if session:
        response.headers[SESSION] = session
    return response


async def _index(service: Service, call: Call) -> HttpResponse:
    models = service.models.values()
    found = [
        {"name": model.settings.name, "version": one.label, "state": "READY"}
        for model in models
        for one in model.versions
    ]
    return _json(found)


async def _load(service: Service, call: Call) -> HttpResponse:
    name = call.named["model"]
    if not service.settings.model_control:
        raise ServingError("reloading is off; start the server with --model-control", "forbidden")
    service.current(name)
    await service.load([service.models[name].settings])
    return _json({"name": name, "version": service.current(name).label})


def _of_models() -> list[Route]:
    paths = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [
        one
        for path in paths
        for one in (
            Route("GET", path, _model),
            Route("GET", f"{path}/ready", _model_ready),
            Route("POST", f"{path}/infer", _infer),
        )
    ]


ROUTES = [
    *(Route("GET", path, speak_openpi)
      for path in ("/", "/openpi", "/openpi/{model}", "/models/{model}")),
    *(Route("GET", path, _speak_vla_eval) for path in ("/vla", "/vla/{model}")),
    Route("GET", "/healthz", _healthz),
    Route("GET", "/health", _health),
    Route("GET", "/metrics", _metrics),
    Route("GET", "/v2", _server),
    Route("GET", "/v2/health/live", _live),
    Route("GET", "/v2/health/ready", _ready),
    Route("POST", "/v2/repository/index", _index),
    Route("POST", "/v2/repository/models/{model}/load", _load),
    *_of_models(),
]  # fmt: skip
