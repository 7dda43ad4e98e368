"""Policies as an application of Ray Serve: several replicas behind one address.

    serve run agentzoo.runtime.deploy:app model=walker replicas=2

A replica is the service of `agentzoo serve` over ASGI. A websocket stays with its replica by
itself, and a stateless request may go to any. A sequence over REST is sent to the replica that its
header `x-session-id` names: a table would have to be shared by all proxies, and a hash of the id
moves sequences of replicas that are well whenever another one joins.
"""

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, cast, get_args, get_type_hints

from .errors import ConfigError, MissingExtraError, nearest
from .server.asgi_form import AsgiApp
from .server.models import local_folder
from .server.replica import MARK
from .server.service import Service
from .server.settings import ModelSettings, ServerSettings, check_names, model_settings

KEY_VARIABLE = "AGENTZOO_API_KEY"
KEPT = 64  # replicas that no longer run, in each proxy


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """The arguments of the application, from a command line or from a file for `serve deploy`.

    Attributes:
        model: a bundle's folder, or NAME=FOLDER; several in a list, or with commas between them.
            Every node has to have it.
        replicas: how many there are.
        cpus: that Ray sets aside for each.
        gpus: that Ray sets aside for each.
        provider: what ONNX Runtime runs on.
        threads: of ONNX Runtime, for one step.
        max_batch: requests in one call of the step.
        max_wait_ms: how long a request may wait for others.
        max_queue: requests that may wait; further ones are refused.
        plan: a planner's settings, "off", or "" for those of the bundle.
        max_sessions: sessions open at once in each replica.
        session_ttl_s: how long a session may be idle.
        deadline_s: how long a request may take.
        max_rows: batch elements of one stateless request.
        drain_s: how long open websockets may go on when a replica is to end.
        allow_hosts: names in the header Host that are let in without a key, with commas between.
        allow_origins: values of the header Origin that are let in, with commas between.
    """

    model: tuple[str, ...]
    replicas: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    provider: str = "auto"
    threads: int = 1
    max_batch: int = 64
    max_wait_ms: float = 2.0
    max_queue: int = 1024
    plan: str = ""
    max_sessions: int = 1024
    session_ttl_s: float = 600.0
    deadline_s: float = 10.0
    max_rows: int = 16
    drain_s: float = 20.0
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()

    def models(self) -> list[ModelSettings]:
        """The policies that each replica serves.

        Raises:
            ConfigError: if one is no model, or two have one name.
        """
        names = ("provider", "threads", "max_batch", "max_wait_ms", "max_queue", "plan")
        found = [
            model_settings(one, **{name: getattr(self, name) for name in names})
            for one in self.model
        ]
        check_names(found)
        return found

    def settings(self, api_key: str = "") -> ServerSettings:
        """A replica's limits; it listens nowhere itself.

        Raises:
            ConfigError: if one of them lets nobody in.
        """
        return ServerSettings(
            api_key=api_key,
            max_sessions=self.max_sessions,
            session_ttl_s=self.session_ttl_s,
            deadline_s=self.deadline_s,
            max_rows=self.max_rows,
            drain_s=self.drain_s,
            allow_hosts=self.allow_hosts,
            allow_origins=self.allow_origins,
            page=False,
        )


def read_deployment(args: Mapping[str, object]) -> Deployment:
    """The arguments, each of the type that it has to have; texts of a command line are read.

    Raises:
        ConfigError: if one is unknown or of another type, or no model is named.
    """
    kinds = get_type_hints(Deployment)
    for name in args:
        if name not in kinds:
            raise ConfigError(f'the application has no "{name}"; {nearest(name, kinds)}')
    if not args.get("model"):
        raise ConfigError("there is no policy to serve; name a bundle's folder: model=FOLDER")
    made = {name: _read(name, kinds[name], value) for name, value in args.items()}
    deployment = Deployment(**cast("dict[str, Any]", made))
    if deployment.replicas < 1:
        raise ConfigError(f"replicas is {deployment.replicas}, expected at least 1")
    if deployment.provider not in (known := get_args(get_type_hints(ModelSettings)["provider"])):
        raise ConfigError(
            f"provider is {deployment.provider!r:.40}, expected one of {', '.join(known)}"
        )
    deployment.models()
    deployment.settings()
    return deployment


def _read(name: str, kind: object, value: object) -> object:
    if kind is int or kind is float:
        return _number(name, int if kind is int else float, value)
    if kind is not str:
        return _texts(name, value)
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r:.40}, expected a text")
    return value


def _number(name: str, kind: type[int] | type[float], value: object) -> float:
    wanted = "a whole number" if kind is int else "a number"
    accepted = (int, str) if kind is int else (int, float, str)
    try:
        if type(value) in accepted:  # exactly: a bool is no number here
            return kind(cast(str, value))
    except ValueError:
        pass  # the same sentence
    raise ConfigError(f"{name} is {value!r:.40}, expected {wanted}")


