"""Dreamer's recipe against the paper's numbers and a slow, literal reference of its losses."""

import copy
from collections.abc import Mapping

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
from agentzoo.algorithm import Algorithm, Batch, NoiseSource
from agentzoo.blocks.acting import autocast
from agentzoo.blocks.heads import NormalPrediction
from agentzoo.blocks.optim import Adam
from agentzoo.blocks.rssm import State
from agentzoo.config import configure
from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import ActionSpec, ObsSpec

IMAGE = {"image": ObsSpec(kind="image", shape=(64, 64, 3), source=(64, 64, 3))}
STATE = {"state": ObsSpec(kind="vector", shape=(5,), source=(5,))}
TINY: Mapping[str, object] = {
    **Dreamer.presets["debug"],
    "depth": 2,
    "deter": 8,
    "stoch": 3,
    "hidden": 7,
    "units": 9,
    "horizon": 4,
    "mode_samples": 20,
}


def box(A: int = 2) -> ActionSpec:
    return ActionSpec(
        kind="box", size=A, shape=(A,), dtype="float32", low=(-1.0,) * A, high=(1.0,) * A
    )


def discrete(*nvec: int) -> ActionSpec:
    shape = () if len(nvec) == 1 else (len(nvec),)
    kind = "discrete" if len(nvec) == 1 else "multidiscrete"
    return ActionSpec(
        kind=kind, size=sum(nvec), shape=shape, dtype="int64", nvec=nvec, start=(0,) * len(nvec)
    )


def build(
    obs: Mapping[str, ObsSpec] = STATE, action: ActionSpec | None = None, **overrides: object
) -> DreamerAlgorithm:
    torch.manual_seed(0)
    # the paper has no entropy in the actor's objective; the small presets do
    config = configure(DreamerConfig, TINY, {"actor_entropy": 0.0}, overrides)
    return DreamerAlgorithm(obs, action or box(), config)


def random_obs(obs: Mapping[str, ObsSpec], *lead: int) -> dict[str, Tensor]:
    return {
        key: torch.randint(0, 256, (*lead, *spec.shape), dtype=torch.uint8)
        if spec.kind == "image"
        else torch.randn(*lead, *spec.shape)
        for key, spec in obs.items()
    }


def random_batch(algorithm: DreamerAlgorithm, obs: Mapping[str, ObsSpec] = STATE) -> Batch:
    torch.manual_seed(1)
    lead = algorithm.config.batch_size, algorithm.config.batch_length
    flags = {name: torch.zeros(lead, dtype=torch.bool) for name in ("is_first", "is_last")}
    terminal = torch.zeros(lead, dtype=torch.bool)
    terminal[0, -1] = True
    action = torch.rand(*lead, algorithm.action.size) * 2 - 1
    reward = torch.randn(lead)
    batch = random_obs(obs, *lead) | flags
    return batch | {"is_terminal": terminal, "prev_action": action, "reward": reward}


def random_noise(algorithm: DreamerAlgorithm, B: int) -> dict[str, Tensor]:
    return {
        name: (torch.randn if spec.kind == "normal" else torch.rand)(B, *spec.shape)
        for name, spec in algorithm.noise_spec.items()
    }


def acting(B: int, is_first: bool = False) -> dict[str, Tensor]:
    return random_obs(STATE, B) | {"is_first": torch.full((B,), is_first)}


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


