"""Affordance maps against the numbers of the paper's released code, and what must hold for any."""

import re

import numpy as np
import pytest

from agentzoo.affordance.intrinsic import affordance_score, gaussian_prior, intrinsic_reward
from agentzoo.affordance.maps import check_map, coarse, resized
from agentzoo.affordance.pending import Closed, PendingPairs, average_reward, interval_sum
from agentzoo.affordance.views import EpisodeViews, Rules, Seen, attempt, require_frame
from agentzoo.affordance.zoom import (
    Region,
    RunningStatistics,
    Window,
    components,
    excess_kurtosis,
    is_central,
    is_small_target,
    is_unusual,
    jump_score,
    opening,
    regions,
    zoom_window,
)
from agentzoo.runtime.errors import ConfigError, NotFiniteError, ObservationError

H, W = 160, 256
G = gaussian_prior(H, W)


def rectangle(top: int, bottom: int, left: int, right: int, height: int = H, width: int = W):
    """1 within, both ends included, else 0."""
    found = np.zeros((height, width))
    found[top : bottom + 1, left : right + 1] = 1
    return found


def blob() -> np.ndarray:
    y, x = np.mgrid[:H, :W]
    return np.exp(-((x - 128) ** 2 + (y - 80) ** 2) / (2 * 20**2))


# -- the prior and the statistics of maps --------------------------------------------------------


