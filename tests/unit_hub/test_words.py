"""A stranger's words in a bundle stay text: on the terminal, in the card, in an error."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium import spaces

from agentzoo.cli import main as cli
from agentzoo.hub import push, search
from agentzoo.hub.card import write_card
from agentzoo.hub.errors import DamagedEntryWarning
from agentzoo.hub.naming import parse
from agentzoo.hub.package import read_package
from agentzoo.runtime import evaluate, inspect, load_policy, verify
from agentzoo.runtime.envs import package_of
from agentzoo.runtime.errors import BundleError, SpaceError
from agentzoo.runtime.printable import printable
from tests.unit_runtime.bundles import linear, replace

EVIL = "x\x1b[2J\nscore  mean 1000\u202e|`<script>\r\n# Big\n"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def hostile(folder: Path) -> Path:
    """Whole and consistent, with text of a stranger's wherever there is a text."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    manifest["policy"]["agent"] = EVIL
    manifest["provenance"] = {EVIL: EVIL, "date": EVIL}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text())
    settings["agent"] = EVIL
    settings["training"] |= {"preset": EVIL, "overrides": [EVIL], "paper": EVIL}
    settings["training"]["differs"] = {EVIL: [EVIL, EVIL]}
    replace(folder, "config.json", json.dumps(settings).encode())
    scores = {EVIL: 1.0, f"{EVIL}/{EVIL}": 2.0}
    edit(folder / "results.json", agent=EVIL, scores=scores)
    return folder


