"""Replay out and in as a Minari data set; learning from one alone, and on in the environment."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from agentzoo import LSImagine, PlaNet
from agentzoo.cli.main import app
from agentzoo.replay.datasets import open_dataset
from agentzoo.runtime.errors import ConfigError, DatasetError, RunError
from agentzoo.runtime.policy.spaces import env_action
from agentzoo.train.callbacks import Callback
from agentzoo.train.checkpoint import Counters, newest
from agentzoo.train.datasets import export_dataset, import_dataset
from agentzoo.train.logger import read_metrics
from tests.agents.toys import TOYS

minari = pytest.importorskip("minari")
TOY = TOYS["TruncatedActor"]
PENDULUM = "gym:Pendulum-v1?max_episode_steps=50"


class Held(Callback):
    """Keeps the transitions that a run begins with, and its weights."""

    def on_start(self, training) -> None:
        replay = training.replay
        self.columns = [
            {
                n: t.numpy()[0]
                for read in (replay.read, replay.read_mutable)
                for n, t in read([[replay.episode(k)]]).items()
            }
            for k in range(replay.episodes)
        ]
        self.weights = {n: t.clone() for n, t in training.learner.algorithm.state_dict().items()}

    def on_end(self, training) -> None:
        self.updates = training.counters.updates
        self.held = len(training.replay)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collected") / "run"
    TOY(PENDULUM, preset="debug", device="cpu", seed=3).learn(300, run=folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def data(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pendulum"
    export_dataset(TOY.load(run, device="cpu"), folder)
    return folder


def toy(env: str | None = PENDULUM, seed: int = 5, **overrides: object):
    return TOY(env, preset="debug", device="cpu", seed=seed, **overrides)


def test_what_minari_reads_is_what_replay_holds(run: Path, data: Path) -> None:
    found = minari.MinariDataset(data / "data")
    keep = Held()
    TOY.load(run, device="cpu").learn(50, run=run.parent / "on", callbacks=keep, progress=False)
    assert found.total_episodes == len(keep.columns) == 6
    assert found.observation_space.shape == (3,)
    spec = toy().spec
    for episode, ours in zip(found, keep.columns, strict=True):
        assert np.array_equal(episode.observations, ours["observation"])
        assert np.array_equal(episode.actions, env_action(spec.action, ours["action"][:-1]))
        assert np.array_equal(episode.rewards, ours["reward"][1:].astype(np.float64))
        assert episode.truncations.tolist() == [False] * 49 + [True]
        assert not episode.terminations.any()


def test_episodes_come_back_as_they_were(run: Path, data: Path) -> None:
    keep = Held()
    TOY.load(run, device="cpu").learn(50, run=run.parent / "again", callbacks=keep, progress=False)
    dataset = open_dataset(data)
    assert (dataset.env, dataset.id) == (toy().env, "pendulum-v0")
    for ours, theirs in zip(dataset.read(), keep.columns, strict=True):
        for name in ("observation", "reward", "is_first", "is_last", "is_terminal"):
            assert np.array_equal(ours[name], theirs[name]), name
        assert ours["action"] == pytest.approx(theirs["action"], abs=1e-6)


def test_minari_recovers_the_environment_with_its_limit(data: Path) -> None:
    env = minari.MinariDataset(data / "data").recover_environment()
    assert (env.spec.id, env.spec.max_episode_steps) == ("Pendulum-v1", 50)
    env.close()


def test_an_environment_that_is_seen_otherwise_is_not_named_to_minari(tmp_path: Path) -> None:
    agent = TOY(f"{PENDULUM}&kind=vector", preset="debug", device="cpu", seed=3)
    agent.learn(60, run=tmp_path / "run", progress=False)
    export_dataset(agent, tmp_path / "data")
    assert minari.MinariDataset(tmp_path / "data" / "data").env_spec is None


def test_learning_from_data_alone_then_on_in_the_environment(data: Path, tmp_path: Path) -> None:
    agent, keep = toy(None, final_episodes=2), Held()  # the data set names its environment
    agent.learn(7, offline=data, run=tmp_path / "off", callbacks=keep, progress=False)
    assert agent.env == toy().env
    assert keep.updates == 7
    assert len(keep.columns) == 6
    counters = Counters.read(newest(tmp_path / "off" / "checkpoints") / "training")
    assert (counters.updates, counters.episodes, counters.transitions) == (7, 0, [0])
    said = json.loads((newest(tmp_path / "off" / "checkpoints") / "config.json").read_text())
    assert said["offline"] == {
        "dataset": "pendulum-v0", "env": agent.env, "episodes": 6, "transitions": 300,
        "updates": 7,
    }  # fmt: skip
    assert said["training"]["env_steps"] == agent.env_steps == 0
    (scored,) = [x for x in read_metrics(tmp_path / "off") if "eval/mean_reward" in x]
    assert scored["env_step"] == 7  # updates

    before = {n: t.clone() for n, t in agent.algorithm.state_dict().items()}
    agent.learn(100, run=tmp_path / "on", callbacks=keep, progress=False)
    assert all(torch.equal(before[name], one) for name, one in keep.weights.items())
    assert len(keep.columns) == 6  # the data set's episodes came along
    assert keep.held == 6 * 51 + 2 * 51
    assert agent.env_steps == 100
    config = json.loads((tmp_path / "on" / "config.json").read_text())
    assert "offline" not in config
    assert config["parent"]["has_replay"] is True


def test_a_stopped_offline_run_goes_on_as_if_it_had_not_been(data: Path, tmp_path: Path) -> None:
    whole = toy().learn(12, offline=data, run=tmp_path / "whole", progress=False)
    toy().learn(5, offline=data, run=tmp_path / "parts", progress=False)
    parts = toy().learn(12, offline=data, run=tmp_path / "parts", progress=False)
    theirs = parts.algorithm.state_dict()
    assert all(torch.equal(t, theirs[n]) for n, t in whole.algorithm.state_dict().items())
    with pytest.raises(RunError, match=r"data set pendulum-v0; pass offline= \(--offline\) to go"):
        toy().learn(50, run=tmp_path / "parts", progress=False)


def test_a_finished_offline_run_keeps_its_updates(data: Path, tmp_path: Path) -> None:
    toy().learn(5, offline=data, run=tmp_path / "run", progress=False)
    again = toy().learn(5, offline=data, run=tmp_path / "run", progress=False)
    again.save(tmp_path / "saved")
    said = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert said["offline"]["updates"] == 5


def test_the_command_says_how_an_offline_run_goes_on(data: Path, tmp_path: Path) -> None:
    agent = PlaNet(PENDULUM, preset="debug", device="cpu", seed=5)
    agent.learn(2, offline=data, run=tmp_path / "run", progress=False)
    resume = ["resume", str(tmp_path / "run"), "--offline", str(data), "--device", "cpu"]
    done = CliRunner().invoke(app, [*resume, "--steps", "3"])
    assert done.exit_code == 0, done.output
    assert f"agentzoo resume {tmp_path / 'run'} --offline {data} --steps TOTAL" in done.output
    assert Counters.read(newest(tmp_path / "run" / "checkpoints") / "training").updates == 3


def test_a_run_of_the_environment_is_none_of_a_data_set(run: Path, data: Path) -> None:
    with pytest.raises(RunError, match="not from the data set pendulum-v0"):
        toy(seed=3).learn(5, offline=data, run=run, progress=False)


def test_an_id_lies_where_minari_keeps_its_own(run: Path, tmp_path: Path) -> None:
    export_dataset(TOY.load(run, device="cpu"), "lab/pendulum-v1")
    assert minari.load_dataset("lab/pendulum-v1").total_episodes == 6
    assert open_dataset("lab/pendulum-v1").id == "lab/pendulum-v1"
    with pytest.raises(DatasetError, match="is there already"):
        export_dataset(TOY.load(run, device="cpu"), "lab/pendulum-v1")


def test_a_folder_may_be_named_from_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export_dataset(TOY.load(run, device="cpu"), "./here")
    assert open_dataset("./here").episodes == 6
    assert open_dataset(Path("here")).folder == tmp_path / "here" / "data"


def test_a_data_set_imported_is_a_run_to_learn_on_from(data: Path, tmp_path: Path) -> None:
    import_dataset(toy(), data, tmp_path / "imported")
    counters = Counters.read(newest(tmp_path / "imported" / "checkpoints") / "training")
    assert counters.updates == 0
    keep, agent = Held(), TOY.load(tmp_path / "imported", device="cpu")
    agent.learn(100, run=tmp_path / "on", callbacks=keep, progress=False)
    assert len(keep.columns) == 6
    assert keep.updates > 0


def foreign(folder: Path, **changes: object) -> Path:
    """A small data set of another's making: a Box of two numbers, a discrete action."""
    storage = minari.dataset.minari_storage.MinariStorage
    (folder / "data").mkdir(parents=True)
    made = storage.new(
        folder / "data",
        observation_space=changes.pop("obs", gym.spaces.Box(-1, 1, (3,), np.float32)),
        action_space=changes.pop("action", gym.spaces.Box(-2, 2, (1,), np.float32)),
    )
    made.update_metadata({"dataset_id": "x-v0", "minari_version": minari.__version__})
    episode = {
        "observations": np.zeros((4, 3), np.float32),
        "actions": np.zeros((3, 1), np.float32),
        "rewards": [0.0, 0.0, 0.0],
        "terminations": [False, False, True],
        "truncations": [False] * 3,
    }
    if not changes.pop("empty", False):
        buffer = minari.data_collector.EpisodeBuffer(**(episode | changes))
        made.update_episodes([buffer])
    return folder


