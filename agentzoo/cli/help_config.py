"""`agentzoo learn AGENT --help-config`: an agent's fields, presets and tasks, as text."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentzoo.runtime.errors import ConfigError, nearest

from ..config import configure, setting
from ..fields import FieldHelp, fields_of

if TYPE_CHECKING:
    from ..agent import Agent

WIDTH = 100  # columns; the meanings are wrapped to it
MEANING = 24  # columns of a meaning at least, however wide the others are


def page(kind: "type[Agent]", preset: str | None = None) -> str:
    """Page of all that `--set`, `--preset` and the environment decide of an agent.

    Args:
        kind: the agent.
        preset: whose values are shown for defaults; None shows the configuration's own.

    Raises:
        ConfigError: if there is no such preset.
    """
    if preset is not None and preset not in kind.presets:
        raise ConfigError(
            f"{kind.__name__} has no preset {preset!r}; {nearest(preset, kind.presets)}"
        )
    name = kind.__name__
    values = configure(kind.config_class, kind.presets[preset] if preset else {}, name=name)
    fields = fields_of(kind.config_class)
    own = [one for one in fields if not one.is_common]
    common = [one for one in fields if one.is_common]
    of = f"preset {preset}" if preset else "default"
    parts = [
        f"{name}: {kind.paper}" if kind.paper else name,
        f"Fields of {name}: --set field=value, or {name}(env, field=value)",
        *_table(own, vars(values), of),
        "Fields of every agent",
        *_table(common, vars(values), of),
        "Presets: --preset NAME; environment and observations choose one where none is named",
        *_settings(kind.presets),
    ]
    if kind.tasks:
        parts += ["Tasks with settings of their own", *_settings(kind.tasks)]
    return "\n".join(parts)


def _table(fields: list[FieldHelp], values: Mapping[str, object], of: str) -> list[str]:
    rows = [("field", "type", of, "range", "meaning")]
    rows += [
        (one.name, one.type, setting(values[one.name]), one.range, one.meaning) for one in fields
    ]
    widths = [max(len(row[i]) for row in rows) + 2 for i in range(4)]
    left = 2 + sum(widths)
    lines: list[str] = []
    for row in rows:
        said = "".join(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True))
        wrapped = textwrap.wrap(row[4], max(WIDTH - left, MEANING)) or [""]
        lines.append(f"  {said}{wrapped[0]}".rstrip())
        lines += [" " * left + more for more in wrapped[1:]]
    return [*lines, ""]


def _settings(named: Mapping[str, Mapping[str, object]]) -> list[str]:
    width = max(map(len, named)) + 2
    lines: list[str] = []
    for name, fields in named.items():
        said = " ".join(f"{field}={setting(value)}" for field, value in fields.items())
        lines += textwrap.wrap(
            said or "the defaults",
            WIDTH,
            initial_indent=f"  {name:{width}}",
            subsequent_indent=" " * (width + 2),
            break_on_hyphens=False,
        )
    return [*lines, ""]
