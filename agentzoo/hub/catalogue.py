"""Search: published agents on the Hugging Face Hub, in a folder, in the package."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, ModelInfo

from agentzoo.runtime.bundle.manifest import MANIFEST, RESULTS
from agentzoo.runtime.evaluation.results import read_results
from agentzoo.runtime.files import at_home, stands
from agentzoo.runtime.printable import printable

from .download import ZOO_FOLDERS, endpoint
from .errors import AddressError, DamagedEntryWarning, HubError, said_plainly
from .folder_hub import FolderHub
from .naming import FILE, ZOO

LIBRARY = "agentzoo"  # the tag all cards carry


@dataclass(frozen=True)
class Found:
    """A published agent.

    Attributes:
        address: what `load` and `pull` take.
        score: `"{mean:.2f} +/- {std:.2f}"` as published; "" where none is.
        tags: what else its publisher says of it: agent, environment, and more.
    """

    address: str
    score: str
    tags: tuple[str, ...]


def search(
    query: str = "", *, hub: str | None = None, limit: int = 20, token: str | None = None
) -> list[Found]:
    """Published agents whose name, agent or environment holds the query.

    Args:
        query: part of a name; "" is all.
        hub: `file:DIR` for a folder, `zoo:` for what came with the package; None is the Hugging
            Face Hub.
        limit: how many at most.
        token: of an account that sees more; None is the one logged in.

    Raises:
        AddressError: if `hub` is none of these.
        HubError: if the Hub fails, or the folder is no hub.
    """
    if hub is None:
        return _on_the_hub(query, limit, token)
    if hub.startswith(FILE):
        every = _in_folder(at_home(hub.removeprefix(FILE)))
    elif hub == ZOO:
        every = _in_package()
    else:
        raise AddressError(f'"{hub}" is no hub; give "file:DIR" or "{ZOO}", or leave it out')
    words = query.lower().split()
    found = (one for one in every if all(word in _text(one) for word in words))
    return [one for one, _ in zip(found, range(limit), strict=False)]


def _text(found: Found) -> str:
    return " ".join((found.address.rpartition("/")[2], *found.tags)).lower()


def _on_the_hub(query: str, limit: int, token: str | None) -> list[Found]:
    api = HfApi(endpoint=endpoint(), token=token)
    with said_plainly("the list of models"):
        models = api.list_models(
            filter=LIBRARY, search=query or None, limit=limit, cardData=True, full=True
        )
        return [Found(one.id, _published(one), _tags(one.tags or ())) for one in models]


def _tags(tags: "list[str] | tuple[str, ...]") -> tuple[str, ...]:
    return tuple(tag for tag in tags if tag != LIBRARY and ":" not in tag)


def _published(model: ModelInfo) -> str:
    for result in (model.card_data.eval_results if model.card_data else None) or ():
        if result.metric_type == "mean_reward":
            return str(result.metric_value)
    return ""


def _in_folder(root: Path) -> Iterator[Found]:
    hub = FolderHub(root)
    if not hub.exists():
        raise HubError(f"{root} is no hub; `agentzoo push FOLDER {FILE}{root}` makes it one")
    for name, fault in hub.damaged().items():
        warnings.warn(
            f"{FILE}{root}/{name} is left out: {printable(fault)}; run: agentzoo hub repair {root}",
            DamagedEntryWarning,
            stacklevel=4,
        )
    for name, entry in hub.entries().items():
        score = f"{entry.mean:.2f} +/- {entry.std:.2f}"
        yield Found(f"{FILE}{root}/{name}", score, (entry.agent, entry.env))


def _in_package() -> Iterator[Found]:
    for root in ZOO_FOLDERS:
        for path in sorted(root.glob(f"*/{MANIFEST}")):
            if stands(path.parent / RESULTS):
                found = read_results(path.parent)
                score = f"{found.mean:.2f} +/- {found.std:.2f}"
                yield Found(f"{ZOO}{path.parent.name}", score, (found.agent, found.env))
