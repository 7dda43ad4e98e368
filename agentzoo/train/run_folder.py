"""A run's folder: a name that nobody else has, and a lock that keeps two learners apart."""

import errno
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import IO

from agentzoo.runtime.bundle.manifest import read_json
from agentzoo.runtime.envs import EnvName
from agentzoo.runtime.errors import BundleError, RunError
from agentzoo.runtime.strict_json import read_object

from ..replay.chunks import write_durably

if sys.platform == "win32":
    import msvcrt

    fcntl = None
else:
    try:
        import fcntl
    except ImportError:  # WebAssembly and others
        fcntl = None

GOAL = "goal.json"  # the run's total of environment steps
LARGEST = 1 << 53  # of any count
DAMAGED = "it is damaged; go on from another checkpoint"
LOCK = "lock"  # beside config.json; its content is for people, the lock itself is the system's


def new_run_folder(agent: str, env: str) -> Path:
    """Make a folder of its own under runs/, named by agent, task and the time."""
    task = re.sub(r"[^a-z0-9]+", "-", EnvName.read(env).head.lower()).strip("-") or "environment"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / f"{agent.lower()}-{task}-{stamp}"
    twins = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    for path in chain([folder], twins):
        try:
            path.mkdir(parents=True)  # making it is the only way to know that nobody else does
        except FileExistsError:
            continue
        return path
    raise AssertionError("names do not run out")


def write_total(folder: Path, total: int) -> None:
    """Keep how many environment steps the run is to have."""
    write_durably(folder / GOAL, json.dumps({"total_steps": total}).encode())


def read_total(folder: Path) -> int | None:
    """Number of environment steps that the run is to have; None of a run from before this was kept.

    Raises:
        RunError: if the file holds something else.
    """
    path = folder / GOAL
    if not os.path.lexists(path):
        return None
    try:
        total = read_run_json(path).get("total_steps")
    except RunError:
        total = None
    if type(total) is not int or not 1 <= total <= LARGEST:
        raise RunError(
            f'{path} does not say the run\'s {{"total_steps": number}}; remove it, and say how far '
            "to go with --steps"
        )
    return total


def read_run_json(path: Path) -> dict[str, object]:
    """A JSON object in a run's folder.

    Raises:
        RunError: if it is missing, no plain file, or no JSON object.
    """
    try:
        return read_object(read_json(path), path.name)
    except BundleError as error:
        raise RunError(f"{path} cannot be read ({error}): {DAMAGED}") from error


def run_title(agent: str, env: str, seed: int) -> str:
    """Agent, task and seed of a run, as people read them: "Dreamer, dmc:walker-walk, seed 3"."""
    return ", ".join(filter(None, [agent, env.partition("?")[0], f"seed {seed}"]))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder against every other learner, in this process or another.

    The lock is the operating system's: it ends with the process, whatever ended it.

    Args:
        folder: of the run; made if it is not there.

    Raises:
        RunError: if another learner holds it, naming the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / LOCK).is_dir():
        raise RunError(f"{folder / LOCK} is a folder, and the run's lock is a file; remove it")
    with (folder / LOCK).open("a+b") as file:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read().decode(errors="replace").strip() or "another process"
            raise RunError(
                f"{folder} is being learned in by {holder}; wait for its end, or name another "
                "folder with run="
            ) from error
        except OSError as error:  # some network file systems have none
            print(
                f"{folder} cannot be locked ({error.strerror}): see to it that nobody else learns "
                "in it",
                file=sys.stderr,
            )
        with suppress(OSError):  # a full disk; who holds it is only said
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            file.flush()
        yield


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        file.seek(2**20)  # beyond the text, which others read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    elif fcntl is None:
        raise OSError(errno.ENOSYS, "this system has no file locks")
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
