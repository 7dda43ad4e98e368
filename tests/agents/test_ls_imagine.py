"""LS-Imagine's recipe: equal to DreamerV3 without jumps, the released numbers with them."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from agentzoo import DreamerV3, LSImagine
from agentzoo.affordance.video_reward import squashed
from agentzoo.agents.dreamer_v3 import DreamerV3Algorithm, DreamerV3Config
from agentzoo.agents.ls_imagine import (
    JumpCore,
    LSImagineAlgorithm,
    LSImagineConfig,
    joint_mean,
    long_losses,
    spanned,
)
from agentzoo.algorithm import Batch, NoiseSource
from agentzoo.blocks.cores import BlockGRUCore
from agentzoo.blocks.heads import TwoHotPrediction
from agentzoo.blocks.returns import lambda_return
from agentzoo.blocks.rssm import State
from agentzoo.blocks.seeded_init import SeededInit
from agentzoo.blocks.twohot import symexp_bins
from agentzoo.config import configure
from agentzoo.runtime.errors import BundleError, ConfigError, RunError
from agentzoo.runtime.spec import ActionSpec, ObsSpec

SIDE = 48
DEBUG = LSImagine.presets["debug"]
OURS = {"long_cap", "max_interval"}  # settings that DreamerV3 lacks


def picture(channels: int) -> ObsSpec:
    shape = (SIDE, SIDE, channels)
    return ObsSpec(kind="image", shape=shape, source=shape)


OBS = {"image": picture(3), "map": picture(1)}
ACTION = ActionSpec(kind="discrete", size=5, shape=(), dtype="int64", nvec=(5,), start=(0,))


def build(**fields: object) -> LSImagineAlgorithm:
    with SeededInit(0):
        return LSImagineAlgorithm(OBS, ACTION, configure(LSImagineConfig, DEBUG, fields))


def random_batch(algorithm: LSImagineAlgorithm | DreamerV3Algorithm, seed: int = 1) -> Batch:
    """Windows of random transitions with an episode's end inside, half of them zoomed."""
    generator = torch.Generator().manual_seed(seed)
    c, sizes = algorithm.config, algorithm.config.sizes
    lead = c.batch_size, c.batch_length

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*lead, *shape, generator=generator)

    def pixels(channels: int) -> Tensor:
        return (256 * uniform(SIDE, SIDE, channels)).to(torch.uint8)

    flags = {k: torch.zeros(lead, dtype=torch.bool) for k in ("is_first", "is_last", "is_terminal")}
    flags["is_last"][0, 4] = flags["is_terminal"][0, 4] = flags["is_first"][0, 5] = True
    action = torch.nn.functional.one_hot((5 * uniform()).long(), 5).float()
    base = flags | {
        "image": pixels(3),
        "map": pixels(1),
        "prev_action": action,
        "reward": 2 * uniform() - 1,
        "deter": (2 * uniform(sizes.deter) - 1).half(),
        "stoch": (sizes.classes * uniform(c.stoch)).to(torch.uint8),
    }
    zoomed = uniform() < 0.5
    return base | {
        "intrinsic": 0.01 * uniform(),
        "zoomed_intrinsic": 0.01 * uniform(),
        "zoomed": zoomed,
        "jump": zoomed & (uniform() < 0.8),
        "zoomed_image": pixels(3),
        "zoomed_map": pixels(1),
        "known": zoomed & (uniform() < 0.5),
        "interval": (1 + 20 * uniform()).floor(),
        "accumulated": uniform(),
    }


def updated(algorithm: LSImagineAlgorithm, batch: Batch) -> Mapping[str, Tensor]:
    return algorithm.update(batch, NoiseSource(7))[0]


# -- without jumps -------------------------------------------------------------------------------


def test_without_jumps_and_reward_of_the_map_it_is_dreamer_v3() -> None:
    """Parameter by parameter, after 30 updates."""
    ours = build(long_branch=False, alpha=0.0)
    shared = {name: value for name, value in DEBUG.items() if name not in OURS}
    with SeededInit(0):
        theirs = DreamerV3Algorithm(OBS, ACTION, configure(DreamerV3Config, shared))
    before = {name: p.detach().clone() for name, p in ours.named_parameters()}
    for k in range(30):
        for algorithm in (ours, theirs):
            algorithm.update(random_batch(algorithm, k), NoiseSource(k))
    mine, yours = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert mine.keys() == yours.keys()
    assert all(torch.equal(mine[name], yours[name]) for name in mine)
    assert sum(not torch.equal(mine[name], before[name]) for name in mine) > 0.9 * len(mine)
    assert ours.columns == theirs.columns


