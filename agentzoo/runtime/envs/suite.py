"""`suite:task?key=value&...`: reading environment strings, filling them in, comparing them.

`suite:task,key=value,...` is the same, written without what shells take for themselves.

A suite declares its typed keys and makes environments; others add theirs by the entry point group
"agentzoo.envs", whose entries name a `Suite`. Where papers have agreed on settings, a suite names
them as protocols: `protocol=NAME` in a string stands for all of a protocol's keys.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Protocol

import gymnasium as gym

from ..errors import (
    AgentZooError,
    EnvironmentStringError,
    MissingExtraError,
    MissingPackageError,
    nearest,
)
from .names import EnvName

GROUP = "agentzoo.envs"
# imported when first named; these names cannot be taken
BUILT_IN = {
    "atari": ".atari",
    "crafter": ".crafter",
    "dmc": ".dmc",
    "gym": ".gym",
    "minigrid": ".minigrid",
    "minedojo": ".minedojo",
    "vizdoom": ".vizdoom",
}
SAFE_TASK = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # "walker-walk", "ALE/Pong-v5"; no ":", no path

Env = gym.Env[Any, Any]  # Gymnasium's type parameters are invariant, and ours to take are all
Value = int | float | str
LARGEST = 1 << 53  # of a number; a string may come from anywhere, and floats hold no larger ones
DIGITS = 15  # that need no such limit
REPEAT = 1000  # the most that an action may be repeated: a step has to end
Settings = Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Key:
    """One setting of a suite.

    Attributes:
        name: as it stands in the string.
        default: its value when nobody says one; None leaves the key out. Where it is a function
            of the task, None says that the task does not have this key.
        kind: int, float or str.
        allowed: the only values, if not empty.
        least: the smallest number.
        most: the largest number.
        evaluated: its value in evaluation, whatever was learned with; None is the same.
        applies: whether the key means anything beside the other settings; left out where not.
    """

    name: str
    default: Value | Callable[[str], Value | None] | None
    kind: type[int] | type[float] | type[str] = str
    allowed: tuple[Value, ...] = ()
    least: float | None = None
    most: float | None = None
    evaluated: Value | None = None
    applies: Callable[[Settings], bool] = lambda settings: True

    def default_for(self, task: str) -> Value | None:
        """The default, for a task in its canonical spelling."""
        return self.default(task) if callable(self.default) else self.default

    def read(self, given: object, where: str) -> Value:
        """A value of this key's type, from text or from a Python value.

        Raises:
            EnvironmentStringError: if it is of another type, not allowed, too small or too large.
        """
        try:
            value = self.kind(str(given))
        except ValueError as error:
            raise self._refusal(given, where) from error
        if (self.allowed and value not in self.allowed) or self._out_of_range(value):
            raise self._refusal(given, where)
        return value

    def _out_of_range(self, value: Value) -> bool:
        if isinstance(value, str):
            return False
        if not abs(value) <= LARGEST:
            return True
        # written so that NaN is out of every range
        too_small = self.least is not None and not value >= self.least
        return too_small or (self.most is not None and not value <= self.most)

    def _refusal(self, given: object, where: str) -> EnvironmentStringError:
        expected = {int: "a whole number", float: "a number", str: "a text"}[self.kind]
        if self.least is not None:
            expected += f" of at least {self.least:g}"
        if self.kind is not str and (self.most is not None or len(str(given)) > DIGITS):
            expected += f" and at most {self.most or LARGEST:g}"
        if self.allowed:
            expected = "one of " + ", ".join(map(str, self.allowed))
        return EnvironmentStringError(
            f'"{where:.200}" sets {self.name}={str(given)[:40]}, expected {expected}; '
            f"{nearest(str(given), map(str, self.allowed)) if self.allowed else 'change the value'}"
        )


class Make(Protocol):
    """Maker of a suite's environments, from a canonical task and its complete settings."""

    def __call__(self, task: str, settings: Settings, render_mode: str | None) -> Env:
        """Make it; every key of the suite that applies is in `settings`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished episode, as it is scored.

    Attributes:
        total: undiscounted sum of its rewards.
        length: its decisions.
        info: what the environment said with the last one.
    """

    total: float
    length: int
    info: Mapping[str, Any]


