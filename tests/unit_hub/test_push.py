"""Uploads: one commit of one whole bundle, by the real client."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentzoo import hub as publishing
from agentzoo.hub import HubError, push
from agentzoo.hub.errors import AddressError
from agentzoo.hub.package import read_package
from agentzoo.runtime.errors import BundleError, ConfigError
from tests.unit_hub.standin import StandIn
from tests.unit_runtime.bundles import WEIGHTS, graph, linear_spec, replace, score

REPO = "me/dreamer-gym-CartPole-v1"
FILES = {
    *("config.json", "model.safetensors", "policy.onnx", "golden.npz", "manifest.json"),
    *("results.json", "replay.mp4", "learning_curve.png", "README.md"),
}


def test_a_push_is_one_commit_of_the_whole_bundle(hub: StandIn, folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "training").mkdir()
    (folder / "training" / "replay.pkl").write_bytes(b"\x80\x04.")
    address = push(folder, REPO)
    first, initial = hub.commits(REPO)
    assert address == f"{REPO}@{first}"
    assert hub.files(REPO).keys() == FILES | {".gitattributes"}
    for name in FILES:
        assert hub.files(REPO)[name] == (folder / name).read_bytes(), name
    assert hub.record(REPO, first)["parent"] == initial
    lfs = {path for path, one in hub.record(REPO, first)["files"].items() if one["lfs"]}
    assert lfs == {"policy.onnx", "golden.npz", "replay.mp4"}  # the others are small or text


def test_unchanged_content_makes_no_new_commit(hub: StandIn, folder: Path) -> None:
    assert push(folder, REPO) == push(folder, REPO)
    assert len(hub.commits(REPO)) == 2
    assert hub.asked("POST", "/commit/") == 1


def test_a_changed_bundle_is_a_second_commit(
    hub: StandIn, folder: Path, another: Callable[[int], Path]
) -> None:
    first = push(folder, REPO)
    second = push(another(1), REPO)
    assert first != second
    assert [f"{REPO}@{commit}" for commit in hub.commits(REPO)[:2]] == [second, first]


def test_what_the_new_bundle_lacks_is_deleted(hub: StandIn, folder: Path) -> None:
    push(folder, REPO)
    (folder / "replay.mp4").unlink()
    push(folder, REPO, without=["replay.mp4"])
    assert "replay.mp4" not in hub.files(REPO)
    assert len(hub.commits(REPO)) == 3


def test_a_private_repo_is_private(hub: StandIn, folder: Path) -> None:
    push(folder, REPO, private=True)
    assert hub.repo(REPO)["private"] is True


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("config.json", "agentzoo export RUN"),
        ("model.safetensors", "agentzoo export RUN"),
        ("manifest.json", "agentzoo export RUN"),
        ("golden.npz", "agentzoo export RUN"),
        ("learning_curve.png", "agentzoo export RUN"),
        ("results.json", "agentzoo evaluate .* --record "),
        ("replay.mp4", r"agentzoo evaluate .* --video .*replay\.mp4, or leave it out"),
    ],
)
def test_a_missing_file_is_named_with_the_command_that_makes_it(
    hub: StandIn, folder: Path, name: str, command: str
) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"has no {name}; make it with: {command}"):
        push(folder, REPO)
    assert hub.requests == []


def test_only_pictures_can_be_left_out(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"results\.json.* cannot be left out"):
        push(folder, REPO, without=["results.json"])


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no folder"):
        push(tmp_path / "nothing", REPO)


def test_a_score_of_another_graph_is_not_published(folder: Path) -> None:
    replace(folder, "policy.onnx", graph(linear_spec(0), -WEIGHTS))
    with pytest.raises(
        BundleError, match=r"of another graph or plan, .* anew: agentzoo evaluate \S+ --record"
    ):
        push(folder, REPO)
    score(folder)
    assert read_package(folder).results.mean < 100


def test_weights_that_are_no_safetensors_are_not_published(folder: Path) -> None:
    replace(folder, "model.safetensors", b"\x80\x04\x95 a pickle under another name")
    with pytest.raises(BundleError, match="is not in the safetensors format"):
        push(folder, REPO)


def test_a_changed_file_is_not_published(folder: Path) -> None:
    content = bytearray((folder / "policy.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "policy.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"policy\.onnx is not the file that was exported"):
        push(folder, REPO)


@pytest.mark.parametrize("settings", ["agent", "env"])
def test_config_and_manifest_have_to_agree(folder: Path, settings: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[settings] = {"agent": "PlaNet", "env": "gym:Acrobot-v1?repeat=1"}[settings]
    replace(folder, "config.json", json.dumps(config).encode())
    with pytest.raises(BundleError, match=r"config\.json is of .*manifest\.json of"):
        push(folder, REPO)


def test_a_repo_with_something_else_is_left_alone(hub: StandIn, folder: Path) -> None:
    hub.put(REPO, {"ppo-CartPole-v1.zip": b"PK", "config.yml": b"!!python/object"})
    with pytest.raises(BundleError, match=r"holds something else \(config\.yml, ppo-CartPole"):
        push(folder, REPO)
    assert "README.md" not in hub.files(REPO)


@pytest.mark.parametrize("address", ["walker", "zoo:walker", "me/walker@v1", "me/a/b"])
def test_some_addresses_cannot_be_pushed_to(folder: Path, address: str) -> None:
    with pytest.raises(AddressError):
        push(folder, address)


def test_without_a_login_it_says_how_to_log_in(hub: StandIn, folder: Path) -> None:
    with pytest.raises(HubError, match="log in with: hf auth login"):
        push(folder, REPO, token="hf_wrong")


def test_a_foreign_namespace_is_one_sentence(hub: StandIn, folder: Path) -> None:
    with pytest.raises(HubError, match="your account may not do this to stranger/walker"):
        push(folder, "stranger/walker")


def test_a_push_that_somebody_overtook_is_refused(hub: StandIn, folder: Path) -> None:
    push(folder, REPO)
    curve = folder / "learning_curve.png"
    curve.write_bytes(curve.read_bytes() + b"other")  # a picture still
    hub.fail("POST", "/commit/", status=412)
    with pytest.raises(HubError, match=r"somebody else has pushed .* push again"):
        push(folder, REPO)


def test_an_interrupted_push_leaves_no_commit_and_can_be_repeated(
    hub: StandIn, folder: Path
) -> None:
    hub.fail("POST", "/commit/", status=500, times=100)
    with pytest.raises(HubError, match=r"out of order .*run the same again later"):
        push(folder, REPO)
    assert len(hub.commits(REPO)) == 1
    uploads = hub.asked("PUT", "/storage/")
    hub.faults.clear()
    push(folder, REPO)
    assert len(hub.commits(REPO)) == 2
    assert hub.asked("PUT", "/storage/") == uploads  # what arrived is not sent again


def test_an_upload_refused_for_a_moment_goes_through(hub: StandIn, folder: Path) -> None:
    hub.fail("PUT", "/storage/", status=500)
    push(folder, REPO)
    assert hub.files(REPO).keys() > FILES - {".gitattributes"}


def test_publishing_needs_no_torch(hub: StandIn, folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from agentzoo import hub\n"
        f"address = hub.push({str(folder)!r}, {REPO!r})\n"
        f"print(hub.load_policy(address, cache_dir={str(tmp_path / 'other')!r}).spec.agent)\n"
        "assert 'agentzoo.agent' not in sys.modules\n"
    )
    root = Path(publishing.__file__).parents[1]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Dreamer"