def test_what_is_added_leaves_the_bases_first_weights_alone() -> None:
    with SeededInit(0):
        shared = {name: value for name, value in DEBUG.items() if name not in OURS}
        theirs = DreamerV3Algorithm(OBS, ACTION, configure(DreamerV3Config, shared))
    ours = dict(build().named_parameters())
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, ours.pop(name)), name
    kinds = {name.split(".")[0] for name in ours}
    assert kinds == {"rssm", "intrinsic", "jump", "interval", "accumulated"}
    assert [name for name in ours if name.startswith("rssm")] == ["rssm.core.jump"]


# -- jumps in the model --------------------------------------------------------------------------


def test_the_jump_bit_is_a_thirteenth_column_and_nothing_where_it_is_0() -> None:
    torch.manual_seed(0)
    core = JumpCore(8, 5, 16, 16, 4)
    torch.nn.init.normal_(core.jump)
    wide = BlockGRUCore(8, 6, 16, 16, 4)
    state = {k: v for k, v in core.state_dict().items() if k != "jump"}
    first = torch.cat([state["from_action.first.weight"], core.jump[:, None]], 1)
    wide.load_state_dict({**state, "from_action.first.weight": first})
    action, bit = torch.rand(7, 5), torch.tensor([0, 1, 0, 1, 1, 0, 1.0])[:, None]
    both = torch.cat([action, bit], 1)
    torch.testing.assert_close(core.project(both), wide.project(both))
    torch.testing.assert_close(core.project(both)[::2][:2][:1], core.project(action)[:1])
    assert not torch.allclose(core.project(both)[1], core.project(action)[1])


def test_long_transitions_that_are_none_have_no_gradient() -> None:
    algorithm, batch = build(), random_batch(build())
    batch["zoomed"][:] = False
    before = {k: p.clone() for k, p in algorithm.named_parameters() if "interval" in k}
    metrics = updated(algorithm, batch)
    assert metrics["loss/interval"] == metrics["loss/accumulated"] == 0
    assert before
    assert all(torch.equal(p, dict(algorithm.named_parameters())[k]) for k, p in before.items())


def test_open_jumps_teach_neither_interval_nor_reward() -> None:
    bins = symexp_bins()
    logits = [torch.randn(6, 255, requires_grad=True) for _ in range(2)]
    batch = {
        "known": torch.tensor([1, 0, 1, 0, 0, 1]).bool(),
        "interval": torch.full((6,), 9.0),
        "accumulated": torch.full((6,), 0.3),
    }
    losses = long_losses(batch, *(TwoHotPrediction(x, bins) for x in logits))
    sum(loss.sum() for loss in losses.values()).backward()  # type: ignore[union-attr]
    for x in logits:
        assert x.grad is not None
        assert (x.grad[~batch["known"]] == 0).all()
        assert (x.grad[batch["known"]] != 0).any(1).all()


def test_the_mean_is_over_short_and_long_transitions() -> None:
    short, long = torch.arange(6.0).view(2, 3), torch.tensor([10.0, 20.0, 99.0])
    assert joint_mean(short, long, torch.tensor([1.0, 1.0, 0.0])) == pytest.approx((15 + 30) / 8)
    assert joint_mean(short, long, torch.zeros(3)) == short.mean()


def test_more_zoomed_transitions_than_the_cap_are_counted() -> None:
    algorithm, batch = build(long_cap=2), random_batch(build())
    batch["zoomed"][:] = True
    count = batch["zoomed"][:, 1:].numel()
    assert updated(algorithm, batch)["long/over_cap"] == count - 2


def test_an_update_says_what_it_saw() -> None:
    algorithm = build()
    batch = random_batch(algorithm)
    metrics = updated(algorithm, batch)
    trained = {name: column[:, 1:].float() for name, column in batch.items()}
    assert metrics["long/zoomed"] == pytest.approx(trained["zoomed"].mean().item())
    closed = trained["known"].sum() / trained["zoomed"].sum()
    assert metrics["long/closed"] == pytest.approx(closed.item())
    assert metrics["reward/env"] == pytest.approx(trained["reward"].mean().item())
    assert metrics["reward/intrinsic"] == pytest.approx(trained["intrinsic"].mean().item())
    total = metrics["reward/env"] + algorithm.config.alpha * metrics["reward/intrinsic"]
    assert metrics["reward/total"] == pytest.approx(total.item())
    assert all(torch.isfinite(value) for value in metrics.values())


