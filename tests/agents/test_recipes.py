"""Facts of every recipe, whatever its losses are: noise, resets, batches, half precision.

The numbers of a paper are in the recipe's own file; runs, checkpoints and export in test_contract.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch.testing import assert_close

from agentzoo import TDMPC2, Dreamer, DreamerV2, DreamerV3, LSImagine, PlaNet
from agentzoo.agent import Agent
from agentzoo.agents.registry import OWN
from agentzoo.algorithm import Algorithm, Choosing, NoiseSource
from agentzoo.config import configure, to_json
from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import ActionSpec, ObsSpec
from tests.agents.builders import (
    BOTH,
    CHOICE,
    MAPPED,
    STATE,
    acting,
    box,
    build,
    discrete,
    image,
    random_batch,
    random_noise,
    random_obs,
)

Obs = Mapping[str, ObsSpec]


class Recipe(NamedTuple):
    """An agent, what it sees and does, and settings beyond those of its toy size."""

    kind: type[Agent]
    obs: Obs = STATE
    action: ActionSpec = box()
    fields: Mapping[str, object] = {}

    def build(self, **overrides: object) -> Any:
        return build(self.kind, self.obs, self.action, **{**self.fields, **overrides})

    def batch(self, algorithm: Any, seed: int = 1) -> dict[str, torch.Tensor]:
        return random_batch(algorithm, self.obs, seed)


RECIPES = {
    "PlaNet": Recipe(PlaNet),
    "PlaNet-stochastic": Recipe(PlaNet, fields={"dynamics": "stochastic"}),
    "PlaNet-deterministic": Recipe(PlaNet, fields={"dynamics": "deterministic"}),
    "Dreamer": Recipe(Dreamer),
    "Dreamer-discrete": Recipe(Dreamer, action=discrete(3, 2), fields={"cont": True}),
    "DreamerV2": Recipe(DreamerV2),
    "DreamerV2-discrete": Recipe(DreamerV2, action=discrete(3, 2), fields={"slow_every": 2}),
    "DreamerV3": Recipe(DreamerV3),
    "DreamerV3-discrete": Recipe(DreamerV3, action=discrete(3, 2)),
    "LSImagine": Recipe(LSImagine, MAPPED, discrete(5)),
    "TDMPC2": Recipe(TDMPC2),
}
FILTERING = [name for name, recipe in RECIPES.items() if recipe.kind is not TDMPC2]
NO = torch.zeros(4, dtype=torch.bool)


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


@pytest.fixture(params=FILTERING)
def filtering(request: pytest.FixtureRequest) -> Recipe:
    """A recipe whose carry is the state of a recurrent state-space model."""
    return RECIPES[request.param]


def test_every_agent_is_here() -> None:
    assert {recipe.kind.__name__ for recipe in RECIPES.values()} == set(OWN)


# -- acting --------------------------------------------------------------------------------------


def test_the_carry_begins_as_its_specs_say(recipe: Recipe) -> None:
    algorithm = recipe.build()
    assert isinstance(algorithm, Algorithm)
    begun = algorithm.initial(3)
    assert set(begun) == set(algorithm.carry_spec)
    for name, value in begun.items():
        assert value.shape == (3, *algorithm.carry_spec[name].shape)
        assert not value.any()


def test_first_step_of_an_episode_forgets_everything(recipe: Recipe) -> None:
    algorithm = recipe.build()
    noise, obs = random_noise(algorithm, 4), acting(recipe.obs, 4, is_first=True)
    used = {k: torch.randn_like(v) for k, v in algorithm.initial(4).items()}
    after, action = algorithm.step(used, obs, noise, NO)
    fresh, expected = algorithm.step(algorithm.initial(4), obs, noise, NO)
    assert torch.equal(action, expected)
    assert all(torch.equal(after[k], fresh[k]) for k in fresh)
    if recipe.kind is not TDMPC2:  # which remembers a plan, and at this size finds the same one
        later, _ = algorithm.step(used, obs | {"is_first": NO}, noise, NO)
        assert any(not torch.equal(later[k], fresh[k]) for k in fresh)


def test_a_batch_acts_as_its_elements(recipe: Recipe) -> None:
    algorithm = recipe.build()
    noise, obs = random_noise(algorithm, 4), acting(recipe.obs, 4, is_first=True)
    carry, _ = algorithm.step(algorithm.initial(4), obs, noise, NO)
    obs = acting(recipe.obs, 4)
    obs["is_first"][2] = True
    deterministic = torch.tensor([True, False, True, False])
    together, acts = algorithm.step(carry, obs, noise, deterministic)
    for i in range(4):
        at = slice(i, i + 1)
        parts = [{k: v[at] for k, v in part.items()} for part in (carry, obs, noise)]
        alone, one = algorithm.step(*parts, deterministic[at])
        assert_close(one, acts[at], atol=1e-5, rtol=1e-5)
        for k in alone:
            assert_close(alone[k], together[k][at], atol=1e-5, rtol=1e-5)
        if isinstance(algorithm, Choosing):
            margins = algorithm.margin(carry, obs, noise, deterministic)
            mine = algorithm.margin(*parts, deterministic[at])
            assert_close(mine, margins[at], atol=1e-5, rtol=1e-4)


def test_acting_filters_as_learning_does(filtering: Recipe) -> None:
    algorithm = filtering.build()
    batch, noise = filtering.batch(algorithm), random_noise(algorithm, 4)
    batch["is_first"][:, 0] = True
    B, T = batch["is_first"].shape
    spec = algorithm.noise_spec["latent"]
    eps = (torch.randn if spec.kind == "normal" else torch.rand)(B, T, *spec.shape)
    start, embeds = algorithm.rssm.initial(B), algorithm.encoder(batch)
    post = algorithm.rssm.observe(start, batch["prev_action"], embeds, batch["is_first"], eps)
    carry, noise = algorithm.initial(B), random_noise(algorithm, B)
    for t in range(T):
        obs = {k: batch[k][:, t] for k in (*filtering.obs, "is_first")}
        carry["prev_action"] = batch["prev_action"][:, t]
        given = noise | {"latent": eps[:, t]}
        carry, _ = algorithm.step(carry, obs, given, torch.zeros(B, dtype=torch.bool))
        assert_close(carry["deter"], post.deter[:, t], rtol=1e-4, atol=1e-5)
        assert_close(carry["stoch"], post.stoch[:, t], rtol=1e-4, atol=1e-5)


def test_the_latent_is_sampled_even_when_the_action_is_not(filtering: Recipe) -> None:
    algorithm = filtering.build()
    noise, obs, yes = random_noise(algorithm, 4), acting(filtering.obs, 4), ~NO
    a, _ = algorithm.step(algorithm.initial(4), obs, noise, yes)
    kind = algorithm.noise_spec["latent"].kind
    noise["latent"] = noise["latent"] + 1 if kind == "normal" else noise["latent"].flip(-1)
    b, _ = algorithm.step(algorithm.initial(4), obs, noise, yes)
    samples = filtering.fields.get("dynamics") != "deterministic"  # PlaNet's ablation
    assert torch.equal(a["stoch"], b["stoch"]) != samples


@pytest.mark.parametrize("name", ["PlaNet", "Dreamer"])
def test_exploring_adds_clipped_noise_and_remembers_the_result(name: str) -> None:
    algorithm = RECIPES[name].build()
    carry = algorithm.initial(2) | {"prev_action": torch.tensor([[0.5, 0.9], [0.0, -0.9]])}
    noise = {"explore": torch.tensor([[1.0, 1.0], [-0.5, -2.0]])}
    explored, action = algorithm.explore(carry, noise, 0, 10**9)
    assert_close(action, torch.tensor([[0.8, 1.0], [-0.15, -1.0]]))  # by 0.3
    assert_close(explored["prev_action"], action)
    assert explored["deter"] is carry["deter"]


# -- learning ------------------------------------------------------------------------------------


def test_same_noise_same_update(recipe: Recipe) -> None:
    first, second = recipe.build(), recipe.build()
    for i in range(2):
        a, x = first.update(recipe.batch(first), NoiseSource(i))
        b, y = second.update(recipe.batch(second), NoiseSource(i))
        assert a == b
        assert set(x) == set(y)
        assert all(torch.equal(x[k], y[k]) for k in x)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)
    if recipe.fields.get("dynamics") != "deterministic":  # which draws nothing
        other, third = recipe.build(), recipe.build()
        metrics, _ = other.update(recipe.batch(other), NoiseSource(7))
        assert metrics != third.update(recipe.batch(third), NoiseSource(0))[0]


def test_weights_and_optimizers_survive_a_round_trip(recipe: Recipe) -> None:
    straight, resumed = recipe.build(), recipe.build()
    straight.update(recipe.batch(straight), NoiseSource(0))
    resumed.load_state_dict(straight.state_dict())
    for name, optimizer in resumed.optimizers().items():
        optimizer.load_state_dict(straight.optimizers()[name].state_dict())
    for i in range(1, 4):  # a slow copy is made at every second update
        a, _ = straight.update(recipe.batch(straight), NoiseSource(i))
        b, _ = resumed.update(recipe.batch(resumed), NoiseSource(i))
        assert a == b
    for p, q in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)
    for name, optimizer in resumed.optimizers().items():
        theirs = straight.optimizers()[name].state_dict()
        assert all(torch.equal(x, theirs[k]) for k, x in optimizer.state_dict().items())


def test_bf16_computes_close_to_fp32_and_keeps_states_and_losses_float32(
    filtering: Recipe,
) -> None:
    half, full = filtering.build(precision="bf16"), filtering.build()
    batch = filtering.batch(full)
    a, _ = half.update(batch, NoiseSource(0))
    b, _ = full.update(batch, NoiseSource(0))
    losses = [name for name in a if name.startswith("loss/") and "policy" not in name]
    assert any(a[name] != b[name] for name in losses)
    for name in losses:
        assert_close(a[name], b[name], rtol=0.05, atol=0.05, msg=lambda m, n=name: f"{n}: {m}")
    assert all(value.dtype is torch.float32 for value in a.values())
    assert all(p.dtype is torch.float32 for p in half.parameters())


@pytest.mark.parametrize("name", ["PlaNet", "Dreamer", "DreamerV2"])
def test_the_model_learns_a_constant_world(name: str) -> None:
    algorithm = RECIPES[name].build(model_lr=1e-2, batch_size=4, batch_length=6)
    batch = random_batch(algorithm)
    batch["state"], batch["reward"] = torch.ones(4, 6, 5), torch.full((4, 6), 0.7)
    losses = [algorithm.update(batch, NoiseSource(i))[0] for i in range(120)]
    floor = 0.9189385332  # of a unit normal's density at its mean
    assert losses[-1]["loss/reward"].item() == pytest.approx(floor, abs=0.02)
    assert losses[-1]["loss/vector"] < losses[0]["loss/vector"] - 10
    if name != "PlaNet":
        assert losses[-1]["imag/reward"].item() == pytest.approx(0.7, abs=0.1)


@pytest.mark.parametrize("name", ["Dreamer", "DreamerV2"])
def test_rewards_are_squashed_before_they_are_learned(name: str) -> None:
    clipped, plain = (RECIPES[name].build(clip_rewards=form) for form in ("tanh", "none"))
    batch = random_batch(plain)
    squashed = {**batch, "reward": torch.tanh(batch["reward"])}
    a, b = (x.model_loss(y, NoiseSource(0))[2] for x, y in ((clipped, batch), (plain, squashed)))
    assert a["loss/reward"].item() == b["loss/reward"].item()


@pytest.mark.parametrize("name", ["Dreamer", "DreamerV2"])
def test_a_random_subset_of_posteriors_is_imagined_from(name: str) -> None:
    algorithm = RECIPES[name].build(imagine_starts=10)
    batch = random_batch(algorithm)
    post, _, _ = algorithm.model_loss(batch, NoiseSource(0))
    start, _ = algorithm.starts(post, batch["is_terminal"], NoiseSource(1))
    assert start.deter.shape == (10, 8)
    everything = post.stats.flatten(0, 1)  # first states may share their deter
    index = [int((everything == one).all(-1).nonzero()) for one in start.stats]
    assert len(set(index)) == 10
    assert torch.equal(start.stoch, post.stoch.flatten(0, 1)[index])
    other, _ = algorithm.starts(post, batch["is_terminal"], NoiseSource(2))
    assert not torch.equal(start.stats, other.stats)


# -- every kind of world -------------------------------------------------------------------------

GAUSSIAN = {
    "state-box": (STATE, box(1), {"loss/vector"}),
    "state-discrete": (STATE, discrete(4), {"loss/vector"}),
    "both-multidiscrete": (BOTH, discrete(3, 2), {"loss/vector", "loss/image"}),
    "image-box": (image(), box(2), {"loss/image"}),
}
V3 = {"loss/dyn", "loss/rep", "loss/reward", "loss/cont", "loss/policy", "loss/value"}
V3 |= {"loss/repval", "loss/total"}


def worlds() -> Iterator[Any]:
    """An agent with settings, what it sees and does, and the losses that it reports."""
    for dynamics in ("rssm", "stochastic", "deterministic"):
        for name in ("state-box", "image-box"):
            obs, action, parts = GAUSSIAN[name]
            losses = {"loss/model", "loss/reward", "loss/kl"} | parts
            recipe = Recipe(PlaNet, obs, action, {"dynamics": dynamics})
            yield pytest.param(recipe, losses, id=f"PlaNet-{name}-{dynamics}")
    for name, (obs, action, parts) in GAUSSIAN.items():
        for cont in (False, True):
            own = parts | {"loss/model", "loss/reward", "loss/actor", "loss/value"}
            own |= {"loss/cont"} if cont else set()
            fields = {"cont": cont, "clip_rewards": "tanh"}
            recipe = Recipe(Dreamer, obs, action, fields)
            yield pytest.param(recipe, own, id=f"Dreamer-{name}-{cont}")
            for norm in ("none", "layer"):
                recipe = Recipe(DreamerV2, obs, action, {"cont": cont, "norm": norm})
                yield pytest.param(recipe, own | {"loss/kl"}, id=f"DreamerV2-{name}-{cont}-{norm}")
    for name, obs, action in (
        ("state-box", STATE, box(1)),
        ("one-action", STATE | CHOICE, discrete(1)),
        ("both-multidiscrete", image() | STATE | CHOICE, discrete(3, 2)),
        ("image-box", image(48, 1), box(2)),
    ):
        losses = V3 | {f"loss/rec_{key}" for key in obs}
        recipe = Recipe(DreamerV3, obs, action, {"warmup": 0})
        yield pytest.param(recipe, losses, id=f"DreamerV3-{name}")


@pytest.mark.parametrize(("recipe", "losses"), list(worlds()))
def test_constructs_acts_and_learns(recipe: Recipe, losses: set[str]) -> None:
    length = 7 if recipe.kind is DreamerV3 else 4
    algorithm = recipe.build(batch_size=2, batch_length=length)
    action = recipe.action
    seen = random_obs(recipe.obs, 3) | {"is_first": torch.tensor([True, False, False])}
    noise = random_noise(algorithm, 3)
    mode = torch.tensor([True, False, True])
    carry, act = algorithm.step(algorithm.initial(3), seen, noise, mode)
    carry, act = algorithm.explore(carry, noise, 0, 10**9)
    assert act.shape == (3, *action.shape)
    assert carry["prev_action"].shape == (3, action.size)
    if action.kind != "box":
        assert set(carry["prev_action"].flatten().tolist()) <= {0.0, 1.0}
    metrics: Mapping[str, torch.Tensor] = {}
    for i in range(2):
        metrics, _ = algorithm.update(random_batch(algorithm, recipe.obs, i), NoiseSource(i))
    assert {name for name in metrics if name.startswith("loss/")} == losses
    for name, value in metrics.items():
        assert value.shape == (), name
        assert torch.isfinite(value), name
        assert not value.requires_grad, name
    assert all(torch.isfinite(p).all() for p in algorithm.parameters())


@pytest.mark.parametrize("kind", [PlaNet, Dreamer, DreamerV2, DreamerV3])
def test_the_open_loop_reconstructs_then_imagines(kind: type[Agent]) -> None:
    obs = image() | STATE | CHOICE if kind is DreamerV3 else BOTH
    algorithm = build(kind, obs, box(2), batch_size=2, batch_length=6)
    batch = random_batch(algorithm, obs)
    shown = algorithm.open_loop(batch, NoiseSource(0), context=3)
    assert {k: tuple(v.shape) for k, v in shown.items()} == {
        key: (2, 6, *spec.shape) for key, spec in obs.items()
    }
    assert 0 <= shown["image"].min() <= shown["image"].max() <= 1
    changed = {**batch, **{k: torch.zeros_like(batch[k]) for k in obs}}
    for k in obs:
        changed[k][:, :3] = batch[k][:, :3]
    same = algorithm.open_loop(changed, NoiseSource(0), context=3)
    assert torch.equal(shown["state"], same["state"])  # what came later is not looked at
    changed["prev_action"] = batch["prev_action"].clone()
    changed["prev_action"][:, 5] = -changed["prev_action"][:, 5]
    other = algorithm.open_loop(changed, NoiseSource(0), context=3)
    assert torch.equal(shown["state"][:, :5], other["state"][:, :5])
    assert not torch.equal(shown["state"][:, 5], other["state"][:, 5])


# -- settings ------------------------------------------------------------------------------------

PRESETS = [(recipe.kind, name) for recipe in RECIPES.values() for name in recipe.kind.presets]


@pytest.mark.parametrize(("kind", "preset"), list(dict.fromkeys(PRESETS)))
def test_presets_are_settings(kind: type[Agent], preset: str) -> None:
    config: Any = configure(kind.config_class, kind.presets[preset], name=kind.__name__)
    assert config.batch_length > 1
    if kind is DreamerV2:
        assert config.update_every % config.repeat == 0
    if kind is PlaNet:
        assert config.update_every == 0  # a burst at each episode's end
        assert config.plan.candidates >= config.plan.elites


@pytest.mark.parametrize(
    ("kind", "preset", "size", "expected"),
    [
        (DreamerV3, "cpu", "12m", (256, 256, 2048, 16, 16)),
        (DreamerV3, "debug", "1m", (64, 64, 512, 4, 4)),
        (LSImagine, "cpu", "12m", (256, 256, 2048, 16, 16)),
        (TDMPC2, "cpu", "5m", (512, 512, 256, 2, 5)),
        (TDMPC2, "cpu_pixels", "1m", (128, 384, 256, 2, 2)),
    ],
)
def test_a_size_beside_a_preset_is_that_size(
    kind: type[Agent], preset: str, size: str, expected: tuple[int, ...]
) -> None:
    preset_fields = kind.presets[preset]
    asked: Any = configure(kind.config_class, preset_fields, {"size": size})
    assert tuple(asked.sizes) == expected
    # unless a number of it is asked for as well, in whatever order
    for fields in ({"size": size, "units": 96}, {"units": 96, "size": size}):
        both: Any = configure(kind.config_class, preset_fields, fields)
        assert both.sizes.units == 96
    # what was written is read back as it was
    written = to_json(both)
    assert to_json(configure(kind.config_class, written)) == written


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (PlaNet, {"candidates": 0}, "candidates=0 has to be at least 1"),
        (PlaNet, {"elites": 2000}, "keeps 2000 elites of 1000 candidates"),
        (PlaNet, {"horizon": 0}, "horizon=0 has to be at least 1"),
        (PlaNet, {"iterations": -1}, "iterations=-1 has to be 0 or more"),
        (PlaNet, {"dynamics": "rsm"}, "dynamics='rsm' is not known; did you mean \"rssm\""),
        (PlaNet, {"image_bits": 9}, "image_bits=9 has to be from 1 to 8"),
        (PlaNet, {"overshooting": 50}, "overshooting=50 .*at least 0 and below the batch_length"),
        (Dreamer, {"clip_rewards": "tan"}, r"clip_rewards='tan'.*tanh"),
        (Dreamer, {"standardize": "prefil"}, r"standardize='prefil'.*prefill"),
        (Dreamer, {"mode_samples": -1}, "mode_samples=-1 has to be 0 or more"),
        (Dreamer, {"horizon": 1}, "horizon=1 has to be at least 2"),
        (Dreamer, {"imagine_starts": 0}, "imagine_starts=0 has to be at least 1, or None"),
        (Dreamer, {"cont": True, "batch_length": 1}, "batch_length=1 leaves nothing to imagine"),
        (DreamerV2, {"norm": "batch"}, r"norm='batch'.*layer"),
        (DreamerV2, {"clip_rewards": "tan"}, r"clip_rewards='tan'.*tanh"),
        (DreamerV2, {"horizon": 1}, "horizon=1 has to be at least 2"),
        (DreamerV2, {"classes": 1}, "classes=1 has to be at least 2"),
        (DreamerV2, {"slow_every": 0}, "slow_every=0 has to be at least 1"),
        (DreamerV2, {"imagine_starts": 0}, "imagine_starts=0 has to be at least 1, or None"),
        (DreamerV2, {"reinforce": 1.1}, "reinforce=1.1 has to be from 0 to 1"),
        (DreamerV2, {"kl_balance": -0.1}, "kl_balance=-0.1 has to be from 0 to 1"),
        (TDMPC2, {"update_every": 5}, r"update_every=5 .* no effect here.*set updates"),
        (TDMPC2, {"train_ratio": 2.0}, r"train_ratio=2.0 have no effect here.*set updates"),
        (TDMPC2, {"log_std_min": 3.0}, r"log_std_min=3.0 is above log_std_max=2.0"),
        (TDMPC2, {"discount_max": 0.1}, r"discount_min=0.95 is above discount_max=0.1"),
        (DreamerV3, {"size": "13m"}, r"size='13m' is not known"),
        (DreamerV3, {"batch_length": 2}, "batch_length=2 .* at least 3: the context and two"),
        (DreamerV3, {"horizon": 0}, "horizon=0 has to be at least 1"),
        (DreamerV3, {"imag_last": 1}, "imag_last=1 has to be at least 2"),
        (DreamerV3, {"train_ratio": 0}, "train_ratio=0 never learns; the paper's are 32 to 1024"),
        (DreamerV3, {"train_ratio": -1.0}, r"train_ratio=-1.0 has to be 0 or more"),
        (DreamerV3, {"updates": 5}, r"updates=5 have no effect here.*set train_ratio"),
        (DreamerV3, {"deter": 20}, "deter=20 has to be a multiple of blocks=8"),
        (DreamerV3, {"classes": 300}, "classes=300 has to be 1 to 256"),
    ],
)
def test_senseless_settings_are_refused(kind: type[Agent], fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind.config_class(**fields)
