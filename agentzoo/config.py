"""Frozen dataclass configurations, presets, and overrides that say what was meant."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

from agentzoo.runtime.envs import EnvName
from agentzoo.runtime.errors import ConfigError, nearest
from agentzoo.runtime.spec import ActionSpec, ObsSpec

from .fields import check_ranges, suggestion
from .train.schedule import ByBurst, ByEpisode, ByRatio, Schedule

LARGEST = 1 << 53  # of a whole number; a saved one may be a stranger's, and JSON has no limit


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """The fields of every agent's configuration: the world's defaults, the schedule, the batch.

    The defaults are nobody's paper: no repeat, an update a step. Subclasses say their own, and add
    their own fields; a trailing comment gives unit and source.
    """

    total_steps: int = 100_000  # environment steps including repeat; learn()'s default budget
    repeat: int = 1  # action repeat, where the environment string leaves it open
    render: str = "default"  # default|fast, where the environment string leaves it open
    frames: int | None = None  # pictures in an observation, where the string leaves it open
    protocol: str | None = None  # settings by name, where the environment string leaves them open
    envs: int = 1  # environments collected from at a time
    parallel: bool = True  # several environments: a process for each; they give the same
    overlap: bool = False  # spread a burst's updates over the collecting that leads to the next
    worker_timeout: float = 300.0  # seconds without an answer after which a process counts as hung
    prefill: int = 1_000  # environment steps of uniformly random actions before learning
    pretrain: int = 1  # updates at the first opportunity
    update_every: int = 1  # environment steps between bursts of updates; 0 is each episode's end
    updates: int = 1  # updates in a burst
    train_ratio: float = (
        0.0  # transitions trained on for each decision collected; 0 is bursts instead
    )
    batch_size: int = 16  # B, windows in a batch
    batch_length: int = 16  # T, transitions in a window
    replay_rows: int = 100_000  # capacity of the replay buffer in transitions
    log_every: int = 1_000  # environment steps between lines of metrics
    # environment steps between evaluations; 0 is never, None as often as a tenth of the run allows
    eval_every: int | None = None
    eval_episodes: int | None = None  # in each; None is 5 to 20, fewer where a tenth holds fewer
    final_episodes: int = 20  # that score the final policy; 0 is none
    report_every: int = 100_000  # environment steps between pictures of the run; 0 is never
    checkpoint_every: int = (
        10_000  # steps of each environment between checkpoints; 0: only the last
    )
    # further steps of an environment after which its episode is cut for a checkpoint; None is the
    # task's time limit, or 10,000 where that is not known
    checkpoint_grace: int | None = None
    # fp32|tf32|bf16|auto, of matrix products; auto is bf16 where that was measured to be faster
    precision: str = "fp32"
    lr_decay: str = "none"  # none|linear|cosine, how learning rates fall from the first update on
    lr_decay_updates: int = 0  # updates in which it falls to its last value
    lr_final: float = 0.0  # share of each learning rate that is left after them
    kernels: str = "fast"  # fast|plain, hand-written kernels or their plain forms
    capture: str = "auto"  # auto|on|off, the update as a CUDA graph; auto is on where there is CUDA

    def __post_init__(self) -> None:
        """Check what no type says.

        Raises:
            ConfigError: naming the field, its value and what it has to be.
        """
        optional = [one.name for one in fields(self) if "None" in str(one.type)]
        check_ranges(vars(self), optional)
        if self.overlap and not (self.update_every or self.train_ratio):
            raise ConfigError(
                "overlap=True spreads updates over environment steps, but update_every=0 asks for "
                "a burst at each episode's end; set update_every as well"
            )
        one_of("render", self.render, ("default", "fast"))
        one_of("precision", self.precision, ("fp32", "tf32", "bf16", "auto"))
        one_of("lr_decay", self.lr_decay, ("none", "linear", "cosine"))
        if (self.lr_decay != "none") != (self.lr_decay_updates > 0):
            raise ConfigError(
                f"lr_decay={self.lr_decay!r} and lr_decay_updates={self.lr_decay_updates} say "
                "different things: a decay needs a number of updates, and the other way round"
            )
        one_of("kernels", self.kernels, ("fast", "plain"))
        one_of("capture", self.capture, ("auto", "on", "off"))

    @classmethod
    def decided_by(cls, field: str) -> tuple[str, ...]:
        """Fields that a value of `field` decides as long as they are None, as a size does.

        Where a later layer sets `field`, an earlier one's values of these no longer count.
        """
        return ()

    def schedule(self, repeat: int) -> Schedule:
        """Schedule of updates: by ratio where there is one, else in bursts.

        A recipe that updates otherwise overrides this.

        Args:
            repeat: environment steps in a decision.
        """
        if self.train_ratio:
            return ByRatio(
                prefill=self.prefill,
                pretrain=self.pretrain,
                ratio=self.train_ratio,
                batch=self.batch_size,
                length=self.batch_length,
                envs=self.envs,
                repeat=repeat,
            )
        if not self.update_every:
            return ByEpisode(self.prefill, self.pretrain, self.updates)
        return ByBurst(self.prefill, self.pretrain, self.update_every, self.updates, self.overlap)


@dataclass(frozen=True)
class EnvFacts:
    """Facts of an environment that a recipe may know before it chooses its settings.

    Attributes:
        task: "suite:task", or "" for an environment object.
        obs: the observations by key.
        action: the environment's action.
        time_limit: environment steps after which an episode is cut, if there is a known number.
        repeat: environment steps in a decision where the string or the user says it, else None.
    """

    task: str
    obs: Mapping[str, ObsSpec]
    action: ActionSpec
    time_limit: int | None = None
    repeat: int | None = None

    @property
    def suite(self) -> str:
        """The task's suite, or ""."""
        return EnvName.read(self.task).suite