# -- jumps in imagination ------------------------------------------------------------------------


def test_returns_with_a_jump_are_the_released_ones() -> None:
    """One jump of ten steps; the released code multiplies a move by its first state's going on."""
    gamma, lam = 0.997, 0.95
    reward, value = torch.tensor([[0, 0.5, 1.0]]).double(), torch.tensor([[2, 3, 4.0]]).double()
    goes_on = torch.tensor([[1, 1, 0.9]]).double()
    steps, earned = torch.tensor([[1, 10, 1.0]]).double(), torch.tensor([[0, 0.05, 0]]).double()
    discount = torch.full_like(reward, gamma)

    def returns(interval: Tensor, average: Tensor) -> list[float]:
        moved, discounted = spanned(reward, discount, interval, average, gamma)
        return lambda_return(goes_on * moved, goes_on * discounted, value, lam)[0].tolist()

    # the released code has one term of G' more than steps in between at D = 1 alone
    assert returns(steps, earned) == pytest.approx([5.0394377355, 5.2153700423, 4.4892])
    without = returns(torch.ones_like(steps), torch.zeros_like(earned))
    assert without == pytest.approx([4.7421517280, 4.9014957800, 4.4892])


def test_a_step_is_left_as_it_is_bit_for_bit() -> None:
    reward, discount = torch.randn(4, 3), torch.rand(4, 3)
    ones, zeros = torch.ones(4, 3), torch.zeros(4, 3)
    moved = spanned(reward, discount, ones, zeros, 1 - 1 / 333)
    assert torch.equal(moved[0], reward)
    assert torch.equal(moved[1], discount)


def eager(**fields: object) -> LSImagineAlgorithm:
    """One that takes every jump it may: its jump head says yes everywhere."""
    algorithm = build(**fields)
    assert algorithm.jump.net.out is not None
    algorithm.jump.net.out.bias.data.fill_(50.0)
    for head in (algorithm.cont,):
        assert head.net.out is not None
        head.net.out.bias.data.fill_(50.0)
    return algorithm


def starts(algorithm: LSImagineAlgorithm, N: int) -> State:
    return algorithm.rssm.initial(N)


