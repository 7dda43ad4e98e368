"""THE table of agents: this package's own, and those that installed packages bring.

A package of your own registers an agent by an entry point (docs/own_agent.md):

    [project.entry-points."agentzoo.agents"]
    MyAgent = "my_package.my_agent:MyAgent"

The entry's name is the class's. The command line, `load`, the card and the zoo read this table; it
loads no torch before an agent's class is asked for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from agentzoo.runtime.errors import AgentZooError, ConfigError, nearest

GROUP = "agentzoo.agents"


@dataclass(frozen=True)
class AgentEntry:
    """One agent.

    Attributes:
        name: its class, and what config.json calls it.
        target: "module:Class".
        distribution: the installed package that brings it; "" for this one's own.
        rivals: other packages that register the same name.
    """

    name: str
    target: str
    distribution: str = ""
    rivals: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """Name on the command line: the class's, in lower case."""
        return self.name.lower()

    @property
    def _brought(self) -> str:
        return self.distribution or "agentzoo"

    def load(self) -> type[Any]:
        """Import the class, a subclass of `agentzoo.Agent`.

        Raises:
            ConfigError: if a package registered something else under this name, or what cannot be
                imported, or several packages register it.
            MissingExtraError: without torch.
        """
        if self.rivals:
            raise ConfigError(
                f'"{self.name}" is registered by {", ".join((self._brought, *self.rivals))}; which '
                "is meant cannot be told: uninstall all but one"
            )
        if not self.distribution:
            # by the front door, which says what to install where torch is missing
            return getattr(import_module("agentzoo"), self.name)
        module, _, qualified = self.target.partition(":")
        try:
            found = import_module(module)
        except ImportError as error:
            if isinstance(error, AgentZooError):  # says what to install
                raise
            raise ConfigError(
                f'the package {self._brought} registers the agent "{self.name}" as {self.target}, '
                f"and {module} cannot be imported ({error}); mend or remove the package, other "
                "agents work without it"
            ) from error
        for part in qualified.split("."):
            if not hasattr(found, part):
                raise ConfigError(
                    f'the package {self._brought} registers the agent "{self.name}" as '
                    f"{self.target}, and {module} has no {qualified}; mend or remove it"
                )
            found = getattr(found, part)
        if not (isinstance(found, type) and issubclass(found, import_module("agentzoo").Agent)):
            raise ConfigError(
                f'the package {self._brought} registers the agent "{self.name}" as '
                f"{self.target}, which is no subclass of agentzoo.Agent; mend or remove it"
            )
        if found.__name__ != self.name:
            raise ConfigError(
                f"the package {self._brought} registers the class {found.__name__} as "
                f'"{self.name}"; an entry point of {GROUP} has its class\'s name'
            )
        return found


OWN = {
    name: AgentEntry(name, f"agentzoo.agents.{module}:{name}")
    for name, module in {
        "Dreamer": "dreamer",
        "DreamerV2": "dreamer_v2",
        "DreamerV3": "dreamer_v3",
        "LSImagine": "ls_imagine",
        "PlaNet": "planet",
        "TDMPC2": "tdmpc2",
    }.items()
}


def agents() -> Mapping[str, AgentEntry]:
    """Every agent by its class's name: this package's own, then those of installed packages."""
    found = dict(OWN)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        brought = AgentEntry(entry.name, entry.value, entry.dist.name if entry.dist else "?")
        taken = next((one for one in found.values() if one.command == brought.command), None)
        if taken is None:
            found[brought.name] = brought
        elif taken.target != brought.target:
            rivals = (*taken.rivals, brought.distribution)
            found[taken.name] = replace(taken, rivals=rivals)
    return found


def named(name: str) -> AgentEntry:
    """The agent that a command line names, in any spelling of case, dashes and underscores.

    Raises:
        AgentZooError: with the nearest names, and where others come from.
    """
    commands = {entry.command: entry for entry in agents().values()}
    key = re.sub(r"[-_]", "", name.lower())
    if key not in commands:
        raise AgentZooError(
            f'there is no agent called "{name}"; {nearest(key, sorted(commands), "agents")} (other '
            f"packages bring theirs by an entry point of {GROUP}: docs/own_agent.md)"
        )
    return commands[key]
