"""Sinks of a run's log: TensorBoard by its own reader, and what a broken or slow one may cost."""

import io
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import gymnasium as gym
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from agentzoo import DreamerV3
from agentzoo.runtime.errors import ConfigError, MissingExtraError, RunError
from agentzoo.train import plots
from agentzoo.train.callbacks import Report
from agentzoo.train.logger import Logger, read_metrics
from agentzoo.train.sinks.sink import Film, RunFacts, Sink, chosen_sinks
from agentzoo.train.sinks.tensorboard import TensorBoard
from tests.train.test_loop import counters, toy

FACTS = {"agent": "Dreamer", "env": "dmc:walker-walk?repeat=2", "seed": 3}


class Keep(Sink):
    """Remembers what it was told, in whichever thread."""

    name = "keep"

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def open(self, run: RunFacts) -> str:
        self.told.append(("open", run.title, run.resume_step, run.tracker_run))
        return "run-1"

    def scalars(self, env_step: int, metrics: Mapping[str, float]) -> None:
        self.told.append(("scalars", env_step, dict(metrics)))

    def picture(self, env_step: int, name: str, path: Path) -> None:
        self.told.append(("picture", env_step, name, path.name))

    def film(self, env_step: int, name: str, film: Film) -> None:
        self.told.append(("film", env_step, name, film.frames.shape))

    def close(self) -> None:
        self.told.append(("close",))


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


# -- TensorBoard ---------------------------------------------------------------------------------


def test_scalars_settings_pictures_and_films_reach_tensorboard(tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    Image.new("RGB", (5, 4), (255, 0, 0)).save(picture)
    frames = np.zeros((3, 6, 8, 3), np.uint8)
    frames[1] = 255
    facts = RunFacts(folder=tmp_path, settings={"lr": 1e-3, "units": (3, 4), "fast": True}, **FACTS)
    with Logger(tmp_path, sinks=[TensorBoard()], facts=facts) as logger:
        logger.write(10, {"loss/dyn": 1.0})
        logger.write(20, {"loss/dyn": 2.0})
        logger.picture(20, "learning_curve", picture)
        logger.film(20, "dream_image", Film(frames=frames, fps=10, path=None))
    events = events_of(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("loss/dyn")] == [(10, 1.0), (20, 2.0)]
    (shown,) = events.Images("learning_curve")
    assert shown.encoded_image_string == picture.read_bytes()
    assert (shown.step, shown.width, shown.height) == (20, 5, 4)
    (played,) = events.Images("dream_image")
    with Image.open(io.BytesIO(played.encoded_image_string)) as gif:
        assert (gif.format, gif.size, gif.n_frames) == ("GIF", (8, 6), 3)
        gif.seek(1)
        assert gif.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    given = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert given["agent"].string_value == "Dreamer"
    assert given["seed"].number_value == 3
    assert given["lr"].number_value == 1e-3
    assert given["units"].string_value == "(3, 4)"
    assert given["fast"].number_value == 1
    text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| env | dmc:walker-walk?repeat=2 |" in text


def test_resuming_hides_the_later_events(tmp_path: Path) -> None:
    for resume, steps in ((None, (10, 20, 30)), (20, (25,))):
        with Logger(tmp_path, sinks=[TensorBoard()], resume_step=resume) as logger:
            for step in steps:
                logger.write(step, {"loss/dyn": step / 10})
    assert [e.step for e in events_of(tmp_path).Scalars("loss/dyn")] == [10, 20, 25]


class Flicker(gym.Env[dict[str, np.ndarray], int]):
    """Two pictures, and 20 numbers of which the last changes most."""

    observation_space = gym.spaces.Dict(
        {
            "image": gym.spaces.Box(0, 255, (64, 64, 3), np.uint8),
            "numbers": gym.spaces.Box(-99, 99, (20,), np.float32),
        }
    )
    action_space = gym.spaces.Discrete(2)

    def observe(self) -> dict[str, np.ndarray]:
        light = self.np_random.random()
        numbers = (light * np.arange(20)).astype(np.float32)
        return {"image": np.full((64, 64, 3), int(255 * light), np.uint8), "numbers": numbers}

    def reset(self, *, seed: int | None = None, options: object = None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: int):
        self.steps += 1
        return self.observe(), 1.0, False, self.steps == 30, {}


def test_a_run_leaves_its_dreams_and_its_curve_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    agent = DreamerV3(Flicker(), preset="debug", seed=1, prefill=1_000)  # no update is made
    agent.learn(120, run=tmp_path, progress=False)
    tags = events_of(tmp_path).Tags()
    assert {"learning_curve", "dream_image", "dream_numbers"} <= set(tags["images"])
    assert "rollout/ep_rew_mean" in tags["scalars"]
    (played,) = events_of(tmp_path).Images("dream_image")
    assert played.encoded_image_string.startswith(b"GIF89a")
    assert (tmp_path / "dream_image.mp4").stat().st_size > 0


# -- what a sink may cost ------------------------------------------------------------------------


def test_a_resumed_run_goes_on_in_the_same_run_of_its_tracker(tmp_path: Path) -> None:
    first, second, third = Keep(), Keep(), Keep()
    toy().learn(400, run=tmp_path, log=[first], progress=False)
    toy().learn(600, run=tmp_path, log=second, progress=False)
    toy().learn(800, run=tmp_path, log="none", progress=False)
    toy().learn(1_000, run=tmp_path, log=(third,), progress=False)
    title = first.told[0][1]
    assert title == "TruncatedActor, gym:Pendulum-v1, seed 3"
    assert first.told[0] == ("open", title, None, "")
    assert first.told[-1] == ("close",)
    assert second.told[0] == ("open", title, 400, "run-1")
    assert third.told[0] == ("open", title, 800, "run-1")
    lines = [one for sink in (first, second, third) for one in sink.told if one[0] == "scalars"]
    written = [line["env_step"] for line in read_metrics(tmp_path)]
    assert [step for _, step, _ in lines] == [step for step in written if not 600 < step <= 800]
    assert ("picture", 400, "learning_curve", "learning_curve.png") in first.told
    assert not list(tmp_path.glob("events.out.tfevents*"))  # it was not asked for


def test_a_sink_that_fails_costs_no_line_and_no_run(tmp_path: Path, capsys) -> None:
    class Fail(Keep):
        def scalars(self, env_step: int, metrics: Mapping[str, float]) -> None:
            raise ConnectionError("the tracker is away")

    failing, beside = Fail(), Keep()
    beside.name = "beside"
    toy(log_every=200).learn(600, run=tmp_path, log=[failing, beside], progress=False)
    assert counters(tmp_path).env_step == 600
    said = capsys.readouterr().err
    assert said.count("the log goes to keep no more in this sitting: ConnectionError: the") == 1
    assert len([one for one in beside.told if one[0] == "scalars"]) == len(read_metrics(tmp_path))


def test_a_sink_that_hangs_is_not_waited_for(tmp_path: Path, capsys) -> None:
    go_on = threading.Event()

    class Hang(Keep):
        def scalars(self, env_step: int, metrics: Mapping[str, float]) -> None:
            go_on.wait()

    with Logger(tmp_path, sinks=[Hang()], patience_s=0.01) as logger:
        for step in range(1_200):  # more than may wait
            logger.write(step, {"a": 1.0})
    go_on.set()
    assert len(read_metrics(tmp_path)) == 1_200
    assert "the log goes to keep no more in this sitting: it is 1,000 pieces of work behind" in (
        capsys.readouterr().err
    )
    late = threading.Event()

    class Late(Keep):
        def close(self) -> None:
            late.wait()

    with Logger(tmp_path, sinks=[Late()], patience_s=0.01) as logger:
        logger.write(1, {"a": 1.0})
    late.set()
    assert "it had not ended after 0.01 s more" in capsys.readouterr().err


def test_one_that_cannot_be_opened_is_said_before_the_run_begins(tmp_path: Path) -> None:
    class Closed(Keep):
        name = "closed"

        def open(self, run: RunFacts) -> str:
            raise PermissionError("no key")

    before = Keep()
    with pytest.raises(RunError, match=r"log cannot go to closed: PermissionError: no key; mend"):
        toy().learn(400, run=tmp_path, log=[before, Closed()], progress=False)
    assert before.told[-1] == ("close",)
    assert not (tmp_path / "checkpoints").exists()


def test_names_and_other_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_sinks("none") == chosen_sinks(()) == []
    keep = Keep()
    (board, other) = chosen_sinks(["tensorboard", keep])
    assert isinstance(board, TensorBoard)
    assert other is keep
    with pytest.raises(ConfigError, match=r"no sink of the log is called 'tensorbord'; did you"):
        chosen_sinks("none,tensorbord")
    with pytest.raises(ConfigError, match=r"log holds 7, expected a name"):
        chosen_sinks([7])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"log is None, expected names"):
        chosen_sinks(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"log names tensorboard more than once"):
        chosen_sinks("tensorboard,tensorboard")
    (tmp_path / "wandb").mkdir()  # what W&B leaves beside a script is no package
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("agentzoo.train.sinks.sink.find_spec", without_wandb)
    with pytest.raises(MissingExtraError, match=r'pip install "agentzoo-rl\[wandb\]"'):
        chosen_sinks("wandb")


