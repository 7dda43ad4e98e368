"""Downloads: pinned to one commit, checked before they are parsed, never executed."""

import hashlib
import os
import shutil
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from huggingface_hub import (
    HfApi,
    RepoFile,
    constants,
    snapshot_download,  # pyright: ignore[reportUnknownVariableType]
)
from huggingface_hub import errors as client

from agentzoo.runtime.bundle import load as bundle
from agentzoo.runtime.bundle.manifest import MANIFEST, read_json, read_manifest
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.files import at_home, open_plain, places, stands
from agentzoo.runtime.policy.onnx_session import Provider
from agentzoo.runtime.policy.planners import Changes
from agentzoo.runtime.policy.policy import Policy
from agentzoo.runtime.strict_json import read_object

from .errors import (
    AddressError,
    HubError,
    OfflineWarning,
    RepoNotFoundError,
    is_unreachable,
    not_cached,
    said_plainly,
)
from .folder_hub import BLOCK, FolderHub
from .hostile import guard_names
from .naming import COMMIT, MAIN, Address, looks_published, parse
from .package import CARD, NAMES, PICTURES, SERVING, WEIGHTS, check_content, check_size

ATTEMPTS = 3  # at a branch that moves while it is read
_CHECKOUT = Path(__file__).parents[2] / "zoo"
ZOO_FOLDERS = (  # what came with the package, and what a checkout has beside it
    Path(__file__).parent / "zoo",
    *([_CHECKOUT] if (_CHECKOUT / "recipes.toml").is_file() else []),
)


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    folder: str | Path | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
) -> Path:
    """A published bundle as a folder here, every file of it checked.

    Args:
        repo_id: `me/name`, `file:DIR/name` or `zoo:name`, perhaps with `@revision`.
        revision: a branch, a tag or a commit; None is what `@` says, else main.
        folder: a new or empty folder to copy it to; None leaves it where it is kept.
        cache_dir: where downloads are kept; None is the Hugging Face cache.
        token: of an account that may see the repo; None is the one logged in.

    Returns:
        The folder. One in the cache is not to be written to.

    Raises:
        AddressError: if `repo_id` is no address.
        RepoNotFoundError: if the repo or revision is missing, private or gated.
        OfflineError: if the Hub cannot be reached and the cache has not all of it.
        HubError: if the Hub fails, or the cache cannot be written.
        BundleError: if it is no bundle, or damaged, or would do more than a bundle may.
        EnvironmentStringError: if its environment is not one of a registered suite.
    """
    found = fetch(parse(repo_id, revision), NAMES, cache_dir, token)
    return found if folder is None else _copied(found, at_home(folder))


def load_policy(
    repo_id: str,
    *,
    revision: str | None = None,
    provider: Provider = "auto",
    threads: int = 1,
    seed: int | None = None,
    deterministic: bool | None = None,
    plan: Changes | Literal["off"] | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
) -> Policy:
    """Fetch what acting needs of a published bundle, and open its policy; needs no torch.

    `provider`, `threads`, `seed`, `deterministic` and `plan` are those of the runtime's
    `load_policy`; the others, and what is raised, are those of `pull`.

    Example:
        policy = load_policy("me/dreamer-dmc-walker-walk@main")
        policy.act(obs)
    """
    return bundle.load_policy(
        fetch(parse(repo_id, revision), SERVING, cache_dir, token),
        provider=provider,
        threads=threads,
        seed=seed,
        deterministic=deterministic,
        plan=plan,
    )


def locate(where: str | Path, *, serving: bool = False) -> Path:
    """A folder from what a user names: a folder that is there, else a published bundle.

    Args:
        where: a path or an address; a `Path` is always taken as a path.
        serving: whether the weights and the pictures can stay away.

    Raises:
        RepoNotFoundError: if no folder of the name is here either; others as in `pull`.
    """
    path = at_home(where)
    if isinstance(where, Path) or path.exists() or not looks_published(where):
        return path
    try:
        return fetch(parse(where), SERVING if serving else NAMES)
    except RepoNotFoundError as error:
        raise RepoNotFoundError(f"there is no folder {where} here, and {error}") from error


