"""Dreamer's recipe against the paper's numbers and a slow, literal reference of its losses."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from agentzoo.agents.dreamer import (
    Dreamer,
    DreamerAlgorithm,
    DreamerConfig,
    imagined_actor_critic_losses,
)
from agentzoo.algorithm import Batch, NoiseSource
from agentzoo.blocks.heads import NormalPrediction
from agentzoo.blocks.rssm import State
from agentzoo.config import configure
from agentzoo.runtime.spec import ActionSpec
from tests.agents.builders import (
    BOTH,
    STATE,
    ShapesOfNoise,
    acting,
    box,
    discrete,
    image,
    random_batch,
    random_noise,
)
from tests.agents.builders import build as build_any

IMAGE = image()


def build(action: ActionSpec | None = None, **overrides: object) -> DreamerAlgorithm:
    return build_any(Dreamer, STATE, action, **overrides)


# -- sizes and schedule --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("A", "model", "actor"),
    [(1, 5_295_820, 574_402), (6, 5_296_820, 578_412), (12, 5_298_020, 583_224)],
)
@pytest.mark.parametrize("cont", [False, True])
def test_parameters_at_paper_size(A: int, model: int, actor: int, cont: bool) -> None:
    with torch.device("meta"):
        algorithm = DreamerAlgorithm(IMAGE, box(A), DreamerConfig(cont=cont))
    counts = {
        name: sum(p.numel() for p in adam.params) for name, adam in algorithm.optimizers().items()
    }
    expected = {"model": model + 413_601 * cont, "actor": actor, "value": 413_601}
    assert counts == expected
    assert sum(counts.values()) == sum(p.numel() for p in algorithm.parameters())


def test_every_parameter_has_one_optimizer_of_the_papers_settings() -> None:
    adams = DreamerAlgorithm(STATE, box(), DreamerConfig()).optimizers()
    assert {name: adam.lr for name, adam in adams.items()} == {
        "model": 6e-4,
        "actor": 8e-5,
        "value": 8e-5,
    }
    assert {(adam.eps, adam.clip, adam.betas) for adam in adams.values()} == {
        (1e-7, 100.0, (0.9, 0.999))
    }


def test_schedule_of_the_paper() -> None:
    c = DreamerConfig()
    assert (c.prefill, c.pretrain, c.repeat, c.batch_size, c.batch_length) == (5000, 100, 2, 50, 50)
    assert (1_000_000 - c.prefill) // c.update_every * c.updates == 99_500


@pytest.mark.parametrize(("cont", "count"), [(False, 2500), (True, 2450)])
def test_shapes_at_paper_size(cont: bool, count: int) -> None:
    with torch.device("meta"):
        algorithm = DreamerAlgorithm(STATE, box(6), DreamerConfig(cont=cont))
        batch = random_batch(algorithm)
    post, _, _ = algorithm.model_loss(batch, ShapesOfNoise())
    assert [tuple(x.shape) for x in post] == [(50, 50, 200), (50, 50, 30), (50, 50, 60)]
    start, alive = algorithm.starts(post, batch["is_terminal"], ShapesOfNoise())
    assert start.deter.shape == (count, 200)
    assert alive.shape == (count, 1)
    actor, value, metrics = algorithm.behavior_losses(start, alive, ShapesOfNoise())
    assert {x.shape for x in (actor, value, *metrics.values())} == {()}


# -- losses --------------------------------------------------------------------------------------


def starts(algorithm: DreamerAlgorithm) -> tuple[State, Tensor]:
    batch = random_batch(algorithm)
    post, _, _ = algorithm.model_loss(batch, NoiseSource(0))
    return algorithm.starts(post, batch["is_terminal"], NoiseSource(0))


def known(reward: list[float], value: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The paper's losses of one imagined trajectory, gamma 0.99 and lambda 0.95."""
    rewards, values = (torch.tensor([x], dtype=torch.float64) for x in (reward, value))
    return imagined_actor_critic_losses(
        rewards,
        torch.full_like(rewards, 0.99),
        values,
        NormalPrediction(values[:, :-1]),
        torch.ones(1, 1),
        lam=0.95,
    )


def test_known_actor_and_value_losses() -> None:
    actor, value, returns = known([1, 2, 3], [10, 20, 30, 40])
    assert actor.item() == pytest.approx(-42.6053713833)
    assert value.item() == pytest.approx(299.2950309)
    assert_close(returns, torch.tensor([[42.94905715, 43.5503, 42.6]], dtype=torch.float64))