class Scores(Protocol):
    """Scores of a suite's finished episodes beyond their mean return."""

    def __call__(self, task: str, episodes: Sequence[Outcome]) -> Mapping[str, float]:
        """Scores by name, such as `human_normalized`; empty where the task has none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A family of environments.

    Attributes:
        name: before the colon.
        keys: what may stand behind the question mark.
        canonical: a task in its one spelling; raises EnvironmentStringError if it is unknown.
        make: makes an environment.
        protocols: name -> settings that papers have agreed on; the key `protocol` stands for one.
        scores: scores finished episodes, if there is more to say than their mean return.
        is_isolated: whether each environment lives in a process of its own even where there is one
            alone, because what it starts can take a process down, or outlive one.
        package: the module that has to be installed for it; asked for before one is made.
        dimensions: names the numbers of a task's vectors by observation key, where it can.
    """

    name: str
    keys: tuple[Key, ...]
    canonical: Callable[[str], str]
    make: Make
    protocols: Mapping[str, Settings] = field(default_factory=dict[str, Settings])
    scores: Scores | None = None
    is_isolated: bool = False
    package: str = ""
    dimensions: Callable[[str], Mapping[str, Sequence[str]]] | None = None

    @property
    def readable(self) -> tuple[Key, ...]:
        """The keys that strings may use: those of the suite, and `protocol` if it names some."""
        protocol = Key(name="protocol", default=None, allowed=tuple(self.protocols))
        return (*self.keys, protocol) if self.protocols else self.keys

    def spelled_out(self, settings: Settings) -> dict[str, Value]:
        """The settings with `protocol` replaced by what it stands for; single keys win over it."""
        single = dict(settings)
        protocol = single.pop("protocol", None)
        return {**(self.protocols[str(protocol)] if protocol is not None else {}), **single}

    def evaluated(self, settings: Settings) -> dict[str, Value]:
        """The settings as evaluation has them."""
        fixed = {key.name: key.evaluated for key in self.keys if key.evaluated is not None}
        return {name: fixed.get(name, value) for name, value in settings.items()}


@dataclass(frozen=True)
class _Parsed:
    suite: Suite
    task: str
    settings: dict[str, Value]  # those that the string says

    def complete(self, defaults: Mapping[str, object], where: str) -> dict[str, Value]:
        """Every key that applies, sorted: the string's, else `defaults`', else the suite's."""
        values: dict[str, Value] = {}
        open_keys = self._read(defaults, where)
        for key in self.suite.keys:
            default = key.default_for(self.task)
            if default is None and callable(key.default):
                self._refuse(key, where)
                continue
            value = self.settings.get(key.name, open_keys.get(key.name, default))
            if value is not None:
                values[key.name] = value
        applies = {key.name: key.applies(values) for key in self.suite.keys}
        return {name: values[name] for name in sorted(values) if applies[name]}

    def _refuse(self, key: Key, where: str) -> None:
        """Raise if the string says a key that its task does not have."""
        if key.name in self.settings:
            raise EnvironmentStringError(
                f'"{where}" sets {key.name}={self.settings[key.name]}, which means nothing for '
                f"the task {self.task}; leave it out"
            )

    def _read(self, defaults: Mapping[str, object], where: str) -> dict[str, Value]:
        known = {
            key.name: key.read(defaults[key.name], where)
            for key in self.suite.readable
            if defaults.get(key.name) is not None
        }
        return self.suite.spelled_out(known)

    def written(self, settings: Settings) -> str:
        query = "&".join(f"{name}={value}" for name, value in settings.items())
        return f"{self.suite.name}:{self.task}" + (f"?{query}" if query else "")


def suites() -> tuple[str, ...]:
    """The names of all suites, our own and those of installed packages."""
    return tuple(sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))}))


def suite_of(name: str) -> Suite:
    """The suite of an environment string or of a suite's bare name.

    Raises:
        EnvironmentStringError: if no such suite is registered, or a package registered nonsense.
    """
    suite = EnvName.read(name).suite
    if suite in BUILT_IN:
        return import_module(BUILT_IN[suite], __package__).SUITE
    for entry in entry_points(group=GROUP):
        if entry.name == suite:
            return _plugin(entry)
    raise EnvironmentStringError(
        f'"{name}" names the suite "{suite}", which is not registered; '
        f"{nearest(suite, suites(), 'suites')}"
    )


def package_of(suite: str) -> str | None:
    """The package to install for a suite: "" is an extra of ours, None is not known."""
    if suite in BUILT_IN:
        return ""
    names = (one.dist.name for one in entry_points(group=GROUP, name=suite) if one.dist)
    return next(names, None)