def fetch(
    address: Address,
    wanted: Collection[str],
    cache_dir: str | Path | None = None,
    token: str | None = None,
) -> Path:
    """The folder of a published bundle with those of the wanted files that it has, checked.

    Raises:
        HubError: as in `pull`.
    """
    digests: Mapping[str, str] = {}
    if address.kind == "file":
        hub = FolderHub(address.root)
        commit = hub.commit(address.repo, address.revision)
        folder = hub.open(address.repo, commit, wanted)
    elif address.kind == "zoo":
        folder = shipped(address)
    else:
        folder, digests = _from_hub(address, wanted, cache_dir, token)
    if not stands(folder / MANIFEST):
        raise not_a_bundle(str(address), (path.name for path in folder.iterdir()))
    check_content(folder, read_manifest(folder, digests))
    return folder


def shipped(address: Address) -> Path:
    """The folder of a policy that came with the package.

    Raises:
        RepoNotFoundError: if none of this name did; lists those that did.
    """
    names = sorted(path.parent.name for root in ZOO_FOLDERS for path in root.glob(f"*/{MANIFEST}"))
    for root in ZOO_FOLDERS:
        if (root / address.repo / MANIFEST).is_file() and address.revision == MAIN:
            return root / address.repo
    known = ", ".join(names) or "none"
    raise RepoNotFoundError(f'no policy "{address}" came with this package; there are: {known}')


def require_own_folder(path: str | Path) -> None:
    """Refuse to write into what others read as published: a hub, a cache, the package's zoo.

    Args:
        path: a file or folder that is to be written to; need not be there.

    Raises:
        AddressError: saying which of them it lies in.
    """
    whole = at_home(path).resolve()
    for folder in (whole, *whole.parents):
        kind = _kept_in(folder)
        if kind:
            raise AddressError(
                f"{path} lies in {kind}, {folder}, which is read as it was published; take a copy "
                "with: agentzoo pull ADDRESS FOLDER"
            )


def _kept_in(folder: Path) -> str:
    if FolderHub.marks(folder):
        return "a folder that is a hub"
    if folder.name.startswith("models--") and (folder / "snapshots").is_dir():
        return "the cache of the Hugging Face Hub"
    return "the zoo" if folder in [root.resolve() for root in ZOO_FOLDERS] else ""


