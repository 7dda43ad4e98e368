"""The published results: every table says what the kept scores and logs say."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

RESULTS = Path(__file__).parents[2] / "docs" / "results"
BUILD: dict[str, Any] = runpy.run_path(str(RESULTS / "build.py"))
FOLDERS: list[Path] = BUILD["folders"]()


def named(path: Path) -> str:
    return "/".join(path.parts[-2:])


def test_the_pages_hold_their_tables() -> None:
    page = RESULTS.with_suffix(".md").read_text(encoding="utf-8")
    assert BUILD["comparison"]() in page
    tried = BUILD["TRIALS"].read_text(encoding="utf-8")
    assert BUILD["trial"]() in tried
    assert BUILD["earlier"]() in tried
    assert "(results/curves.png)" in page
    assert (RESULTS / "curves.png").is_file()


def test_the_page_of_seeds_is_what_is_kept() -> None:
    assert (RESULTS / "seeds.md").read_text(encoding="utf-8") == BUILD["details"]()


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_each_task_has_its_curve(folder: Path) -> None:
    assert (folder / "curve.png").is_file()


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_seeds_and_random_played_the_same_episodes(folder: Path) -> None:
    random = BUILD["read_results"](folder / "random.json")
    assert random.agent == "random"
    for path in BUILD["seeds"](folder):
        score = BUILD["read_results"](path / "results.json")
        assert (score.env, score.seeds) == (random.env, random.seeds)
        assert len(score.seeds) == BUILD["EPISODES"]


def test_there_are_results() -> None:
    assert len(FOLDERS) >= 2


def test_returns_are_binned_by_the_steps_at_which_episodes_end() -> None:
    def line(step: int, episodes: int, mean: float | None = None) -> dict[str, float]:
        more = {} if mean is None else {"rollout/ep_rew_mean": mean}
        return {"env_step": step, "time/episodes": float(episodes), **more}

    lines = [
        line(4_000, 1, 10.0),
        line(8_000, 1),  # no episode ended
        line(10_000, 4, 30.0),  # three did, and the bin's end belongs to it
        line(10_001, 5, 100.0),
        line(20_000, 6, 200.0),
        line(25_000, 7, 999.0),  # of a bin that is not whole
    ]
    assert BUILD["binned"](lines) == {10_000: 25.0, 20_000: 150.0}


def test_the_band_goes_as_far_as_every_seed(tmp_path: Path) -> None:
    for seed, returns in enumerate([[10, 20, 30], [20, 40]]):
        folder = tmp_path / "dreamerv3" / "walker-walk" / f"seed{seed}"
        folder.mkdir(parents=True)
        text = [
            f'{{"env_step": {10_000 * n}, "time/episodes": {n}, "rollout/ep_rew_mean": {value}}}\n'
            for n, value in enumerate(returns, 1)
        ]
        (folder / "metrics.jsonl").write_text("".join(text))
    curve = BUILD["ours"](tmp_path / "dreamerv3" / "walker-walk")
    assert [list(part) for part in curve] == [[10_000, 20_000], [15, 30], [10, 20], [20, 40]]


def test_published_returns_are_read_at_the_same_steps() -> None:
    folder = RESULTS / "dreamerv3" / "walker-walk@dmc_proprio_paper"
    published = BUILD["theirs"](folder)
    mine = BUILD["Curve"](*[np.array([10_000, 20_000, 30_000])] * 4)
    # the authors' five seeds at 30,000, and the mean of their first three bins
    assert BUILD["at_equal_steps"](mine, published) == ["134 (104 to 195)", "88"]
    assert BUILD["theirs"](RESULTS / "dreamer" / "walker-walk") is None
    pixels = BUILD["theirs"](RESULTS / "dreamerv3" / "finger-spin@cpu_pixels")
    assert pixels.mean[2] == pytest.approx(319, abs=1)


def test_far_above_random_compares_the_ends_of_intervals() -> None:
    class Score:
        def __init__(self, low: float, high: float) -> None:
            self.interval = low, high

    assert BUILD["far_above"](Score(101, 200), Score(10, 50))
    assert not BUILD["far_above"](Score(99, 500), Score(10, 50))
