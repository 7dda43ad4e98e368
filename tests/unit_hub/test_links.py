"""No link is followed: not in reading, writing or publishing a bundle, not in a folder hub."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import agentzoo.hub as publishing
from agentzoo.cli import main as cli
from agentzoo.hub import HubError, load_policy, pull, push
from agentzoo.runtime import load_policy as open_folder
from agentzoo.runtime import verify
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.evaluation.results import read_results, write_results
from agentzoo.runtime.files import open_plain, stands, write_plain
from tests.unit_hub.standin import StandIn

REPO = "me/dreamer-gym-CartPole-v1"
NAMES = (
    *("policy.onnx", "golden.npz", "manifest.json", "config.json", "model.safetensors"),
    *("results.json", "replay.mp4", "learning_curve.png", "README.md"),
)


def linked(folder: Path, name: str, secret: Path) -> Path:
    """Put a link to the user's own file in the place of a bundle's."""
    path = folder / name
    secret.write_bytes(path.read_bytes() if path.exists() else b"PRIVATE KEY")
    path.unlink(missing_ok=True)
    path.symlink_to(secret)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_published_through_a_link(
    hub: StandIn, folder: Path, tmp_path: Path, name: str
) -> None:
    """The content is right, so that only the link can be what is refused."""
    secret = tmp_path / "secret"
    linked(folder, name, secret)
    before = secret.read_bytes()
    for address in (REPO, f"file:{tmp_path}/agents"):
        with pytest.raises(BundleError, match=f"{name} is a link"):
            push(folder, address)
    assert hub.asked("POST", "/commit/") == 0
    assert not list(tmp_path.glob("agents/*/*"))
    assert secret.read_bytes() == before


@pytest.mark.parametrize("name", ["policy.onnx", "golden.npz", "manifest.json", "config.json"])
def test_nothing_is_opened_through_a_link(folder: Path, tmp_path: Path, name: str) -> None:
    linked(folder, name, tmp_path / "secret")
    with pytest.raises(BundleError, match=f"{name} is a link, and no link in a bundle is followed"):
        open_folder(folder)
    with pytest.raises(BundleError, match=f"{name} is a link"):
        verify(folder)


def test_a_score_is_not_written_through_a_link(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, secret = read_results(folder), tmp_path / "bashrc"
    linked(folder, "results.json", secret)
    secret.write_text("alias ls=ls")
    with pytest.raises(BundleError, match=r"results\.json is a link"):
        write_results(found, folder)
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", str(folder), "--episodes=1", f"--record={folder}"])
    assert end.value.code == 2
    assert "is a link" in capsys.readouterr().err
    assert secret.read_text() == "alias ls=ls"


def test_a_film_is_not_drawn_through_a_link(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    import numpy as np

    from agentzoo.runtime.evaluation.video import record

    path = linked(folder, "replay.mp4", tmp_path / "cookies")
    before = (tmp_path / "cookies").read_bytes()
    with pytest.raises(BundleError, match=r"replay\.mp4 is a link, and nothing is written"):
        record([np.zeros((16, 16, 3), np.uint8)], path)
    assert (tmp_path / "cookies").read_bytes() == before


@pytest.mark.parametrize("name", ["policy.onnx", "golden.npz", "manifest.json"])
def test_an_export_is_not_written_through_a_link(tmp_path: Path, name: str) -> None:
    pytest.importorskip("torch")
    from agentzoo.export import export
    from tests.unit_runtime.toys import Toy, seeded, toy_spec

    folder, toy = tmp_path / "bundle", seeded(Toy)
    folder.mkdir()
    (tmp_path / "mine").write_text("mine")
    (folder / name).symlink_to(tmp_path / "mine")
    with pytest.raises(BundleError, match=f"{name} is a link, and nothing is written through one"):
        export(toy, toy_spec(toy), folder, golden_steps=1)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_saved_agent_is_neither_read_nor_written_through_a_link(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import agentzoo

    agent = agentzoo.Dreamer("gym:CartPole-v1", preset="debug", device="cpu", seed=0)
    for name in ("config.json", "model.safetensors"):
        folder = agent.save(tmp_path / name / "agent")
        linked(folder, name, tmp_path / name / "mine")
        before = (tmp_path / name / "mine").read_bytes()
        with pytest.raises(BundleError, match=f"{name} is a link"):
            agentzoo.load(folder, device="cpu")
        with pytest.raises(BundleError, match=f"{name} is a link"):
            agent.save(folder)
        assert (tmp_path / name / "mine").read_bytes() == before


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "results.json").unlink()
    os.mkfifo(folder / "results.json")
    with pytest.raises(BundleError, match=r"results\.json is not a plain file"):
        read_results(folder)
    with pytest.raises(BundleError, match=r"results\.json is not a plain file"):
        open_plain(folder / "results.json")


def test_what_is_written_is_whole_or_not_there(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "x.json", "old")
    with pytest.raises(BundleError, match="is there and is no file"):
        write_plain(tmp_path, "new")
    assert write_plain(path, b"new").read_text() == "new"
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]
    assert path.stat().st_mode & 0o777 == 0o644


# -- the cache of the Hugging Face Hub -----------------------------------------------------------


def test_the_caches_own_links_are_read(hub: StandIn, folder: Path) -> None:
    push(folder, REPO)
    there = pull(REPO)
    assert (there / "policy.onnx").is_symlink()
    assert open_folder(there).spec.agent == "Dreamer"


def test_blobs_that_repos_share_are_read(hub: StandIn, folder: Path) -> None:
    """huggingface_hub 2.4 keeps Xet files once for all repos; laid out here as it does."""
    push(folder, REPO)
    path = pull(REPO) / "policy.onnx"
    blob = Path(os.path.normpath(path.parent / os.readlink(path)))
    shared = blob.parents[2] / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(f"../../blobs/ab/{'ab' * 32}")
    assert open_folder(path.parent).spec.agent == "Dreamer"
    blob.unlink()
    blob.symlink_to("../../../secret")
    with pytest.raises(BundleError, match="is a link, and no link in a bundle is followed"):
        open_folder(path.parent)


@pytest.mark.parametrize("leads", ["../../../secret", "../../blobs/../../secret", "/etc/passwd"])
def test_other_links_in_the_cache_are_not(hub: StandIn, folder: Path, leads: str) -> None:
    push(folder, REPO)
    path = pull(REPO) / "results.json"
    path.unlink()
    path.symlink_to(leads)
    with pytest.raises(BundleError, match=r"results\.json is a link, and no link in a bundle"):
        read_results(path.parent)
    with pytest.raises(BundleError, match=r"results\.json is a link"):
        stands(path)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("ETag", '"../../../../victim"'),
        ("ETag", 'W/"/../../../../victim"'),
        ("X-Linked-ETag", '"../../../../victim"'),
        ("ETag", '".."'),
        ("X-Repo-Commit", "../../../victim"),
        ("X-Repo-Commit", "main"),
    ],
)
def test_names_of_a_hostile_hub_do_not_leave_the_cache(
    hub: StandIn, folder: Path, tmp_path: Path, header: str, value: str
) -> None:
    push(folder, REPO)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    hub.headers = {header: value}
    for fetch in (pull, load_policy):
        with pytest.raises(HubError, match="would lead out of the cache; it was not followed"):
            fetch(REPO)
    assert victim.read_text() == "mine"
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    hub.headers = {}
    assert pull(REPO).is_dir()


def test_a_commit_that_is_none_is_refused(
    hub: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    push(folder, REPO)
    asked = HfApi.model_info

    def answer(*args: object, **more: object) -> object:
        found = asked(*args, **more)  # pyright: ignore[reportArgumentType]
        found.sha = "../../../../x"
        return found

    monkeypatch.setattr(HfApi, "model_info", answer)
    with pytest.raises(HubError, match=r"names the commit '\.\./\.\./\.\./\.\./x' of .*, which is"):
        pull(REPO)


# -- a folder hub --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where", ["index", "index/{name}.json", "{name}", "{name}/{commit}", "{name}/{commit}.json"]
)
def test_no_link_in_a_folder_hub_is_followed(
    folder: Path, another: Callable[[int], Path], tmp_path: Path, where: str
) -> None:
    """Each leads to what stood there, so that only the link can be what is refused."""
    root = tmp_path / "agents"
    address = push(folder, f"file:{root}")
    name, _, commit = address.rpartition("/")[2].partition("@")
    path = root / where.format(name=name, commit=commit)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    held = {one: one.stat().st_mtime_ns for one in (tmp_path / "elsewhere").rglob("*")}
    if where == "index/{name}.json":
        assert pull(address).is_dir()  # a commit that is named needs no index
        address = address.partition("@")[0]
    with pytest.raises(BundleError, match="is a link, which no hub makes"):
        pull(address) if where != "index" else publishing.search(hub=f"file:{root}")
    if where in ("index", "{name}"):
        with pytest.raises(BundleError, match="is a link, which no hub makes"):
            push(another(1), f"file:{root}")
    assert {one: one.stat().st_mtime_ns for one in (tmp_path / "elsewhere").rglob("*")} == held
