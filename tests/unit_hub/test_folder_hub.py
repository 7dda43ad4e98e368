"""A folder as a hub: the same checks, no network, an index that search reads."""

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from agentzoo.cli import main as cli
from agentzoo.hub import HubError, RepoNotFoundError, load_policy, pull, push, search
from agentzoo.hub.errors import AddressError, DamagedEntryWarning
from agentzoo.hub.folder_hub import FolderHub, commit_name
from agentzoo.runtime import load_policy as open_folder
from agentzoo.runtime.bundle.manifest import FileEntry
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.evaluation.results import read_results
from tests.unit_runtime.bundles import WEIGHTS, graph, linear_spec, rename_env, replace

NAME = "dreamer-gym-CartPole-v1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "agents"


def snapshot(root: Path, address: str) -> Path:
    name, _, commit = address.rpartition("/")[2].partition("@")
    return root / name / commit


def test_a_push_makes_the_hub_and_names_the_repo(folder: Path, root: Path) -> None:
    address = push(folder, f"file:{root}")
    assert address.startswith(f"file:{root}/{NAME}@")
    found = pull(f"file:{root}/{NAME}")
    assert found == snapshot(root, address) == pull(address)
    assert {path.name for path in found.iterdir()} == {path.name for path in folder.iterdir()}
    assert load_policy(f"file:{root}/{NAME}", seed=3).seed == 3


def test_a_hub_that_is_there_takes_a_name(folder: Path, root: Path) -> None:
    push(folder, f"file:{root}")
    assert push(folder, f"file:{root}/mine").startswith(f"file:{root}/mine@")
    assert [one.address for one in search(hub=f"file:{root}")] == [
        f"file:{root}/{NAME}", f"file:{root}/mine"
    ]  # fmt: skip


