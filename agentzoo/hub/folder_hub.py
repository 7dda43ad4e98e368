"""A folder as a hub: for teams without internet, on a shared disk, under version control.

    DIR/hub.json                          marks the folder, and says the format
    DIR/index/NAME.json                   newest commit of a repo, and what `search` shows of it
    DIR/NAME/COMMIT.json                  size and sha256 of the commit's files
    DIR/NAME/COMMIT/...                   the files, as they are

A commit's name is made of its content, so what is unchanged is no new commit, and a commit cannot
become another one unnoticed. Everything is written under another name and renamed: two who push at
once leave two whole commits, and the index names the later one. No link is followed. An entry that
is damaged is left out, and named; `repair` makes entries anew from the commits that are whole.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from agentzoo.runtime.bundle.manifest import FileEntry, read_json
from agentzoo.runtime.errors import BundleError, nearest
from agentzoo.runtime.evaluation.results import read_results
from agentzoo.runtime.evaluation.rollout import Evaluation
from agentzoo.runtime.files import open_plain, write_plain
from agentzoo.runtime.strict_json import read_fields, read_object

from .errors import AddressError, HubError, RepoNotFoundError
from .naming import COMMIT, FILE, MAIN, NAME, RESERVED
from .package import NAMES, check_size

MARKER, INDEX = RESERVED
FORMAT = 1
SET_ASIDE = ".damaged-"  # before the names of what `repair` takes out of the way
BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The index's entry of a repo.

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

    def push(self, name: str, files: Mapping[str, Path], results: Evaluation) -> str:
        """Store files as a commit, and let the index name it.

        A commit that is there already stays, unless it is damaged: then it is stored anew.

        Args:
            name: of the repo.
            files: name -> where it is now.
            results: what the index says of it.

        Returns:
            The commit: the same one if the files are the same.

        Raises:
            AddressError: if the name is one of the hub's own files.
            BundleError: if a link stands where a folder or file of the hub should.
        """
        if name.casefold() in RESERVED:
            raise AddressError(f'"{name}" is a file of the hub\'s own; give the repo another name')
        self.root.mkdir(parents=True, exist_ok=True)
        _folder(self.root / INDEX).mkdir(exist_ok=True)
        if not self.exists():
            _write(self.root / MARKER, {"format": FORMAT})
        home = _folder(self.root / name)
        home.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=home) as partial:
            whole = Path(partial) / "whole"
            whole.mkdir()
            listing = {one: _copy(files[one], whole / one) for one in sorted(files)}
            commit = commit_name(listing)
            if self._fault(name, commit):
                for there in (home / f"{commit}.json", home / commit):
                    if (
                        there.exists() or there.is_symlink()
                    ):  # damaged, or of a push that was killed
                        there.rename(Path(partial) / there.name)
                whole.rename(home / commit)
                _write(home / f"{commit}.json", asdict(_Listing(files=listing)))
        self._enter(name, commit, results)
        return commit

    def _enter(self, name: str, commit: str, results: Evaluation) -> None:
        entry = Entry(
            commit=commit,
            agent=results.agent,
            env=results.env,
            mean=results.mean,
            std=results.std,
            episodes=len(results.returns),
        )
        _write(_folder(self.root / INDEX) / f"{name}.json", asdict(entry))

    def commit(self, name: str, revision: str) -> str:
        """The commit that a revision names.

        Raises:
            BundleError: if the repo's entry in the index is damaged.
            RepoNotFoundError: if there is no such repo or commit here.
        """
        path = self.root / INDEX / f"{name}.json"
        if not self.exists() or not os.path.lexists(path):
            known = [one.stem for one in self._index()]
            hint = nearest(name, known, "it has") if known else "it is empty, or no hub"
            raise RepoNotFoundError(f'the hub {FILE}{self.root} has no "{name}"; {hint}')
        if revision == MAIN:
            return _entry(path).commit
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
        folder = _folder(_folder(self.root / name) / commit)
        listing = read_fields(
            _Listing, _json(folder.with_name(f"{commit}.json")), f"{commit}.json"
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
        """Name -> what the index says, by name; damaged entries are left out."""
        return {name: found for name, found in self._entries() if isinstance(found, Entry)}

    def damaged(self) -> dict[str, str]:
        """Name -> what is wrong with its entry in the index, for those that `entries` left out."""
        return {name: found for name, found in self._entries() if isinstance(found, str)}

    def repair(self) -> list[str]:
        """Make the index true of the commits that are whole.

        Entries that are damaged or name no whole commit are made anew from the newest one that is.
        What belongs to no repo is set aside under another name. No commit is changed.

        Returns:
            What was done, and what was found that only another push can mend, in sentences.

        Raises:
            HubError: if the folder is no hub.
        """
        if not self.exists():
            raise HubError(
                f"{self.root} is no hub; `agentzoo push FOLDER {FILE}{self.root}` makes it one"
            )
        return [
            *self._clear_index(),
            *(line for name in self._repos() for line in self._mend(name)),
        ]

    def _clear_index(self) -> Iterator[str]:
        repos = self._repos()
        for path in sorted(_folder(self.root / INDEX).iterdir()):
            if path.name.startswith("."):
                continue
            if path.suffix != ".json" or path.stem not in repos:
                yield f"set aside {INDEX}/{path.name}, which is no repo's: {_set_aside(path)}"

    def _mend(self, name: str) -> Iterator[str]:
        path = self.root / INDEX / f"{name}.json"
        home = self.root / name
        if home.is_symlink():
            yield f"{name} is a link, which is not followed; it was left alone"
            return
        commits = sorted(home.glob("*.json"), key=lambda one: one.lstat().st_mtime, reverse=True)
        faults = {
            one.stem: self._fault(name, one.stem) for one in commits if COMMIT.fullmatch(one.stem)
        }
        for commit, fault in faults.items():
            if fault:
                yield f"{name}@{commit} is damaged: {fault}"
        newest = next((commit for commit, fault in faults.items() if not fault), None)
        try:
            if faults.get(_entry(path).commit) == "":
                return
        except BundleError:
            pass
        if newest is not None:
            if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
                _set_aside(path)
            self._enter(name, newest, read_results(home / newest))
            yield f"{name}: the index names {newest} now, its newest whole commit"
        elif os.path.lexists(path):
            yield f"{name} has no whole commit; its entry was set aside: {_set_aside(path)}"

    def _fault(self, name: str, commit: str) -> str:
        """The fault of a commit; "" if it is whole."""
        try:
            self.open(name, commit, NAMES)
            read_results(self.root / name / commit)
        except BundleError as error:
            return str(error)
        return ""

    def _repos(self) -> list[str]:
        folders = (one for one in self.root.iterdir() if one.is_dir() and NAME.fullmatch(one.name))
        return sorted(one.name for one in folders if one.name.casefold() not in RESERVED)

    def _index(self) -> list[Path]:
        if not (self.root / INDEX).is_dir():
            return []
        found = sorted(_folder(self.root / INDEX).glob("*.json"))
        return [path for path in found if NAME.fullmatch(path.stem)]

    def _entries(self) -> Iterator[tuple[str, Entry | str]]:
        for path in self._index():
            try:
                yield path.stem, _entry(path)
            except BundleError as error:
                yield path.stem, str(error)


def commit_name(listing: Mapping[str, FileEntry]) -> str:
    """A commit's name: 40 digits, as git's, of the sha256 of its listing."""
    lines = "".join(
        f"{one} {listing[one].bytes} {listing[one].sha256}\n" for one in sorted(listing)
    )
    return hashlib.sha256(lines.encode()).hexdigest()[:40]


def _entry(path: Path) -> Entry:
    found = read_fields(Entry, _json(path), f"{INDEX}/{path.name}")
    if not COMMIT.fullmatch(found.commit):
        raise BundleError(
            f'{path} names "{found.commit:.40}", which is no commit; run: agentzoo hub repair '
            f"{path.parents[1]}"
        )
    return found


def _json(path: Path) -> object:
    return read_json(_no_link(path))


def _folder(path: Path) -> Path:
    if _no_link(path).exists() and not path.is_dir():
        raise BundleError(f"{path} is no folder, and the hub has one there; move it away")
    return path


def _no_link(path: Path) -> Path:
    if path.is_symlink():
        raise BundleError(f"{path} is a link, which no hub makes; have it pushed again")
    return path


def _set_aside(path: Path) -> str:
    """Take something out of the way, and say how it is called now."""
    names = (f"{SET_ASIDE}{count or ''}{path.name}" for count in range(1_000))
    name = next(one for one in names if not os.path.lexists(path.with_name(one)))
    path.rename(path.with_name(name))
    return f"{path.parent.name}/{name}"


def _check(path: Path, entry: FileEntry) -> None:
    if not _no_link(path).is_file():
        raise _damaged(path)
    size = path.stat().st_size
    check_size(path.name, size)
    with open_plain(path) as file:
        if size != entry.bytes or hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise _damaged(path)


def _damaged(path: Path) -> BundleError:
    return BundleError(f"{path} is missing or not what was pushed; have it pushed again")


def _copy(source: Path, target: Path) -> FileEntry:
    """Copy a file block by block, and hash what is written."""
    digest, size = hashlib.sha256(), 0
    with open_plain(source) as file, target.open("xb") as copy:
        while block := file.read(BLOCK):
            digest.update(block)
            size += copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())
    return FileEntry(sha256=digest.hexdigest(), bytes=size)


def _write(path: Path, value: object) -> None:
    write_plain(path, json.dumps(value, indent=1, allow_nan=False))