@pytest.mark.parametrize(("prob", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_imagination_jumps_as_often_as_told(prob: float, share: float) -> None:
    algorithm = eager(jump_prob=prob)
    with torch.no_grad():
        imagined, jumped, _ = algorithm.imagined(starts(algorithm, 6), NoiseSource(1))
    assert jumped is not None
    assert jumped.shape == (6, algorithm.config.horizon)
    assert jumped.mean() == share
    assert imagined.action.shape[-1] == ACTION.size
    assert (imagined.action.sum(-1) == 1 - share).all(), "a jump has no action"


def test_without_a_jump_imagination_is_the_bases() -> None:
    ours, base = eager(jump_prob=0.0), build(long_branch=False)
    shared = {k: v for k, v in ours.state_dict().items() if k in base.state_dict()}
    base.load_state_dict(shared)
    with torch.no_grad():
        mixed = ours.imagined(starts(ours, 6), NoiseSource(1))[0]
        plain = base.imagined(starts(base, 6), NoiseSource(1))[0]
    torch.testing.assert_close(mixed.feat, plain.feat)
    torch.testing.assert_close(mixed.action, plain.action)


def test_only_an_eighth_of_the_moves_is_measured() -> None:
    algorithm = build()
    for head, value in ((algorithm.interval, 25), (algorithm.accumulated, 3)):
        assert head.net.out is not None
        head.net.out.bias.data[127 + value] = 50.0
    feat = torch.randn(4, 9, algorithm.rssm.feat_size)
    jumped = torch.zeros(4, 8)
    jumped[1, 2] = jumped[3, 7] = 1
    with torch.no_grad():
        interval, earned = algorithm.jump_lengths(feat, jumped, torch.rand(4, 8))
    steps = float(algorithm.interval.bins[152].floor())
    assert steps > 1
    assert torch.equal(interval, torch.where(jumped > 0, steps, 1.0))
    assert torch.equal(earned > 0, jumped > 0)
    with torch.no_grad():
        interval, _ = algorithm.jump_lengths(feat, torch.ones(4, 8), torch.rand(4, 8))
    assert (interval > 1).sum() == 4, "a jump beyond the limit counts as a step"


# -- what is collected ---------------------------------------------------------------------------


def met_again(algorithm: LSImagineAlgorithm) -> tuple[dict[int, Any], Sequence[Any]]:
    """A far target, a step without and bright, and the target near, in the first of two episodes.

    Returns:
        The transitions by step, and what the last one tells of earlier ones.
    """
    masks = [np.zeros((2, 160, 256, 1), np.uint8) for _ in range(3)]
    masks[0][0, 72:88, 120:136] = masks[2][0, 20:140, 60:200] = 255
    state, stored, late = None, {}, []
    for t, mask in enumerate(masks):
        seen = {
            "image": np.zeros((2, SIDE, SIDE, 3), np.uint8),
            "map": np.zeros((2, SIDE, SIDE, 1), np.uint8),
            "frame": np.full((2, 160, 256, 3), 255 if t == 1 else 9, np.uint8),
            "mask": mask,
            "reward": np.full(2, 0.5 * t, np.float32),
            **{k: np.zeros(2, bool) for k in ("is_last", "is_terminal")},
            "is_first": np.full(2, t == 0),
        }
        carry = algorithm.initial(2)
        stored[t], late, state = algorithm.annotate(seen, [4, 9], carry, state)
    return stored, late


def test_annotate_tells_of_jumps_and_what_came_of_them() -> None:
    algorithm = build()
    stored, late = met_again(algorithm)
    assert stored[0]["zoomed"].tolist() == stored[0]["jump"].tolist() == [True, False]
    assert stored[0]["zoomed_image"][0].min() == 9
    assert stored[0]["zoomed_map"][0].max() > 200
    assert stored[0]["zoomed_map"][1].max() == 0
    assert stored[0]["zoomed_intrinsic"][0] > stored[0]["intrinsic"][0] > 0
    assert not stored[1]["zoomed"].any()
    ((env, back, values),) = late
    assert (env, back) == (4, 2)
    assert values == {"interval": 2, "accumulated": pytest.approx(0.5), "known": True}
    assert algorithm.score_statistics[0] == 6
    names = {name for name in algorithm.columns if name not in ("deter", "stoch")}
    for found in stored.values():
        for name in names:
            assert found[name].dtype == algorithm.columns[name].dtype, name


class Brightness:
    """A scorer that likes light: a logit of 20 for black and 24 for white, by the last frame."""

    frames, slope, centre = 16, 1.2, 21.8

    def encode(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).mean(1, keepdims=True)

    def logits(self, videos: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        return np.repeat(20 + 4 * videos[:, -1] / 255, len(texts), 1)


def test_a_scorer_pays_for_what_looks_like_the_goal() -> None:
    algorithm = build(scorer="any", goal="Find light", long_branch=False)
    algorithm.scorer = Brightness()
    paid, state = [], None
    for t, level in enumerate((0, 255, 255)):
        seen = {
            "image": np.full((2, SIDE, SIDE, 3), level, np.uint8),
            "map": np.zeros((2, SIDE, SIDE, 1), np.uint8),
            "reward": np.zeros(2, np.float32),
            **{k: np.zeros(2, bool) for k in ("is_last", "is_terminal")},
            "is_first": np.array([t == 0, t in (0, 2)]),
        }
        found, _, state = algorithm.annotate(seen, [4, 9], algorithm.initial(2), state)
        paid.append(found["video"].tolist())
    dark, light = 0.01 * squashed(20), 0.01 * squashed(24)
    expected = [[dark, dark], [light, light], [0, light]]  # the second begins anew in the end
    np.testing.assert_allclose(paid, expected, rtol=1e-6)


def test_what_a_jump_earns_includes_the_scorers_reward() -> None:
    algorithm = build(scorer="any", goal="Find light")
    algorithm.scorer = Brightness()
    _, ((_, _, values),) = met_again(algorithm)
    assert values["accumulated"] == pytest.approx(0.5 + 0.01 * squashed(24))


def test_the_scorers_reward_is_learned_and_logged_alone() -> None:
    algorithm = build(scorer="any", goal="Find light")
    batch = random_batch(algorithm) | {"video": torch.full((4, 9), 0.5)}
    metrics = updated(algorithm, batch)
    assert metrics["reward/video"] == 0.5
    total = metrics["reward/env"] + metrics["reward/intrinsic"] + 0.5
    assert metrics["reward/total"] == pytest.approx(total.item())
    assert metrics["loss/video"] > 0
    assert "imag/video" in metrics


# -- bad input -----------------------------------------------------------------------------------


class Plain(gym.Env[Any, np.int64]):
    """Only what is asked for."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.shapes = shapes
        self.observation_space = gym.spaces.Dict(
            [(k, gym.spaces.Box(0, 255, shape, np.uint8)) for k, shape in shapes.items()]
        )
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None):
        super().reset(seed=seed)
        return {k: np.zeros(shape, np.uint8) for k, shape in self.shapes.items()}, {}

    def step(self, action: np.int64):
        return self.reset()[0], 0.0, False, False, {}


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({"image": (48, 48, 3)}, 'needs an affordance map, an observation "map", and the env'),
        ({"image": (48, 48, 3), "map": (48, 48, 3)}, 'the observation "map" has shape'),
        ({"image": (64, 64, 3), "map": (48, 48, 1)}, 'the observation "image" has shape'),
        ({"map": (48, 48, 1)}, 'the observation "image" has shape None'),
    ],
)
def test_an_environment_without_a_map_is_refused(
    shapes: dict[str, tuple[int, ...]], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        LSImagine(Plain(**shapes), preset="debug", device="cpu", seed=0)


def test_zooming_without_a_frame_is_refused(tmp_path: Path) -> None:
    agent = LSImagine(
        Plain(image=(48, 48, 3), map=(48, 48, 1)), preset="debug", device="cpu", seed=0
    )
    with pytest.raises(ConfigError, match="long_branch=True zooms into the large frame"):
        agent.learn(10, run=tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({}, "the goal is '', expected what is to be reached"),
        ({"goal": "Find light"}, "there is no MineCLIP checkpoint at nowhere.pth"),
    ],
    ids=["goal", "checkpoint"],
)
def test_a_scorer_needs_a_goal_and_its_weights(fields: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        seeing(scorer="nowhere.pth", **fields)


def seeing(**fields: object) -> LSImagine:
    env = Plain(image=(48, 48, 3), map=(48, 48, 1))
    return LSImagine(env, preset="debug", device="cpu", seed=0, **fields)


def test_a_checkpoint_of_another_variant_is_refused(tmp_path: Path) -> None:
    jumping = seeing().save(tmp_path / "jumping")
    plain = seeing(long_branch=False).save(tmp_path / "plain")
    shutil.copy(jumping / "model.safetensors", plain / "model.safetensors")
    with pytest.raises(BundleError, match="are not those of this LSImagine"):
        LSImagine.load(plain, device="cpu")


def test_a_run_goes_on_as_the_variant_that_it_began_as(tmp_path: Path) -> None:
    seeing(long_branch=False).learn(4, run=tmp_path / "run", progress=False)
    with pytest.raises(RunError, match="has other settings: long_branch was False, is True"):
        seeing().learn(8, run=tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"scorer_form": "best"}, "scorer_form='best' is not known"),
        ({"scorer": "any", "scorer_form": "delta"}, "scorer_negatives is empty; give some"),
        ({"alpha": -1.0}, "alpha=-1.0 has to be 0 or more"),
        ({"gate": "best"}, "gate='best'"),
        ({"jump_rule": "always"}, "jump_rule='always'"),
        ({"jump_prob": 1.5}, "jump_prob=1.5 has to be"),
        ({"jump_max": -0.1}, "jump_max=-0.1 has to be"),
        ({"jump_gain": 1.5}, "jump_gain=1.5 has to be"),
        ({"zoom_margin": 0.5}, "zoom_margin=0.5 has to be at least 1"),
        ({"long_cap": 0}, "long_cap=0 has to be at least 1"),
        ({"max_interval": 1}, "max_interval=1 has to be at least 2"),
    ],
)
def test_settings_are_checked(fields: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        configure(LSImagineConfig, DEBUG, fields)


def test_presets_are_settings() -> None:
    for name, preset in LSImagine.presets.items():
        assert configure(LSImagineConfig, preset), name
    paper = configure(LSImagineConfig, LSImagine.presets["minedojo"])
    assert (paper.jump_rule, paper.zoom_margin, paper.total_steps) == ("released", 1, 1_000_000)
    # a transition learned from for each two steps: 31,250 updates of 16 windows of 32
    assert paper.total_steps * paper.train_ratio / (16 * 32) == 31_250
    assert LSImagine.default_preset("minedojo", OBS) == "minedojo"
    assert LSImagine.default_preset("vizdoom", OBS) == "cpu"
    assert DreamerV3.paper != LSImagine.paper
