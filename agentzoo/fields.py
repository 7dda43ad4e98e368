"""Fields of a configuration: their ranges, their meanings, and what others call them.

A field's name means the same in every agent, so its range stands here once, by name; what an agent
asks for beyond that it checks itself. A field's meaning is its comment in the configuration.
"""

import ast
import dataclasses
import inspect
import io
import math
import re
import tokenize
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from textwrap import dedent

from agentzoo.runtime.errors import ConfigError, nearest


@dataclass(frozen=True)
class Range:
    """The numbers that a field may have.

    Attributes:
        least: the smallest one.
        most: the largest one.
        open: whether `least` itself is left out.
    """

    least: float = -math.inf
    most: float = math.inf
    open: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether it may be the field's value; NaN may not."""
        return (value > self.least if self.open else value >= self.least) and value <= self.most

    def __str__(self) -> str:
        """The range as it stands behind "has to be"."""
        if self.open:
            return f"above {self.least:g}"
        if self.most < math.inf:
            return f"from {self.least:g} to {self.most:g}"
        if self.least == -math.inf:
            return "a finite number"
        return "0 or more" if self.least == 0 else f"at least {self.least:g}"


COUNT, SOME, SHARE, POSITIVE = Range(1), Range(0), Range(0, 1), Range(0, open=True)
RANGES: Mapping[str, Range] = {
    name: numbers
    for numbers, names in {
        COUNT: (
            "repeat frames envs batch_size batch_length updates replay_rows log_every "
            "deter stoch hidden classes blocks depth units layers bins simnorm latent members "
            "encoder_units encoder_layers horizon imag_last imagine_starts slow_every "
            "candidates elites episode_length long_cap zoom_margin"
        ),
        SOME: (
            "total_steps prefill pretrain update_every train_ratio eval_every eval_episodes "
            "final_episodes report_every checkpoint_every checkpoint_grace lr_decay_updates "
            "state_layers reward_layers cont_layers value_layers actor_layers mode_samples warmup "
            "iterations proposals overshooting free_nats actor_entropy entropy alpha temperature "
            "expl_amount expl_min expl_decay "
            "reward_scale kl_scale cont_scale dyn_scale rep_scale slow_scale repval_scale "
            "overshooting_scale consistency_scale value_scale termination_scale entropy_scale "
            "long_scale encoder_lr_scale"
        ),
        SHARE: (
            "lr_final discount lam kl_balance reinforce decay unimix actor_unimix dropout beta1 "
            "beta2 scale_decay slow_rate tau rho discount_min discount_max jump_max jump_mean "
            "jump_gain jump_prob"
        ),
        POSITIVE: (
            "worker_timeout min_std max_std actor_min_std actor_max_std actor_init_std "
            "actor_mean_scale state_std scorer_slope scale_limit discount_denom "
            "reach grad_clip adaptive_clip"
        ),
        Range(1, open=True): "discount_horizon",
        Range(2): "max_interval",
        Range(1, 8): "image_bits",
    }.items()
    for name in names.split()
}
RATES = ("lr", "rate", "eps", "clip", "decay")  # last words of fields that are never negative

# another library's or paper's word -> fields that mean it, whichever the agent has
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "gamma": ("discount", "discount_horizon", "discount_max"),
    "learning_rate": ("lr", "model_lr", "actor_lr", "value_lr"),
    "lambda": ("lam",),
    "lambda_": ("lam",),
    "gae_lambda": ("lam",),
    "buffer_size": ("replay_rows",),
    "capacity": ("replay_rows",),
    "learning_starts": ("prefill",),
    "train_freq": ("update_every", "train_ratio"),
    "gradient_steps": ("updates", "train_ratio"),
    "replay_ratio": ("train_ratio",),
    "update_ratio": ("train_ratio",),
    "n_envs": ("envs",),
    "num_envs": ("envs",),
    "action_repeat": ("repeat",),
    "frame_skip": ("repeat",),
    "seq_len": ("batch_length",),
    "sequence_length": ("batch_length",),
    "imag_horizon": ("horizon",),
    "ent_coef": ("actor_entropy", "entropy", "entropy_scale"),
    "max_grad_norm": ("grad_clip", "adaptive_clip"),
    "tau": ("slow_rate", "slow_every"),
    "lr_schedule": ("lr_decay",),
    "scheduler": ("lr_decay",),
    "dtype": ("precision",),
    "kl_free": ("free_nats",),
    "total_timesteps": ("total_steps",),
    "timesteps": ("total_steps",),
    "num_steps": ("total_steps",),
}
# words that are no fields: where what they ask for stands
ELSEWHERE: Mapping[str, str] = {
    "callback": "callbacks are given to learn: agent.learn(callbacks=...)",
    "callbacks": "callbacks are given to learn: agent.learn(callbacks=...)",
    "verbose": "what is printed is learn's: agent.learn(progress=False) hides the progress bar",
    "progress": "it is learn's: agent.learn(progress=False)",
    "progress_bar": "it is learn's, and on by default: agent.learn(progress=False) hides it",
    "tensorboard_log": "every run's folder has TensorBoard events: agent.learn(run=...) names it",
    "logdir": "the run's folder is learn's: agent.learn(run=...)",
    "policy": "the environment decides on the networks; leave it out",
    "policy_kwargs": "the networks' sizes are fields of their own, such as units",
    "run": "it is learn's: agent.learn(run=...)",
}
ARGUMENTS: Mapping[str, tuple[str, ...]] = {  # the same for arguments of `learn`
    **{word: ("total_steps",) for word in ("total_timesteps", "timesteps", "steps", "num_steps")},
    **{word: ("callbacks",) for word in ("callback",)},
    **{word: ("progress",) for word in ("verbose", "progress_bar", "quiet")},
    **{word: ("run",) for word in ("logdir", "log_dir", "tensorboard_log", "folder", "resume")},
    **{word: ("env",) for word in ("environment", "task")},
}


