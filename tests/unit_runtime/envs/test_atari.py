"""Atari games: strings, protocols, and the same pictures that other hands make of the same game."""

import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentzoo.runtime.envs import (
    Adapter,
    for_evaluation,
    make_env,
    merge,
    protocol_of,
    resolve,
    settings_of,
)
from agentzoo.runtime.envs.atari import GAMES, PROTOCOLS, Atari
from agentzoo.runtime.errors import (
    ConfigError,
    EnvironmentStringError,
    EpisodeError,
    MissingExtraError,
)
from agentzoo.runtime.evaluation.reproduce import reproduce
from agentzoo.runtime.evaluation.rollout import evaluate, evaluate_random, random_policy

pytest.importorskip("ale_py")
V2 = (
    "atari:pong?actions=minimal&color=gray&life_loss=ignore&max_episode_steps=108000&max_noops=30"
    "&min_noops=1&repeat=4&resize=area&size=64&sticky=0.25"
)
V3 = (
    "atari:pong?actions=full&color=gray&life_loss=ignore&max_episode_steps=108000&max_noops=30"
    "&min_noops=0&repeat=4&resize=bilinear&size=96&sticky=0.25"
)


def play(env: gym.Env, seed: int, steps: int) -> tuple[np.ndarray, list[float]]:
    """Pictures and rewards under fixed actions, up to an episode's end."""
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=seed)
    pictures, rewards = [observation["image"]], []
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(rng.integers(env.action_space.n))
        pictures.append(observation["image"])
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.stack(pictures), rewards


# -- strings -------------------------------------------------------------------------------------


def test_the_games_are_ales_for_one_player() -> None:
    from ale_py import roms

    shared = {"combat", "joust", "maze_craze", "warlords"}  # for two players only
    assert set(roms.get_all_rom_ids()) - shared == GAMES


@pytest.mark.parametrize(
    ("name", "defaults", "expected"),
    [
        ("atari:pong", {}, V2),
        ("atari:pong?protocol=dreamerv2", {"protocol": "dreamerv3"}, V2),
        ("atari:pong", {"protocol": "dreamerv3", "render": "fast"}, V3),
        ("atari:pong", {"protocol": None}, V2),
        ("atari:pong?size=64", {"protocol": "dreamerv3"}, V3.replace("96", "64")),
        ("atari:pong?protocol=dreamerv3&size=64", {"size": 48}, V3.replace("96", "64")),
        ("atari:pong", {"protocol": "dreamerv3", "repeat": 2}, V3.replace("eat=4", "eat=2")),
        ("atari:james_bond", {}, V2.replace("pong", "jamesbond")),
    ],
)
def test_single_keys_win_over_protocols_and_strings_over_defaults(
    name: str, defaults: dict, expected: str
) -> None:
    assert resolve(name, defaults) == expected
    assert resolve(expected, {"protocol": "atari100k"}) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_are_known_by_their_settings(protocol: str) -> None:
    name = resolve(f"atari:pong?protocol={protocol}")
    assert settings_of(name) == dict(PROTOCOLS[protocol])
    assert protocol_of(name) == protocol
    assert protocol_of(f"{name}".replace("repeat=4", "repeat=5")) == ""


def test_a_keyword_is_the_key_of_the_string() -> None:
    with make_env("atari:pong", protocol="dreamerv3", size=48) as env:
        assert env.observation_space["image"].shape == (48, 48, 1)
    with pytest.raises(EnvironmentStringError, match="was given size=32 as well; say it once"):
        make_env("atari:pong?size=64", size=32)


def test_another_protocol_contradicts_the_policys() -> None:
    with pytest.raises(
        EnvironmentStringError, match=r"actions=minimal and actions=full; .*size=64"
    ):
        merge(V2, "atari:pong?protocol=dreamerv3")
    assert merge(V2, "atari:pong?protocol=dreamerv3", override=True) == V3


def test_whole_games_are_evaluated_whatever_learning_ends_with() -> None:
    learned = resolve("atari:breakout?protocol=dreamer")
    assert settings_of(learned)["life_loss"] == "end"
    assert settings_of(for_evaluation(learned)) == settings_of(learned) | {"life_loss": "ignore"}
    assert for_evaluation("dmc:walker-walk") == resolve("dmc:walker-walk")


