"""Writes agentzoo/overrides.py from the agents' configurations; takes no arguments."""

import dataclasses
import sys
import typing
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
FILE = CHECKOUT / "agentzoo" / "overrides.py"
HEAD = '''"""Keyword arguments of each agent, typed: editors and type checkers know the fields.

Written by `python .ci/overrides.py`; a test compares it with the configurations.
"""

from typing import Literal, TypedDict
'''


def source() -> str:
    """The text of the file."""
    from agentzoo.agents.registry import OWN
    from agentzoo.config import AgentConfig
    from agentzoo.fields import fields_of

    common = {one.name for one in dataclasses.fields(AgentConfig)}
    classes = [_class("AgentOverrides", "TypedDict", AgentConfig, "every agent", common)]
    for name, entry in OWN.items():
        config = entry.load().config_class
        own = {one.name for one in fields_of(config)} - common
        classes.append(_class(f"{name}Overrides", "AgentOverrides", config, name, own))
    return "\n\n".join([HEAD, *classes])


def _class(name: str, base: str, config: type, of: str, names: set[str]) -> str:
    from agentzoo.fields import fields_of

    hints = typing.get_type_hints(config)
    lines = [f"class {name}({base}, total=False):", f'    """Fields of {of}."""', ""]
    for one in fields_of(config):
        if one.name not in names:
            continue
        hint = one.type.replace(" or ", " | ")
        if hints[one.name] is str and one.range:
            choices = ", ".join(f'"{choice}"' for choice in one.range.split(", "))
            hint = f"Literal[{choices}]"
        lines.append(f"    {one.name}: {hint}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(CHECKOUT))
    FILE.write_text(source(), "utf-8")
