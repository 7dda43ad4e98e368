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
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from agentzoo.hub.package import check_safetensors
from agentzoo.runtime.errors import BundleError, ReplayError, RunError
from agentzoo.runtime.files import stands

from ..replay.chunks import check_file, checksum_of, write_durably
from .run_folder import DAMAGED, LARGEST, read_run_json

KEPT = 2
DTYPES = {  # as safetensors spells them
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16",
    torch.int32: "I32", torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip
NAME = re.compile(r"\d{6}")
FORMAT = 1
CHECKSUMS = "checksums.json"  # file -> its size and CRC-32
FILED = {"transitions": "rows"}  # counter -> its name in counters.json, where that is another
REPLAY = re.compile(r"training/(rank-\d+/)?replay/env")  # a process's chunk files


@dataclass
class Counters:
    """Counters of a run; everything random is addressed by these.

    Attributes:
        env_step: environment steps so far, repeat included, over all environments.
        updates: gradient steps so far.
        episodes: episodes finished so far.
        prefill_episodes: how many of them were finished when random prefill ended.
        started: episodes begun in each environment.
        transitions: how many each environment has given so far.
        checkpoints: checkpoints written.
        waited: decisions that environments at their episode's end let pass, since a checkpoint
            waited for the others.
        evaluations: evaluations done.
        best_return: the best evaluation's mean return, None before the first.
        best_step: env_step of that evaluation; `best/` in the run's folder has its weights.
        interrupted: the checkpoint was taken because the user stopped the run.
        final_due: the final policy is still to be evaluated, since the user stopped that.
        ranks: processes that learn together; `started`, `transitions` and `waited` are one's own.
    """

    env_step: int = 0
    updates: int = 0
    episodes: int = 0
    prefill_episodes: int = 0
    started: list[int] = field(default_factory=list)
    transitions: list[int] = field(default_factory=list)
    checkpoints: int = 0
    waited: int = 0
    evaluations: int = 0
    best_return: float | None = None
    best_step: int = 0
    interrupted: bool = False
    final_due: bool = False
    ranks: int = 1

    def write(self, folder: Path) -> None:
        """Write `counters.json`."""
        named = {FILED.get(name, name): value for name, value in asdict(self).items()}
        content = {"format": FORMAT, **named}
        write_durably(folder / "counters.json", json.dumps(content, indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> "Counters":
        """Read `counters.json`.

        Raises:
            RunError: if it is damaged, or was written by a newer version.
        """
        path = folder / "counters.json"
        content = read_run_json(path)
        found = content.pop("format", None)
        if type(found) is int and found > FORMAT:
            raise RunError(
                f"the checkpoint {folder} has format {found}, this version reads {FORMAT}; "
                "update agentzoo to go on with this run"
            )
        if found != FORMAT or not all(_is_counter(name, one) for name, one in content.items()):
            raise RunError(f"{path} does not hold a run's counters: {DAMAGED}")
        fields_of = {filed: name for name, filed in FILED.items()}
        found = {fields_of.get(name, name): one for name, one in content.items()}
        return cls(**cast("dict[str, Any]", found))


def _is_counter(name: str, value: object) -> bool:
    """Whether a counter may have this value."""
    if name not in {FILED.get(one.name, one.name) for one in fields(Counters)}:
        return False
    if name in ("interrupted", "final_due"):
        return isinstance(value, bool)
    if name == "best_return":
        return value is None or type(value) in (int, float)
    if name in ("started", "rows"):
        return isinstance(value, list) and all(map(_is_count, cast("list[object]", value)))
    return _is_count(value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


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
    """Read safetensors.

    Raises:
        BundleError: if they are not in that format, or no plain file is there.
        RunError: if there is none.
    """
    if not stands(path):
        raise RunError(f"{path} is missing: {DAMAGED}")
    check_safetensors(path)
    return load_tensors(path.read_bytes())


def save(
    root: Path, number: int, write: Callable[[Path], None], *, kept: int | None = KEPT
) -> Path:
    """Write a checkpoint under a temporary name, make it durable, rename it, drop old ones.

    Args:
        root: the run's `checkpoints` folder.
        number: the checkpoint's number, larger than any before.
        write: fills the empty folder it is given.
        kept: how many remain, this one included; None is all.

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
        _write_checksums(partial)
        for folder, _, _ in os.walk(partial):
            _sync_folder(Path(folder))
        if final.is_dir():  # a resumed run does again what came after its checkpoint
            shutil.rmtree(final)
        partial.rename(final)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)  # makes room for the run to go on
        raise
    _sync_folder(root)
    if kept is not None:
        keep_newest(root, kept)
    return final


def keep_newest(root: Path, kept: int) -> None:
    """Remove all checkpoints of a folder but the newest."""
    for old in whole(root)[:-kept]:
        shutil.rmtree(old)


def remove_beyond(root: Path, number: int) -> None:
    """Remove the checkpoints of a folder whose numbers are larger: of a sitting that was killed."""
    for one in whole(root):
        if int(one.name) > number:
            shutil.rmtree(one)


def require_whole(checkpoint: Path, names: Collection[str] | None = None) -> None:
    """Refuse a checkpoint whose files are not those that were written.

    The files of the replay are checked where they are read. A checkpoint of an earlier version has
    no checksums, and is not checked here.

    Args:
        checkpoint: its folder.
        names: of files to look at; None is all.

    Raises:
        RunError: naming the file.
    """
    path = checkpoint / CHECKSUMS
    if not os.path.lexists(path):
        return
    for name, entry in read_run_json(path).items():
        if names is not None and name not in names:
            continue
        try:
            size, checksum = _entry(entry)
            check_file(checkpoint / name, size, checksum)
        except (BundleError, ReplayError, ValueError) as error:
            raise RunError(
                f"{checkpoint / name} is missing or not what the checkpoint was written with "
                f"({error}); remove the folder {checkpoint} to go on from the checkpoint before it"
            ) from error


def _entry(value: object) -> tuple[int, int]:
    match value:
        case [int(size), int(checksum)]:
            return size, checksum
        case _:
            raise ValueError(f"{CHECKSUMS} holds {value!r:.80} of it")


def _write_checksums(checkpoint: Path) -> None:
    """Keep size and CRC-32 of all files but the replay's, which has its own."""
    found: dict[str, list[int]] = {}
    for path in sorted(one for one in checkpoint.rglob("*") if one.is_file()):
        name = path.relative_to(checkpoint).as_posix()
        if not REPLAY.match(name):
            found[name] = [path.stat().st_size, checksum_of(path)]
    write_durably(checkpoint / CHECKSUMS, json.dumps(found, indent=1).encode())


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