@pytest.mark.parametrize(
    "task",
    ["ALE/Pong-v5", "PongNoFrameskip-v4", "PongDeterministic-v0", "Pong-ram-v4", "Pong", "PONG"],
)
def test_an_id_is_answered_with_the_short_name(task: str) -> None:
    with pytest.raises(
        EnvironmentStringError, match=r'names a game by an id, expected its .*"atari:pong"'
    ):
        resolve(f"atari:{task}")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("atari:ALE/MsPacman-v5", 'write "atari:ms_pacman"'),
        ("atari:ms-pacman", 'write "atari:ms_pacman"'),
        ("atari:UpNDownNoFrameskip-v0", 'write "atari:up_n_down"'),
        ("atari:pongg", 'not a game of the Arcade .* did you mean "pong"'),
        ("atari:MontezumaRevnge-v4", 'did you mean "montezuma_revenge"'),
        ("atari:qqqq", "games: adventure, air_raid"),
        ("atari:pong?sticky=1.5", "sticky=1.5, expected a number of at least 0 and at most 1"),
        ("atari:pong?sticky=nan", "expected a number of at least 0 and at most 1"),
        ("atari:pong?actions=all", "expected one of full, minimal"),
        ("atari:pong?frame_skip=4", 'sets "frame_skip", which the suite atari does not know'),
        ("atari:pong?protocol=dreamerv4", 'expected one of dreamer, .*did you mean "dreamerv3"'),
        ("dmc:walker-walk?protocol=dreamerv3", 'sets "protocol", which the suite dmc does not'),
    ],
)
def test_bad_strings(name: str, match: str) -> None:
    with pytest.raises(EnvironmentStringError, match=match):
        resolve(name)


def test_a_default_that_is_no_protocol_is_refused() -> None:
    with pytest.raises(EnvironmentStringError, match=r'protocol=dreamerv4, .*"dreamerv3"'):
        resolve("atari:pong", {"protocol": "dreamerv4"})


@pytest.mark.parametrize("package", ["ale_py", "cv2"])
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert resolve("atari:pong") == V2
    with pytest.raises(MissingExtraError, match=rf'"{package}".*agentzoo-rl\[atari\]'):
        make_env("atari:pong")


def test_no_ops_have_an_order() -> None:
    with pytest.raises(ConfigError, match="min_noops=31 is above max_noops=30"):
        make_env("atari:pong?min_noops=31")


# -- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_resize_area_is_gymnasiums_own_preprocessing(color: str) -> None:
    from ale_py.env import AtariEnv
    from gymnasium.wrappers import AtariPreprocessing

    theirs = AtariPreprocessing(
        AtariEnv("ms_pacman", frameskip=1, repeat_action_probability=0.25),
        noop_max=30,
        screen_size=64,
        grayscale_obs=color == "gray",
        grayscale_newaxis=True,
    )
    ours = make_env(f"atari:ms_pacman?protocol=dreamerv2&color={color}")
    assert ours.action_space == theirs.action_space
    assert ours.observation_space["image"] == theirs.observation_space
    wrapped = gym.wrappers.TransformObservation(theirs, lambda image: {"image": image}, None)
    pictures, rewards = play(ours, 7, 100)
    their_pictures, their_rewards = play(wrapped, 7, 100)
    np.testing.assert_array_equal(pictures, their_pictures)
    assert rewards == their_rewards
    assert sum(rewards) > 0


def test_resize_area_is_ales_own_preprocessing() -> None:
    from ale_py.vector_env import AtariVectorEnv

    theirs = AtariVectorEnv(
        "breakout", 1, img_height=64, img_width=64, stack_num=1, noop_max=0,
        reward_clipping=False, use_fire_reset=False,
    )  # fmt: skip
    ours = make_env("atari:breakout?sticky=0&min_noops=0&max_noops=0")
    pictures, rewards = play(ours, 0, 100)
    frames, _ = theirs.reset()
    seen, gained, rng = [frames], [], np.random.default_rng(0)
    for _ in rewards:
        frames, reward, *_ = theirs.step(rng.integers(4, size=1))
        seen.append(frames)
        gained.append(float(reward[0]))
    np.testing.assert_array_equal(pictures, np.concatenate(seen).reshape(pictures.shape))
    assert rewards == gained
    theirs.close()