def endpoint() -> str | None:
    """The Hub's address; read now, because the client reads it once, when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def not_a_bundle(repo: str, names: Iterable[str]) -> BundleError:
    """The error for a repo that holds something else."""
    held = ", ".join(sorted(names)[:6]) or "nothing"
    return BundleError(
        f"{repo} holds no bundle of this project: it has {held}, and no {MANIFEST}; look at its "
        "page for the library that reads it"
    )


# -- the Hugging Face Hub --------------------------------------------------------------------------


class _Fetched(NamedTuple):
    """A folder in the cache, and the sha256 of those of its files that were hashed just now."""

    folder: Path
    digests: Mapping[str, str]


def _from_hub(
    address: Address, wanted: Collection[str], cache_dir: str | Path | None, token: str | None
) -> _Fetched:
    if address.is_pinned:
        folder = _cached(address, wanted, cache_dir)
        if folder is not None and _is_whole(folder, wanted):
            return _Fetched(folder, {})  # a commit never changes: nothing to ask
    try:
        with said_plainly(address.repo, address.revision):
            return _online(address, wanted, cache_dir, token)
    except HubError as error:
        if not is_unreachable(error.__cause__):
            raise
        folder = _cached(address, wanted, cache_dir)
        if folder is None or not _is_usable(folder, wanted):
            raise _worse(error, address) from error.__cause__
        if not isinstance(error.__cause__, client.OfflineModeIsEnabled):
            warnings.warn(
                f"the Hub cannot be reached; using {address.repo} at commit {folder.name} from "
                "the cache",
                OfflineWarning,
                stacklevel=5,
            )
        return _Fetched(folder, {})


def _worse(error: HubError, address: Address) -> HubError:
    """The error for when the cache does not help either."""
    if isinstance(error.__cause__, client.OfflineModeIsEnabled):
        return not_cached(address.repo, address.revision)
    return type(error)(f"{error}; the cache has not all of {address}")


def _online(
    address: Address, wanted: Collection[str], cache_dir: str | Path | None, token: str | None
) -> _Fetched:
    api = HfApi(endpoint=endpoint(), token=token)
    for _ in range(ATTEMPTS):
        info = api.model_info(address.repo, revision=address.revision)
        commit = info.sha or ""
        if not COMMIT.fullmatch(commit):  # it names folders in the cache
            raise HubError(f"the Hub names the commit {commit!r:.80} of {address}, which is none")
        listing = _listing(api, address, commit, wanted)
        if MANIFEST not in listing:
            raise not_a_bundle(address.repo, [one.rfilename for one in info.siblings or []])
        guard_names()
        folder = Path(
            snapshot_download(
                address.repo,
                revision=address.revision,
                allow_patterns=list(listing),
                cache_dir=cache_dir,
                token=token,
                endpoint=endpoint(),
            )
        )
        _require_cached(folder, address, cache_dir)
        if folder.name == commit:  # else the branch moved between the two
            for name, expected in listing.items():
                _check_file(folder / name, expected)
            large = {name: one.lfs.sha256 for name, one in listing.items() if one.lfs}
            return _Fetched(folder, large)
    raise HubError(
        f"{address} changes while it is being read; run the same again, or name one commit: "
        f"{address.plain}@COMMIT"
    )


def _require_cached(folder: Path, address: Address, cache_dir: str | Path | None) -> None:
    """The client names folders by what the Hub says; it has to be one in the cache all the same."""
    name = f"models--{address.repo.replace('/', '--')}"
    home = at_home(cache_dir or constants.HF_HUB_CACHE) / name / "snapshots"
    if folder.resolve().parent != home.resolve() or not COMMIT.fullmatch(folder.name):
        raise HubError(
            f"the Hub named a folder outside of the cache for {address}: {str(folder)!r:.200}; do "
            "not use it"
        )


def _listing(
    api: HfApi, address: Address, commit: str, wanted: Collection[str]
) -> dict[str, RepoFile]:
    """Wanted files that the commit has; none is larger than it may be."""
    found = api.get_paths_info(address.repo, list(wanted), revision=commit)
    listing = {one.path: one for one in found if isinstance(one, RepoFile) and one.path in wanted}
    for name, one in listing.items():
        check_size(name, one.size)
    return listing


def _check_file(path: Path, expected: RepoFile) -> None:
    """Compare a file with what the Hub says of it; a damaged one is removed from the cache."""
    if not stands(path):
        raise HubError(f"{path.name} did not arrive; run the same again")
    size = path.stat().st_size
    if expected.lfs:
        found, wanted = _digest(path, "sha256"), expected.lfs.sha256
    else:  # as git names a file
        found, wanted = _digest(path, "sha1", b"blob %d\0" % size), expected.blob_id
    if size == expected.size and found == wanted:
        return
    for place in places(path)[::-1]:  # else it would be taken from the cache for good
        place.unlink(missing_ok=True)
    raise BundleError(
        f"{path.name} arrived damaged: it has {size:,} bytes and the digest {found[:12]}, the Hub "
        f"says {expected.size:,} and {wanted[:12]}; it was removed: run the same again"
    )


def _digest(path: Path, kind: str, prefix: bytes = b"") -> str:
    digest = hashlib.new(kind, prefix, usedforsecurity=False)
    with open_plain(path) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# -- the cache -------------------------------------------------------------------------------------


def _cached(address: Address, wanted: Collection[str], cache_dir: str | Path | None) -> Path | None:
    try:
        found = snapshot_download(
            address.repo,
            revision=address.revision,
            allow_patterns=list(wanted),
            cache_dir=cache_dir,
            local_files_only=True,
        )
    except (client.LocalEntryNotFoundError, OSError):
        return None
    return Path(found)


def _is_usable(folder: Path, wanted: Collection[str]) -> bool:
    """Whether the wanted files that the manifest lists are there."""
    if not stands(folder / MANIFEST):
        return False
    listed = read_object(read_json(folder / MANIFEST), MANIFEST).get("files")
    names = read_object(listed, "manifest.json.files")
    return all(stands(folder / name) for name in names if name in wanted)


def _is_whole(folder: Path, wanted: Collection[str]) -> bool:
    """Whether the pictures and the card are there, too, if they are wanted."""
    extra = {*PICTURES, CARD, WEIGHTS} & {*wanted}
    return _is_usable(folder, wanted) and all(stands(folder / name) for name in extra)


def _copied(source: Path, target: Path) -> Path:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AddressError(f"{target} is there already; name a new or an empty folder")
    target.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        if stands(source / name):
            with open_plain(source / name) as file, (target / name).open("xb") as copy:
                shutil.copyfileobj(file, copy)
    return target
