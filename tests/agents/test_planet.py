"""PlaNet's recipe against the paper's numbers and a slow, literal reference of its loss."""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from agentzoo.agents.planet import PlaNet, PlaNetAlgorithm, PlaNetConfig
from agentzoo.algorithm import Batch, Carry, Noise, NoiseSource
from agentzoo.blocks.kl import free_nats_per_step
from agentzoo.blocks.latents import GaussianLatent
from agentzoo.blocks.rssm import State
from agentzoo.config import configure
from agentzoo.export import export
from agentzoo.planning import TorchRollouts
from agentzoo.runtime import load_policy, verify
from agentzoo.runtime.envs import resolve
from agentzoo.runtime.errors import ConfigError, SpaceError
from agentzoo.runtime.evaluation.rollout import evaluate_random
from agentzoo.runtime.policy.noise import with_plan_axes
from agentzoo.runtime.policy.planners import PlanStep
from agentzoo.runtime.policy.policy import Policy
from agentzoo.runtime.spec import ActionSpec, CEMSpec, ObsSpec, PolicySpec
from agentzoo.torch_step import TorchModel, TorchStep
from tests.agents.builders import (
    BOTH,
    STATE,
    TINY,
    acting,
    box,
    image,
    random_batch,
    random_noise,
    random_obs,
)
from tests.agents.builders import build as build_any
from tests.agents.fake_envs import Steer

IMAGE = image()
NO, YES = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)


def build(
    obs: Mapping[str, ObsSpec] = STATE, action: ActionSpec | None = None, **overrides: object
) -> PlaNetAlgorithm:
    return build_any(PlaNet, obs, action, **overrides)


def policy_spec(algorithm: PlaNetAlgorithm, obs: Mapping[str, ObsSpec]) -> PolicySpec:
    noise = {k: one for k, one in algorithm.noise_spec.items() if one.role != "explore"}
    return PolicySpec(
        agent="PlaNet",
        env="",
        obs=obs,
        action=algorithm.action,
        carry=algorithm.carry_spec,
        noise=noise,
        plan=algorithm.plan_spec,
    )


# -- sizes, schedule, constants ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("A", "total", "rssm"),
    [(1, 5_292_220, 556_320), (6, 5_293_220, 557_320), (12, 5_294_420, 558_520)],
)
def test_parameters_at_paper_size(A: int, total: int, rssm: int) -> None:
    with torch.device("meta"):
        algorithm = PlaNetAlgorithm(IMAGE, box(A), PlaNetConfig())
    blocks = {
        name: sum(p.numel() for p in b.parameters()) for name, b in algorithm.named_children()
    }
    assert blocks == {
        "encoder": 690_144,
        "rssm": rssm,
        "decoder": 3_795_555,
        "reward": 250_201,
    }
    adam = algorithm.optimizers()["model"]
    assert sum(p.numel() for p in adam.params) == total
    assert (adam.lr, adam.eps, adam.clip, adam.betas) == (1e-3, 1e-4, 1000.0, (0.9, 0.999))


@pytest.mark.parametrize(("width", "layers", "total"), [(200, 2, 5_129_620), (100, 2, 5_076_320)])
def test_reward_heads_of_the_text_and_of_the_first_release(
    width: int, layers: int, total: int
) -> None:
    with torch.device("meta"):
        config = PlaNetConfig(units=width, reward_layers=layers)
        algorithm = PlaNetAlgorithm(IMAGE, box(6), config)
    assert sum(p.numel() for p in algorithm.parameters()) == total


def test_schedule_is_a_hundred_updates_an_episode() -> None:
    c = PlaNetConfig()
    schedule = c.schedule(c.repeat)
    assert (c.prefill, c.batch_size, c.batch_length, c.expl_amount) == (5000, 50, 50, 0.3)
    assert schedule.due(4999, 0) == 0
    # the first planned episode follows the first hundred updates
    assert [schedule.due(5000 + 1000 * n, n) for n in range(4)] == [100, 200, 300, 400]
    assert schedule.due(5500, 0) == 100  # none inside an episode


def test_plan_of_the_paper() -> None:
    assert PlaNetConfig().plan == CEMSpec(horizon=12, candidates=1000, elites=100, iterations=10)


def test_deviation_and_entropy_of_a_fresh_latent() -> None:
    latent = GaussianLatent(30)
    mean, std = latent.parameters(torch.zeros(60))
    assert std[0].item() == pytest.approx(0.7931471806)
    assert latent.entropy(torch.zeros(60)).item() == pytest.approx(35.615762)
    assert not mean.any()


