"""The network that makes maps: learned of labelled frames, saved, and inside an agent."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import agentzoo
from agentzoo import LSImagine
from agentzoo.affordance import dataset
from agentzoo.affordance.dataset import Frames
from agentzoo.affordance.map_network import MapModel, MapNetwork, to_size
from agentzoo.affordance.source import MapSource, affordance
from agentzoo.agents.ls_imagine import LSImagineAlgorithm, LSImagineConfig
from agentzoo.algorithm import NoiseSource
from agentzoo.cli.main import main
from agentzoo.config import configure
from agentzoo.runtime import load_policy, verify
from agentzoo.runtime.errors import ConfigError
from tests.agents.test_ls_imagine import ACTION, OBS, random_batch

FIELD = "vizdoom:harvest-tree?far=near&max_episode_steps=160&size=48"
GOALS = ("Find red", "Find blue")


def coloured(goal: str, count: int = 40, seed: int = 0) -> Frames:
    """A red and a blue square on grey, and where the goal's is."""
    rng = np.random.default_rng(seed)
    images = rng.integers(90, 120, (count, 32, 48, 3)).astype(np.uint8)
    maps = np.zeros((count, 32, 48), np.uint8)
    for k in range(count):
        for channel in (0, 2):
            # on a grid, red above blue: they do not meet
            top, left = 4 * rng.integers(0, 2) + 8 * channel, 4 * rng.integers(0, 9)
            where = slice(top, top + 8), slice(left, left + 8)
            images[k][where] = 0
            images[k][(*where, channel)] = 255
            if (channel == 0) == (goal == GOALS[0]):
                maps[k][where] = 255
    return Frames(images, maps, "squares", goal)


@pytest.fixture(scope="module")
def model() -> MapModel:
    torch.set_num_threads(1)
    return dataset.train([coloured(goal) for goal in GOALS], size=(32, 48), steps=200, lr=5e-3)


# -- learning ------------------------------------------------------------------------------------


def test_it_has_about_97_thousand_parameters() -> None:
    assert 95_000 < sum(each.numel() for each in MapNetwork(3).parameters()) < 98_000


def test_it_learns_where_each_goal_is(model: MapModel) -> None:
    assert isinstance(model, MapSource)
    for goal in GOALS:
        found = dataset.measured(model, coloured(goal, 20, seed=1))
        assert found["iou"] > 0.7
        assert 0.7 < found["mass"] < 1.4
    wrong = coloured(GOALS[0], 20, seed=1)
    wrong.goal = GOALS[1]
    assert dataset.measured(model, wrong)["iou"] < 0.2, "the goal decides"


def test_its_mass_is_calibrated_on_what_it_learned_from(model: MapModel) -> None:
    found = [dataset.measured(model, coloured(goal))["mass"] for goal in GOALS]
    assert np.mean(found) == pytest.approx(1, abs=0.02)


def test_intersection_over_union() -> None:
    a, b = np.array([[0.6, 0.9, 0.1, 0.0]]), np.array([[1.0, 0.2, 0.7, 0.0]])
    assert dataset.iou(a, b) == pytest.approx(1 / 3)
    assert dataset.iou(0 * a, 0 * b) == 1


def test_it_is_a_source_of_any_size_and_saved_strictly(model: MapModel, tmp_path: Path) -> None:
    again = MapModel.load(model.save(tmp_path / "net", iou=0.5))
    image = np.repeat(np.repeat(coloured(GOALS[0]).images[0], 2, 0), 2, 1)
    for goal in GOALS:
        map_ = affordance(image, goal, again)
        assert map_.shape == (64, 96)
        np.testing.assert_allclose(map_, affordance(image, goal, model), atol=1e-6)
    alone = MapNetwork()
    alone.load_state_dict(again.for_goal(GOALS[1]))
    small = torch.from_numpy(coloured(GOALS[1]).images[:3])
    number = again.number(GOALS[1])
    expected = torch.sigmoid(again.network.logits(small, torch.full((3,), number)))
    torch.testing.assert_close(alone(small)[..., 0], expected)


def test_pictures_are_made_as_environments_make_them() -> None:
    image = np.random.default_rng(0).integers(0, 256, (160, 256, 3)).astype(np.uint8)
    assert to_size(image, (64, 64)).shape == (64, 64, 3)
    halved = image.reshape(80, 2, 128, 2, 3).mean((1, 3))
    np.testing.assert_allclose(to_size(image, (80, 128)), halved, atol=0.5)