def without_wandb(name: str):
    from importlib.machinery import ModuleSpec

    return ModuleSpec(name, None) if name == "wandb" else None


# -- reports -------------------------------------------------------------------------------------


def test_a_report_that_takes_long_costs_no_run(tmp_path: Path, monkeypatch, capsys) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(plots, "learning_curve", lambda *args, **options: go_on.wait())
    report = Report(every=400, limit_s=0.05)
    toy(report_every=0).learn(1_200, run=tmp_path, callbacks=[report], progress=False)
    go_on.set()
    assert counters(tmp_path).env_step == 1_200
    assert capsys.readouterr().err.count("no more pictures of this run: it had not ended") == 1


def test_pictures_say_agent_task_and_seed(tmp_path: Path, monkeypatch) -> None:
    titles: list[str] = []
    draw = plots.learning_curve

    def titled(folder: Path, path: Path, *, title: str) -> Path:
        titles.append(title)
        return draw(folder, path, title=title)

    monkeypatch.setattr(plots, "learning_curve", titled)
    toy().learn(400, run=tmp_path, progress=False)
    assert titles == ["TruncatedActor, gym:Pendulum-v1, seed 3"]


def test_vectors_are_drawn_by_their_names_within_the_limit(tmp_path: Path, monkeypatch) -> None:
    drawn: list[tuple[tuple[int, ...], tuple[str, ...]]] = []
    monkeypatch.setattr(
        plots,
        "open_loop_plot",
        lambda truth, model, path, *, names, title: (
            drawn.append((truth.shape, tuple(names))) or path.write_bytes(b"")
        ),
    )
    agent = DreamerV3("gym:CartPole-v1", preset="debug", prefill=1_000, final_episodes=0)
    agent.learn(150, run=tmp_path, log="none", progress=False)
    assert drawn == [((3, 50, 4), ("position", "velocity", "angle", "angular velocity"))]
