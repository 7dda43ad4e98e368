"""Maps by sliding zoom, and the seams to sources and scorers."""

from collections.abc import Sequence

import numpy as np
import pytest

from agentzoo.affordance.sliding import (
    SlidingZoom,
    blurred,
    coverage,
    map_of_logits,
    merged,
    odd,
    windows,
    zoom_crops,
)
from agentzoo.affordance.source import MapSource, Oracle, Scorer, ScorerError, affordance
from agentzoo.affordance.video_reward import VideoReward, direct_reward, squashed
from agentzoo.runtime.errors import ConfigError, NotFiniteError, ObservationError

H, W = 160, 256


class Brightness:
    """A scorer that likes light: a logit of 20 for black and 24 for white, by the last frame."""

    frames, slope, centre = 16, 1.2, 21.8

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, images: np.ndarray) -> np.ndarray:
        self.encoded += len(images)
        return images.reshape(len(images), -1).mean(1, keepdims=True)

    def logits(self, videos: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        return np.repeat(20 + 4 * videos[:, -1] / 255, len(texts), 1)


# -- windows -------------------------------------------------------------------------------------


def test_windows_and_crops_are_the_released_ones() -> None:
    assert windows(H, W).shape == (81, 4)
    crops = zoom_crops(H, W)
    assert crops.shape == (81, 16, 4)
    assert crops.reshape(-1, 4).shape[0] == 1_296
    assert (crops[:, 0] == [0, 0, 256, 160]).all(), "a video begins with the whole image"
    assert (crops[:, 15] == windows(H, W)).all()
    assert crops[0, 13:].tolist() == [[0, 0, 67, 42], [0, 0, 52, 33], [0, 0, 38, 24]]
    assert crops[40, 13:].tolist() == [[93, 58, 160, 101], [100, 63, 153, 96], [108, 68, 146, 92]]
    assert crops[80, 13:].tolist() == [
        [187, 117, 256, 160], [201, 126, 256, 160], [216, 136, 256, 160],
    ]  # fmt: skip


def test_every_pixel_is_painted_over() -> None:
    count = coverage(H, W)
    assert (count.min(), count.max()) == (3, 19)
    assert count.mean() == pytest.approx(10.868, abs=1e-3)


def test_equal_logits_give_the_released_numbers() -> None:
    painted = merged(np.full(81, 24.0), H, W)
    assert painted.max() == pytest.approx(23.8743, abs=1e-4)
    smooth = blurred(painted, odd(24), odd(38))
    assert (odd(24), odd(38)) == (23, 37)
    assert smooth.min() == pytest.approx(23.2258, abs=2e-3)
    assert smooth.max() == pytest.approx(23.8455, abs=2e-3)
    assert smooth.mean() == pytest.approx(23.7341, abs=2e-3)
    map_ = map_of_logits(np.full(81, 24.0), H, W, slope=1.2, centre=21.8)
    assert (map_.min(), map_.max()) == pytest.approx((0.8470, 0.9209), abs=1e-3)


def test_a_blur_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    picture = np.random.default_rng(0).random((H, W))
    expected = cv2.GaussianBlur(picture, (37, 23), 0)
    np.testing.assert_allclose(blurred(picture, 23, 37), expected, atol=1e-6)


# -- maps ----------------------------------------------------------------------------------------


def test_a_map_is_hot_where_the_zoom_scores_and_nothing_is_encoded_twice() -> None:
    image = np.zeros((40, 64, 3), np.uint8)
    image[:, 50:] = 255
    scorer = Brightness()
    map_ = affordance(image, "A light", SlidingZoom(scorer))
    assert map_[:, 56:].mean() > 0.8
    assert map_[:, :32].mean() < 0.15
    crops = zoom_crops(40, 64).reshape(-1, 4)
    assert scorer.encoded == len({tuple(crop) for crop in crops.tolist()}) <= 1_296 - 80


def test_the_oracle_is_the_environments_mask() -> None:
    mask = np.zeros((H, W, 1), np.uint8)
    mask[3, 4] = 255
    source = Oracle(mask)
    map_ = affordance(np.zeros((H, W, 3), np.uint8), "Cut a tree", source)
    assert map_.sum() == map_[3, 4] == 1
    assert isinstance(source, MapSource)
    assert isinstance(Brightness(), Scorer)


@pytest.mark.parametrize("goal", ["", "  "])
def test_no_map_without_a_goal(goal: str) -> None:
    with pytest.raises(ConfigError, match="expected what is to be reached as a sentence"):
        affordance(np.zeros((H, W, 3), np.uint8), goal, Oracle(np.zeros((H, W))))


def test_an_image_that_is_none_is_refused() -> None:
    with pytest.raises(ObservationError, match=r"the image has shape \(160, 256, 3\) and type fl"):
        affordance(np.zeros((H, W, 3)), "Cut a tree", Oracle(np.zeros((H, W))))


@pytest.mark.parametrize(
    ("made", "error", "match"),
    [
        (np.full((H, W), np.nan), NotFiniteError, "the affordance map holds NaN"),
        (np.full((H, W), 1.2), ObservationError, "expected numbers in"),
        (np.zeros((8, 8)), ObservationError, r"has shape \(8, 8\), expected \(160, 256\)"),
    ],
    ids=["nan", "outside", "shape"],
)
def test_a_sources_map_is_checked(made: np.ndarray, error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        affordance(np.zeros((H, W, 3), np.uint8), "Cut a tree", lambda image, goal: made)


class Failing(Brightness):
    def __init__(self, found: object) -> None:
        super().__init__()
        self.found = found

    def logits(self, videos: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found(len(videos), len(texts))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("found", "error", "match"),
    [
        (RuntimeError("out of memory"), ScorerError, "Failing failed: RuntimeError: out of mem"),
        (lambda n, p: np.full((n, p), np.nan), NotFiniteError, "Failing gave NaN or infinity"),
        (lambda n, p: np.zeros((n, 7)), ScorerError, r"shape \(81, 7\) for 81 videos and 1 sent"),
    ],
    ids=["raises", "nan", "shape"],
)
def test_a_scorer_that_fails_says_so(found: object, error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        SlidingZoom(Failing(found))(np.zeros((20, 32, 3), np.uint8), "Cut a tree")


def test_a_scorer_has_a_feature_for_every_image() -> None:
    class Short(Brightness):
        def encode(self, images: np.ndarray) -> np.ndarray:
            return super().encode(images)[1:]

    with pytest.raises(ScorerError, match="Short gave features of shape"):
        SlidingZoom(Short())(np.zeros((20, 32, 3), np.uint8), "Cut a tree")


# -- rewards of videos ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logit", "score"),
    [(15, 0.000286), (20, 0.103400), (21.8, 0.5), (23, 0.808455), (25, 0.978959), (30, 0.999947)],
)
def test_a_logit_is_squashed(logit: float, score: float) -> None:
    assert squashed(logit) == pytest.approx(score, abs=1e-6)


def test_the_direct_reward_is_what_the_goal_has_beyond_chance() -> None:
    assert direct_reward(np.array([25.0, 22, 22, 20])) == pytest.approx(0.653904, abs=1e-6)
    assert direct_reward(np.array([20.0, 25])) == 0


class Told(Brightness):
    """Logits of the first sentence as they were told; others are 20."""

    def __init__(self, told: list[float]) -> None:
        super().__init__()
        self.told, self.videos = list(told), []

    def logits(self, videos: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        self.videos.append(videos[0, :, 0])
        return np.array([[self.told.pop(0), *[20.0] * (len(texts) - 1)]])


def paid(told: list[float], form: str, negatives: Sequence[str] = ()) -> list[float]:
    reward = VideoReward(Told(told), "Cut a tree", form, negatives)
    return [reward.look(np.zeros((4, 4, 3), np.uint8)) for _ in range(len(told))]


def test_the_three_forms_of_the_reward() -> None:
    assert paid([23, 21.8, 25], "released") == pytest.approx([0.00808455, 0, 0.00978959], abs=1e-8)
    assert paid([20, 40, 0], "direct", ["Explore"]) == pytest.approx([0, 0.5, 0], abs=1e-6)
    assert paid([20, 40, 0], "delta", ["Explore"]) == pytest.approx([0, 0.5, -1], abs=1e-6)


def test_a_video_is_the_newest_frames_with_nothing_before_the_first() -> None:
    scorer = Told([20.0] * 18)
    reward = VideoReward(scorer, "Cut a tree")
    for k in range(18):
        reward.look(np.full((4, 4, 3), k + 1, np.uint8))
    assert scorer.encoded == 18, "each frame once"
    assert scorer.videos[1].tolist() == [0] * 14 + [1, 2]
    assert scorer.videos[17].tolist() == list(range(3, 19))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"form": "best"}, "form='best' is not known"),
        ({"form": "direct"}, "negatives is empty; give some"),
        ({"goal": " "}, "expected what is to be reached"),
    ],
    ids=["form", "negatives", "goal"],
)
def test_a_reward_needs_a_goal_and_something_to_compare(fields: dict[str, str], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        VideoReward(**({"scorer": Brightness(), "goal": "Cut a tree"} | fields))  # type: ignore[arg-type]
