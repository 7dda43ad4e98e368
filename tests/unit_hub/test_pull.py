"""Downloads: whole, checked, pinned; and what the cache is good for."""

import ctypes
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from agentzoo import hub as publishing
from agentzoo.hub import (
    HubError,
    OfflineError,
    RepoNotFoundError,
    load_policy,
    locate,
    pull,
    push,
)
from agentzoo.hub.errors import AddressError, OfflineWarning
from agentzoo.runtime import load_policy as open_folder
from agentzoo.runtime import verify
from agentzoo.runtime.bundle import manifest
from agentzoo.runtime.errors import BundleError, ConfigError
from tests.unit_hub.standin import StandIn

REPO = "me/dreamer-gym-CartPole-v1"
ROOT = Path(publishing.__file__).parents[1]


@pytest.fixture
def published(hub: StandIn, folder: Path) -> str:
    """The address of a bundle, commit included."""
    return push(folder, REPO)


def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server listens where the Hub should be."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def test_what_comes_down_is_what_went_up(published: str, folder: Path) -> None:
    found = pull(REPO)
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in found.iterdir()} == names
    for name in names:
        assert (found / name).read_bytes() == (folder / name).read_bytes(), name
    assert verify(found).steps == 12


def test_a_copy_can_be_written_to(published: str, tmp_path: Path) -> None:
    out = pull(REPO, folder=tmp_path / "mine")
    assert out == tmp_path / "mine"
    assert not any(path.is_symlink() for path in out.iterdir())
    with pytest.raises(AddressError, match="is there already; name a new or an empty folder"):
        pull(REPO, folder=out)


def test_the_policy_acts_as_the_one_that_was_pushed(published: str, folder: Path) -> None:
    policy, local = load_policy(published), open_folder(folder)
    rng = np.random.default_rng(0)
    for _ in range(50):
        obs = rng.standard_normal(4, np.float32)
        assert policy.act(obs) == local.act(obs)


def test_settings_are_handed_through(published: str) -> None:
    policy = load_policy(REPO, seed=7, deterministic=True, threads=1, provider="cpu")
    assert (policy.seed, policy.deterministic) == (7, True)
    with pytest.raises(ConfigError, match="plan"):
        load_policy(REPO, plan={"horizon": 3})


def test_acting_fetches_no_weights(published: str, hub: StandIn) -> None:
    load_policy(REPO)
    assert hub.asked("GET", "policy.onnx") == 1
    assert hub.asked("GET", "/resolve/.*(safetensors|mp4|png|README)") == 0


def test_a_revision_stays_what_it_is(
    published: str, hub: StandIn, another: Callable[[int], Path]
) -> None:
    newer = push(another(1), REPO)
    assert open_folder(pull(published)).seed == 0
    assert open_folder(pull(REPO)).seed == 1
    assert pull(newer) == pull(REPO) != pull(published)
    assert pull(REPO, revision=published.partition("@")[2]) == pull(published)


def test_a_commit_in_the_cache_asks_nobody(published: str, hub: StandIn) -> None:
    first = pull(published)
    hub.requests.clear()
    assert pull(published) == first
    assert load_policy(published).spec.agent == "Dreamer"
    assert hub.requests == []


def test_a_branch_in_the_cache_is_asked_for_but_not_fetched_again(
    published: str, hub: StandIn
) -> None:
    pull(REPO)
    hub.requests.clear()
    pull(REPO)
    assert hub.asked("GET", "/api/models/") >= 1
    assert hub.asked("GET", "/resolve/") == 0


