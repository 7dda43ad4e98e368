"""Checkpoints: one atomic folder each, the newest whole one counts, the last two are kept.

A checkpoint is a saved agent (config.json, model.safetensors) plus `training/`: the optimisers, the
replay and the counters. Random numbers need no saving: every source is a counter-based generator
addressed by the run's seed and these counters. A checkpoint is taken while every environment stands
at an episode's start, so there is no carry to save either.
"""

import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from agentzoo.runtime.errors import RunError

from ..replay.chunks import write_durably

KEPT = 2
DTYPES = {  # as safetensors spells them
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16",
    torch.int32: "I32", torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip
NAME = re.compile(r"\d{6}")
FORMAT = 1


@dataclass
class Counters:
    """Where a run stands; everything random is addressed by these.

    Attributes:
        env_step: environment steps so far, repeat included, over all environments.
        updates: gradient steps so far.
        episodes: episodes finished so far.
        prefill_episodes: how many of them were finished when random prefill ended.
        started: episodes begun in each environment.
        rows: decisions stored for each environment.
        checkpoints: checkpoints written.
        waited: decisions that environments at their episode's end let pass, since a checkpoint
            waited for the others.
        evaluations: evaluations done.
        best_return: the best evaluation's mean return, None before the first.
        best_step: env_step of that evaluation; `best/` in the run's folder has its weights.
        interrupted: the checkpoint was taken because the user stopped the run.
    """

    env_step: int = 0
    updates: int = 0
    episodes: int = 0
    prefill_episodes: int = 0
    started: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    checkpoints: int = 0
    waited: int = 0
    evaluations: int = 0
    best_return: float | None = None
    best_step: int = 0
    interrupted: bool = False

    def write(self, folder: Path) -> None:
        """Write `counters.json`."""
        content = {"format": FORMAT, **asdict(self)}
        write_durably(folder / "counters.json", json.dumps(content, indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> "Counters":
        """Read `counters.json`.

        Raises:
            RunError: if it was written by a newer version.
        """
        content = json.loads((folder / "counters.json").read_text())
        found = content.pop("format")
        if found != FORMAT:
            raise RunError(
                f"the checkpoint {folder} has format {found}, this version reads {FORMAT}; "
                "update agentzoo to go on with this run"
            )
        return cls(**content)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name as safetensors, durably, one after another.

    `safetensors.torch.save` holds all of them in memory a second time. The wider a number, the
    earlier its tensor stands, so that each is aligned, as in files of the format's own writer.
    """
    ordered = sorted(tensors.items(), key=lambda one: (-one[1].element_size(), one[0]))
    header: dict[str, object] = {}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        entry = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = entry | {"data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    contents = (
        tensor.detach().reshape(-1).view(torch.uint8).numpy(force=True) for _, tensor in ordered
    )
    write_durably(path, chain([struct.pack("<Q", len(text)), text], contents))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors."""
    return load_tensors(path.read_bytes())


def save(root: Path, number: int, write: Callable[[Path], None], *, kept: int = KEPT) -> Path:
    """Write a checkpoint under a temporary name, make it durable, rename it, drop old ones.

    Args:
        root: the run's `checkpoints` folder.
        number: the checkpoint's number, larger than any before.
        write: fills the empty folder it is given.
        kept: how many remain, this one included.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: if it cannot be written; what was written of it is removed, earlier ones stand.
    """
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob("partial-*"):
        shutil.rmtree(leftover)
    partial, final = root / f"partial-{number:06d}", root / f"{number:06d}"
    try:
        partial.mkdir()
        write(partial)
        for folder, _, _ in os.walk(partial):
            _sync_folder(Path(folder))
        if final.is_dir():  # a resumed run does again what came after its checkpoint
            shutil.rmtree(final)
        partial.rename(final)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)  # makes room for the run to go on
        raise
    _sync_folder(root)
    for old in whole(root)[:-kept]:
        shutil.rmtree(old)
    return final


def size_of_copies(root: Path) -> int:
    """Bytes that the checkpoints there hold alone: what no chunk of the replay's is."""
    files = [path for path in root.rglob("*") if path.suffix in (".column", ".safetensors")]
    return sum(path.stat().st_size for path in files)


def whole(root: Path) -> list[Path]:
    """The whole checkpoints in a run's `checkpoints` folder, oldest first."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if NAME.fullmatch(path.name))


def newest(root: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = whole(root)
    return found[-1] if found else None


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows opens no folder; its file system keeps names with their files
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