def emulated(game: str, seed: int, noops: int, decisions: int) -> list[np.ndarray]:
    """The larger of a decision's last two screens, (h, w, 3), from the emulator by itself."""
    import ale_py

    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", np.int32(seed))
    ale.setFloat("repeat_action_probability", 0.25)
    ale.loadROM(ale_py.roms.get_rom_path(game))
    ale.reset_game()
    for _ in range(noops):
        ale.act(ale_py.Action.NOOP)
    screens, rng, actions = [ale.getScreenRGB()], np.random.default_rng(0), ale.getLegalActionSet()
    for _ in range(decisions):
        action, last = actions[rng.integers(18)], []
        for _ in range(4):
            ale.act(action)
            last.append(ale.getScreenRGB())
        screens.append(np.maximum(*last[-2:]))
    return screens


@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_resize_bilinear_is_dreamerv3s(color: str) -> None:
    from PIL import Image

    env = make_env(f"atari:ms_pacman?protocol=dreamerv3&min_noops=9&max_noops=9&color={color}")
    _, info = env.reset(seed=3)
    pictures, _ = play(env, 3, 40)
    for picture, screen in zip(
        pictures, emulated("ms_pacman", info["seeds"][1], 9, 40), strict=True
    ):
        small = np.array(Image.fromarray(screen).resize((96, 96), Image.Resampling.BILINEAR))
        red, green, blue = np.moveaxis(small.astype(float), -1, 0)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        if color == "gray":
            assert picture.shape == (96, 96, 1)
            # rounded down, and not otherwise where the sum is a whole number but for its last bit
            assert np.abs(picture[..., 0] - (luma - 0.5)).max() <= 0.5 + 1e-9
        else:
            np.testing.assert_array_equal(picture, small)


def test_resize_area84_takes_the_papers_detour() -> None:
    import cv2

    whole = play(make_env("atari:pong?protocol=dreamerv2&size=84"), 5, 30)[0]
    detour = play(make_env("atari:pong?resize=area84"), 5, 30)[0]
    expected = [cv2.resize(p, (64, 64), interpolation=cv2.INTER_AREA)[..., None] for p in whole]
    np.testing.assert_array_equal(detour, expected)
    assert (detour != play(make_env("atari:pong"), 5, 30)[0]).any()


@pytest.mark.parametrize(
    ("protocol", "shape", "actions"),
    [
        ("dreamer", (64, 64, 3), 4),
        ("dreamerv2", (64, 64, 1), 4),
        ("dreamerv2-paper", (64, 64, 1), 18),
        ("dreamerv3", (96, 96, 1), 18),
        ("atari100k", (64, 64, 3), 4),
    ],
)
def test_a_protocol_decides_on_pictures_and_actions(
    protocol: str, shape: tuple[int, ...], actions: int
) -> None:
    with make_env("atari:breakout", protocol=protocol) as env:
        observation, _ = env.reset(seed=0)
        assert env.action_space.n == actions
        assert observation["image"].shape == shape
        assert env.observation_space.contains(observation)
        frame = env.render()
        assert (frame.shape, frame.dtype) == ((210, 160, 3), np.uint8)
        assert env.metadata["render_fps"] == 15


def test_gymnasium_finds_nothing_wrong() -> None:
    check_env(make_env("atari:pong?protocol=dreamerv3"), skip_render_check=True)
    with make_env("atari:pong") as env:
        first, _ = env.reset(seed=0)
        kept = first["image"].copy()
        env.step(0)
        np.testing.assert_array_equal(first["image"], kept)


# -- games ---------------------------------------------------------------------------------------


def test_a_seed_is_one_game_whatever_came_before() -> None:
    # a plain reset of ALE leaves traces of the game before in this one
    one, other = make_env("atari:berzerk"), make_env("atari:berzerk")
    first, rewards = play(one, 1, 60)
    assert (play(one, 2, 60)[0] != first).any()
    for env in (one, other):
        again, same = play(env, 1, 60)
        np.testing.assert_array_equal(again, first)
        assert same == rewards


@pytest.mark.parametrize(("sticky", "is_same"), [(0, True), (0.25, False)])
def test_sticky_actions_are_the_seeds(sticky: float, is_same: bool) -> None:
    env = make_env(f"atari:breakout?sticky={sticky}&max_noops=0&min_noops=0")
    assert np.array_equal(play(env, 1, 40)[0], play(env, 2, 40)[0]) == is_same