def check_ranges(values: Mapping[str, object], optional: Collection[str] = ()) -> None:
    """Refuse numbers that are not finite, or out of their field's range.

    Args:
        values: by the fields' names.
        optional: fields that may be None, too.

    Raises:
        ConfigError: naming the field, its value and what it has to be.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            raise ConfigError(f"{name}={value!r} has to be a finite number")
        numbers = range_of(name)
        if numbers is not None and value not in numbers:
            none = ", or None" if name in optional else ""
            raise ConfigError(f"{name}={value!r} has to be {numbers}{none}")


def range_of(name: str) -> Range | None:
    """The range of a field of this name; None is any number."""
    if name in RANGES:
        return RANGES[name]
    return SOME if name.rpartition("_")[2] in RATES else None


def suggestion(word: str, fields: Iterable[str]) -> str:
    """A clause for a word that is no field: the field that means it, or the nearest ones."""
    known = list(fields)
    if word in ELSEWHERE:
        return ELSEWHERE[word]
    meant = [name for name in SYNONYMS.get(word, ()) if name in known]
    if meant:
        return "did you mean " + " or ".join(f'"{name}"' for name in meant) + "?"
    said = nearest(word, known, "fields")
    everything = "agentzoo learn AGENT --help-config lists them all"
    return said if said.startswith("did you mean") else f"{said}; {everything}"


@dataclass(frozen=True)
class FieldHelp:
    """One field of a configuration, for people.

    Attributes:
        name: as it is set.
        type: such as "int" or "float or None".
        default: before presets.
        range: what it may be; "" is anything of its type.
        meaning: its comment.
        is_common: whether every agent has it.
    """

    name: str
    type: str
    default: object
    range: str
    meaning: str
    is_common: bool


def fields_of(config_class: type) -> list[FieldHelp]:
    """The fields of a configuration, the agent's own first."""
    hints = typing.get_type_hints(config_class)
    said: dict[str, str] = {}
    ancestors = [one for one in reversed(config_class.__mro__) if dataclasses.is_dataclass(one)]
    for one in ancestors:
        said |= {name: text for name, text in comments(one).items() if text}
    common = {one.name for one in dataclasses.fields(ancestors[0])}
    found: list[FieldHelp] = []
    for one in dataclasses.fields(config_class):
        options = typing.get_args(hints[one.name]) or (hints[one.name],)
        names = ["None" if each is type(None) else each.__name__ for each in options]
        meaning = said.get(one.name, "")
        choices = re.match(r"\w+(\|\w+)+", meaning)
        numbers = range_of(one.name) if {"int", "float"} & set(names) else None
        ranged = choices[0].replace("|", ", ") if choices else str(numbers or "")
        rest = meaning[choices.end() :].lstrip(", ") if choices else meaning
        default = one.default
        found.append(
            FieldHelp(one.name, " or ".join(names), default, ranged, rest, one.name in common)
        )
    return sorted(found, key=lambda field: field.is_common)


def comments(config_class: type) -> dict[str, str]:
    """The comment of each field in a class's own body, from its source; "" where it has none.

    A comment stands behind its field, or in the lines above it. One behind a field goes on in the
    lines below only where the next field has one of its own.
    """
    source = dedent(inspect.getsource(config_class))
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef), config_class
    assigned = [one for one in body.body if isinstance(one, ast.AnnAssign)]
    found: dict[int, str] = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    texts: dict[str, str] = {}
    above: list[str] = []
    for one, following in zip(assigned, [*assigned[1:], None], strict=True):
        assert isinstance(one.target, ast.Name), ast.dump(one)
        assert one.end_lineno is not None, one.target.id
        inside = [found[line] for line in _lines(one, found)]
        between: list[str] = []
        line = one.end_lineno + 1
        while line in found and (following is None or line < following.lineno):
            between.append(found[line])
            line += 1
        # lines below go on with this comment, unless the next field has none but them
        belongs = following is None or bool(_lines(following, found))
        texts[one.target.id] = " ".join([*above, *inside, *(between if belongs else [])])
        above = [] if belongs else between
    return texts


def _lines(field: ast.AnnAssign, found: Mapping[int, str]) -> list[int]:
    assert field.end_lineno is not None, ast.dump(field)
    return [line for line in range(field.lineno, field.end_lineno + 1) if line in found]