def _plugin(entry: EntryPoint) -> Suite:
    suite = entry.load()
    if isinstance(suite, Suite):
        return suite
    raise EnvironmentStringError(
        f'the suite "{entry.name}" is registered as {entry.value}, which is a '
        f"{type(suite).__name__}, expected a runtime.envs.Suite; mend or remove that package"
    )


def make_env(name: str, *, render_mode: str | None = None, **settings: Value) -> Env:
    """Make the environment that a string names.

    Args:
        name: `suite:task?key=value&...`.
        render_mode: "rgb_array" if `render()` will be called; suites that draw anyway ignore it.
        settings: keys of the suite, the same as in the string.

    Returns:
        A Gymnasium environment; alone it does not repeat actions.

    Raises:
        EnvironmentStringError: if suite, task, key or value are unknown, or string and settings
            contradict each other.
        MissingExtraError: if the suite's package is not installed.

    Example:
        env = make_env("dmc:walker-walk?obs=state", repeat=2)
    """
    parsed = _parse(name, settings)
    full = parsed.written(parsed.complete({}, name))
    require_package(parsed.suite)
    if not parsed.suite.is_isolated:
        return make_here(full, render_mode=render_mode)
    from .subprocess_env import WorkerEnv

    return WorkerEnv(partial(make_here, full, render_mode=render_mode))


def make_here(name: str, *, render_mode: str | None = None) -> Env:
    """Make the environment that a string names in this very process, isolated or not.

    For the inside of workers; args and errors are those of `make_env`.
    """
    parsed = _parse(name)
    return parsed.suite.make(parsed.task, parsed.complete({}, name), render_mode)


def require_package(suite: Suite) -> None:
    """Refuse a suite whose package is missing here, and so in its workers.

    Raises:
        MissingExtraError: with the line that installs it.
    """
    if not suite.package or find_spec(suite.package) is not None:
        return
    brought = package_of(suite.name)
    if not brought:
        raise MissingExtraError(suite.package, suite.name)
    raise MissingPackageError(suite.package, brought)


def resolve(
    name: str, defaults: Mapping[str, object] | None = None, *, trusted: bool = True
) -> str:
    """The string with every key written out, sorted; resolving it again changes nothing.

    Args:
        name: `suite:task?key=value&...`.
        defaults: values for keys that the string leaves open, before the suite's own; keys that the
            suite lacks are not looked at, so that one preset serves several suites.
        trusted: False for a string that was downloaded: its task may be a plain name only, so that
            nothing is imported or opened for it.

    Returns:
        For example `dmc:walker-walk?camera=0&obs=pixels&render=default&repeat=2&size=64`. Keys that
        mean nothing beside the others (camera for obs=state) are left out.

    Raises:
        EnvironmentStringError: if suite, task, key or value are unknown or not to be trusted.
    """
    if not trusted:
        _require_plain_task(_read(name), name)
    parsed = _parse(name)
    return parsed.written(parsed.complete(defaults or {}, name))


def for_evaluation(name: str) -> str:
    """The resolved string of the environment that policies learned in `name` are evaluated in.

    It differs where a key says so, such as `life_loss` of atari.
    """
    parsed = _parse(name)
    return parsed.written(parsed.suite.evaluated(parsed.complete({}, name)))


def protocol_of(name: str) -> str:
    """The protocol that a string's settings are, in evaluation; "" if they are none of them."""
    parsed = _parse(name)
    settings = parsed.suite.evaluated(parsed.complete({}, name)).items()
    for protocol, values in parsed.suite.protocols.items():
        if parsed.suite.evaluated(values).items() <= settings:
            return protocol
    return ""


def scores_of(name: str, episodes: Sequence[Outcome]) -> dict[str, float]:
    """The scores that an environment string's suite gives finished episodes; often none."""
    parsed = _parse(name)
    return dict(parsed.suite.scores(parsed.task, episodes)) if parsed.suite.scores else {}


def dimensions_of(name: str) -> dict[str, tuple[str, ...]]:
    """Names of the numbers in an environment string's vectors, by observation key."""
    parsed = _parse(name)
    if parsed.suite.dimensions is None:
        return {}
    named = parsed.suite.dimensions(parsed.task)
    return {key: tuple(names) for key, names in named.items()}


def check_downloaded(name: str) -> None:
    """Refuse an environment string from elsewhere that could do more than name a known suite.

    Whether the task exists here is not asked: a machine that only serves may lack the suite's
    package. Opening it later resolves it with `trusted=False`.

    Raises:
        EnvironmentStringError: if the suite is not registered, the task is no plain name, or a key
            or its value is not the suite's.
    """
    read = _read(name)
    _require_plain_task(read, name)
    _read_settings(suite_of(name), read.pairs, name)