Config = TypeVar("Config", bound=AgentConfig)


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is not among the known ones.

    Raises:
        ConfigError: with the nearest known value.
    """
    if value not in known:
        raise ConfigError(f"{name}={value!r} is not known; {nearest(str(value), known)}")


def configure(
    config_class: type[Config], *layers: Mapping[str, object], name: str = "Agent"
) -> Config:
    """A configuration from layers of field values; later layers win.

    A size of a later layer wins over its parts of earlier ones (`decided_by`): `size="12m"` beside
    a preset that has a width of its own is 12m throughout.

    Args:
        config_class: the agent's configuration.
        layers: a preset's fields, then the user's overrides.
        name: the agent's name, for errors.

    Raises:
        ConfigError: for an unknown field (with the nearest names) or an ill-typed value.
    """
    hints = typing.get_type_hints(config_class)
    values: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if key not in hints:
                known = suggestion(key, hints)
                raise ConfigError(f"{name} has no configuration field {key!r}; {known}")
            for part in config_class.decided_by(key):
                if part not in layer:
                    values.pop(part, None)
            values[key] = typed(key, value, hints[key])
    return config_class(**values)


def typed(key: str, value: object, hint: object) -> object:
    """The value as its field's type, where that loses nothing.

    Raises:
        ConfigError: saying what was given and expected.
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        found, converted = _match(value, option)
        if found:
            return converted
    expected = " or ".join(_type_name(option) for option in options)
    beyond = isinstance(value, int) and abs(value) > LARGEST
    raise ConfigError(
        f"{key}={value!r:.80} is {'beyond 2**53' if beyond else f'a {type(value).__name__}'}, "
        f"expected {expected}"
    )


def _type_name(option: object) -> str:
    if option is type(None):
        return "None"
    return option.__name__ if type(option) is type else str(option)  # str says a tuple's items


def _match(value: object, option: object) -> tuple[bool, object]:
    if typing.get_origin(option) is tuple:
        if not isinstance(value, list | tuple):
            return False, value
        items, given = typing.get_args(option), cast("Sequence[object]", value)
        if items[-1] is Ellipsis:
            items = items[:1] * len(given)
        matched = [_match(v, item) for v, item in zip(given, items, strict=False)]
        whole = len(given) == len(items) and all(ok for ok, _ in matched)
        return whole, tuple(v for _, v in matched)
    if option is bool or isinstance(value, bool):
        return option is bool and isinstance(value, bool), value
    if option is int and isinstance(value, float) and value.is_integer():
        return True, int(value)  # 5e6
    if isinstance(value, int) and abs(value) > LARGEST:
        return False, value
    if option is float and isinstance(value, int):
        return True, float(value)
    return isinstance(option, type) and isinstance(value, option), value


def parse_setting(config_class: type[AgentConfig], setting: str) -> tuple[str, object]:
    """A command line's `field=value` as a field and a typed value.

    Raises:
        ConfigError: if it has no `=`, names no field, or the value does not read as its type.
    """
    key, equals, text = setting.partition("=")
    if not equals:
        raise ConfigError(f"{setting!r} is not a setting; write field=value, such as deter=200")
    hints = typing.get_type_hints(config_class)
    if key not in hints:
        raise ConfigError(f"no configuration field {key!r}; {suggestion(key, hints)}")
    return key, typed(key, _read(text, hints[key]), hints[key])


def setting(value: object) -> str:
    """A field's value as it stands on the command line; `parse_setting` reads it back."""
    if isinstance(value, list | tuple):
        return ",".join(map(setting, value)) + ("," if len(value) == 1 else "")
    return str(value)


def _read(text: str, hint: object) -> object:
    """A text as a value of a field's type, where it reads as one; `typed` says where not."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if types.NoneType in options and text.lower() == "none":
        return None
    for option in options:
        if typing.get_origin(option) is tuple and ("," in text or not text):
            items, parts = typing.get_args(option), [part for part in text.split(",") if part]
            of = items if items[-1] is not Ellipsis else items[:1] * len(parts)
            return tuple(map(_read, parts, of)) if len(of) == len(parts) else tuple(parts)
    # a text is a text, whatever it spells: standardize=none is no None
    return text if str in options else _literal(text)


def _literal(text: str) -> object:
    words: dict[str, object] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if "," in text:
        return tuple(_literal(part) for part in text.split(",") if part)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def to_json(config: AgentConfig) -> dict[str, object]:
    """The configuration as a plain JSON object; `configure(cls, it)` reads it back."""
    return dataclasses.asdict(config)