class MetaNoise(NoiseSource):
    """Shapes without numbers."""

    def __init__(self) -> None:
        self.device = torch.device("meta")

    def normal(self, *shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    uniform = normal


def watch(
    patch: pytest.MonkeyPatch, head: nn.Module, name: str, seen: dict[str, list[tuple[int, ...]]]
) -> None:
    """Note the shapes of what the head's method is given."""
    method = getattr(head, name)

    def noted(feats: list[Tensor]) -> object:
        seen[name] = [tuple(feat.shape) for feat in feats]
        return method(feats)

    patch.setattr(head, name, noted)


@pytest.mark.parametrize(("cont", "count"), [(False, 2500), (True, 2450)])
def test_shapes_at_paper_size(cont: bool, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        algorithm = DreamerAlgorithm(STATE, box(6), DreamerConfig(cont=cont))
        batch = random_batch(algorithm)
    post, _, _ = algorithm.model_loss(batch, MetaNoise())
    assert [tuple(x.shape) for x in post] == [(50, 50, 200), (50, 50, 30), (50, 50, 60)]
    start, alive = algorithm.starts(post, batch["is_terminal"], MetaNoise())
    assert start.deter.shape == (count, 200)
    assert alive.shape == (count, 1)
    seen: dict[str, list[tuple[int, ...]]] = {}
    for name, head in (("input_grad", algorithm.reward), ("value_and_input_grad", algorithm.value)):
        watch(monkeypatch, head, name, seen)
    algorithm.behavior_losses(start, alive, MetaNoise())
    assert seen == {"input_grad": [(count, 230)] * 14, "value_and_input_grad": [(count, 230)] * 15}


def test_satisfies_the_protocol() -> None:
    algorithm = build()
    assert isinstance(algorithm, Algorithm)
    assert set(algorithm.carry_spec) == set(algorithm.initial(1))
    for name, value in algorithm.initial(3).items():
        assert value.shape == (3, *algorithm.carry_spec[name].shape)
        assert not value.any()


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


def test_bf16_computes_close_to_fp32_and_keeps_states_and_losses_float32() -> None:
    half, full = build(precision="bf16"), build()
    batch = random_batch(full)
    a, _ = half.update(batch, NoiseSource(0))
    b, _ = full.update(batch, NoiseSource(0))
    for name in ("loss/model", "loss/value", "loss/actor", "model/kl"):
        assert a[name].dtype is torch.float32
        assert a[name] != b[name]
        assert_close(a[name], b[name], rtol=0.05, atol=0.05)
    assert all(p.dtype is torch.float32 for p in half.parameters())
    with autocast(half, "bf16"):
        post, _, _ = half.model_loss(batch, NoiseSource(0))
    assert post.deter.dtype is post.stoch.dtype is torch.float32


def test_reward_clipping_squashes_replayed_rewards() -> None:
    clipped, plain = build(clip_rewards="tanh"), build()
    batch = random_batch(plain)
    squashed = {**batch, "reward": torch.tanh(batch["reward"])}
    a, b = (x.model_loss(y, NoiseSource(0))[2] for x, y in ((clipped, batch), (plain, squashed)))
    assert a["loss/reward"].item() == b["loss/reward"].item()


def test_a_random_subset_of_posteriors_is_imagined_from() -> None:
    algorithm = build(imagine_starts=10)
    batch = random_batch(algorithm)
    post, _, _ = algorithm.model_loss(batch, NoiseSource(0))
    start, _ = algorithm.starts(post, batch["is_terminal"], NoiseSource(1))
    assert start.deter.shape == (10, 8)
    everything = post.deter.flatten(0, 1)
    index = [int((everything == row).all(-1).nonzero()) for row in start.deter]
    assert len(set(index)) == 10
    assert torch.equal(start.stoch, post.stoch.flatten(0, 1)[index])
    other, _ = algorithm.starts(post, batch["is_terminal"], NoiseSource(2))
    assert not torch.equal(start.deter, other.deter)


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


def test_same_noise_same_update() -> None:
    first, second = build(), build()
    for _ in range(2):
        a, _ = first.update(random_batch(first), NoiseSource(3))
        b, _ = second.update(random_batch(second), NoiseSource(3))
        assert a == b
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_model_learns_a_constant_world() -> None:
    algorithm = build(model_lr=1e-2, batch_size=4, batch_length=6)
    batch = random_batch(algorithm)
    batch["state"], batch["reward"] = torch.ones(4, 6, 5), torch.full((4, 6), 0.7)
    losses = [algorithm.update(batch, NoiseSource(i))[0] for i in range(120)]
    floor = 0.9189385332
    assert losses[-1]["loss/reward"].item() == pytest.approx(floor, abs=0.02)
    assert losses[-1]["loss/vector"] < losses[0]["loss/vector"] - 10
    assert losses[-1]["imag/reward"].item() == pytest.approx(0.7, abs=0.1)


# -- acting --------------------------------------------------------------------------------------


def test_first_step_of_an_episode_forgets_everything() -> None:
    algorithm = build()
    noise, obs = random_noise(algorithm, 3), acting(3, is_first=True)
    used = {k: torch.randn_like(v) for k, v in algorithm.initial(3).items()}
    no = torch.zeros(3, dtype=torch.bool)
    after, action = algorithm.step(used, obs, noise, no)
    fresh, expected = algorithm.step(algorithm.initial(3), obs, noise, no)
    assert torch.equal(action, expected)
    assert all(torch.equal(after[k], fresh[k]) for k in fresh)
    later, _ = algorithm.step(used, obs | {"is_first": no}, noise, no)
    assert not torch.equal(later["deter"], fresh["deter"])


def test_a_batch_acts_as_its_rows() -> None:
    algorithm = build()
    noise, obs = random_noise(algorithm, 4), acting(4)
    obs["is_first"][2] = True
    carry = {k: torch.randn_like(v) for k, v in algorithm.initial(4).items()}
    deterministic = torch.tensor([True, False, True, False])
    together, action = algorithm.step(carry, obs, noise, deterministic)
    for i in range(4):
        row = slice(i, i + 1)
        alone, one = algorithm.step(
            {k: v[row] for k, v in carry.items()},
            {k: v[row] for k, v in obs.items()},
            {k: v[row] for k, v in noise.items()},
            deterministic[row],
        )
        assert_close(one, action[row])
        for k in alone:
            assert_close(alone[k], together[k][row])


def test_acting_filters_as_learning_does() -> None:
    algorithm = build()
    batch, noise = random_batch(algorithm), random_noise(algorithm, 4)
    T = algorithm.config.batch_length
    batch["is_first"][:, 0] = True
    eps = torch.randn(4, T, 3)
    post = algorithm.rssm.observe(
        algorithm.rssm.initial(4),
        batch["prev_action"],
        algorithm.encoder(batch),
        batch["is_first"],
        eps,
    )
    carry = algorithm.initial(4)
    for t in range(T):
        obs = {"state": batch["state"][:, t], "is_first": batch["is_first"][:, t]}
        step_noise = noise | {"latent": eps[:, t]}
        carry["prev_action"] = batch["prev_action"][:, t]
        carry, _ = algorithm.step(carry, obs, step_noise, torch.zeros(4, dtype=torch.bool))
        assert_close(carry["deter"], post.deter[:, t])
        assert_close(carry["stoch"], post.stoch[:, t])


def test_the_latent_is_sampled_even_when_the_action_is_not() -> None:
    algorithm = build()
    noise, obs, yes = random_noise(algorithm, 2), acting(2), torch.ones(2, dtype=torch.bool)
    a, _ = algorithm.step(algorithm.initial(2), obs, noise, yes)
    noise["latent"] = noise["latent"] + 1
    b, _ = algorithm.step(algorithm.initial(2), obs, noise, yes)
    assert not torch.equal(a["stoch"], b["stoch"])


def test_the_step_exports_with_a_symbolic_batch() -> None:
    algorithm = build()
    tensors = (algorithm.initial(3), acting(3), random_noise(algorithm, 3))
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
    noise, obs = random_noise(algorithm, 2), acting(2)
    margin = algorithm.margin(algorithm.initial(2), obs, noise, torch.tensor([True, False]))
    assert 0 <= margin[0] < torch.inf
    assert margin[1] == torch.inf


def test_exploring_adds_clipped_noise_and_remembers_the_result() -> None:
    algorithm = build(expl_amount=0.3)
    carry = algorithm.initial(2) | {"prev_action": torch.tensor([[0.5, 0.9], [0.0, -0.9]])}
    noise = {"explore": torch.tensor([[1.0, 1.0], [-0.5, -2.0]])}
    explored, action = algorithm.explore(carry, noise, 0, 10**9)
    assert_close(action, torch.tensor([[0.8, 1.0], [-0.15, -1.0]]))
    assert_close(explored["prev_action"], action)
    assert explored["deter"] is carry["deter"]


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

BOTH = {**IMAGE, **STATE, "depth": ObsSpec(kind="image", shape=(64, 64, 1), source=(64, 64, 1))}
LOSSES = {"loss/model", "loss/reward", "loss/actor", "loss/value"}


@pytest.mark.parametrize("cont", [False, True])
@pytest.mark.parametrize(
    ("obs", "action", "parts"),
    [
        (STATE, box(1), {"loss/vector"}),
        (STATE, discrete(4), {"loss/vector"}),
        (BOTH, discrete(3, 2), {"loss/vector", "loss/image"}),
        (IMAGE, box(2), {"loss/image"}),
    ],
    ids=["state-box", "state-discrete", "both-multidiscrete", "image-box"],
)
def test_constructs_acts_and_learns(
    obs: Mapping[str, ObsSpec], action: ActionSpec, parts: set[str], cont: bool
) -> None:
    algorithm = build(obs, action, cont=cont, batch_size=2, batch_length=4, clip_rewards="tanh")
    seen = random_obs(obs, 3) | {"is_first": torch.tensor([True, False, False])}
    noise = random_noise(algorithm, 3)
    carry, act = algorithm.step(
        algorithm.initial(3), seen, noise, torch.tensor([True, False, True])
    )
    carry, act = algorithm.explore(carry, noise, 0, 10**9)
    assert act.shape == (3, *action.shape)
    assert carry["prev_action"].shape == (3, action.size)
    if action.kind != "box":
        assert set(carry["prev_action"].flatten().tolist()) <= {0.0, 1.0}
    for i in range(2):
        metrics, _ = algorithm.update(random_batch(algorithm, obs), NoiseSource(i))
    reported = {name for name in metrics if name.startswith("loss/")}
    assert reported == LOSSES | parts | ({"loss/cont"} if cont else set())
    for name, value in metrics.items():
        assert value.shape == (), name
        assert torch.isfinite(value), name
        assert not value.requires_grad, name
    assert all(torch.isfinite(p).all() for p in algorithm.parameters())


def test_the_open_loop_reconstructs_then_imagines() -> None:
    algorithm = build(BOTH, box(2))
    batch = random_batch(algorithm, BOTH)
    B, T = batch["reward"].shape
    shown = algorithm.open_loop(batch, NoiseSource(0), context=3)
    assert {k: tuple(v.shape) for k, v in shown.items()} == {
        "image": (B, T, 64, 64, 3),
        "depth": (B, T, 64, 64, 1),
        "state": (B, T, 5),
    }
    assert shown["image"].min() >= 0
    assert shown["image"].max() <= 1
    changed = {**batch, **{k: torch.zeros_like(batch[k]) for k in BOTH}}
    for k in BOTH:
        changed[k][:, :3] = batch[k][:, :3]
    same = algorithm.open_loop(changed, NoiseSource(0), context=3)
    assert torch.equal(shown["state"], same["state"])  # what came later is not looked at
    changed["prev_action"] = batch["prev_action"].clone()
    changed["prev_action"][:, 5] += 1
    other = algorithm.open_loop(changed, NoiseSource(0), context=3)
    assert torch.equal(shown["state"][:, :5], other["state"][:, :5])
    assert not torch.equal(shown["state"][:, 5], other["state"][:, 5])


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", sorted(Dreamer.presets))
def test_presets_are_settings(preset: str) -> None:
    config = configure(DreamerConfig, Dreamer.presets[preset])
    assert config.batch_length > 1
    assert config.horizon >= 2


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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clip_rewards": "tan"}, r"clip_rewards='tan'.*tanh"),
        ({"standardize": "prefil"}, r"standardize='prefil'.*prefill"),
        ({"mode_samples": -1}, "mode_samples=-1 has to be 0 or more"),
        ({"horizon": 1}, "horizon=1 has to be at least 2"),
        ({"imagine_starts": 0}, "imagine_starts=0 has to be at least 1, or None"),
        ({"cont": True, "batch_length": 1}, "batch_length=1 leaves nothing to imagine from"),
    ],
)
def test_senseless_settings_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DreamerConfig(**fields)