def test_the_prior_is_the_released_one() -> None:
    assert G.shape == (H, W)
    assert G.mean() == pytest.approx(0.7299205692, abs=1e-10)
    assert G.max() == pytest.approx(0.9999725333, abs=1e-10), "no point lies at 0"
    assert G[0, 0] == G[-1, -1] == pytest.approx(np.exp(-1), abs=1e-10)
    assert G[0, 128] == pytest.approx(0.6065259959, abs=1e-10)
    assert G[80, 0] == pytest.approx(0.6065186641, abs=1e-10)
    assert (gaussian_prior(H, W, 0) == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        G[0, 0] = 1  # pyright: ignore


MAPS = {  # map -> mean, excess kurtosis, above the mean, P_jump, mean of M * G, S
    "left half": (rectangle(0, 159, 0, 127), 0.5, -2.0, 0.5, 0.059601, 0.364960, 0.5),
    "left quarter": (
        rectangle(0, 159, 0, 63), 0.25, -0.666667, 0.75, 0.254433, 0.160082, 0.219315,
    ),
    "rows": (rectangle(72, 87, 0, 255), 0.1, 5.111111, 0.9, 0.894606, 0.085321, 0.116891),
    "small": (
        rectangle(72, 87, 115, 140), 0.010156, 93.471799, 0.989844, 0.989844, 0.010122, 0.013867,
    ),
    "centre": (
        rectangle(68, 91, 109, 146), 0.022266, 39.935053, 0.977734, 0.977734, 0.022100, 0.030277,
    ),
    "corner": (
        rectangle(0, 23, 0, 37), 0.022266, 39.935053, 0.977734, 0.977734, 0.010695, 0.014652,
    ),
    "ramp": (
        np.tile(np.linspace(0, 1, W), (H, 1)), 0.5, -1.200037, 0.5, 0.115734, 0.364960, 0.5,
    ),
    "blob": (blob(), 0.061355, 12.143919, 0.938645, 0.938640, 0.058783, 0.080533),
    "prior": (G, 0.729921, -0.873698, 0.270052, 0.079526, 0.554866, 0.760172),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_statistics_of_maps(name: str) -> None:
    map_, *expected = MAPS[name]
    found = (
        *(map_.mean(), excess_kurtosis(map_), map_.max() - map_.mean(), jump_score(map_)),
        *((map_ * G).mean(), affordance_score(map_, G)),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_kurtosis_of_a_mask_has_a_closed_form(p: float) -> None:
    map_ = rectangle(0, H - 1, 0, round(p * W) - 1)
    q = map_.mean() * (1 - map_.mean())
    assert excess_kurtosis(map_) == pytest.approx((1 - 6 * q) / q)


@pytest.mark.parametrize("constant", [0.0, 1 / 3, 0.7, 1.0])
def test_a_constant_map_is_no_trap(constant: float) -> None:
    map_, seen = np.full((H, W), constant), RunningStatistics()
    assert jump_score(map_) == pytest.approx(0, abs=1e-9)
    assert excess_kurtosis(map_) == 0
    assert affordance_score(map_, G) == pytest.approx(constant)
    assert not is_unusual(map_, seen)
    assert seen.count == 0, "it is left out of the statistics"
    assert regions(map_) == []


# -- whether -------------------------------------------------------------------------------------


def test_the_threshold_is_mean_plus_deviation_of_all_so_far() -> None:
    seen, thresholds, attempts = RunningStatistics(), [], []
    for number in (0.1, 0.2, 0.3, 0.4, 0.9):
        seen.add(number)
        thresholds.append(seen.threshold)
        attempts.append(number > seen.threshold + 1e-12)
    np.testing.assert_allclose(thresholds, [0.1, 0.2, 0.281650, 0.361803, 0.658568], atol=1e-6)
    assert attempts == [False, False, True, True, True]


def test_statistics_leave_out_what_is_no_number() -> None:
    seen = RunningStatistics()
    for number in (1.0, float("nan"), float("inf"), 3.0):
        seen.add(number)
    assert (seen.count, seen.mean, seen.std) == (2, 2, 1)


def test_the_first_map_is_never_unusual_and_a_clear_one_after_dull_ones_is() -> None:
    seen = RunningStatistics()
    assert not is_unusual(MAPS["centre"][0], seen)
    seen = RunningStatistics()
    assert [is_unusual(MAPS[name][0], seen) for name in ("ramp", "left half", "centre")] == [
        False, False, True,
    ]  # fmt: skip


def test_a_small_target_is_clear_and_fills_little() -> None:
    assert is_small_target(rectangle(10, 11, 15, 16, 20, 32))
    assert not is_small_target(0.2 * rectangle(10, 11, 15, 16, 20, 32)), "not clear"
    assert not is_small_target(rectangle(0, 19, 0, 3, 20, 32)), "not small"
    assert not is_small_target(np.zeros((20, 32)))


# -- where ---------------------------------------------------------------------------------------


def test_parts_are_numbered_through_corners_and_arms() -> None:
    rows = ["#.#..", "#.#.#", "###..", "...#.", "#...."]
    hot = np.array([[c == "#" for c in row] for row in rows])
    labels, count = components(hot)
    assert count == 3
    assert (labels > 0).tolist() == hot.tolist()
    assert labels[0, 0] == labels[0, 2] == labels[3, 3]
    assert len({labels[0, 0], labels[1, 4], labels[4, 0]}) == 3
    assert components(np.zeros((3, 3), bool))[1] == 0


def test_opening_keeps_what_the_rectangle_fits_into() -> None:
    big, small = rectangle(20, 40, 30, 60), rectangle(80, 88, 100, 140)
    np.testing.assert_array_equal(opening((big + small) > 0, 10, 16), big > 0)
    edge = rectangle(0, 4, 0, 100) > 0
    np.testing.assert_array_equal(opening(edge, 10, 16), edge, "what lies outside counts")


def test_regions_have_area_centroid_and_heat() -> None:
    map_ = rectangle(20, 40, 30, 60) + 0.9 * rectangle(100, 120, 200, 230)
    found = sorted(regions(map_), key=lambda region: region.heat)
    expected = [Region(651, 110.0, 215.0, 0.9), Region(651, 30.0, 45.0, 1.0)]
    np.testing.assert_allclose(found, expected)
    assert regions(rectangle(80, 84, 128, 131)) == [], "thin and far: opened away"
    assert len(regions(rectangle(80, 84, 128, 131), opened=False)) == 1


def test_central_is_an_ellipse() -> None:
    def at(y: float, x: float) -> bool:
        return is_central(Region(1, y, x, 1.0), G)

    assert at(79.5, 127.5)
    assert not at(0, 0)
    half = 128 * np.sqrt(0.6297)
    assert at(79.5, 127.5 + half - 2)
    assert not at(79.5, 127.5 + half + 2)


def test_the_window_has_the_regions_size_over_its_prior() -> None:
    map_ = MAPS["centre"][0]
    (region,) = regions(map_)
    window = zoom_window(map_, region, G)
    side = np.sqrt(region.area / (H * W) / G[80, 128])
    assert (window.height, window.width) == (int(side * H), int(side * W))
    assert window.crop(map_).sum() == pytest.approx(window.height * window.width, rel=0.15)
    wide = zoom_window(map_, region, G, margin=6, centered=True)
    assert (wide.height, wide.width) == (int(side * 6**0.5 * H), int(side * 6**0.5 * W))
    assert abs(wide.top + wide.height / 2 - 80) <= 1
    assert abs(wide.left + wide.width / 2 - 128) <= 1


def test_a_window_stays_inside_whatever_the_margin() -> None:
    map_ = rectangle(0, 23, 0, 37)
    (region,) = regions(map_)
    for margin in (1.0, 6.0, 1e9):
        for centered in (False, True):
            window = zoom_window(map_, region, G, margin=margin, centered=centered)
            assert window.crop(map_).shape == (window.height, window.width)
    assert window == Window(0, 0, H, W)


def test_zooming_to_everything_changes_nothing() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(float)
    np.testing.assert_allclose(resized(Window(0, 0, H, W).crop(picture), H, W), picture)


def test_resizing_is_bilinear_about_pixel_centres() -> None:
    torch = pytest.importorskip("torch")
    small = np.random.default_rng(0).random((13, 21, 3))
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(small).permute(2, 0, 1)[None], (40, 64), mode="bilinear"
    )[0].permute(1, 2, 0)
    np.testing.assert_allclose(resized(small, 40, 64), wanted.numpy(), atol=1e-12)


def test_coarse_maps_are_shares() -> None:
    map_ = rectangle(8, 15, 16, 19)
    assert coarse(map_).shape == (20, 32)
    assert coarse(map_)[1, 2] == 0.5
    assert coarse(map_).mean() == pytest.approx(map_.mean())


# -- what is paid --------------------------------------------------------------------------------


def test_a_new_best_is_paid_and_nothing_else() -> None:
    rules, jumps, scores = Rules(), RunningStatistics(), RunningStatistics()

    def paid(levels: list[float], gate: str = "gated") -> list[float]:
        episode = EpisodeViews(Rules(gate=gate), has_zoom=False)
        maps = [np.full((H, W), level) for level in levels]
        return [episode.look(m, None, 0.0, jumps, scores).intrinsic for m in maps]

    assert rules.gate == "gated"
    assert paid([0.1, 0.2, 0.3]) == pytest.approx([0.001, 0.002, 0.003])
    assert paid([0.3, 0.2, 0.1, 0.3, 0.31]) == pytest.approx([0.003, 0, 0, 0, 0.0031])
    assert paid([0.3, 0.2, 0.4], "ungated") == pytest.approx([0.003, 0.002, 0.004])
    assert paid([0.3, 0.2, 0.4], "delta") == pytest.approx([0.003, -0.001, 0.002])
    assert intrinsic_reward(0.2, 0.2) == 0


# -- pairs ---------------------------------------------------------------------------------------


def test_pairs_close_by_a_higher_score_or_by_age() -> None:
    pairs = PendingPairs(max_age=5)
    pairs.add(0.004, 0)
    pairs.add(0.009, 1)
    assert pairs.close(0.003, 1) == []
    assert pairs.close(0.004, 2) == [], "strictly higher"
    assert pairs.close(0.0041, 3) == [Closed(0, 3, True)]
    assert pairs.close(0.008, 4) == []
    assert pairs.close(0.001, 6) == [Closed(1, 5, False)]
    assert len(pairs) == 0


def test_a_steps_own_pair_is_not_closed_by_it() -> None:
    pairs = PendingPairs(max_age=5)
    pairs.add(0.1, 3)
    assert pairs.close(0.2, 3) == []
    assert pairs.close(0.2, 4) == [Closed(3, 1, True)]


def test_what_a_jump_earned_is_an_average() -> None:
    average = average_reward([0.01, 0.005, 1.0], 0.997)
    assert average == pytest.approx(0.3373423484, abs=1e-9)
    assert interval_sum(4, 0.997) == pytest.approx(2.991009)
    assert average * interval_sum(4, 0.997) == pytest.approx(1.008994, abs=1e-6)
    assert average_reward([], 0.997) == 0


@pytest.mark.parametrize(
    ("interval", "expected"),
    [(1, 0), (2, 1), (3, 1.997), (4, 2.991009), (5, 3.982035973), (10, 8.892752608),
     (1000, 316.762593506), (1001, 316.812305726)],
)  # fmt: skip
def test_discount_sums(interval: int, expected: float) -> None:
    assert interval_sum(interval, 0.997) == pytest.approx(expected, abs=1e-8)


def test_an_episode_closes_a_jump_with_what_came_between() -> None:
    """A far target, nothing for two steps, then the target as near as the zoomed view had it."""
    frame = np.zeros((H, W, 3), np.uint8)
    far, none, near = rectangle(72, 87, 120, 135), np.zeros((H, W)), rectangle(20, 139, 60, 200)
    episode, jumps, scores = EpisodeViews(Rules()), RunningStatistics(), RunningStatistics()
    first = episode.look(far, frame, 0.0, jumps, scores)
    assert first.zoomed is not None
    assert first.jump
    assert first.zoomed.score > 3 * first.score
    assert first.zoomed.image(64).shape == (64, 64, 3)
    assert first.zoomed.small_map(64).shape == (64, 64, 1)
    assert first.zoomed_intrinsic == pytest.approx(0.01 * first.zoomed.score)
    assert [episode.look(none, frame, r, jumps, scores).closed for r in (1.0, 0.5)] == [[], []]
    (late,) = episode.look(near, frame, 7.0, jumps, scores).closed
    assert (late.interval, late.is_reached) == (3, True)
    assert late.accumulated == pytest.approx((1 + 0.997 * 0.5) / 1.997), "not the last step's"


@pytest.mark.parametrize(("rule", "jumps_still"), [("absolute", True), ("released", False)])
def test_a_policy_that_often_arrives_goes_on_jumping_by_the_absolute_rule(
    rule: str, jumps_still: bool
) -> None:
    """All scores deviate more with each arrival, and a zoomed view's cannot follow."""
    rules, scores = Rules(jump_rule=rule), RunningStatistics()
    # P_jump is unusual where most maps are flat, so that the released rule looks at all
    jumps = RunningStatistics(count=1000.0)
    for arrived in range(1000):
        scores.add(0.7 * (arrived % 2))
    frame, far = np.zeros((H, W, 3), np.uint8), rectangle(72, 87, 120, 135)
    seen = EpisodeViews(rules).look(far, frame, 0.0, jumps, scores)
    assert attempt(far, rules, jumps) is not None, "looked for"
    assert (seen.zoomed is not None) is jumps_still


def test_a_zoomed_view_has_to_score_higher_by_the_gain() -> None:
    frame, far = np.zeros((H, W, 3), np.uint8), rectangle(72, 87, 120, 135)

    def look(gain: float) -> Seen:
        jumps, scores = RunningStatistics(), RunningStatistics()
        return EpisodeViews(Rules(jump_gain=gain)).look(far, frame, 0.0, jumps, scores)

    seen = look(0.0)
    assert seen.zoomed is not None
    gained = seen.zoomed.score - seen.score
    assert gained > Rules().jump_gain
    assert look(gained - 1e-6).zoomed is not None
    assert look(gained + 1e-6).zoomed is None


def test_nothing_is_opened_at_an_episodes_end() -> None:
    frame, far = np.zeros((H, W, 3), np.uint8), rectangle(72, 87, 120, 135)
    episode, jumps, scores = EpisodeViews(Rules()), RunningStatistics(), RunningStatistics()
    assert episode.look(far, frame, 0.0, jumps, scores, is_last=True).zoomed is not None
    assert len(episode.pending) == 0


def test_the_released_rule_never_jumps_on_clean_masks_that_are_mostly_seen() -> None:
    """P_jump of a mask is nearly 1 - p: always high where the goal shows, so never unusual."""
    jumps = RunningStatistics()
    maps = [rectangle(60, 60 + k % 30, 100, 130 + k % 7) for k in range(100)]
    tried = [attempt(m, Rules(jump_rule="released", zoom_margin=1), jumps) for m in maps]
    absolute = [attempt(m, Rules(), RunningStatistics()) for m in maps]
    share = [sum(a is not None for a in found) for found in (tried, absolute)]
    assert share[0] < 25 < share[1]


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "error", "match"),
    [
        (np.full((H, W), np.nan), NotFiniteError, "the affordance map holds NaN or infinity"),
        (np.full((H, W), 1.5), ObservationError, "reaches from 1.5 to 1.5, expected numbers in"),
        (np.full((H, W), -0.1), ObservationError, "divide a map of bytes by 255"),
        (
            np.zeros((64, 64)),
            ObservationError,
            re.escape("has shape (64, 64), expected (160, 256)"),
        ),
        (np.zeros((H, W, 3)), ObservationError, re.escape("has shape (160, 256, 3)")),
    ],
)
def test_a_map_that_is_none_is_refused(array: np.ndarray, error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        check_map(array, (H, W))


def test_a_map_is_read_with_and_without_a_channel() -> None:
    assert check_map(np.ones((H, W, 1), np.uint8), (H, W)).shape == (H, W)
    assert check_map(np.zeros((H, W), np.float32), (H, W)).dtype == np.float64


def test_zooming_needs_a_frame_of_the_maps_size() -> None:
    with pytest.raises(ConfigError, match='a side observation "frame", and the environment gives'):
        require_frame(None, np.zeros((H, W)))
    with pytest.raises(ConfigError, match="the side observation frame is 160 x 256, the map that"):
        require_frame(np.zeros((H, W, 3), np.uint8), np.zeros((64, 64)))
