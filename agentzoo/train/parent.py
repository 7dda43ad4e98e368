"""The policy whose weights a run continues from."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WARMUP = 200  # updates in which a fresh Adam's learning rate rises from 0, beside learned weights


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The policy that a run began with instead of fresh weights; recorded in its config.json.

    Attributes:
        sha256: of the parent's model.safetensors.
        env: the parent's resolved environment string, or "".
        env_steps: environment steps that the parent had learned for, its own parents' included.
        has_optimizer: whether the optimisers' state came along; else they warm up.
        has_replay: whether the parent's rows came along; else a replay of one's own is collected
            before the first update, by the policy itself.
    """

    sha256: str
    env: str
    env_steps: int
    has_optimizer: bool = False
    has_replay: bool = False

    @classmethod
    def of(cls, folder: Path, env: str, env_steps: int) -> "Parent":
        """The saved agent in a folder; only a run's checkpoint has optimisers."""
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        has_optimizer = (folder / "training").is_dir()
        return cls(sha256=digest, env=env, env_steps=env_steps, has_optimizer=has_optimizer)

    def to_json(self) -> dict[str, Any]:
        """As `Parent(**it)` reads it back."""
        return asdict(self)
