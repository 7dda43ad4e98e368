"""Addresses: `me/name`, `me/name@revision`, `file:DIR/name`, `zoo:name`; and a repo's own name."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agentzoo.runtime.envs import EnvName
from agentzoo.runtime.files import at_home

from .errors import AddressError

MAIN = "main"
NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)  # one segment; the Hub allows 96 letters
REVISION = re.compile(r"[A-Za-z0-9_][\w./-]{0,127}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
RESERVED = ("hub.json", "index")  # files of a folder hub's own, in any case of letters
FILE, ZOO = "file:", "zoo:"
FORMS = 'expected "me/name", "file:DIR/name" or "zoo:name", perhaps with @revision behind it'


@dataclass(frozen=True)
class Address:
    """Address of a published bundle.

    Attributes:
        kind: the Hugging Face Hub, a folder that is a hub, or what came with the package.
        repo: `me/name` on the Hugging Face Hub, else the name alone.
        revision: a branch, a tag, or a commit of 40 hexadecimal digits.
        root: the folder of a `file:` hub; the current one for the others.
    """

    kind: Literal["hub", "file", "zoo"]
    repo: str
    revision: str = MAIN
    root: Path = Path()

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, whose content can never change."""
        return COMMIT.fullmatch(self.revision) is not None

    @property
    def plain(self) -> str:
        """The address without its revision."""
        prefix = {"hub": "", "file": f"{FILE}{self.root}/", "zoo": ZOO}[self.kind]
        return prefix + self.repo

    def __str__(self) -> str:
        """The address as it is typed."""
        return self.plain if self.revision == MAIN else f"{self.plain}@{self.revision}"


def parse(text: str, revision: str | None = None) -> Address:
    """An address from what a user typed.

    Args:
        text: `me/name`, `file:DIR/name` or `zoo:name`, perhaps with `@revision`.
        revision: the same as `@revision`; may not be said twice.

    Raises:
        AddressError: if it is none of these.
    """
    folder, slash, name = text.rpartition("/") if text.startswith(FILE) else ("", "", text)
    where, at, said = name.partition("@")  # a folder's path may hold one of its own
    where = folder + slash + where
    if at and revision is not None and said != revision:
        raise AddressError(f'"{text}" was given revision={revision!r} as well; say it once')
    wanted = said if at else (MAIN if revision is None else revision)
    if not REVISION.fullmatch(wanted) or ".." in wanted:
        raise AddressError(f'"{wanted}" is not a revision; give a branch, a tag or a commit')
    if where.startswith(FILE):
        root, name = split_folder(where)
        if name.casefold() in RESERVED:
            raise AddressError(
                f'"{text}" names "{name}", a file of the hub\'s own; give the repo another name'
            )
        return Address("file", _segment(name, text), wanted, root)
    if where.startswith(ZOO):
        return Address("zoo", _segment(where.removeprefix(ZOO), text), wanted)
    owner, slash, name = where.partition("/")
    if not slash:
        raise AddressError(f'"{text}" is not the address of a published agent; {FORMS}')
    return Address("hub", f"{_segment(owner, text)}/{_segment(name, text)}", wanted)


def looks_published(text: str) -> bool:
    """Whether a text can be an address rather than a path."""
    try:
        parse(text)
    except AddressError:
        return text.startswith((FILE, ZOO))  # meant as one, and worth its own message
    return True


def split_folder(text: str) -> tuple[Path, str]:
    """`file:DIR/name` as the folder and the name."""
    path = at_home(text.removeprefix(FILE))
    return path.parent, path.name


def repo_name(agent: str, env: str) -> str:
    """The usual name of a repo: `dreamer-dmc-walker-walk`, suite included.

    Args:
        agent: class name of the agent.
        env: environment string, resolved or not.

    Raises:
        AddressError: if there is no string, as of an agent that learned on a user's own object.

    Source: `{algo}-{env}` as in DLR-RM/rl-baselines3-zoo, which keeps no suite.
    """
    if not env:
        raise AddressError(
            f"this {agent} learned on an environment object, which has no name; give the repo one: "
            '"me/name" or "file:DIR/name"'
        )
    task = re.sub(r"[^A-Za-z0-9._]+", "-", EnvName.read(env).head)
    return f"{agent.lower()}-{task.strip('-')}"


def _segment(name: str, text: str) -> str:
    if not NAME.fullmatch(name) or ".." in name or "--" in name or name.endswith((".git", ".")):
        raise AddressError(f'"{text}" holds "{name}", which is no name of a repo; {FORMS}')
    return name
