"""The jump rule in a real field of ViZDoom, walked by a script."""

import numpy as np
import pytest

from agentzoo.affordance.maps import check_map
from agentzoo.affordance.views import EpisodeViews, Rules, Seen
from agentzoo.affordance.zoom import RunningStatistics
from agentzoo.runtime.envs import make_env
from agentzoo.runtime.envs.vizdoom import ACTIONS

pytest.importorskip("vizdoom")
STEPS = 500


def walker(bearing: float, distance: float, rng: np.random.Generator) -> int:
    """To the nearest tree and at it, but for three decisions of ten."""
    if rng.random() < 0.3:
        return int(rng.integers(len(ACTIONS)))
    if abs(bearing) > 8:
        return ACTIONS.index("turn_left" if bearing > 0 else "turn_right")
    return ACTIONS.index("attack" if distance < 70 else "forward")


def walked(task: str, rules: Rules) -> list[Seen]:
    """The findings of at least STEPS steps, the last step of each episode left out."""
    rng, jumps, scores = np.random.default_rng(0), RunningStatistics(), RunningStatistics()
    seen: list[Seen] = []
    env, episodes = make_env(task), 0
    while len(seen) < STEPS:
        _, info = env.reset(seed=episodes)
        episodes += 1
        episode, is_over, reward = EpisodeViews(rules), False, 0.0
        while not is_over:
            side = info["side"]
            map_ = check_map(side["mask"] / 255, side["frame"].shape[:2])
            seen.append(episode.look(map_, side["frame"], float(reward), jumps, scores))
            action = walker(info["bearing"], info["distance"], rng)
            _, reward, terminated, truncated, info = env.step(action)
            is_over = terminated or truncated
    env.close()
    return seen


@pytest.mark.parametrize("far", ["near", "mid"])
def test_most_jumps_are_made_good_and_few_steps_jump(far: str) -> None:
    seen = walked(f"vizdoom:harvest-tree?far={far}&map=oracle", Rules())
    zoomed = sum(each.zoomed is not None for each in seen)
    late = [late for each in seen for late in each.closed if late.is_reached]
    assert 0.05 < zoomed / len(seen) < 0.4
    assert len(late) / zoomed > 0.5
    assert np.median([each.interval for each in late]) > 15, "beyond the imagination's horizon"


def test_the_released_rule_finds_next_to_nothing_on_a_mask() -> None:
    rules = Rules(jump_rule="released", zoom_margin=1)
    seen = walked("vizdoom:harvest-tree?far=near&map=oracle", rules)
    assert sum(each.zoomed is not None for each in seen) / len(seen) < 0.02