def test_weights_of_the_paper_sum_to_thirteen() -> None:
    actor, _, _ = known([1.0] * 14, [100.0] * 15)
    # with r = 1, gamma = 0.99 and v = 100 every return is 100
    assert actor.item() == pytest.approx(-100 * 13.1254187 / 14)


def reference_losses(
    a: DreamerAlgorithm, batch: Batch, noise: NoiseSource
) -> tuple[Tensor, Tensor, Tensor]:
    """Model, actor and value loss, written for reading: one state at a time, all three apart."""
    c, (B, T) = a.config, batch["reward"].shape
    eps = noise.normal(B, T, c.stoch)
    state, states = a.rssm.initial(B), []
    for t in range(T):
        embed = a.encoder({"state": batch["state"][:, t]})
        first, action = batch["is_first"][:, t], batch["prev_action"][:, t]
        state = a.rssm.obs_step(state, action, embed, first, eps[:, t])
        states.append(state)
    normal = torch.distributions.Normal
    kl = image = reward = cont = torch.zeros(())
    for t, state in enumerate(states):
        feat = torch.cat([state.stoch, state.deter], -1)
        q = normal(*a.rssm.latent.parameters(state.stats))
        p = normal(*a.rssm.latent.parameters(a.rssm.prior_net(state.deter)))
        kl = kl + torch.distributions.kl_divergence(q, p).sum(-1).mean() / T
        mean = a.decoder.vector(feat)  # type: ignore
        obs = normal(mean, c.state_std).log_prob(batch["state"][:, t])
        image = image - obs.sum(-1).mean() / T
        reward = reward - normal(a.reward(feat), 1.0).log_prob(batch["reward"][:, t]).mean() / T
        if a.cont is not None:
            label = c.discount * (~batch["is_terminal"][:, t]).float()
            prob = torch.sigmoid(a.cont(feat))
            log_prob = label * prob.log() + (1 - label) * (1 - prob).log()
            cont = cont - log_prob.mean() / T
    model = image + c.reward_scale * reward + 10 * cont
    model = model + c.kl_scale * torch.clamp(kl, min=c.free_nats)

    starts = [s.detach() for s in (states if a.cont is None else states[:-1])]
    N = B * len(starts)
    deter, stoch, stats = (torch.stack(x, 1).flatten(0, 1) for x in zip(*starts, strict=True))
    state = type(states[0])(deter, stoch, stats)
    eps, xi = noise.normal(N, c.horizon, c.stoch), noise.normal(N, c.horizon, a.action.size)
    feats, entropy = [], torch.zeros(())
    for h in range(c.horizon):
        feat = torch.cat([state.stoch, state.deter], -1).detach()
        mean, std = a.actor.parameters_of(a.actor(feat))  # type: ignore
        squashed = torch.distributions.TransformedDistribution(
            normal(mean, std), torch.distributions.transforms.TanhTransform(cache_size=1)
        )
        action = squashed.transforms[0](mean + std * xi[:, h])
        entropy = entropy - squashed.log_prob(action).sum(-1).mean() / c.horizon
        state = a.rssm.img_step(state, action, eps[:, h])
        feats.append(torch.cat([state.stoch, state.deter], -1))
    r, v = [a.reward(f) for f in feats], [a.value(f) for f in feats]
    p = [torch.full((N,), c.discount) if a.cont is None else a.cont(f).sigmoid() for f in feats]
    ret, returns = v[-1], {}
    for i in reversed(range(c.horizon - 1)):
        ret = r[i] + p[i] * ((1 - c.lam) * v[i + 1] + c.lam * ret)
        returns[i] = ret
    weight, actor, value = torch.ones(N), torch.zeros(()), torch.zeros(())
    for i in range(c.horizon - 1):
        actor = actor - (weight * returns[i]).mean() / (c.horizon - 1)
        own = normal(a.value(feats[i].detach()), 1.0)
        value = value - (weight * own.log_prob(returns[i].detach())).mean() / (c.horizon - 1)
        weight = weight * p[i].detach()
    return model, actor - c.actor_entropy * entropy, value