def is_plain(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_control_characters_are_spelled() -> None:
    assert printable("a\x1b[0m\nb\u202e\u2028") == r"a\x1b[0m\nb\u202e\u2028"
    assert printable("walker-walk, 走る, 👍") == "walker-walk, 走る, 👍"


def test_a_terminal_shows_a_strangers_text_in_its_own_line(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["inspect", str(hostile)], ["verify", str(hostile)],
                  ["evaluate", str(hostile), "--episodes=1"]):  # fmt: skip
        code, out, err = said(capsys, *words)
        assert code == 0
        assert is_plain(out + err), words
        assert not re.search(r"^score +mean 1000", out, re.MULTILINE), words
    assert re.search(r"^score +mean 500\.00 over 10 episodes$", inspect(hostile), re.MULTILINE)
    assert "\n" not in str(verify(hostile))


def test_a_score_that_is_no_number_is_not_shown(folder: Path) -> None:
    edit(folder / "results.json", mean="1000\nscore  mean 2000")
    assert "score" in inspect(folder)
    assert "2000" not in inspect(folder)


def test_an_error_is_one_plain_line(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest: dict[str, Any] = json.loads((hostile / "manifest.json").read_text())
    manifest["policy"]["carry"] = {EVIL: {"shape": [1], "dtype": EVIL}}
    (hostile / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = said(capsys, "verify", str(hostile))
    assert (code, err.count("\n"), is_plain(err)) == (2, 1, True)


def test_search_shows_an_index_as_text(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(folder, f"file:{tmp_path}/agents")
    (path,) = (tmp_path / "agents" / "index").iterdir()
    edit(path, agent=EVIL, env=EVIL)
    code, out, _ = said(capsys, "search", "--hub", f"file:{tmp_path}/agents")
    assert (code, out.count("\n"), is_plain(out)) == (0, 1, True)
    assert len(search(hub=f"file:{tmp_path}/agents")) == 1


def test_what_is_damaged_in_a_hub_is_said_in_plain_lines(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(folder, f"file:{tmp_path}/agents")
    root = tmp_path / "agents"
    (home,) = (one for one in root.iterdir() if one.is_dir() and one.name != "index")
    for path in (root / "index" / "bad.json", home / f"{'0' * 40}.json"):
        path.write_text(json.dumps({EVIL: 1}))
    with pytest.warns(
        DamagedEntryWarning, match=r'has the unknown field "x\\x1b\[2J\\n'
    ) as said_so:
        assert said(capsys, "search", "--hub", f"file:{root}")[0] == 0
    assert all(str(one.message).isprintable() for one in said_so)
    (root / "index" / "x\x1b[2J\n.json").touch()
    code, out, err = said(capsys, "hub", "repair", str(root))
    assert (code, out.count("\n"), is_plain(out + err)) == (1, 3, True)


def test_the_card_shows_it_as_text(hostile: Path) -> None:
    text = write_card(read_package(hostile), parse("me/evil"), "mit").read_text()
    body = text.split("---\n", 2)[2]
    outside = re.sub(r"```.*?```|`[^`\n]*`", "", body, flags=re.DOTALL)
    assert "<script" not in outside
    assert "# Big" in body
    assert not re.search(r"^# Big|^score", body, re.MULTILINE)
    tables = [line for line in body.splitlines() if line.startswith("|")]
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert counts == {3, 4}  # two columns, and three where the paper is compared with
    assert is_plain(body)


@pytest.mark.parametrize("name", ["replay.mp4", "learning_curve.png"])
def test_a_picture_that_is_none_is_not_published(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_bytes(b"<html><script>alert(1)</script></html>")
    with pytest.raises(BundleError, match=f"{name} is not what its name says"):
        push(folder, f"file:{tmp_path}/agents")


# -- environments ----------------------------------------------------------------------------------


class Other(gym.Env[Any, Any]):
    """CartPole's actions, and another observation."""

    observation_space = spaces.Dict({"observation": spaces.Box(-1, 1, (3,)),
                                     "more": spaces.Discrete(3, start=1)})  # fmt: skip
    action_space = spaces.Discrete(2)


class Turned(gym.Env[Any, Any]):
    """CartPole's observation, and a box of actions."""

    observation_space = gym.make("CartPole-v1").observation_space
    action_space = spaces.Box(-1, 1, (2,))


def test_other_spaces_are_said_in_words(folder: Path) -> None:
    policy = load_policy(folder)
    with pytest.raises(SpaceError, match='the observation "more" is new; run it in') as found:
        evaluate(policy, Other())
    assert 'the observation "observation" had shape (4,), has (3,)' in str(found.value)
    with pytest.raises(SpaceError, match="the action had kind discrete, has box") as turned:
        evaluate(policy, Turned())
    for error in (found, turned):
        assert "Spec(" not in str(error.value)


def test_agents_of_one_task_are_compared_each_in_its_own_way(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = linear(tmp_path / "other", seed=1, episodes=1)
    for name in ("manifest.json", "config.json"):
        text = (other / name).read_text().replace("repeat=1", "repeat=2")
        if name == "config.json":
            replace(other, name, text.encode())
        else:
            (other / name).write_text(text)
    words = ["compare", f"one={folder}", f"two={other}", "--episodes=1"]
    code, out, err = said(capsys, *words)
    assert code == 0, err
    assert out.startswith("gym:CartPole-v1,repeat=1, gym:CartPole-v1,repeat=2, 1 episodes")
    code, _, err = said(capsys, *words, "--env=gym:CartPole-v1?repeat=1")
    assert (code, "repeat" in err) == (2, True)
    code, out, _ = said(capsys, *words, "--env=gym:CartPole-v1?repeat=1", "--override")
    assert (code, out.count("gym:CartPole-v1,repeat=1")) == (0, 1)


def test_agents_of_two_tasks_need_one_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = linear(tmp_path / "other", seed=1, episodes=1)
    manifest = (other / "manifest.json").read_text().replace("CartPole-v1", "Acrobot-v1")
    (other / "manifest.json").write_text(manifest)
    code, _, err = said(capsys, "compare", f"one={folder}", f"two={other}", "--episodes=1")
    assert code == 2
    assert '"one" learned in gym:CartPole-v1, "two" in gym:Acrobot-v1; name one' in err


def test_a_suite_of_another_package_is_installed_from_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found as installed packages are; its environment is CartPole under another name."""
    package = tmp_path / "site" / "agentzoo_pole"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from dataclasses import replace\n"
        "from agentzoo.runtime.envs.gym import SUITE as GYM\n"
        'SUITE = replace(GYM, name="pole")\n'
    )
    info = tmp_path / "site" / "agentzoo_pole-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: agentzoo-pole\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[agentzoo.envs]\npole = agentzoo_pole:SUITE\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    assert (package_of("dmc"), package_of("pole"), package_of("none")) == (
        "", "agentzoo-pole", None
    )  # fmt: skip
    for name in ("manifest.json", "config.json", "results.json"):
        text = (folder / name).read_text().replace("gym:CartPole-v1", "pole:CartPole-v1")
        if name == "config.json":
            replace(folder, name, text.encode())
        else:
            (folder / name).write_text(text)
    text = write_card(read_package(folder), parse("me/pole"), "mit").read_text()
    assert 'pip install "agentzoo-rl[onnx]" agentzoo-pole\n' in text
    assert 'pip install "agentzoo-rl[train]" agentzoo-pole\n' in text
    assert "[train,pole]" not in text