def _texts(name: str, value: object) -> tuple[str, ...]:
    parts = cast("list[object]", value.split(",") if isinstance(value, str) else value)
    if not isinstance(value, str | list) or not all(isinstance(one, str) for one in parts):
        raise ConfigError(
            f"{name} is {value!r:.40}, expected texts with commas between, or a list of them"
        )
    return tuple(cast("list[str]", parts))


class Replica:
    """One replica: a service of its own, with its sessions."""

    async def __init__(self, deployment: Deployment) -> None:  # Serve awaits it
        """Load what is served.

        Raises:
            AgentZooError: if a model cannot be opened.
        """
        self._deployment = deployment
        settings = deployment.settings(os.environ.get(KEY_VARIABLE, ""))
        self._service = Service(settings, deployment.models(), local_folder)
        context = import_module("ray.serve").get_replica_context()
        self._service.replica = str(context.replica_id.unique_id)
        assert MARK not in self._service.replica, "the router reads the name off the session id"
        await self._service.load()

    def __serve_build_asgi_app__(self) -> AsgiApp:
        """The application that answers; Serve asks for it once this is made."""
        return AsgiApp(self._service)

    async def reconfigure(self, config: Mapping[str, object]) -> None:
        """Swap models in place, as `user_config` says; sessions stay with what they began with.

        Args:
            config: {"model": ...}, as in the application's arguments; one that comes from where it
                came before is left alone.

        Raises:
            AgentZooError: if one cannot be opened; everything goes on as it was.
        """
        if list(config) != ["model"]:
            raise ConfigError(f'user_config is {dict(config)!r:.80}, expected "model" alone')
        model = _texts("model", config["model"])
        wanted = replace(self._deployment, model=model).models()
        served = {one.settings.name: one.settings for one in self._service.models.values()}
        if changed := [one for one in wanted if served.get(one.name) != one]:
            await self._service.load(changed)

    def check_health(self) -> None:
        """Have Serve replace a replica that is beyond hope.

        Raises:
            RuntimeError: if a policy is dead, or in one step for several deadlines.
        """
        if not self._service.is_live:
            raise RuntimeError("a policy is in a step that does not end")


def __getattr__(name: str) -> Any:
    """`ByName`, the request router, which needs Ray to be made and Serve to find it here."""
    if name != "ByName":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    base = import_module("ray.serve.request_router").RequestRouter

    class ByName(base):
        """Sends a request to the replica that its session id names.

        Serve carries it to its proxies whole, since they may not have agentzoo.
        """

        def initialize_state(self, **_: object) -> None:
            """Begin with no replica that runs."""
            self._running = set[Any]()

        def update_replicas(self, replicas: list[Any]) -> None:
            """Take note of who runs, and keep the others until a request finds them dead.

            Serve leaves out a replica that swaps its model, and one that is to end: what has begun
            there goes on there, and nothing else begins.
            """
            self._running = {one.replica_id for one in replicas}
            others = [
                one for key, one in self.curr_replicas.items() if key not in self._running
            ]  # the latest first
            super().update_replicas([*replicas, *others[:KEPT]])  # pyright: ignore[reportUnknownMemberType]

        async def choose_replicas(
            self, candidate_replicas: list[Any], pending_request: Any = None
        ) -> list[list[Any]]:
            """The named replica; else the less busy one of two, of which any can say it is gone."""
            session = ""
            if pending_request is not None:
                pending_request.routing_context.should_backoff = True  # between rounds
                session = pending_request.metadata.session_id
            replica = session.partition(MARK)[0]
            named = [one for one in candidate_replicas if one.replica_id.unique_id == replica]
            running = [one for one in candidate_replicas if one.replica_id in self._running]
            return [named or random.sample(running, min(2, len(running)))]

    return ByName


def app(args: Mapping[str, object]) -> Any:
    """The application, as `serve run` and `serve deploy` build it; see `Deployment`.

    Raises:
        ConfigError: if an argument is not what it has to be.
        MissingExtraError: if Ray Serve is not installed.
    """
    deployment = read_deployment(args)
    try:
        serve = import_module("ray.serve")
        router_config = import_module("ray.serve.config").RequestRouterConfig
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "ray", "ray") from error
    return serve.deployment(
        name="agentzoo",
        num_replicas=deployment.replicas,
        # every open websocket is a request under way: more than sessions, so that it is the
        # replica that says "sessions_full", and nobody waits for ever
        max_ongoing_requests=deployment.settings().connection_limit,
        graceful_shutdown_timeout_s=deployment.drain_s,
        ray_actor_options={"num_cpus": deployment.cpus, "num_gpus": deployment.gpus},
        request_router_config=router_config(request_router_class=f"{__name__}:ByName"),
    )(serve.ingress()(Replica)).bind(deployment)