def test_frames_are_labelled_by_a_source(tmp_path: Path) -> None:
    frames = coloured(GOALS[0], 3)
    frames.maps = None
    with pytest.raises(ConfigError, match="these frames have no maps; label them first"):
        frames.labelled()
    done: list[int] = []
    found = dataset.label(frames, lambda image, goal: image[..., 0] / 255, "Find red", done.append)
    assert done == [1, 2, 3]
    again = Frames.load(found.save(tmp_path / "frames"))
    assert again.goal == "Find red"
    np.testing.assert_array_equal(again.labelled(), frames.images[..., 0])
    np.testing.assert_array_equal(again.images, frames.images)


def test_frames_stand_until_others_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = coloured(GOALS[0], 3)
    frames.save(tmp_path)

    def stopped(file: Path, **arrays: object) -> None:
        file.write_bytes(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", stopped)
    with pytest.raises(KeyboardInterrupt):
        coloured(GOALS[1], 2).save(tmp_path)
    np.testing.assert_array_equal(Frames.load(tmp_path).images, frames.images)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda p: MapModel.load(p), "holds no map network .*agentzoo affordance train"),
        (lambda p: Frames.load(p), "holds no frames .*agentzoo affordance collect"),
        (lambda p: dataset.train([]), "there are no frames to learn from"),
        (lambda p: dataset.train([coloured("", 2)]), "expected what is to be reached"),
        (lambda p: dataset.train([coloured("x", 2)], size=(30, 48)), "has to be of multiples of 8"),
        (lambda p: dataset.collect("gym:CartPole-v1", images=1), 'no side observation "frame"'),
    ],
    ids=["network", "frames", "none", "goal", "size", "environment"],
)
def test_what_is_missing_is_said(call, match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=match):
        call(tmp_path)


def torn(frames: Frames, folder: Path) -> None:
    frames.save(folder)
    whole = (folder / "frames.npz").read_bytes()
    (folder / "frames.npz").write_bytes(whole[: len(whole) // 2])


def reshaped(frames: Frames, folder: Path) -> None:
    Frames(frames.images[..., :1], frames.maps, "", frames.goal).save(folder)


def unmatched(frames: Frames, folder: Path) -> None:
    Frames(frames.images, frames.labelled()[:1], "", frames.goal).save(folder)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (torn, "cannot be read: File is not a zip file"),
        (reshaped, r"shape \(3, 32, 48, 1\) and type uint8, expected \(N, h, w, 3\) uint8"),
        (unmatched, r"maps in .* have shape \(1, 32, 48\) .* expected \(3, 32, 48\) uint8"),
    ],
)
def test_damaged_frames_are_refused(spoil, match: str, tmp_path: Path) -> None:
    spoil(coloured(GOALS[0], 3), tmp_path)
    with pytest.raises(ConfigError, match=match):
        Frames.load(tmp_path)


def test_a_damaged_network_is_refused(model: MapModel, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "net")
    weights, about = folder / "model.safetensors", folder / "map_network.json"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ConfigError, match="holds another network than a map network of 2 goals"):
        MapModel.load(folder)
    about.write_text('{"format": 1, "goals": "Find red"}')
    with pytest.raises(ConfigError, match="has the goals 'Find red' and the size None, expected"):
        MapModel.load(folder)


def test_another_network_is_refused(model: MapModel, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "net")
    about = json.loads((folder / "map_network.json").read_text())
    (folder / "map_network.json").write_text(json.dumps({**about, "goals": ["one"]}))
    with pytest.raises(ConfigError, match="holds another network than a map network of 1 goals"):
        MapModel.load(folder)
    (folder / "map_network.json").write_text(json.dumps({**about, "format": 2}))
    with pytest.raises(ConfigError, match="has format 2, expected 1"):
        MapModel.load(folder)


def test_a_goal_it_does_not_know_is_refused(model: MapModel) -> None:
    with pytest.raises(ConfigError, match=r'knows no goal .Find reds.; did you mean "Find red"'):
        affordance(coloured(GOALS[0]).images[0], "Find reds", model)


# -- the command line ----------------------------------------------------------------------------


def test_the_command_collects_and_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("vizdoom")
    frames, out = str(tmp_path / "frames"), str(tmp_path / "net")
    env = "vizdoom:harvest-tree?far=near&map=oracle"
    goal = ["--goal", "Cut a tree"]
    main_of("affordance", "collect", env, frames, "--images", "6", "--every", "2", *goal)
    found = Frames.load(frames)
    assert found.images.shape == (6, 160, 256, 3)
    assert set(np.unique(found.labelled())) <= {0, 255}
    main_of("affordance", "train", frames, "--test", frames, "--out", out, "--steps", "2")
    said = capsys.readouterr().out
    assert "6 with maps" in said
    assert "goals: Cut a tree" in said
    assert "unseen:  IoU" in said
    assert MapModel.load(out).size == (64, 64)