def test_divergences_of_the_sheet() -> None:
    latent, raw = GaussianLatent(30, min_std=0.0), lambda std: math.log(math.expm1(std))
    stats = [torch.cat([torch.full((30,), m), torch.full((30,), raw(s))]) for m, s in
             ((0.5, 0.5), (0.0, 1.0), (1.0, 1.0))]  # fmt: skip
    assert latent.kl(stats[0], stats[1]).item() == pytest.approx(13.2944154)
    assert latent.kl(stats[2], stats[1]).item() == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("kl", "mean", "gradient"),
    [((1.0, 5.0), 1.0, (0.0, 0.5)), ((1.0, 3.0), 0.0, None), ((1.0, 9.0), 3.0, (0.0, 0.5))],
)
def test_free_nats_are_taken_off_each_step(
    kl: tuple[float, float], mean: float, gradient: tuple[float, float] | None
) -> None:
    x = torch.tensor(kl, requires_grad=True)
    loss = free_nats_per_step(x, 3.0).mean()
    assert loss.item() == mean
    if gradient is not None:  # at exactly three nats either side's is right
        assert torch.autograd.grad(loss, x)[0].tolist() == list(gradient)


# -- the loss ------------------------------------------------------------------------------------


def reference_loss(a: PlaNetAlgorithm, batch: Batch, noise: NoiseSource) -> dict[str, Tensor]:
    """The loss's parts, written for reading: one sequence and one step at a time."""
    c, (B, T), normal = a.config, batch["reward"].shape, torch.distributions.Normal
    eps = noise.normal(B, T, c.stoch)
    state, sums = a.rssm.initial(B), dict.fromkeys(("vector", "reward", "kl"), torch.zeros(()))
    for t in range(T):
        embed = a.encoder({"state": batch["state"][:, t]})
        first, action = batch["is_first"][:, t], batch["prev_action"][:, t]
        state = a.rssm.obs_step(state, action, embed, first, eps[:, t])
        feat = torch.cat([state.stoch, state.deter], -1)
        mean = a.decoder.vector(feat)  # type: ignore
        q = normal(*a.rssm.latent.parameters(state.stats))  # type: ignore
        p = normal(*a.rssm.latent.parameters(a.rssm.prior_net(state.deter)))  # type: ignore
        for b in range(B):
            kl = torch.distributions.kl_divergence(q, p).sum(-1)[b]
            parts = {
                "vector": -normal(mean[b], c.state_std).log_prob(batch["state"][b, t]).sum(),
                "reward": -normal(a.reward(feat)[b], 1.0).log_prob(batch["reward"][b, t]),
                "kl": torch.clamp(kl - c.free_nats, min=0),
            }
            sums = {name: sums[name] + part / (B * T) for name, part in parts.items()}
    return sums | {"model": sums["vector"] + 10 * sums["reward"] + sums["kl"]}


