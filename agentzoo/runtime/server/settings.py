"""The server's settings: models and limits, from the command line or a models.toml."""

import hashlib
import hmac
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_type_hints

from ..errors import ConfigError, nearest

LONGEST_S = 1e6  # of any time that is set; clocks and timers take no infinity
LOOPBACK = ("127.0.0.1", "::1", "localhost")
NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """One policy to serve.

    Attributes:
        name: in paths and metrics; letters, digits and ._- only.
        source: a bundle's folder, or a Hub id.
        revision: of a Hub id; a commit pins it.
        provider: what ONNX Runtime runs on.
        threads: of ONNX Runtime, for one step.
        max_batch: requests in one call of the step.
        max_wait_ms: how long a request may wait for others.
        max_queue: requests that may wait; further ones are refused.
        lone_steps: where a step of one request is computed: in the event loop where that is
            quicker ("auto"), or always in the thread of the others ("thread").
        plan: a planner's settings ("candidates=200,elites=20"), "off" for its policy network alone,
            or "" for those of the bundle.
    """

    name: str
    source: str
    revision: str = ""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    max_batch: int = 64
    max_wait_ms: float = 2.0
    max_queue: int = 1024
    lone_steps: Literal["auto", "thread"] = "auto"
    plan: str = ""

    def __post_init__(self) -> None:
        """Check what can be checked without opening anything."""
        if not self.name or set(self.name) - set(NAME) or not self.source:
            raise ConfigError(
                f'a model is called "{self.name}" and comes from "{self.source}", expected a name '
                "of letters, digits and ._- and a source; write it as NAME=SOURCE"
            )
        for name in ("threads", "max_batch", "max_queue"):
            _check_least(f"{self.name}: {name}", getattr(self, name), 1)
        _check_time(f"{self.name}: max_wait_ms", self.max_wait_ms, 0, 1e3 * LONGEST_S)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of a server: its address and its limits.

    Attributes:
        host: address to bind; one that others can reach needs a key.
        port: 0 takes a free one.
        api_key: what clients have to show; "" asks for nothing.
        insecure: bind an open address without a key.
        model_control: let clients that may call also ask for a reload.
        max_sessions: sessions open at once, of all models together.
        session_ttl_s: how long a session may be idle.
        deadline_s: how long a request may take.
        write_timeout_s: how long a client may take to read its answer.
        drain_s: how long sessions may go on after the signal to end.
        max_rows: batch elements of one stateless request.
        max_connections: open at once; 0 is 1,024 more than sessions.
        header_timeout_s: how long a connection may take to send a request's head.
        idle_timeout_s: how long one may be open after a request without another.
        allow_hosts: names in the header Host that are let in without a key, beside addresses and
            localhost.
        allow_origins: values of the header Origin that are let in; no other one is.
        page: whether `/` shows the page; None is where only this machine can reach the server.
        max_dreams: episodes and dreams that run at once for the page.
        dream_s: how long one of them may go on.
        runs: a folder of runs whose curves the page shows.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str = ""
    insecure: bool = False
    model_control: bool = False
    max_sessions: int = 1024
    session_ttl_s: float = 600.0
    deadline_s: float = 10.0
    write_timeout_s: float = 10.0
    drain_s: float = 5.0
    max_rows: int = 16
    max_connections: int = 0
    header_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    page: bool | None = None
    max_dreams: int = 2
    dream_s: float = 900.0
    runs: Path | None = None

    @property
    def connection_limit(self) -> int:
        """Limit of connections open at once."""
        return self.max_connections or self.max_sessions + 1024

    def __post_init__(self) -> None:
        """Refuse an open door, and limits that let nobody in.

        Raises:
            ConfigError: if the address is open to others and nothing is asked of them.
        """
        object.__setattr__(self, "api_key", checked_key(self.api_key))
        if self.host not in LOOPBACK and not self.api_key and not self.insecure:
            raise ConfigError(
                f"{self.host} can be reached by others and no key is asked of them; set a key "
                "(AGENTZOO_API_KEY), bind 127.0.0.1, or pass --insecure if a gateway guards it"
            )
        if self.page and self.host not in LOOPBACK and not self.api_key:
            raise ConfigError(
                f"the page would be open to whoever reaches {self.host}; set a key "
                "(AGENTZOO_API_KEY), which the page then asks for, or leave --page out"
            )
        if self.runs is not None and not self.runs.is_dir():
            raise ConfigError(f"there is no folder of runs at {self.runs}; name one with --runs")
        for name in ("max_sessions", "max_rows", "max_dreams"):
            _check_least(name, getattr(self, name), 1)
        _check_least("max_connections", self.max_connections, 0)
        for name in ("session_ttl_s", "deadline_s", "write_timeout_s", "header_timeout_s",
                     "idle_timeout_s", "dream_s"):  # fmt: skip
            _check_time(name, getattr(self, name), 1e-3)
        _check_time("drain_s", self.drain_s, 0)

    @property
    def shows_page(self) -> bool:
        """Whether there is a page: asked for, or on a server that only this machine reaches."""
        return self.host in LOOPBACK if self.page is None else self.page