def test_no_ops_are_drawn_from_their_least_to_their_most() -> None:
    env = make_env("atari:pong?min_noops=2&max_noops=4")
    frames = {env.reset(seed=seed)[1]["episode_frame_number"] for seed in range(12)}
    assert frames == {2, 3, 4}


def test_a_time_limit_is_a_truncation() -> None:
    adapter = Adapter.open("atari:pong?max_episode_steps=100&max_noops=10&repeat=6")
    adapter.reset([0], [0])
    ends = []
    while not (ends and ends[-1][0]):
        found = adapter.step([0], [0])
        ends.append((found["is_last"][0], found["is_terminal"][0]))
    assert ends == [(False, False)] * (len(ends) - 1) + [(True, False)]
    assert 15 <= len(ends) <= 17  # 100 frames, up to 10 of them without an action


@pytest.mark.parametrize(("life_loss", "lives"), [("ignore", 0), ("end", 4)])
def test_games_end_with_the_last_life_or_the_first(life_loss: str, lives: int) -> None:
    env = make_env(f"atari:breakout?life_loss={life_loss}")
    env.reset(seed=0)
    is_over, rng = False, np.random.default_rng(0)
    while not is_over:
        _, _, is_over, truncated, info = env.step(rng.integers(4))
        assert not truncated
    assert info["lives"] == lives
    with pytest.raises(EpisodeError, match="outside an episode; call reset first"):
        env.step(0)
    assert env.reset(seed=0)[1]["lives"] == 5


def test_rewards_of_a_decision_are_added_up_unclipped() -> None:
    _, rewards = play(make_env("atari:ms_pacman?protocol=dreamerv2"), 7, 100)
    assert max(rewards) >= 10
    fine, _ = play(make_env("atari:pong?repeat=1"), 0, 30)
    assert len(fine) == 31


# -- evaluation ----------------------------------------------------------------------------------


def test_a_result_names_its_protocol_and_scores() -> None:
    result = evaluate_random("atari:pong?protocol=dreamer&max_episode_steps=400", episodes=2)
    assert result.protocol == {
        **PROTOCOLS["dreamer"],
        "life_loss": "ignore",
        "max_episode_steps": 400,
        "deterministic": False,
    }
    assert result.scores == {
        "human_normalized": pytest.approx((result.mean + 20.7) / 35.3),
        "record_normalized": pytest.approx((result.mean + 20.7) / 41.7),
    }
    written = result.to_json()
    assert written["scores"] == result.scores
    assert written["protocol"] == result.protocol


def test_a_named_protocol_keeps_its_name_in_evaluation() -> None:
    learned = make_env("atari:breakout?protocol=dreamer")
    policy = random_policy(learned, resolve("atari:breakout?protocol=dreamer"))
    first_life = evaluate(policy, learned, episodes=1)
    result = evaluate(policy, "atari:breakout", episodes=1)
    assert result.protocol["name"] == "dreamer"
    assert result.protocol["life_loss"] == "ignore"
    assert result.lengths[0] > 2 * first_life.lengths[0]
    assert (first_life.env, first_life.scores) == ("", {})
    assert first_life.protocol == {"deterministic": False}


def test_a_score_is_played_again_where_learning_ended_games_with_a_life() -> None:
    name = resolve("atari:pong?life_loss=end&max_episode_steps=40&size=64")
    policy = random_policy(make_env(name), name)
    published = evaluate(policy, episodes=1)
    assert settings_of(published.env)["life_loss"] == "ignore"
    assert reproduce(policy, published).is_equal


def test_a_game_without_reference_has_no_scores() -> None:
    result = evaluate_random("atari:tetris?max_episode_steps=200", episodes=1)
    assert (result.scores, result.protocol["sticky"]) == ({}, 0.25)


@pytest.mark.slow
@pytest.mark.parametrize("game", sorted(GAMES))
def test_every_game_loads_plays_and_reseeds(game: str) -> None:
    env = Atari(game, actions="full", size=96, resize="bilinear")
    first, rewards = play(env, 1, 15)
    assert first.shape[1:] == (96, 96, 1)
    play(env, 2, 15)
    again, same = play(env, 1, 15)
    np.testing.assert_array_equal(again, first)
    assert same == rewards
    env.close()
