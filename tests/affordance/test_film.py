"""Films of episodes and pictures of imagined jumps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from agentzoo import LSImagine
from agentzoo.affordance import film
from agentzoo.affordance.views import Seen, Zoomed
from agentzoo.affordance.zoom import Window
from agentzoo.cli.main import main
from agentzoo.runtime.errors import ConfigError

FIELD = "vizdoom:harvest-tree?far=near&map=oracle&max_episode_steps=80&size=48"


def moment(*, jump: bool | None) -> film.Moment:
    """Grey, the goal in the upper left pixel; zoomed to the lower right quarter unless None."""
    frame, map_ = np.full((40, 64, 3), 100, np.uint8), np.zeros((40, 64))
    map_[0, 0] = 1
    view = None
    if jump is not None:
        view = Zoomed(np.full((40, 64, 3), 50.0), map_, 0.5, jump, Window(20, 32, 20, 32))
    return film.Moment(frame, map_, Seen(0.1, 0.0, view, 0.0, bool(jump), []), {})


@pytest.mark.parametrize(
    ("jump", "color"), [(True, film.RED), (False, film.YELLOW)], ids=["jump", "zoom"]
)
def test_a_decision_shows_map_window_and_view(jump: bool, color: tuple[int, int, int]) -> None:
    found = film.marked(moment(jump=jump))
    assert found.shape == (40, 128, 3)
    assert found[0, 0].tolist() == [178, 64, 64], "the goal in red"
    assert found[10, 10].tolist() == [100, 100, 100]
    for y, x in ((20, 32), (39, 63), (30, 33), (20, 50)):
        assert tuple(found[y, x]) == color
    assert found[30, 50].tolist() == [100, 100, 100], "within the window"
    assert tuple(found[0, 64]) == color
    assert found[20, 100].tolist() == [50, 50, 50], "the view"


def test_a_decision_without_a_zoom_shows_no_view() -> None:
    found = film.marked(moment(jump=None))
    assert (found[:, 64:] == 0).all()
    assert found[39, 63].tolist() == [100, 100, 100]


def eager() -> LSImagine:
    """One that takes every jump it may."""
    agent = LSImagine(FIELD, preset="debug", device="cpu", seed=0, jump_prob=1.0)
    algorithm = film.algorithm_of(agent)
    for head in (algorithm.jump, algorithm.cont):
        assert head.net.out is not None
        head.net.out.bias.data.fill_(50.0)
    return agent


def test_an_episode_is_played_filmed_and_imagined_from(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom")
    agent = eager()
    statistics = agent.algorithm.score_statistics.clone()
    env = agent.open_environment()
    moments = film.play(agent, env, seed=1)
    env.close()
    assert 2 <= len(moments) <= 21
    assert torch.equal(agent.algorithm.score_statistics, statistics), "a film changes nothing"
    again = film.imagine_rollouts(agent, moments, count=3, seed=2)
    assert again.images.shape == (3, agent.config.horizon + 1, 48, 48, 3)
    assert again.maps.shape == (3, agent.config.horizon + 1, 48, 48, 1)
    assert (again.jumped == 1).all()
    assert (again.interval >= 1).all()
    assert again.likely == pytest.approx(1)
    dull = LSImagine(FIELD, preset="debug", device="cpu", seed=0, jump_prob=0.0)
    forced = film.imagine_rollouts(dull, moments, count=3, seed=2, force=True)
    assert forced.images.shape[1] == agent.config.horizon + 2
    assert (forced.jumped[:, 0] == 1).all()
    assert (forced.jumped[:, 1:] == 0).all()
    film.episode_film(moments, tmp_path / "episode.mp4")
    film.episode_sheet(moments, tmp_path / "episode.png", count=2)
    film.draw_rollouts(again, tmp_path / "imagined.png")
    for name in ("episode.mp4", "episode.png", "imagined.png"):
        assert (tmp_path / name).stat().st_size > 1_000, name


def test_one_that_never_jumps_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("vizdoom")
    agent = LSImagine(FIELD, preset="debug", device="cpu", seed=0, long_branch=False)
    with pytest.raises(ConfigError, match="neither zooms nor jumps; film"):
        film.algorithm_of(agent)
    with pytest.raises(SystemExit):
        main(["affordance", "film", str(agent.save(tmp_path / "saved"))])
    assert "neither zooms nor jumps" in capsys.readouterr().err