@pytest.mark.parametrize(("cont", "entropy"), [(False, 0.0), (True, 0.0), (False, 0.1)])
def test_update_is_one_step_along_the_reference_gradients(cont: bool, entropy: float) -> None:
    algorithm = build(cont=cont, imagine_starts=None, free_nats=0.5, actor_entropy=entropy)
    reference, batch = copy.deepcopy(algorithm), random_batch(algorithm)
    batch["is_first"][2, 3] = True
    metrics, write_back = algorithm.update(batch, NoiseSource(7))
    assert write_back == {}
    losses = dict(
        zip(
            ("model", "actor", "value"),
            reference_losses(reference, batch, NoiseSource(7)),
            strict=True,
        )
    )
    grads = {
        name: torch.autograd.grad(loss, reference.optimizers()[name].params, retain_graph=True)
        for name, loss in losses.items()
    }
    for name, group in grads.items():
        assert_close(metrics[f"loss/{name}"], losses[name], rtol=1e-4, atol=1e-5)
        norm = reference.optimizers()[name].step(group)
        assert_close(metrics[f"opt/{name}_grad_norm"], norm, rtol=1e-3, atol=1e-6)
    for name, adam in algorithm.optimizers().items():
        for key, moment in adam.state.items():
            expected = reference.optimizers()[name].state[key]
            assert_close(moment, expected, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_value_and_actor_losses_leave_the_others_alone() -> None:
    algorithm = build()
    start, alive = starts(algorithm)
    before = {k: p.clone() for k, p in algorithm.named_parameters()}
    assert not any(x.requires_grad for x in start)
    actor, value, _ = algorithm.behavior_losses(start, alive, NoiseSource(0))
    for name, loss in (("actor", actor), ("value", value)):
        adam = algorithm.optimizers()[name]
        adam.step(torch.autograd.grad(loss, adam.params, retain_graph=name == "actor"))
        moved = {k.split(".")[0] for k, p in algorithm.named_parameters() if not p.equal(before[k])}
        assert moved == ({"actor"} if name == "actor" else {"actor", "value"})
    assert all(p.grad is None for p in algorithm.parameters())


@pytest.mark.parametrize("horizon", [2, 5])
def test_actor_learns_through_the_dynamics(horizon: int) -> None:
    algorithm = build(horizon=horizon)
    start = algorithm.rssm.initial(6)
    actor, _, _ = algorithm.behavior_losses(start, torch.ones(6, 1), NoiseSource(0))
    grads = torch.autograd.grad(actor, algorithm.optimizers()["actor"].params)
    assert all(grad.abs().sum() > 0 for grad in grads)


def test_constant_reward_and_value_give_the_actor_no_gradient() -> None:
    algorithm = build()
    for head in (algorithm.reward, algorithm.value):
        assert head.net.out is not None
        nn.init.zeros_(head.net.out.weight)
        nn.init.constant_(head.net.out.bias, 3.0)
    start = algorithm.rssm.initial(6)
    actor, _, _ = algorithm.behavior_losses(start, torch.ones(6, 1), NoiseSource(0))
    grads = torch.autograd.grad(actor, algorithm.optimizers()["actor"].params)
    assert all((grad == 0).all() for grad in grads)


def test_more_starts_than_posteriors_means_all() -> None:
    algorithm = build(imagine_starts=10_000)
    batch = random_batch(algorithm)
    post, _, _ = algorithm.model_loss(batch, NoiseSource(0))
    start, alive = algorithm.starts(post, batch["is_terminal"], NoiseSource(1))
    assert torch.equal(start.deter, post.deter.flatten(0, 1))
    assert (alive == 1).all()


def test_nothing_is_imagined_after_a_termination_inside_a_window() -> None:
    algorithm = build(cont=True, imagine_starts=None)
    batch = random_batch(algorithm)
    batch["is_terminal"][1, 2] = True
    post, _, _ = algorithm.model_loss(batch, NoiseSource(0))
    start, alive = algorithm.starts(post, batch["is_terminal"], NoiseSource(1))
    T = algorithm.config.batch_length - 1
    assert (alive == 0).nonzero()[:, 0].tolist() == [T + 2]
    actor, value, _ = algorithm.behavior_losses(start, alive, NoiseSource(2))
    start.deter[T + 2] += 1
    start.stoch[T + 2] += 1
    same = algorithm.behavior_losses(start, alive, NoiseSource(2))
    assert_close((actor, value), same[:2])


# -- acting --------------------------------------------------------------------------------------


def test_the_step_exports_with_a_symbolic_batch() -> None:
    algorithm = build()
    tensors = (algorithm.initial(3), acting(STATE, 3), random_noise(algorithm, 3))
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({key: {0: batch} for key in part} for part in tensors)

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.algorithm = algorithm

        def forward(self, carry: dict, obs: dict, noise: dict, deterministic: Tensor) -> tuple:
            return self.algorithm.step(carry, obs, noise, deterministic)

    yes = torch.ones(3, dtype=torch.bool)
    program = torch.export.export(
        Step(), (*tensors, yes), dynamic_shapes=(*shapes, {0: batch}), strict=False
    )
    one = tuple({k: v[:1] for k, v in part.items()} for part in tensors)
    _, exported = program.module()(*one, yes[:1])
    assert_close(exported, algorithm.step(*one, yes[:1])[1])


def test_margin_is_of_the_choice_that_was_made() -> None:
    algorithm = build()
    noise, obs = random_noise(algorithm, 2), acting(STATE, 2)
    margin = algorithm.margin(algorithm.initial(2), obs, noise, torch.tensor([True, False]))
    assert 0 <= margin[0] < torch.inf
    assert margin[1] == torch.inf


@pytest.mark.parametrize(("step", "amount"), [(0, 0.4), (1000, 0.2), (2000, 0.1), (8000, 0.05)])
def test_exploration_halves_down_to_its_floor(step: int, amount: float) -> None:
    algorithm = build(expl_amount=0.4, expl_decay=1000.0, expl_min=0.05)
    _, action = algorithm.explore(algorithm.initial(1), {"explore": torch.ones(1, 2)}, step, 10**9)
    assert_close(action, torch.full((1, 2), amount))


def test_a_discrete_action_is_replaced_now_and_then() -> None:
    algorithm = build(action=discrete(3, 2), expl_amount=0.4)
    carry = algorithm.initial(2)
    carry["prev_action"] = torch.tensor([[1.0, 0, 0, 1, 0]] * 2)
    noise = {"explore": torch.tensor([[0.39, 0.1, 0.2, 0.9, 0.3, 0.7], [0.41, 0, 0, 1, 0, 1]])}
    explored, action = algorithm.explore(carry, noise, 0, 10**9)
    assert action.tolist() == [[2, 1], [0, 0]]
    assert explored["prev_action"].tolist() == [[0, 0, 1, 0, 1], [1, 0, 0, 1, 0]]


# -- every kind of world -------------------------------------------------------------------------

# -- settings ------------------------------------------------------------------------------------


def test_ours_standardise_vectors_and_the_papers_do_not() -> None:
    forms = {name: configure(DreamerConfig, p).standardize for name, p in Dreamer.presets.items()}
    assert {name for name, form in forms.items() if form == "none"} == {"dmc_vision", "atari"}
    assert DreamerConfig().standardize == "none"


def test_continuous_presets_take_the_exact_mode_and_old_configurations_a_hundred_samples() -> None:
    samples = {
        name: configure(DreamerConfig, p).mode_samples for name, p in Dreamer.presets.items()
    }
    assert {name for name, count in samples.items() if count} == {"atari"}  # has no tanh-normal
    assert DreamerConfig().mode_samples == 100


def test_default_preset_follows_the_observations() -> None:
    assert Dreamer.default_preset("dmc", IMAGE) == "dmc_vision"
    assert Dreamer.default_preset("dmc", STATE) == "dmc_state"
    assert Dreamer.default_preset("dmc", BOTH) == "dmc_vision"


def test_the_world_decides_continuation_repeat_and_discrete_settings() -> None:
    walker = Dreamer("dmc:cartpole-balance?obs=state", preset="cpu")
    assert (walker.config.cont, walker.config.repeat, walker.config.horizon) == (False, 4, 15)
    cartpole = Dreamer("gym:CartPole-v1", preset="dmc_state")
    settings = cartpole.config
    assert (settings.cont, settings.repeat, settings.horizon) == (True, 1, 10)
    assert (settings.kl_scale, settings.expl_amount, settings.expl_min) == (0.1, 0.4, 0.1)
    assert settings.expl_decay is None
    assert Dreamer("gym:CartPole-v1", preset="cpu", cont=False, horizon=7).config.horizon == 7