def test_update_is_one_step_along_the_reference_gradient() -> None:
    algorithm = build(free_nats=0.1)
    reference, batch = copy.deepcopy(algorithm), random_batch(algorithm)
    batch["is_first"][2, 3] = True
    metrics, write_back = algorithm.update(batch, NoiseSource(7))
    assert write_back == {}
    losses, adam = reference_loss(reference, batch, NoiseSource(7)), reference.optimizers()["model"]
    for name, loss in losses.items():
        assert_close(metrics[f"loss/{name}"], loss, rtol=1e-4, atol=1e-5)
    assert losses["kl"] > 0
    norm = adam.step(torch.autograd.grad(losses["model"], adam.params))
    assert_close(metrics["opt/model_grad_norm"], norm, rtol=1e-3, atol=1e-6)
    for key, moment in algorithm.optimizers()["model"].state.items():
        assert_close(
            moment, adam.state[key], rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_steps_below_the_free_nats_give_the_prior_no_gradient() -> None:
    algorithm = build(free_nats=1e6)
    loss, metrics = algorithm.model_loss(random_batch(algorithm), NoiseSource(0))
    assert metrics["loss/kl"] == 0
    prior = list(algorithm.rssm.prior_net.parameters())
    assert all((grad == 0).all() for grad in torch.autograd.grad(loss, prior))


def test_a_perfect_picture_costs_its_constant() -> None:
    algorithm, feat = build(IMAGE), torch.zeros(1, 1, 11)
    target = {"image": algorithm.decoder.image(feat[0])[None].detach()}  # type: ignore
    nats = algorithm.decoder.losses(feat, target)["image"]
    assert nats.item() == pytest.approx(11291.916696, rel=1e-6)


def test_the_model_sees_and_predicts_the_same_noisy_picture() -> None:
    algorithm, seen = build(IMAGE, batch_size=2, batch_length=3), []
    batch = random_batch(algorithm, IMAGE)
    algorithm.encoder.register_forward_hook(lambda _m, args, _o: seen.append(args[0]["image"]))
    losses = algorithm.decoder.losses
    algorithm.decoder.losses = lambda feat, obs: seen.append(obs["image"]) or losses(feat, obs)
    algorithm.model_loss(batch, NoiseSource(0))
    image = batch["image"].float()
    assert seen[0] is seen[1]
    assert ((seen[0] + 0.5) * 32 - torch.floor(image / 8)).min() >= 0
    assert ((seen[0] + 0.5) * 32 - torch.floor(image / 8)).max() <= 1


def test_overshooting_is_off_and_finite_when_on() -> None:
    off, on = build(free_nats=0.0), build(free_nats=0.0, overshooting=7, overshooting_scale=0.5)
    batch = random_batch(off)
    batch["is_first"][:, 2] = True  # a seam
    plain, longer = (
        off.model_loss(batch, NoiseSource(0))[1],
        on.model_loss(batch, NoiseSource(0))[1],
    )
    assert "loss/overshooting" not in plain
    assert longer["loss/overshooting"] > 0
    extra = 0.5 * longer["loss/overshooting"]
    assert_close(longer["loss/model"], plain["loss/model"] + extra)
    for i in range(3):
        metrics, _ = on.update(batch, NoiseSource(i))
        assert all(torch.isfinite(value) for value in metrics.values())


def reference_overshooting(a: PlaNetAlgorithm, post: State, batch: Batch) -> Tensor:
    """The mean over distances of mean divergences, one loop at a time; nothing is sampled."""
    normal, first, (B, T) = torch.distributions.Normal, batch["is_first"], batch["reward"].shape
    means = []
    for d in range(1, a.config.overshooting + 1):
        kls = []
        for b in range(B):
            for begin in range(T - d):
                arrived = begin + d
                if first[b, begin + 1 : arrived + 1].any():
                    continue
                state, moves = a.rssm.initial(1), batch["prev_action"][b : b + 1].clone()
                if first[b, begin]:
                    moves[:, begin] = 0
                elif begin:
                    state = State(*(x[b : b + 1, begin - 1] for x in post))
                for t in range(begin, arrived + 1):
                    state = a.rssm.img_step(state, moves[:, t], torch.zeros(1, 0))
                q = normal(*a.rssm.latent.parameters(post.stats[b, arrived]))  # type: ignore
                p = normal(*a.rssm.latent.parameters(state.stats[0]))  # type: ignore
                kl = torch.distributions.kl_divergence(q, p).sum()
                kls.append(torch.clamp(kl - a.config.free_nats, min=0))
        means.append(torch.stack(kls).mean())
    return torch.stack(means).mean()


def test_overshooting_is_the_mean_over_distances_of_mean_divergences() -> None:
    algorithm = build(dynamics="deterministic", free_nats=0.05, overshooting=4)
    batch = random_batch(algorithm)
    batch["is_first"][0, 0] = batch["is_first"][1, 3] = True
    B, T = batch["reward"].shape
    eps = torch.zeros(B, T, *algorithm.rssm.latent.noise_shape)
    with torch.no_grad():
        post = algorithm.rssm.observe(
            algorithm.rssm.initial(B),
            batch["prev_action"],
            algorithm.encoder(batch),
            batch["is_first"],
            eps,
        )
        found = algorithm.overshooting_loss(post, batch, NoiseSource(0))
        expected = reference_overshooting(algorithm, post, batch)
    assert expected > 0
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_overshooting_teaches_the_prior_and_leaves_the_posterior_alone() -> None:
    algorithm = build(free_nats=0.0, overshooting=1)
    batch = random_batch(algorithm)
    B, T = batch["reward"].shape
    post = algorithm.rssm.observe(
        algorithm.rssm.initial(B),
        batch["prev_action"],
        algorithm.encoder(batch),
        batch["is_first"],
        torch.randn(B, T, 3),
    )
    loss = algorithm.overshooting_loss(
        type(post)(*(x.detach() for x in post)), batch, NoiseSource(0)
    )
    prior = torch.autograd.grad(
        loss, list(algorithm.rssm.prior_net.parameters()), retain_graph=True
    )
    assert all(grad.abs().sum() > 0 for grad in prior)
    posterior = list(algorithm.rssm.post_net.parameters())
    grads = torch.autograd.grad(loss, posterior, allow_unused=True)
    assert all(grad is None for grad in grads)


# -- acting --------------------------------------------------------------------------------------


def test_shapes_of_a_decision_at_paper_settings() -> None:
    algorithm = PlaNetAlgorithm(STATE, box(6), PlaNetConfig())
    shapes = {
        k: s.shape for k, s in with_plan_axes(algorithm.noise_spec, algorithm.plan_spec).items()
    }
    assert shapes == {
        "latent": (30,),
        "plan": (10, 1000, 12, 6),
        "score": (10, 1000, 12, 30),
    }
    assert {k: s.shape for k, s in algorithm.carry_spec.items()} == {
        "deter": (200,),
        "stoch": (30,),
        "prev_action": (6,),
    }


def test_every_element_iteration_and_candidate_draws_its_own_noise() -> None:
    noise = random_noise(build(), 3)
    for name in ("plan", "score"):
        draws = noise[name].flatten(0, 2)
        assert len(draws.unique(dim=0)) == len(draws) == 3 * 2 * 16, name


def test_returns_are_the_sums_of_imagined_rewards() -> None:
    algorithm = build()
    carry = {k: torch.randn_like(v) for k, v in algorithm.initial(2).items()}
    actions, noise = torch.rand(2, 5, 4, 2) * 2 - 1, {"score": torch.randn(2, 5, 4, 3)}
    returns = TorchRollouts(algorithm, carry).returns(actions, noise, {})
    for b in range(2):
        for j in range(5):
            state, total = {k: v[b : b + 1] for k, v in carry.items()}, 0.0
            for t in range(4):
                eps = {"score": noise["score"][b : b + 1, j, t]}
                state, reward = algorithm.imagine(state, actions[b : b + 1, j, t], eps)
                feat = torch.cat([state["stoch"], state["deter"]], -1)
                assert torch.equal(reward, algorithm.reward(feat))
                total += reward.item()
            assert returns[b, j].item() == pytest.approx(total, abs=1e-5)


def test_an_action_is_planned_and_fed_back_whatever_deterministic_says() -> None:
    algorithm, obs = build(), acting(STATE, 4)
    noise = random_noise(algorithm, 4)
    carry, action = algorithm.step(algorithm.initial(4), obs, noise, NO)
    _, same = algorithm.step(algorithm.initial(4), obs, noise, YES)
    assert torch.equal(action, same)
    assert torch.equal(carry["prev_action"], action)
    assert (action.abs() <= 1).all()
    assert not torch.equal(action, torch.zeros_like(action))


def test_without_iterations_the_action_is_zero() -> None:
    algorithm = build(iterations=0)
    _, action = algorithm.step(
        algorithm.initial(4), acting(STATE, 4), random_noise(algorithm, 4), NO
    )
    assert not action.any()


# -- every kind of world, and serving ------------------------------------------------------------


@pytest.mark.parametrize(
    ("obs", "dynamics"),
    [
        pytest.param(BOTH, "rssm", id="pixels", marks=pytest.mark.slow),
        pytest.param(STATE, "stochastic", id="stochastic", marks=pytest.mark.slow),
        pytest.param(STATE, "deterministic", id="deterministic"),
    ],
)
def test_exported_policy_plans_as_torch_does(
    obs: Mapping[str, ObsSpec], dynamics: str, tmp_path: Path
) -> None:
    algorithm = build(obs, dynamics=dynamics).eval()
    spec = policy_spec(algorithm, obs)
    folder = export(algorithm, spec, tmp_path / "bundle", golden_steps=3)
    assert verify(folder, provider="cpu").steps == 3
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["policy"]["plan"] == asdict(algorithm.plan_spec)
    # other settings are a matter of loading: the same weights in torch plan alike
    changed = {"horizon": 2, "candidates": 9, "elites": 3, "iterations": 4}
    other = build(obs, dynamics=dynamics, **changed).eval()
    for trained, plan in ((algorithm, None), (other, changed)):
        ours = Policy(TorchStep(trained), policy_spec(trained, obs))
        theirs = load_policy(folder, provider="cpu", plan=plan)
        assert theirs.spec.plan == trained.plan_spec
        for t in range(3):
            seen = {k: v[0].numpy() for k, v in random_obs(obs, 1).items()}
            np.testing.assert_allclose(theirs.act(seen), ours.act(seen), atol=1e-5, err_msg=str(t))


class Known(PlaNetAlgorithm):
    """Rewards by a formula, so that whoever asks gets the very same numbers."""

    def imagine(self, carry: Carry, action: Tensor, noise: Noise) -> tuple[Carry, Tensor]:
        return carry, action[:, 0] ** 3 - 0.3 * action[:, 1] ** 2


def test_given_the_same_returns_torch_and_the_runtime_plan_the_same() -> None:
    config = configure(
        PlaNetConfig, TINY[PlaNet], {"candidates": 300, "elites": 30, "iterations": 6}
    )
    torch.manual_seed(0)
    algorithm = Known(STATE, box(), config)
    spec = policy_spec(algorithm, STATE)

    served = Policy(PlanStep(TorchModel(algorithm).model(), spec), spec)
    trained = Policy(TorchStep(algorithm), spec)
    for seen in np.random.default_rng(0).standard_normal((4, 5), np.float32):
        action = served.act(seen)
        np.testing.assert_allclose(action, trained.act(seen), atol=1e-5)
        np.testing.assert_allclose(action, [1, 0], atol=0.2)


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "repeat"),
    [
        ("dmc:cartpole-swingup?obs=state", 8),
        ("dmc:cup-catch?obs=state", 4),
        ("dmc:walker-walk?obs=state", 2),
        ("dmc:hopper-hop?obs=state", 2),
        ("dmc:cartpole-swingup?obs=state&repeat=3", 3),
        ("gym:Pendulum-v1", 1),
    ],
)
def test_the_task_decides_the_action_repeat(env: str, repeat: int) -> None:
    agent = PlaNet(env, preset="debug", device="cpu")
    if "repeat=" in env:
        assert f"repeat={repeat}" in agent.env
    else:
        assert agent.config.repeat == repeat
    if env.startswith("dmc"):
        assert f"repeat={repeat}" in agent.env