def settings_of(name: str) -> dict[str, Value]:
    """The typed settings of a string, filled with the suite's defaults, sorted by key."""
    return _parse(name).complete({}, name)


def merge(policy_env: str, asked: str, override: bool = False) -> str:
    """The environment to run a policy in: what was asked, filled up from what it was trained in.

    Args:
        policy_env: the policy's resolved string; "" if it was trained on the user's own object.
        asked: the string to run in; keys it leaves open are taken from `policy_env`.
        override: let `asked` win where the two contradict each other.

    Returns:
        A resolved string.

    Raises:
        EnvironmentStringError: if the two contradict each other without `override`.
    """
    if not policy_env:
        return resolve(asked)
    policy, wanted = _parse(policy_env), _parse(asked)
    differing = _contradictions(policy, wanted)
    if differing and not override:
        was = EnvName.read(policy_env).shell
        raise EnvironmentStringError(
            f'"{asked}" contradicts "{was}", which the policy was trained in: '
            f"{'; '.join(differing)}; leave these out, or pass override=True"
        )
    same_suite = policy.suite.name == wanted.suite.name
    return resolve(asked, policy.settings if same_suite else {})


def _contradictions(policy: _Parsed, wanted: _Parsed) -> list[str]:
    if (policy.suite.name, policy.task) != (wanted.suite.name, wanted.task):
        return [f"{policy.written({})} and {wanted.written({})}"]
    return [
        f"{name}={policy.settings[name]} and {name}={value}"
        for name, value in wanted.settings.items()
        if policy.settings.get(name, value) != value
    ]


def _require_plain_task(read: EnvName, name: str) -> None:
    if not SAFE_TASK.fullmatch(read.task):
        raise EnvironmentStringError(
            f'"{name}" comes from a download and names the task "{read.task}", expected the '
            "plain name of a registered one (no module prefix, no path); if you trust it, pass it "
            "yourself"
        )


def _read(name: str) -> EnvName:
    """The parts of a string that has to name a suite and a task."""
    read = EnvName.read(name)
    has_no_keys = read.pairs == ("",) and name.endswith("?")
    if not re.fullmatch(r"[^:]+:.+", read.head) or has_no_keys:
        known = f"suites: {', '.join(suites())}"
        if named := [] if has_no_keys else _suites_with(read.head):
            known = "did you mean " + " or ".join(f'"{suite}:{name}"' for suite in named) + "?"
        raise EnvironmentStringError(
            f'"{name}" is not an environment string, expected suite:task,key=value,key=value, such '
            f"as dmc:walker-walk,obs=state (or suite:task?key=value&key=value); {known}"
        )
    return read


def _suites_with(task: str) -> list[str]:
    """The suites that have a task of this name, and do not take every name for one."""
    return [name for name in suites() if _has(name, task) and not _has(name, "no_such_task")]


def _has(name: str, task: str) -> bool:
    with suppress(AgentZooError, ImportError):
        suite_of(name).canonical(task)
        return True
    return False


def _parse(name: str, more: Settings | None = None) -> _Parsed:
    read = _read(name)
    suite = suite_of(name)
    task = suite.canonical(read.task)
    said = _read_settings(suite, read.pairs, name)
    for key, value in (more or {}).items():
        read = _key(suite, key, name).read(value, name)
        if said.setdefault(key, read) != read:
            raise EnvironmentStringError(f'"{name}" was given {key}={value} as well; say it once')
    return _Parsed(suite, task, suite.spelled_out(said))


def _read_settings(suite: Suite, pairs: Sequence[str], name: str) -> dict[str, Value]:
    settings: dict[str, Value] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not value or key in settings:
            raise EnvironmentStringError(
                f'"{name}" holds "{pair}", expected each key once as key=value; '
                f"keys: {', '.join(each.name for each in suite.readable)}"
            )
        settings[key] = _key(suite, key, name).read(value, name)
    return settings


def _key(suite: Suite, name: str, where: str) -> Key:
    for key in suite.readable:
        if key.name == name:
            return key
    known = [key.name for key in suite.readable]
    raise EnvironmentStringError(
        f'"{where}" sets "{name}", which the suite {suite.name} does not know; '
        f"{nearest(name, known, 'keys')}"
    )
