"""A ViZDoom engine with a folder of its own, and the removal of what dead owners left.

The engine is a process that writes its settings into the working directory, keeps frames in shared
memory, and outlives an owner that is killed. So each engine is started in a temporary folder whose
lock its owner holds. Whoever starts the next engine removes the folders that nobody holds, and with
them their engines and shared memory.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import ConfigError

if sys.platform != "win32":
    import fcntl

SHARED_MEMORY = Path("/dev/shm")
ENGINE = "engine.json"  # in an engine's folder: its process and the name of its shared memory
STARTING = "starting.json"  # there as well: what shared memory was there before it started
LOCK = "lock"


def home() -> Path:
    """Folder of this user's engines.

    Raises:
        ConfigError: on Windows, or if somebody else's folder stands there.
    """
    if sys.platform == "win32":
        raise ConfigError(
            "vizdoom: looks after its engines by file locks and /proc, which Windows lacks; run it "
            "on Linux, where WSL will do"
        )
    folder = Path(tempfile.gettempdir()) / f"agentzoo-vizdoom-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
        raise ConfigError(f"{folder} is not this user's; remove it, or set TMPDIR to another place")
    return folder


class Engine:
    """A started game; `close` ends it and leaves nothing."""

    def __init__(self, game: Any, files: dict[str, bytes]) -> None:
        """Start a game that is all set but for its files, which are put into its folder.

        Args:
            game: a `vizdoom.DoomGame`.
            files: name -> content; a file named `scenario.wad` is the game's scenario.
        """
        self.game = game
        with _locked(home() / LOCK):
            sweep()
            self.folder = Path(tempfile.mkdtemp(dir=home()))
            self._lock = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        if "scenario.wad" in files:
            game.set_doom_scenario_path(str(self.folder / "scenario.wad"))
        (self.folder / STARTING).write_text(json.dumps(sorted(_memory())))
        with chdir(self.folder):  # where the engine puts its settings
            game.init()
        found = {"instance": game.get_instance_id(), "process": process_in(self.folder)}
        (self.folder / ENGINE).write_text(json.dumps(found))

    def close(self) -> None:
        """End the engine and remove its folder."""
        if not self.folder.exists():
            return
        self.game.close()
        _remove(self.folder)  # while the lock is held, so that nobody else does
        os.close(self._lock)


def sweep() -> None:
    """Remove the folders, engines and shared memory of owners that are no more."""
    for folder in home().iterdir():
        if folder.is_dir() and _is_left(folder):
            _remove(folder)


def _is_left(folder: Path) -> bool:
    """Whether nobody holds the folder's lock."""
    with suppress(FileNotFoundError):
        lock = os.open(folder / LOCK, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
    return True


def _remove(folder: Path) -> None:
    """End what runs in an engine's folder, then remove its shared memory and the folder."""
    process = process_in(folder)
    if process is not None:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for name in _memory_of(folder):
        (SHARED_MEMORY / name).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _memory() -> set[str]:
    """The names of all engines' shared memory."""
    return {path.name for path in SHARED_MEMORY.glob("ViZDoom*")}


def _memory_of(folder: Path) -> set[str]:
    """The shared memory of a folder's engine.

    Of an engine that took its owner down while it started, it is what came since and nobody maps.
    """
    with suppress(FileNotFoundError):
        instance = str(json.loads((folder / ENGINE).read_text())["instance"])
        return {name for name in _memory() if instance and name.endswith(instance)}
    with suppress(FileNotFoundError):
        new = _memory() - set(json.loads((folder / STARTING).read_text()))
        return {name for name in new if not _is_mapped(name)}
    return set()


def _is_mapped(name: str) -> bool:
    """Whether a process of this user has some shared memory."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            if name in maps.read_text():
                return True
    return False


def process_in(folder: Path) -> int | None:
    """The process whose working directory is an engine's folder, which only its engine's is."""
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.readlink(each / "cwd") == str(folder) and int(each.name) != os.getpid():
                return int(each.name)
    return None


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Hold a file's lock; released by the kernel if this process dies."""
    lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
