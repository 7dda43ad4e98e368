"""The policy whose weights a run continues from."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from agentzoo.runtime.errors import ConfigError

from ..algorithm import Algorithm, Partwise

WARMUP = 200  # updates in which a fresh Adam's learning rate rises from 0, beside learned weights


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The policy that a run began with instead of fresh weights; recorded in its config.json.

    Attributes:
        sha256: of the parent's model.safetensors.
        env: the parent's resolved environment string, or "".
        env_steps: environment steps that the parent had learned for, its own parents' included.
        has_optimizer: whether the optimisers' state came along; else they warm up.
        has_replay: whether the parent's replay came along; else a replay of one's own is collected
            before the first update, by the policy itself.
        parts: of the algorithm, that alone learn on, as ("reward",); () is all of them.
    """

    sha256: str
    env: str
    env_steps: int
    has_optimizer: bool = False
    has_replay: bool = False
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Take a list, as JSON has it, for `parts`."""
        object.__setattr__(self, "parts", tuple(self.parts))

    @classmethod
    def of(cls, folder: Path, env: str, env_steps: int) -> "Parent":
        """The saved agent in a folder; only a run's checkpoint has optimisers."""
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        has_optimizer = (folder / "training").is_dir()
        return cls(sha256=digest, env=env, env_steps=env_steps, has_optimizer=has_optimizer)

    def to_json(self) -> dict[str, Any]:
        """Fields as `Parent(**it)` reads them back."""
        return asdict(self)


def require_parts(agent: str, algorithm: Algorithm, parts: Sequence[str]) -> None:
    """Refuse parts that the algorithm lacks, and agents that cannot leave some as they are.

    Raises:
        ConfigError: naming the part, and those that there are.
    """
    if not isinstance(algorithm, Partwise):
        raise ConfigError(
            f"parts={parts!r} was given, but a {agent} learns as a whole; leave parts out, or take "
            "a PlaNet, whose planner needs no other part to follow"
        )
    assert isinstance(algorithm, nn.Module), type(algorithm)
    if isinstance(parts, str):
        raise ConfigError(f"parts={parts!r} is a text, expected a list: parts=[{parts!r}]")
    learning = {name.partition(".")[0] for name, _ in algorithm.named_parameters()}
    known = [name for name, _ in algorithm.named_children() if name in learning]
    if unknown := [part for part in parts if part not in known]:
        raise ConfigError(
            f'this {agent} has no part "{unknown[0]}"; those that can learn are {", ".join(known)}'
        )