def test_a_foreign_one_is_read(tmp_path: Path) -> None:
    (episode,) = open_dataset(foreign(tmp_path / "f")).read()
    assert episode["is_terminal"].tolist() == [False, False, False, True]
    assert episode["is_first"].tolist() == [True, False, False, False]


def test_a_strangers_words_stay_in_their_line(tmp_path: Path) -> None:
    key = "x\x1b[2J\nreads \u202e"
    obs = gym.spaces.Dict({key: gym.spaces.Box(-1, 1, (3,), np.float32)})
    seen = {key: np.zeros((4, 3), np.float32)}
    made = foreign(tmp_path / "f", obs=obs, observations=seen)
    found = CliRunner().invoke(app, ["data", "show", str(made)])
    assert found.exit_code == 0, found.output
    assert all(line.isprintable() for line in found.output.splitlines())
    assert found.output.splitlines()[-1].startswith(r'reads "x\x1b[2J\nreads \u202e" as a vector')


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"empty": True}, "holds no episode"),
        ({"rewards": [0.0, np.nan, 0.0]}, "expected as many finite rewards"),
        ({"terminations": [True, False, True]}, "episode 0 .* ends before its last step"),
        ({"observations": np.zeros((3, 3), np.float32)}, "one observation more"),
        ({"observations": np.full((4, 3), np.inf, np.float32)}, "episode 0 of the data set"),
        ({"actions": np.zeros((2, 1), np.float32)}, "2 actions"),
    ],
    ids=["empty", "nan", "early end", "short", "infinite", "actions"],
)
def test_a_bad_episode_is_a_sentence(tmp_path: Path, changes: dict, match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        list(open_dataset(foreign(tmp_path / "f", **changes)).read())


def test_other_spaces_are_a_sentence(tmp_path: Path) -> None:
    other = foreign(tmp_path / "f", action=gym.spaces.Box(-1, 1, (1,), np.float32))
    with pytest.raises(DatasetError, match="other spaces than the agent: the action"):
        toy().learn(5, offline=other, run=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    text = gym.spaces.Text(5)
    with pytest.raises(DatasetError, match="none for agents"):
        list(open_dataset(foreign(tmp_path / "g", obs=text, observations=["a"] * 4)).read())


def test_damage_is_a_sentence(data: Path, tmp_path: Path) -> None:
    damaged = foreign(tmp_path / "f")
    file = damaged / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DatasetError, match=r"episode 0 .* cannot be read|no data set that"):
        list(open_dataset(damaged).read())
    (damaged / "data" / "metadata.json").write_text("{")
    with pytest.raises(DatasetError, match="is no JSON"):
        open_dataset(damaged)
    (damaged / "data" / "metadata.json").write_text('{"env_spec": "anything"}')
    with pytest.raises(DatasetError, match="does not name the spaces"):
        open_dataset(damaged)
    with pytest.raises(DatasetError, match="is no Minari data set"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"write \(namespace/\)name-v0"):
        open_dataset("no id")


def test_columns_that_only_acting_makes_are_refused(tmp_path: Path) -> None:
    from agentzoo.runtime.spec import ColumnSpec

    class Annotated(TOY.algorithm_class):
        columns = {"seen": ColumnSpec()}  # noqa: RUF012

    kind = type("TruncatedActor", (TOY,), {"algorithm_class": Annotated})
    with pytest.raises(
        DatasetError,
        match=r"stores seen with each transition.*has not; take one that agentzoo data export",
    ):
        kind(PENDULUM, preset="debug", device="cpu", seed=0).learn(
            3, offline=foreign(tmp_path / "f"), run=tmp_path / "run", progress=False
        )


def test_what_ls_imagine_made_of_maps_goes_with_its_episodes(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom")
    field = "vizdoom:harvest-tree?far=mid&map=oracle&max_episode_steps=80"
    brief = {"warmup": 2, "final_episodes": 0, "eval_every": 0, "report_every": 0}

    def ours(seed: int, **fields: object) -> LSImagine:
        return LSImagine(field, preset="debug", device="cpu", seed=seed, **brief, **fields)

    first = ours(1)
    first.learn(400, run=tmp_path / "run", progress=False)
    export_dataset(first, tmp_path / "data")
    collected, taken = Held(), Held()
    first.learn(404, run=tmp_path / "run", callbacks=collected, progress=False)
    second = ours(2)
    second.learn(
        2, offline=tmp_path / "data", run=tmp_path / "off", callbacks=taken, progress=False
    )

    assert taken.updates == 2
    assert len(taken.columns) == len(collected.columns) == 5
    latents = {"deter", "stoch"}
    for theirs, given in zip(taken.columns, collected.columns, strict=True):
        assert theirs.keys() == given.keys() >= {"zoomed_image", "interval", "intrinsic", *latents}
        for name in given.keys() - latents - {"action"}:
            assert np.array_equal(theirs[name], given[name]), name
    assert any(episode["zoomed"].any() for episode in taken.columns)
    second.learn(120, run=tmp_path / "on", callbacks=taken, progress=False)
    assert len(taken.columns) == 5  # and on in the field, with these episodes
    assert second.env_steps == 120

    spoiled(tmp_path / "data", "agentzoo_zoomed_map", np.zeros(3, np.float32))
    with pytest.raises(DatasetError, match=r"zoomed_map as .* of shape \(.*; write it with the"):
        ours(2).learn(2, offline=tmp_path / "data", run=tmp_path / "bad", progress=False)
    spoiled(tmp_path / "data", "agentzoo_intrinsic", np.nan)
    short = ours(2, long_branch=False)
    with pytest.raises(DatasetError, match="intrinsic that is not finite"):
        short.learn(2, offline=tmp_path / "data", run=tmp_path / "nan", progress=False)


def spoiled(folder: Path, name: str, value: object) -> None:
    """Put a number into an episode's column, or something else where the column is."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        infos = file["episode_0"]["infos"]
        if isinstance(value, float):
            infos[name][1] = value
        else:
            del infos[name]
            infos[name] = value


def test_a_number_of_updates_is_checked(data: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        toy().learn(0, offline=data)