def test_every_task_of_the_paper_has_its_repeat() -> None:
    expected = {
        "dmc:cartpole-balance": 8,  # the code's alone
        "dmc:cartpole-swingup": 8,
        "dmc:reacher-easy": 4,
        "dmc:cheetah-run": 4,
        "dmc:finger-spin": 2,
        "dmc:ball_in_cup-catch": 4,
        "dmc:walker-walk": 2,
    }
    assert {task: fields["repeat"] for task, fields in PlaNet.tasks.items()} == expected
    # an environment's own name, by which it is looked up
    assert [resolve(task).partition("?")[0] for task in expected] == list(expected)


def test_a_repeat_of_the_users_own_wins() -> None:
    agent = PlaNet("dmc:cartpole-swingup?obs=state", preset="debug", device="cpu", repeat=5)
    assert "repeat=5" in agent.env


def test_default_preset_follows_the_observations() -> None:
    assert PlaNet.default_preset("dmc", BOTH) == "dmc_vision"
    assert PlaNet.default_preset("dmc", STATE) == "dmc_state"


def test_a_planner_that_draws_more_than_fits_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"would draw [\d,]+ random numbers, 268,435,456 are"):
        build(candidates=10_000_000, elites=4, horizon=12)


@pytest.mark.parametrize(
    "action",
    [
        ActionSpec(kind="discrete", size=2, shape=(), dtype="int64", nvec=(2,), start=(0,)),
        ActionSpec(
            kind="multidiscrete", size=5, shape=(2,), dtype="int64", nvec=(3, 2), start=(0, 0)
        ),
    ],
    ids=["discrete", "multidiscrete"],
)
def test_no_kind_of_discrete_action_is_planned(action: ActionSpec) -> None:
    with pytest.raises(SpaceError, match=f"the environment's is {action.kind}; use an agent with"):
        build(action=action)


def test_discrete_actions_are_refused_with_an_agent_that_takes_them() -> None:
    with pytest.raises(SpaceError, match="use an agent with a policy network, such as Dreamer"):
        PlaNet("gym:CartPole-v1", preset="debug", device="cpu")


# -- learning ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_planet_steers(tmp_path: Path) -> None:
    env = Steer()
    planner = {"horizon": 6, "candidates": 100, "elites": 10, "iterations": 3}
    agent = PlaNet(env, preset="cpu", device="cpu", seed=0, total_steps=2_000, prefill=800,
                   updates=20, state_std=0.1, **planner)  # fmt: skip
    agent.learn(run=tmp_path, progress=False)
    ours = agent.evaluate(env, episodes=10, seed=100)
    random = evaluate_random(env, episodes=10, seed=100)
    assert ours.interval[0] > random.interval[1] + 5
    assert ours.mean > 34  # a perfect policy has about 38 of 40
