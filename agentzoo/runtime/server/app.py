"""One port: which path speaks which protocol, and who may ask."""

import asyncio
import hashlib
import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from aiohttp import web

from ..client.msgpack_arrays import SMALL
from ..errors import ServingError
from . import open_inference as v2
from . import openpi, vla_eval
from .access_log import REQUEST_ID, record
from .error_codes import REFUSALS, RETRY_AFTER_S, refusal_of
from .message_limits import json_limits
from .page.door import Page, check_visitor, is_page
from .request_body import read_body
from .service import Service
from .settings import LOOPBACK, same_key

SERVICE = web.AppKey("service", Service)
PAGE = web.AppKey("page", Page)
OPEN_PATHS = frozenset({"/health", "/healthz", "/v2/health/live", "/v2/health/ready"})
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


# -- what every request passes -------------------------------------------------------------------


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let in who may come in, say no in JSON, and write a line about it."""
    request[REQUEST_ID] = secrets.token_hex(8)
    started, service = time.monotonic(), request.app[SERVICE]
    connection = service.connections.of(request) if service.connections else None
    is_extra = connection is not None and connection.is_extra
    reason = ""
    response: web.StreamResponse
    if connection is not None:
        connection.begin()
    try:
        if is_extra and request.path not in OPEN_PATHS:
            raise ServingError("all connections are in use; come back later", "overloaded")
        origin = _check_caller(request)
        response = _preflight() if _is_preflight(request, origin) else await handler(request)
        if origin and not response.prepared:
            response.headers.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin"})
    except web.HTTPException as error:
        reason = "unknown"
        response = _refused(ServingError(error.reason, reason), error.status)
    except Exception as error:
        refusal = refusal_of(error)
        reason = refusal.reason
        response = _refused(refusal)
    finally:
        if connection is not None:
            connection.end()
    if not response.prepared:  # a websocket has been, and writes its own line
        protocol, model = _meant(request)
        version = service.models[model].current if model else None
        if reason:
            service.metrics.request(protocol, version, "refused", reason)
        if is_extra:
            response.force_close()
        response.headers["X-Request-Id"] = request[REQUEST_ID]
        seconds = time.monotonic() - started
        record(request, status=response.status, model=model, reason=reason, seconds=seconds)
    return response


def _meant(request: web.Request) -> tuple[str, str]:
    """Protocol and model of a path; the model is one that is served, or ""."""
    resource = request.match_info.route.resource
    first = (resource.canonical if resource else "/-").split("/")[1]
    protocol = {"": "openpi", "openpi": "openpi", "models": "openpi", "vla": "vla-eval",
                "v2": v2.PROTOCOL}.get(first, "http")  # fmt: skip
    models = request.app[SERVICE].models
    named = request.match_info.get("model", "")
    if not named and protocol in ("openpi", "vla-eval"):
        named = next(iter(models))
    return protocol, named if named in models else ""


def _check_caller(request: web.Request) -> str:
    """Refuse browsers, which send requests of other people's pages, and callers without the key.

    Returns:
        The Origin, if there is one and it is allowed.
    """
    settings = request.app[SERVICE].settings
    if PAGE in request.app and is_page(request):
        check_visitor(request)
        if not settings.api_key or settings.host in LOOPBACK:
            _check_host(request)
        return ""  # its websocket asks for the key itself
    origin = request.headers.get("Origin", "")
    if "Origin" in request.headers and origin not in settings.allow_origins:
        raise ServingError(
            "this server does not speak to web pages; its operator can name those that may ask "
            "(--allow-origin)",
            "forbidden",
        )
    if request.path in OPEN_PATHS or _is_preflight(request, origin):
        return origin
    if not settings.api_key:
        _check_host(request)
        return origin
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() not in ("bearer", "api-key") or not same_key(given.strip(), settings.api_key):
        raise ServingError(
            'a key is needed: send the header "Authorization: Bearer KEY"', "unauthorized"
        )
    return origin


def _check_host(request: web.Request) -> None:
    """Refuse names that anybody could point at this machine: a page would then share its origin."""
    settings = request.app[SERVICE].settings
    known = {"localhost", settings.host, *settings.allow_hosts}
    for given in request.headers.getall("Host", []):
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


def _is_preflight(request: web.Request, origin: str) -> bool:
    asks = "Access-Control-Request-Method" in request.headers
    return bool(origin) and request.method == "OPTIONS" and asks


def _preflight() -> web.Response:
    """The preflight request, which a browser sends before it lets an allowed page ask."""
    allowed = f"Authorization, Content-Type, Content-Encoding, {v2.HEADER_LENGTH}"
    headers = {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": allowed,
    }
    return web.Response(status=204, headers=headers)


def _caller(request: web.Request) -> bytes:
    """Owner of the sequences that are meant: all who show the same key."""
    return hashlib.sha256(
        request.headers.get("Authorization", "").encode(errors="replace")
    ).digest()


def _refused(error: ServingError, status: int | None = None) -> web.Response:
    refusal = REFUSALS[error.reason]
    headers = {"Retry-After": str(RETRY_AFTER_S)} if refusal.retry else {}
    content = {"error": str(error), "reason": error.reason}
    return web.json_response(content, status=status or refusal.status, headers=headers)


# -- paths ---------------------------------------------------------------------------------------


async def _openpi(request: web.Request) -> web.StreamResponse:
    return await _socket(request, openpi.serve)


async def _root(request: web.Request) -> web.StreamResponse:
    if is_page(request):
        return await request.app[PAGE].file(request)
    return await _openpi(request)


async def _vla_eval(request: web.Request) -> web.StreamResponse:
    return await _socket(request, vla_eval.serve)


async def _socket(
    request: web.Request, serve: Callable[[Service, web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if not web.WebSocketResponse().can_prepare(request):
        error = ServingError("this path speaks websocket; see docs/serving.md", "malformed")
        return _refused(error, 426)
    return await serve(request.app[SERVICE], request)


async def _healthz(request: web.Request) -> web.Response:
    ready = request.app[SERVICE].is_ready
    return web.Response(text="OK\n" if ready else "not ready\n", status=200 if ready else 503)


async def _health(request: web.Request) -> web.Response:
    ready = request.app[SERVICE].is_ready
    content = {"status": "ok" if ready else "not ready"}
    return web.json_response(content, status=200 if ready else 503)


async def _live(request: web.Request) -> web.Response:
    live = request.app[SERVICE].is_live
    return web.json_response({"live": live}, status=200 if live else 503)


async def _ready(request: web.Request) -> web.Response:
    ready = request.app[SERVICE].is_ready
    return web.json_response({"ready": ready}, status=200 if ready else 503)


async def _metrics(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    service.observe()
    kind = "text/plain; version=0.0.4; charset=utf-8"
    return web.Response(body=service.metrics.text(), headers={"Content-Type": kind})


async def _server(request: web.Request) -> web.Response:
    try:
        version = version_of("agentzoo-rl")
    except PackageNotFoundError:
        version = "checkout"  # run from its sources, without being installed
    return web.json_response(v2.server_metadata("agentzoo", version))


async def _model(request: web.Request) -> web.Response:
    service, name = request.app[SERVICE], request.match_info["model"]
    current = service.current(name)
    asked = request.match_info.get("version", current.label)
    for version in service.models[name].versions:
        if version.label == asked:
            return web.json_response(v2.model_metadata(service.models[name], version))
    raise ServingError(f"{name} has no version {asked[:20]}", "unknown")


async def _model_ready(request: web.Request) -> web.Response:
    service, name = request.app[SERVICE], request.match_info["model"]
    version = service.current(name)
    asked = request.match_info.get("version", version.label)
    ready = asked == version.label and service.answers(service.models[name])
    return web.json_response({"ready": ready}, status=200 if ready else 503)


async def _infer(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    service.requests += 1
    try:
        return await _inferred(request)
    finally:
        service.requests -= 1


async def _inferred(request: web.Request) -> web.Response:
    service, name = request.app[SERVICE], request.match_info["model"]
    current = service.current(name)
    limit = service.message_limit(current, v2.PROTOCOL)
    body = await read_body(request, limit, service.settings.deadline_s)
    limits = json_limits(current.policy.spec, service.settings.max_rows)
    given = body, request.headers.get(v2.HEADER_LENGTH), limits
    is_small = len(body) <= SMALL
    asked = (
        v2.read_request(*given) if is_small else await asyncio.to_thread(v2.read_request, *given)
    )
    wanted = request.match_info.get("version", "")
    content, length, version = await v2.infer(service, name, wanted, asked, _caller(request))
    service.metrics.request(v2.PROTOCOL, version)
    service.metrics.traffic(v2.PROTOCOL, "received", len(body))
    service.metrics.traffic(v2.PROTOCOL, "sent", len(content))
    if length is None:
        return web.Response(body=content, content_type="application/json")
    return web.Response(
        body=content,
        content_type="application/octet-stream",
        headers={v2.HEADER_LENGTH: str(length)},
    )


async def _index(request: web.Request) -> web.Response:
    models = request.app[SERVICE].models.values()
    found = [
        {"name": model.settings.name, "version": one.label, "state": "READY"}
        for model in models
        for one in model.versions
    ]
    return web.json_response(found)


async def _load(request: web.Request) -> web.Response:
    service, name = request.app[SERVICE], request.match_info["model"]
    if not service.settings.model_control:
        raise ServingError("reloading is off; start the server with --model-control", "forbidden")
    service.current(name)
    await service.load([service.models[name].settings])
    return web.json_response({"name": name, "version": service.current(name).label})


def application(service: Service, page: Page | None = None) -> web.Application:
    """Every path of the server, and of its page if it has one."""
    app = web.Application(middlewares=[guard])
    app[SERVICE] = service
    get, post = app.router.add_get, app.router.add_post
    for path in ("/openpi", "/openpi/{model}", "/models/{model}"):
        get(path, _openpi)
    if page is None:
        get("/", _openpi)
    else:
        app[PAGE] = page
        get("/", _root)
        get("/page/socket", page.socket)
        get("/page/{file}", page.file)
    for path in ("/vla", "/vla/{model}"):
        get(path, _vla_eval)
    get("/healthz", _healthz)
    get("/health", _health)
    get("/metrics", _metrics)
    get("/v2", _server)
    get("/v2/health/live", _live)
    get("/v2/health/ready", _ready)
    post("/v2/repository/index", _index)
    post("/v2/repository/models/{model}/load", _load)
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        get(path, _model)
        get(f"{path}/ready", _model_ready)
        post(f"{path}/infer", _infer)
    return app