def test_without_a_network_a_warm_cache_works_and_says_so(
    published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = pull(REPO)
    nowhere(monkeypatch)
    with pytest.warns(OfflineWarning, match=f"using {REPO} at commit {online.name} from the cache"):
        assert pull(REPO) == online
    assert pull(published) == online  # a commit needs no Hub, so there is nothing to warn of


def test_without_a_network_a_cold_cache_says_so(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere(monkeypatch)
    with pytest.raises(
        OfflineError, match=r"connection to the Hub failed .*has not all of me/nothing"
    ):
        pull("me/nothing")


def test_a_cache_with_half_of_it_does_not_pass_for_all(
    published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_policy(REPO)
    nowhere(monkeypatch)
    with pytest.raises(OfflineError, match="the cache has not all of"):
        pull(REPO)
    with pytest.warns(OfflineWarning):
        load_policy(REPO)


def offline(code: str, cache: Path) -> "subprocess.CompletedProcess[str]":
    """A process that is told to stay offline, which the client reads when it is imported."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_the_offline_switch_uses_the_cache_without_a_word(published: str, tmp_path: Path) -> None:
    found = pull(REPO)
    code = (
        "from agentzoo import hub\n"
        f"print(hub.pull({REPO!r}))\n"
        "try: hub.pull('me/nothing')\n"
        "except hub.OfflineError as error: print(error)\n"
        f"try: hub.push({str(tmp_path / 'bundle')!r}, 'me/other')\n"
        "except hub.OfflineError as error: print(error)\n"
    )
    done = offline(code, tmp_path / "cache")
    assert done.stderr == ""
    folder, missing, refused = done.stdout.splitlines()
    assert folder == str(found)
    assert "me/nothing@main is not wholly in the cache" in missing
    assert "HF_HUB_OFFLINE is set" in refused


def test_an_endpoint_set_after_the_import_counts(
    published: str, hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    assert hub.url != constants.ENDPOINT  # the client has its own idea from when it was imported
    pull(REPO)
    assert hub.asked("GET", "/resolve/") > 0


def test_a_missing_repo(hub: StandIn) -> None:
    with pytest.raises(RepoNotFoundError, match=r"has no model me/nothing, or it is private"):
        pull("me/nothing")


def test_a_private_repo(hub: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(folder, REPO, private=True)
    assert pull(REPO).is_dir()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RepoNotFoundError, match="or it is private: check the name, or log in"):
        pull(REPO)


def test_a_gated_repo(published: str, hub: StandIn) -> None:
    hub.change(REPO, gated="manual")
    with pytest.raises(RepoNotFoundError, match="is gated: accept its terms on its page"):
        pull(REPO)


@pytest.mark.parametrize("revision", ["v9", "f" * 40])
def test_a_wrong_revision(published: str, revision: str) -> None:
    with pytest.raises(RepoNotFoundError, match=f'{REPO} has no revision "{revision}"'):
        pull(REPO, revision=revision)


def test_a_repo_that_holds_something_else(hub: StandIn) -> None:
    hub.put("sb3/ppo-CartPole-v1", {"ppo-CartPole-v1.zip": b"PK", "README.md": b"---\na: 1\n---\n"})
    expected = r"holds no bundle of this project: it has .*ppo-CartPole-v1\.zip.* no manifest"
    with pytest.raises(BundleError, match=expected):
        pull("sb3/ppo-CartPole-v1")
    assert hub.asked("GET", "/resolve/") == 0


def test_a_download_that_breaks_once_is_resumed(published: str, hub: StandIn) -> None:
    hub.fail("GET", r"/resolve/.*replay\.mp4", cut=700)
    assert pull(REPO).is_dir()
    assert hub.asked("GET", r"/resolve/.*replay\.mp4") == 2


def test_a_download_that_breaks_off_says_to_run_it_again(published: str, hub: StandIn) -> None:
    hub.fail("GET", r"/resolve/.*policy\.onnx", cut=100, reset=True, times=100)
    with pytest.raises(HubError, match=r"what arrived whole is kept: run the same again"):
        pull(REPO)
    hub.faults.clear()
    hub.requests.clear()
    assert verify(pull(REPO)).steps == 12
    assert hub.asked("GET", r"/resolve/.*policy\.onnx") == 1


@pytest.mark.parametrize("name", ["policy.onnx", "manifest.json", "replay.mp4", "README.md"])
def test_damaged_bytes_are_found_and_fetched_again(published: str, hub: StandIn, name: str) -> None:
    hub.fail("GET", f"/resolve/.*{name}", corrupt=True)
    with pytest.raises(BundleError, match=f"{name} arrived damaged: .*removed: run the same again"):
        pull(REPO)
    assert verify(pull(REPO)).steps == 12


def test_large_files_are_hashed_once_on_their_way(
    published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, sha256 = [], manifest.file_sha256
    monkeypatch.setattr(
        manifest, "file_sha256", lambda path: hashed.append(path.name) or sha256(path)
    )
    pull(REPO)
    assert sorted(hashed) == ["config.json", "model.safetensors"]  # small: no sha256 in the listing
    hashed.clear()
    pull(published)
    assert {"policy.onnx", "golden.npz"} < {*hashed}, "from the cache nobody else has looked at it"


@pytest.mark.parametrize(
    ("status", "said"), [(429, "takes no more requests for now"), (500, "is out of order")]
)
def test_a_hub_in_trouble_is_a_sentence(
    published: str, hub: StandIn, status: int, said: str
) -> None:
    hub.fail("GET", "/api/models/", status=status, times=100)
    with pytest.raises(HubError, match=said):
        pull(REPO)


def test_a_hub_in_trouble_beside_a_warm_cache(published: str, hub: StandIn) -> None:
    online = pull(REPO)
    hub.fail("GET", "/api/models/", status=503, times=100)
    with pytest.warns(OfflineWarning, match="cannot be reached"):
        assert pull(REPO) == online


def test_a_cache_that_is_no_folder(published: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HubError, match=r"cannot be stored in the cache .* cache_dir= or HF_HOME"):
        pull(REPO, cache_dir=tmp_path / "file")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Let permissions count for root as for anybody: drop what overrides them, in this thread."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # linux/capability.h, version 3
    before, after = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    after[:] = before[:]
    after[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; of the effective ones only
    assert libc.capset(header, after) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


def test_a_read_only_cache(published: str, tmp_path: Path) -> None:
    warm, cold = tmp_path / "warm", tmp_path / "cold"
    online = pull(REPO, cache_dir=warm)
    cold.mkdir()
    folders = [cold, warm, *(path for path in warm.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        with unprivileged():
            assert pull(published, cache_dir=warm) == online
            assert pull(REPO, cache_dir=warm) == online
            with pytest.raises(HubError, match=r"cannot be stored in the cache .* HF_HOME"):
                pull(REPO, cache_dir=cold)
    finally:
        for path in folders:
            path.chmod(0o755)


def test_a_folder_comes_before_the_hub(
    published: str, hub: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    hub.requests.clear()
    assert locate(folder.name) == Path(folder.name)
    assert hub.requests == []
    assert locate(REPO) == pull(REPO)
    with pytest.raises(RepoNotFoundError, match="no folder me/nothing here, and the Hub has no"):
        locate("me/nothing")


def test_search_finds_what_was_published(
    hub: StandIn, folder: Path, another: Callable[[int], Path]
) -> None:
    push(folder, REPO)
    push(another(1), "me/other")
    push(another(2), "me/secret", private=True)
    hub.put("sb3/ppo", {"README.md": b"---\ntags: [stable-baselines3]\n---\n"})
    found = publishing.search()
    assert [one.address for one in found] == [REPO, "me/other"]
    assert found[0].score == "500.00 +/- 0.00"
    assert {"dreamer", "CartPole-v1"} <= {*found[0].tags}
    assert [one.address for one in publishing.search("other")] == ["me/other"]
    assert publishing.search("nothing") == []
    assert len(publishing.search(limit=1)) == 1


def test_the_digest_is_the_graph_that_was_published(published: str, folder: Path) -> None:
    expected = hashlib.sha256((folder / "policy.onnx").read_bytes()).hexdigest()
    assert load_policy(published).digest == expected