def test_optimizer_state_survives_a_round_trip() -> None:
    straight = build()
    straight.update(random_batch(straight), NoiseSource(0))
    resumed = build()
    resumed.load_state_dict(straight.state_dict())
    for name, adam in resumed.optimizers().items():
        assert isinstance(adam, Adam)
        adam.load_state_dict(straight.optimizers()[name].state_dict())
    a, _ = straight.update(random_batch(straight), NoiseSource(1))
    b, _ = resumed.update(random_batch(resumed), NoiseSource(1))
    assert a == b
    for p, q in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_world_decides_continuation_repeat_and_discrete_settings() -> None:
    walker = Dreamer("dmc:cartpole-balance?obs=state", preset="cpu")
    assert (walker.config.cont, walker.config.repeat, walker.config.horizon) == (False, 4, 15)
    cartpole = Dreamer("gym:CartPole-v1", preset="dmc_state")
    settings = cartpole.config
    assert (settings.cont, settings.repeat, settings.horizon) == (True, 1, 10)
    assert (settings.kl_scale, settings.expl_amount, settings.expl_min) == (0.1, 0.4, 0.1)
    assert settings.expl_decay is None
    assert Dreamer("gym:CartPole-v1", preset="cpu", cont=False, horizon=7).config.horizon == 7
