"""Errors of the Hugging Face Hub and its client, as sentences that tell what to do."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from huggingface_hub import errors as client

from agentzoo.runtime.errors import AgentZooError

# what the client lets through when the network fails: httpx's in 1.x, httpx2's in 2.x; it is the
# first base of the client's own error in both
TransportError: type[Exception] = client.HfHubHTTPError.__mro__[1]


class HubError(AgentZooError, RuntimeError):
    """The Hub refused, failed or broke off."""


class AddressError(AgentZooError, ValueError):
    """The text given is not the address of a published agent."""


class RepoNotFoundError(HubError):
    """The repo or its revision is not there, or not to be seen without a token."""


class OfflineError(HubError):
    """The Hub cannot be reached, and the cache has not what was asked for."""


class OfflineWarning(UserWarning):
    """The Hub cannot be reached; what the cache has is used."""


class DamagedEntryWarning(UserWarning):
    """The index of a folder hub has an entry that cannot be read; it was left out."""


@contextmanager
def said_plainly(repo: str, revision: str = "main") -> Generator[None]:
    """Turn what the client raises into sentences about `repo`.

    Raises:
        RepoNotFoundError: if the repo or its revision is missing, private or gated.
        OfflineError: if the Hub cannot be reached.
        HubError: for all else that the Hub or the network did.
    """
    try:
        yield
    except AgentZooError:
        raise
    except (client.HfHubHTTPError, client.OfflineModeIsEnabled, TransportError) as error:
        raise _plain(error, repo, revision) from error
    except RuntimeError as error:  # what the client makes of a failed upload
        if not isinstance(error.__cause__, TransportError):
            raise
        raise _plain(error.__cause__, repo, revision) from error
    except client.LocalEntryNotFoundError as error:
        raise not_cached(repo, revision) from error
    except (client.HFValidationError, ValueError) as error:
        raise HubError(f"the Hub's client refuses {repo}: {_first_line(error)}") from error
    except OSError as error:
        raise _storage(error, repo) from error


def is_unreachable(error: BaseException | None) -> bool:
    """Whether the Hub could not be asked, or was out of order, rather than said no."""
    if isinstance(error, client.HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, TransportError | client.OfflineModeIsEnabled)


def not_cached(repo: str, revision: str) -> OfflineError:
    """The error for what was asked for offline and never fetched."""
    return OfflineError(
        f"{repo}@{revision} is not wholly in the cache, and the Hub may not be asked; unset "
        "HF_HUB_OFFLINE, connect, and run the same again"
    )


def _plain(error: Exception, repo: str, revision: str) -> HubError:
    if isinstance(error, client.HfHubHTTPError):
        return _answered(error, repo, revision)
    if isinstance(error, client.OfflineModeIsEnabled):
        return OfflineError(
            f"HF_HUB_OFFLINE is set, and {repo} needs the Hub; unset it and run the same again"
        )
    return OfflineError(
        f"the connection to the Hub failed at {repo} ({type(error).__name__}: "
        f"{_first_line(error)}); what arrived whole is kept: run the same again"
    )


def _answered(error: client.HfHubHTTPError, repo: str, revision: str) -> HubError:
    if isinstance(error, client.GatedRepoError):
        return RepoNotFoundError(
            f"{repo} is gated: accept its terms on its page with your account, then log in here "
            "with: hf auth login"
        )
    if isinstance(error, client.RevisionNotFoundError):
        return RepoNotFoundError(
            f'{repo} has no revision "{revision}"; give a branch, a tag or a commit it has'
        )
    if isinstance(error, client.RepositoryNotFoundError):
        return RepoNotFoundError(
            f"the Hub has no model {repo}, or it is private: check the name, or log in with: "
            "hf auth login"
        )
    status = error.response.status_code
    say = STATUS.get(status, _out_of_order if status >= 500 else _refused)
    return say(repo, f"{status}: {_message(error)}")


def _message(error: client.HfHubHTTPError) -> str:
    return (error.server_message or _first_line(error)).strip()[:200]


def _out_of_order(repo: str, said: str) -> HubError:
    return HubError(f"the Hub is out of order at {repo} ({said}); run the same again later")


def _refused(repo: str, said: str) -> HubError:
    return HubError(f"the Hub refuses {repo} ({said})")


def _no_login(repo: str, said: str) -> HubError:
    return HubError(
        f"the Hub does not know who asks for {repo} ({said}); log in with: hf auth login"
    )


def _no_right(repo: str, said: str) -> HubError:
    return HubError(
        f"your account may not do this to {repo} ({said}); use a token that may write there, or "
        "another name"
    )


def _moved_on(repo: str, said: str) -> HubError:
    return HubError(
        f"somebody else has pushed to {repo} meanwhile ({said}); look at it, then push again"
    )


def _too_many(repo: str, said: str) -> HubError:
    return HubError(
        f"the Hub takes no more requests for now, at {repo} ({said}); wait some minutes and run "
        "the same again, logged in if you are not"
    )


STATUS: dict[int, Callable[[str, str], HubError]] = {
    401: _no_login,
    403: _no_right,
    412: _moved_on,
    429: _too_many,
}


def _storage(error: OSError, repo: str) -> HubError:
    if error.errno is None:  # the client's own: fewer bytes came than were announced
        return HubError(
            f"the download of {repo} broke off ({_first_line(error)}); what arrived whole is kept: "
            "run the same again"
        )
    return HubError(
        f"{repo} cannot be stored in the cache ({error}); make the folder writable, or name "
        "another one with cache_dir= or HF_HOME"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