def test_a_tilde_is_the_home(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    address = push(f"~/{folder.relative_to(tmp_path)}", "file:~/agents")
    assert address.startswith(f"file:{tmp_path}/agents/{NAME}@")
    assert pull(f"file:~/agents/{NAME}", folder="~/mine") == tmp_path / "mine"
    assert open_folder("~/mine").spec.agent == "Dreamer"
    assert not Path("~").exists()


def test_unchanged_content_makes_no_new_commit(folder: Path, root: Path) -> None:
    first = push(folder, f"file:{root}")
    before = sorted(path.name for path in (root / NAME).iterdir())
    assert push(folder, f"file:{root}") == first
    assert sorted(path.name for path in (root / NAME).iterdir()) == before
    assert len(before) == 2


def test_an_older_commit_stays(folder: Path, root: Path, another: Callable[[int], Path]) -> None:
    first = push(folder, f"file:{root}")
    second = push(another(1), f"file:{root}")
    assert first != second
    assert open_folder(pull(first)).seed == 0
    assert open_folder(pull(f"file:{root}/{NAME}")).seed == 1


def test_the_index_is_searched(folder: Path, root: Path, another: Callable[[int], Path]) -> None:
    push(folder, f"file:{root}")
    push(another(1), f"file:{root}/walker")
    (first, second) = search(hub=f"file:{root}")
    assert (first.score, first.tags) == (
        "500.00 +/- 0.00", ("Dreamer", "gym:CartPole-v1?repeat=1")
    )  # fmt: skip
    assert search("walker", hub=f"file:{root}") == [second]
    assert search("dreamer cartpole", hub=f"file:{root}") == [first, second]
    assert search("pendulum", hub=f"file:{root}") == []


def test_what_is_not_there_is_named(folder: Path, root: Path) -> None:
    with pytest.raises(RepoNotFoundError, match="it is empty, or no hub"):
        pull(f"file:{root}/{NAME}")
    with pytest.raises(HubError, match="is no hub; `agentzoo push FOLDER file:"):
        search(hub=f"file:{root}")
    with pytest.raises(AddressError, match=r'is no hub; give "file:DIR"'):
        search(hub="me/walker")
    push(folder, f"file:{root}")
    with pytest.raises(RepoNotFoundError, match=f'has no "dreamr.*did you mean "{NAME}"'):
        pull(f"file:{root}/dreamr-gym-CartPole-v1")
    for revision in ("v1", "f" * 40, "../main"):
        with pytest.raises((RepoNotFoundError, AddressError), match="revision"):
            pull(f"file:{root}/{NAME}", revision=revision)


def test_a_push_cannot_choose_its_commit(folder: Path, root: Path) -> None:
    with pytest.raises(AddressError, match="a commit is made, not chosen"):
        push(folder, f"file:{root}/{NAME}@main")


def test_a_hub_of_a_newer_version(folder: Path, root: Path) -> None:
    push(folder, f"file:{root}")
    (root / "hub.json").write_text('{"format": 2}')
    with pytest.raises(HubError, match="format 2, this version reads 1"):
        pull(f"file:{root}/{NAME}")


def test_changed_bytes_are_found(folder: Path, root: Path) -> None:
    address = push(folder, f"file:{root}")
    path = snapshot(root, address) / "README.md"
    path.write_text(path.read_text() + "\nMore.")
    with pytest.raises(BundleError, match=r"README\.md is missing or not what was pushed"):
        pull(address)


def test_a_changed_listing_is_found(folder: Path, root: Path) -> None:
    """Someone who may write to the disk cannot make a pinned commit another one."""
    address = push(folder, f"file:{root}")
    home = snapshot(root, address)
    replace(home, "policy.onnx", graph(linear_spec(0), 0 * WEIGHTS))
    listing = json.loads(home.with_name(f"{home.name}.json").read_text())
    manifest = json.loads((home / "manifest.json").read_text())
    listing["files"]["policy.onnx"] = manifest["files"]["policy.onnx"]
    home.with_name(f"{home.name}.json").write_text(json.dumps(listing))
    with pytest.raises(BundleError, match="missing or not what was pushed"):
        pull(address)


def test_links_out_of_the_hub_are_refused(folder: Path, root: Path, tmp_path: Path) -> None:
    address = push(folder, f"file:{root}")
    path = snapshot(root, address) / "README.md"
    secret = tmp_path / "secret"
    secret.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(BundleError, match="is a link, which no hub makes"):
        pull(address)


def test_a_listing_with_paths_is_refused(folder: Path, root: Path) -> None:
    address = push(folder, f"file:{root}")
    home = snapshot(root, address)
    (root / "secret").write_text("x")
    evil = {"../../secret": FileEntry(sha256=hashlib.sha256(b"x").hexdigest(), bytes=1)}
    commit = commit_name(evil)  # whoever writes the listing can name it rightly, too
    home.rename(home.with_name(commit))
    listing = {"files": {name: asdict(entry) for name, entry in evil.items()}}
    home.with_name(f"{commit}.json").write_text(json.dumps(listing))
    with pytest.raises(BundleError, match="which no bundle has"):
        pull(f"file:{root}/{NAME}@{commit}")


def test_what_push_refuses_is_refused_here_too(folder: Path, root: Path) -> None:
    rename_env(folder, "gym:os:Evil-v0?repeat=1")
    with pytest.raises(ValueError, match="names the task"):
        push(folder, f"file:{root}")
    assert not root.exists()


def test_two_who_push_at_once_leave_two_whole_commits(
    folder: Path, root: Path, another: Callable[[int], Path]
) -> None:
    folders, done = [folder, another(1), another(2)], {}

    def publish(number: int) -> None:
        done[number] = push(folders[number], f"file:{root}/shared")

    push(folder, f"file:{root}")
    threads = [threading.Thread(target=publish, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {open_folder(pull(address)).seed for address in done.values()} == {0, 1, 2}
    assert str(pull(f"file:{root}/shared").name) in {one.partition("@")[2] for one in done.values()}


def test_a_push_that_was_killed_can_be_repeated(folder: Path, root: Path) -> None:
    address = push(folder, f"file:{root}")
    home = snapshot(root, address)
    home.with_name(f"{home.name}.json").unlink()  # renamed, but not yet listed
    (home / "policy.onnx").write_bytes(b"half")
    assert push(folder, f"file:{root}") == address
    assert load_policy(address).spec.agent == "Dreamer"


# -- what is damaged -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["index", "Index", "INDEX", "hub.json", "Hub.JSON"])
def test_the_hubs_own_names_are_no_repos(folder: Path, root: Path, name: str) -> None:
    push(folder, f"file:{root}")
    before = sorted(path.relative_to(root) for path in root.rglob("*"))
    with pytest.raises(AddressError, match="a file of the hub's own; give the repo another name"):
        push(folder, f"file:{root}/{name}")
    with pytest.raises(AddressError, match="a file of the hub's own"):
        pull(f"file:{root}/{name}")
    results, files = read_results(folder), {"results.json": folder / "results.json"}
    with pytest.raises(AddressError, match=f'"{name}" is a file of the hub\'s own; give the repo'):
        FolderHub(root).push(name, files, results)  # whoever read no address before
    assert sorted(path.relative_to(root) for path in root.rglob("*")) == before
    assert len(search(hub=f"file:{root}")) == 1


ENTRIES = {
    "no JSON": "{",
    "another shape": '{"files": {}}',
    "no commit": '{"commit": "../../x", "agent": "A", "env": "", "mean": 1.0, "std": 0.0, '
    '"episodes": 10}',
    "no number": '{"commit": "x", "agent": "A", "env": "", "mean": NaN, "std": 0.0, "episodes": 1}',
}


@pytest.mark.parametrize("content", ENTRIES.values(), ids=ENTRIES)
def test_a_damaged_entry_is_named_and_harms_no_other(
    folder: Path, root: Path, content: str, another: Callable[[int], Path]
) -> None:
    push(folder, f"file:{root}")
    push(another(1), f"file:{root}/spoiled")
    (root / "index" / "spoiled.json").write_text(content)
    with pytest.warns(DamagedEntryWarning, match="spoiled is left out: .* agentzoo hub repair"):
        (found,) = search(hub=f"file:{root}")
    assert found.address == f"file:{root}/{NAME}"
    assert load_policy(found.address).seed == 0
    with pytest.raises(BundleError, match=r"spoiled\.json"):
        pull(f"file:{root}/spoiled")
    assert FolderHub(root).entries().keys() == {NAME}
    assert FolderHub(root).damaged().keys() == {"spoiled"}


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out + err


def test_repair_makes_the_index_true_of_the_commits(
    folder: Path,
    root: Path,
    another: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = push(folder, f"file:{root}")
    second = push(another(1), f"file:{root}")
    push(another(2), f"file:{root}/lost")
    assert said(capsys, "hub", "repair", str(root)) == (0, f"{root} is whole\n")
    (root / "index" / f"{NAME}.json").write_text("{")
    shutil.copytree(snapshot(root, first), root / "index" / ("7" * 40))  # what once was a bug
    (root / "index" / f"{'7' * 40}.json").write_text('{"files": {}}')
    (snapshot(root, second) / "policy.onnx").write_bytes(b"spoiled")
    shutil.rmtree(next(path for path in (root / "lost").iterdir() if path.is_dir()))
    code, text = said(capsys, "hub", "repair", f"file:{root}")
    assert code == 1  # something is left that only a push mends
    assert f"set aside index/{'7' * 40}, which is no repo's" in text
    assert f"set aside index/{'7' * 40}.json, which is no repo's" in text
    assert re.search(rf"^{NAME}@{second.partition('@')[2]} is damaged: .*policy\.onnx", text, re.M)
    assert f"{NAME}: the index names {first.partition('@')[2]} now, its newest whole" in text
    assert "lost has no whole commit; its entry was set aside" in text
    (found,) = search(hub=f"file:{root}")
    assert (found.address, found.score) == (f"file:{root}/{NAME}", "500.00 +/- 0.00")
    assert pull(found.address) == snapshot(root, first)
    assert said(capsys, "hub", "repair", str(root))[0] == 1  # the damaged commits are still there
    assert push(another(3), f"file:{root}") != first


def test_only_a_hub_is_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "hub", "repair", str(tmp_path))
    assert (code, "is no hub" in text) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoiled", ["results.json", "COMMIT.json"])
def test_a_damaged_commit_is_mended_by_pushing_again(
    folder: Path, root: Path, spoiled: str
) -> None:
    address = push(folder, f"file:{root}")
    home = snapshot(root, address)
    path = home.with_name(f"{home.name}.json") if spoiled == "COMMIT.json" else home / spoiled
    path.write_text("{}")
    with pytest.raises(BundleError):
        pull(address)
    assert push(folder, f"file:{root}") == address
    assert pull(address) == home
    assert sorted(one.name for one in home.parent.iterdir()) == [home.name, f"{home.name}.json"]