def same_key(given: str, key: str) -> bool:
    """Whether a key is the key, in a time that says nothing about it."""
    # digests have one length, so the comparison takes the same time whatever was given
    digests = [hashlib.sha256(one.encode(errors="replace")).digest() for one in (given, key)]
    return hmac.compare_digest(*digests)


def checked_key(key: str) -> str:
    """A key as it is shown in a header, without the newline that files end with.

    Raises:
        ConfigError: if it cannot be; the key is not repeated.
    """
    stripped = key.strip()
    if key and not stripped:
        raise ConfigError("the key is blank; set another one, or none (AGENTZOO_API_KEY)")
    if not (stripped.isascii() and stripped.isprintable()) or " " in stripped:
        raise ConfigError(
            "the key holds spaces or letters that a header cannot; use ASCII letters and digits"
        )
    return stripped


def _check_least(name: str, value: float, least: float) -> None:
    if not value >= least:  # written so that NaN is too small
        raise ConfigError(f"{name} is {value}, expected at least {least:g}")


def _check_time(name: str, value: float, least: float, most: float = LONGEST_S) -> None:
    _check_least(name, value, least)
    if value > most:
        raise ConfigError(f"{name} is {value}, expected at most {most:g}")


def read_models(path: Path) -> list[ModelSettings]:
    """The models of a models.toml: one `[[model]]` table each, with the fields of `ModelSettings`.

    Raises:
        ConfigError: if the file is missing, no TOML, or a field is unknown or of another type.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); write one [[model]] each") from error
    tables = value.pop("model", None)
    if value or not isinstance(tables, list) or not tables:
        raise ConfigError(
            f"{path} holds {', '.join(value) or 'no [[model]]'}, expected only [[model]] tables"
        )
    models = [_read_model(path, table) for table in cast("list[object]", tables)]
    check_names(models)
    return models


def check_names(models: list[ModelSettings]) -> None:
    """Refuse two models of one name.

    Raises:
        ConfigError: naming it.
    """
    names = [model.name for model in models]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f'two models are called "{twice[0]}"; rename one: NAME=SOURCE')


def _read_model(path: Path, table: object) -> ModelSettings:
    if not isinstance(table, dict):
        raise ConfigError(f"{path} holds a model that is {table!r:.40}; write [[model]]")
    entries = cast("Mapping[str, object]", table)
    kinds = get_type_hints(ModelSettings)
    for name, found in entries.items():
        if name not in kinds:
            raise ConfigError(f'{path} sets "{name}"; {nearest(name, kinds, "fields")}')
        _check_kind(f"{path}: {name}", kinds[name], found)
    for name in ("name", "source"):
        if name not in entries:
            raise ConfigError(f'{path} has a model without "{name}"; add it')
    return ModelSettings(**cast("dict[str, Any]", entries))


def _check_kind(where: str, kind: object, found: object) -> None:
    if allowed := get_args(kind):
        if found not in allowed:
            raise ConfigError(f"{where} is {found!r}, expected one of {', '.join(allowed)}")
        return
    accepted = (int, float) if kind is float else (cast("type", kind),)
    if type(found) not in accepted:  # exactly: a bool is no number here
        raise ConfigError(f"{where} is {found!r}, expected {accepted[0].__name__}")


def split_name(given: str) -> tuple[str, str]:
    """NAME and SOURCE of `NAME=SOURCE`; "" and all of it where it is a source with a = in it."""
    name, mark, source = given.partition("=")
    if not mark or set(name) - set(NAME) or Path(given).is_dir():
        return "", given
    return name, source


def model_settings(source: str, **limits: object) -> ModelSettings:
    """One policy from what a command line says: `SOURCE`, or `NAME=SOURCE`.

    A source without a name is called after its last part: `me/walker@main` is `walker`.
    """
    name, rest = split_name(source)
    plain, _, revision = rest.partition("@")
    is_folder = Path(rest).is_dir()
    where = rest if is_folder else plain
    last = Path(where).resolve().name if is_folder else re.split("[/:]", where)[-1]
    stem = "".join(one if one in NAME else "-" for one in last)
    known = {field.name for field in fields(ModelSettings)}
    assert limits.keys() <= known, limits
    made = ModelSettings(name=name or stem, source=where, revision="" if is_folder else revision)
    return replace(made, **cast("dict[str, int]", limits))