def main_of(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in (None, 0)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "--scorer mineclip needs --weights; download attn.pth"),
        (["--scorer", "clip"], "--scorer clip needs --weights FOLDER, --slope and --centre"),
        (["--weights", "nowhere.pth"], "there is no MineCLIP checkpoint at nowhere.pth"),
    ],
    ids=["mineclip", "clip", "nowhere"],
)
def test_labelling_says_what_it_needs(
    arguments: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(coloured("Find red", 1).save(tmp_path / "frames"))
    with pytest.raises(SystemExit) as ended:
        main(["affordance", "label", folder, *arguments])
    assert ended.value.code == 2
    assert match in capsys.readouterr().err


def test_frames_to_test_on_are_looked_at_before_anything_is_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "train", None)
    frames = str(coloured("Find red", 2).save(tmp_path / "frames"))
    other = str(coloured("Find blue", 2).save(tmp_path / "other"))
    bare = coloured("Find red", 2)
    bare.maps = None
    for unseen, match in (
        (str(tmp_path / "nowhere"), "nowhere holds no frames"),
        (str(bare.save(tmp_path / "bare")), "these frames have no maps"),
        (other, "are of the goal 'Find blue', expected one of 'Find red'"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["affordance", "train", frames, "--test", unseen])
        assert ended.value.code == 2
        assert match in " ".join(capsys.readouterr().err.split())


# -- inside an agent -----------------------------------------------------------------------------


def network(folder: Path, goal: str = "Cut a tree") -> Path:
    """An untrained one: it says something of every pixel."""
    torch.manual_seed(0)
    return MapModel(MapNetwork(), (goal,), (48, 48)).save(folder)


@pytest.mark.slow
def test_an_agent_with_a_network_acts_from_pixels_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vizdoom")
    folder = network(tmp_path / "net")
    fields = {"map_network": str(folder), "eval_every": 0, "final_episodes": 0, "device": "cpu"}
    agent = LSImagine(FIELD, preset="debug", seed=0, **fields)
    assert agent.config.goal == "Cut a tree", "the task's own"
    assert list(agent.spec.obs) == ["image"]
    stored: list[dict[str, np.ndarray]] = []
    annotate = agent.algorithm.annotate

    def kept(*arguments):
        found = annotate(*arguments)
        stored.append(found[0])
        return found

    monkeypatch.setattr(agent.algorithm, "annotate", kept)
    agent.learn(400, run=tmp_path / "run", progress=False)
    maps = MapNetwork()
    maps.load_state_dict(MapModel.load(folder).for_goal("Cut a tree"))
    for each in stored[:5]:
        with torch.no_grad():
            expected = maps(torch.from_numpy(each["image"])).numpy()
        np.testing.assert_allclose(each["map"] / 255.0, expected, atol=0.5 / 255 + 1e-6)
    for name, weight in maps.state_dict().items():
        assert torch.equal(weight, agent.algorithm.maps.state_dict()[name]), "it does not learn"
    for file in folder.iterdir():
        file.unlink()  # what is saved needs it no more
    again = agentzoo.load(tmp_path / "run", device="cpu")
    bundle = again.export(tmp_path / "bundle", golden_steps=20)
    verify(bundle)
    policy = load_policy(bundle)
    assert policy.act({"image": stored[0]["image"][0]}) in range(12)


def test_an_update_makes_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(
        LSImagineConfig, LSImagine.presets["debug"], {"map_network": "any", "goal": "Cut a tree"}
    )
    algorithm = LSImagineAlgorithm({"image": OBS["image"]}, ACTION, config)
    assert algorithm.columns["map"].shape == OBS["map"].shape

    def none(*_: object) -> None:
        raise AssertionError("an update made a map")

    monkeypatch.setattr(MapNetwork, "logits", none)
    metrics = algorithm.update(random_batch(algorithm), NoiseSource(0))[0]
    assert metrics["loss/rec_map"] > 0


@pytest.mark.parametrize(
    ("env", "fields", "match"),
    [
        (FIELD, {}, "needs an affordance map.*set map_network to a folder"),
        (FIELD, {"goal": " ", "map_network": "NET"}, "expected what is to be reached"),
        (FIELD, {"goal": "Cut", "map_network": "NET"}, "the map network knows no goal 'Cut'"),
        (FIELD, {"map_network": "nowhere"}, "nowhere holds no map network"),
        (f"{FIELD}&map=oracle", {"map_network": "NET"}, "has no effect in an environment that"),
    ],
    ids=["no map", "no goal", "another goal", "no network", "a map beside it"],
)
def test_maps_from_nowhere_are_refused(
    env: str, fields: dict[str, object], match: str, tmp_path: Path
) -> None:
    pytest.importorskip("vizdoom")
    folder = str(network(tmp_path / "net"))
    given = {k: folder if v == "NET" else v for k, v in fields.items()}
    with pytest.raises(ConfigError, match=match):
        LSImagine(env, preset="debug", device="cpu", seed=0, **given)
