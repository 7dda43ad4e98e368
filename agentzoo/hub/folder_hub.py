"""A folder as a hub: for teams without internet, on a shared disk, under version control.

    DIR/hub.json                          marks the folder, and says the format
    DIR/index/NAME.json                   newest commit of a repo, and what `search` shows of it
    DIR/NAME/COMMIT.json                  size and sha256 of the commit's files
    DIR/NAME/COMMIT/...                   the files, as they are

A commit's name is made of its content, so what is unchanged is no new commit, and a commit cannot
become another one unnoticed. Everything is written under another name and renamed: two who push at
once leave two whole commits, and the index names the later one.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from agentzoo.runtime.bundle.manifest import FileEntry, read_json
from agentzoo.runtime.errors import BundleError, nearest
from agentzoo.runtime.strict_json import read_fields, read_object

from .errors import HubError, RepoNotFoundError
from .naming import COMMIT, FILE, MAIN, NAME
from .package import NAMES, check_size

MARKER, INDEX, FORMAT = "hub.json", "index", 1
BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the index says of a repo.

    Attributes:
        commit: its newest commit.
        agent: class name of the agent.
        env: resolved environment string, or "".
        mean: mean return.
        std: standard deviation of the returns.
        episodes: how many there are.
    """

    commit: str
    agent: str
    env: str
    mean: float
    std: float
    episodes: int


@dataclass(frozen=True, kw_only=True)
class _Listing:
    files: Mapping[str, FileEntry]


class FolderHub:
    """A folder that holds repos; see the module's text."""

    def __init__(self, root: Path) -> None:
        """Name the folder.

        Raises:
            HubError: if it is a hub of a newer version.
        """
        self.root = root
        if self.exists():
            found = read_object(read_json(root / MARKER), MARKER).get("format")
            if found != FORMAT:
                raise HubError(
                    f"{root} is a hub of format {found}, this version reads {FORMAT}; "
                    "run: pip install --upgrade agentzoo-rl"
                )

    def exists(self) -> bool:
        """Whether the folder is a hub already."""
        return self.marks(self.root)

    @staticmethod
    def marks(folder: Path) -> bool:
        """Whether a folder is marked as a hub."""
        return (folder / MARKER).is_file()

    def push(self, name: str, files: Mapping[str, Path], about: Mapping[str, object]) -> str:
        """Store files as a commit, and let the index name it.

        Args:
            name: of the repo.
            files: name -> where it is now.
            about: the index's entry, the commit left out.

        Returns:
            The commit: the same one if the files are the same.
        """
        index = self.root / INDEX
        index.mkdir(parents=True, exist_ok=True)
        if not self.exists():
            _write(self.root / MARKER, {"format": FORMAT})
        home = self.root / name
        home.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=home) as partial:
            whole = Path(partial) / "whole"
            whole.mkdir()
            listing = {one: _copy(files[one], whole / one) for one in sorted(files)}
            commit = commit_name(listing)
            if not (home / f"{commit}.json").is_file():
                if (home / commit).is_dir():  # left by a push that was killed
                    shutil.rmtree(home / commit)
                whole.rename(home / commit)
                _write(home / f"{commit}.json", asdict(_Listing(files=listing)))
        _write(index / f"{name}.json", {"commit": commit, **about})
        return commit

    def commit(self, name: str, revision: str) -> str:
        """The commit that a revision names.

        Raises:
            RepoNotFoundError: if there is no such repo or commit here.
        """
        entries = self.entries()
        if not self.exists() or name not in entries:
            hint = nearest(name, entries, "it has") if entries else "it is empty, or no hub"
            raise RepoNotFoundError(f'the hub {FILE}{self.root} has no "{name}"; {hint}')
        if revision == MAIN:
            return entries[name].commit
        if COMMIT.fullmatch(revision) and (self.root / name / f"{revision}.json").is_file():
            return revision
        raise RepoNotFoundError(
            f'{FILE}{self.root}/{name} has no revision "{revision}"; leave it out, or give a '
            "commit of 40 digits"
        )

    def open(self, name: str, commit: str, wanted: Collection[str]) -> Path:
        """A commit's folder, after checking size and sha256 of the wanted files.

        Raises:
            BundleError: if a file is missing, damaged, too large, or a link to elsewhere.
        """
        folder = self.root / name / commit
        listing = read_fields(
            _Listing, read_json(folder.with_name(f"{commit}.json")), f"{commit}.json"
        ).files
        if commit_name(listing) != commit:
            raise _damaged(folder.with_name(f"{commit}.json"))
        for one, entry in listing.items():
            if one not in NAMES:
                raise BundleError(f'{folder} lists "{one:.80}", which no bundle has')
            if one in wanted:
                _check(folder / one, entry)
        return folder

    def entries(self) -> dict[str, Entry]:
        """Name -> what the index says, by name."""
        return dict(self._entries())

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        for path in sorted((self.root / INDEX).glob("*.json")):
            if NAME.fullmatch(path.stem):
                yield path.stem, read_fields(Entry, read_json(path), path.name)


def commit_name(listing: Mapping[str, FileEntry]) -> str:
    """A commit's name: 40 digits, as git's, of the sha256 of its listing."""
    lines = "".join(
        f"{one} {listing[one].bytes} {listing[one].sha256}\n" for one in sorted(listing)
    )
    return hashlib.sha256(lines.encode()).hexdigest()[:40]


def _check(path: Path, entry: FileEntry) -> None:
    if path.is_symlink() or path.parent.is_symlink():
        raise BundleError(f"{path} is a link, which no hub makes; have it pushed again")
    if not path.is_file():
        raise _damaged(path)
    size = path.stat().st_size
    check_size(path.name, size)
    with path.open("rb") as file:
        if size != entry.bytes or hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise _damaged(path)


def _damaged(path: Path) -> BundleError:
    return BundleError(f"{path} is missing or not what was pushed; have it pushed again")


def _copy(source: Path, target: Path) -> FileEntry:
    """Copy a file block by block, and hash what is written."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as file, target.open("wb") as copy:
        while block := file.read(BLOCK):
            digest.update(block)
            size += copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())
    return FileEntry(sha256=digest.hexdigest(), bytes=size)


def _write(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one."""
    with tempfile.NamedTemporaryFile(
        "w", prefix=".partial-", dir=path.parent, delete=False, encoding="utf-8"
    ) as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, 0o644)  # a temporary file is its owner's alone
    os.replace(file.name, path)
