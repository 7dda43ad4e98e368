"""Policies by folder, Hub id and address, and what the command line does with them."""

from pathlib import Path

import pytest

from agentzoo import hub
from agentzoo.cli import main as cli
from agentzoo.cli.open_policy import folder_of, locate, named, open_policy
from agentzoo.runtime import Policy, RemotePolicy
from agentzoo.runtime.errors import AgentZooError, BundleError
from agentzoo.runtime.server import model_settings
from soak.handmade_bundle import write_bundle
from tests.unit_runtime.server.live import serving

CARTPOLE = "gym:CartPole-v1?max_episode_steps=20&repeat=1"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"), discrete=True, env=CARTPOLE)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("other"), discrete=True, env=CARTPOLE, seed=1)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_a_folder_comes_before_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "me" / "walker").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert folder_of("me/walker") == locate(model_settings("me/walker")) == Path("me/walker")


def test_a_url_has_no_folder() -> None:
    assert folder_of("ws://host:1") is None


def test_the_hub_is_asked_for_ids(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def fetched(where: str, *, serving: bool) -> Path:
        asked.append((where, serving))
        return bundle

    monkeypatch.setattr(hub, "locate", fetched)
    assert isinstance(open_policy("me/walker@v1", provider="cpu"), Policy)
    assert locate(model_settings("me/walker@v1")) == bundle
    assert locate(model_settings("me/walker")) == bundle
    assert asked == [("me/walker@v1", True), ("me/walker@v1", True), ("me/walker", True)]


def test_sources_may_have_names() -> None:
    assert named(["a=x/y", "b", "ws://h/?k=v"]) == {
        "a": "x/y",
        "b": "b",
        "ws://h/?k=v": "ws://h/?k=v",
    }
    with pytest.raises(AgentZooError, match='two policies are called "b"'):
        named(["b", "b=c"])
    with pytest.raises(BundleError, match="neither a folder nor a published bundle"):
        locate(model_settings("nowhere"))


def test_evaluate_takes_an_address(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(bundle) as live:
        policy = open_policy(live.http)
        assert isinstance(policy, RemotePolicy)
        policy.close()
        code, over_network, _ = said(capsys, "evaluate", live.ws, "--episodes", "3", "--envs", "2")
    assert code == 0
    code, here, _ = said(capsys, "evaluate", str(bundle), "--episodes", "3", "--provider", "cpu")
    assert code == 0
    assert here.splitlines()[:2] == over_network.splitlines()[:2]
    assert not (bundle / "results.json").exists()  # nothing is written that nobody asked for


def test_compare_says_a_table_and_draws(
    bundle: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.png"
    with serving(bundle) as live:
        code, out, _ = said(
            capsys, "compare", f"here={bundle}", f"there={live.ws}", f"other={other}",
            "--episodes", "4", "--plot", str(plot), "--provider", "cpu",
        )  # fmt: skip
    assert code == 0
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:] for line in out.splitlines() if "|" in line
    }
    assert rows["here"] == rows["there"]
    assert rows["here"] != rows["other"]
    assert "gym:CartPole-v1,max_episode_steps=20,repeat=1, 4 episodes from seed 0" in out
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_nobody_at_an_address_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "evaluate", "ws://127.0.0.1:9")
    assert (code, out) == (2, "")
    assert "cannot be reached" in err
    assert err.count("\n") == 1
