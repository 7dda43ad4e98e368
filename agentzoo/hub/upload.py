"""Uploads: one commit of one checked bundle."""

from collections.abc import Collection
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from agentzoo.runtime.bundle.manifest import MANIFEST
from agentzoo.runtime.envs import EnvName
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.files import at_home

from .card import write_card
from .download import endpoint, require_own_folder
from .errors import AddressError, said_plainly
from .folder_hub import FolderHub
from .naming import (
    FILE,
    MAIN,
    Address,
    parse,
    repo_name,
    split_folder,
)
from .package import CARD, NAMES, Package, read_package

FRESH = {".gitattributes", CARD}  # what a repo that the Hub has just made may hold
LICENSE = "mit"


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    license_id: str = LICENSE,
    without: Collection[str] = (),
) -> str:
    """Check a bundle, write its card, and publish it as one commit.

    A repo that is not there is made. Content that is there already makes no new commit.

    Args:
        folder: a bundle with results, video and learning curve.
        repo_id: `me/name`; or `file:DIR` for a folder that is, or becomes, a hub, where the repo
            gets its usual name; or `file:DIR/name` in a hub that is there.
        private: whether a new repo is private; None is the account's default.
        token: of an account that may write there; None is the one logged in.
        license_id: of the weights, as the Hub spells it.
        without: `replay.mp4` or `learning_curve.png`, where a machine cannot draw.

    Returns:
        The address with the commit: what was published, for good.

    Raises:
        AddressError: if `repo_id` is no address to push to.
        BundleError: if something is missing (naming the command that makes it) or damaged, or the
            repo holds something else.
        HubError: if the Hub refuses or fails.
    """
    require_own_folder(folder)  # the card is written into it
    package = read_package(at_home(folder), without)
    if repo_id.startswith(FILE):
        return str(_to_folder(package, repo_id, license_id))
    address = parse(repo_id)
    if address.kind != "hub" or address.revision != MAIN:
        raise AddressError(
            f'cannot push to "{repo_id}"; give "me/name", or "file:DIR" for a folder'
        )
    write_card(package, address, license_id)
    with said_plainly(address.repo):
        commit = _to_hub(package, address, HfApi(endpoint=endpoint(), token=token), private)
    return f"{address}@{commit}"


def _to_hub(package: Package, address: Address, api: HfApi, private: bool | None) -> str:
    api.create_repo(address.repo, private=private, exist_ok=True)
    info = api.model_info(address.repo)
    there = {one.rfilename for one in info.siblings or ()}
    if MANIFEST not in there and there - FRESH:
        raise BundleError(
            f"{address.repo} holds something else ({', '.join(sorted(there - FRESH)[:6])}); "
            "push to another name"
        )
    files = (*package.files, CARD)
    stale = sorted(there & {*NAMES} - {*files})
    done = api.create_commit(
        address.repo,
        [
            *(CommitOperationAdd(name, package.folder / name) for name in files),
            *(CommitOperationDelete(name) for name in stale),
        ],
        commit_message=message(package),
        parent_commit=info.sha,
    )
    return done.oid


def _to_folder(package: Package, repo_id: str, license_id: str) -> Address:
    root, name = _place(repo_id, package)
    hub, address = FolderHub(root), parse(f"{FILE}{root}/{name}")
    card = write_card(package, address, license_id)
    files = {one: package.folder / one for one in package.files}
    commit = hub.push(name, {**files, CARD: card}, package.results)
    return parse(str(address), commit)


def _place(repo_id: str, package: Package) -> tuple[Path, str]:
    """The folder that is the hub, and the repo's name in it."""
    root = at_home(repo_id.removeprefix(FILE))
    parent, name = split_folder(repo_id)
    if "@" in name:
        raise AddressError(f'cannot push to "{repo_id}": a commit is made, not chosen')
    if not FolderHub(root).exists() and FolderHub(parent).exists():
        return parent, name
    if root.exists() and not root.is_dir():
        raise AddressError(f"{root} is a file, and a hub is a folder; name another")
    return root, repo_name(package.settings.agent, package.settings.env)


def message(package: Package) -> str:
    """The commit's first line."""
    results = package.results
    where = EnvName.read(results.env).head or "an environment of its own"
    return (
        f"{results.agent} in {where}: mean return {results.mean:.2f} over "
        f"{len(results.returns)} episodes"
    )
