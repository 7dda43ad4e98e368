"""DreamerV2's recipe against the published numbers and a slow, literal reference of its losses."""

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal, kl_divergence
from torch.testing import assert_close

from agentzoo.agents.dreamer_v2 import DreamerV2, DreamerV2Algorithm, DreamerV2Config
from agentzoo.algorithm import Batch, NoiseSource
from agentzoo.blocks.rssm import State
from agentzoo.config import EnvFacts, configure
from agentzoo.export import export
from agentzoo.replay.samplers import EpisodeSampler
from agentzoo.runtime import verify
from agentzoo.runtime.spec import ActionSpec, ObsSpec
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
    vectors,
)
from tests.agents.builders import build as build_any
from tests.agents.fake_envs import Steer


def build(
    obs: Mapping[str, ObsSpec] = STATE, action: ActionSpec | None = None, **overrides: object
) -> DreamerV2Algorithm:
    return build_any(DreamerV2, obs, action, **overrides)


def starts(algorithm: DreamerV2Algorithm) -> tuple[State, Tensor]:
    batch = random_batch(algorithm)
    post, _, _ = algorithm.model_loss(batch, NoiseSource(0))
    return algorithm.starts(post, batch["is_terminal"], NoiseSource(0))


# -- sizes and schedule --------------------------------------------------------------------------

WORLDS: dict[str, tuple[str, dict[str, ObsSpec], ActionSpec, dict[str, int]]] = {
    # preset, observations, action, parameters of each part
    "atari": ("atari_paper", image(channels=1), discrete(18), {
        "encoder": 1_549_776, "rssm": 5_664_848, "decoder": 10_497_553, "reward": 1_131_601,
        "cont": 1_131_601, "model": 19_975_379, "actor": 1_138_418, "value": 1_131_601}),
    "pong": ("atari_code", image(channels=1), discrete(6), {
        "encoder": 1_549_776, "rssm": 5_657_648, "decoder": 10_497_553, "reward": 1_131_601,
        "cont": 1_131_601, "model": 19_968_179, "actor": 1_133_606, "value": 1_131_601}),
    "walker": ("dmc_vision", image(), box(6), {
        "encoder": 1_551_312, "rssm": 1_247_248, "decoder": 9_886_611, "reward": 971_601,
        "model": 13_656_772, "actor": 976_012, "value": 971_601}),
    "walker from state": ("dmc_proprio", vectors(state=24), box(6), {
        "encoder": 491_200, "rssm": 1_020_048, "decoder": 980_824, "reward": 971_601,
        "model": 3_463_673, "actor": 976_012, "value": 971_601}),
    "without the scalar": ("dmc_proprio", vectors(state=23), box(6), {
        "encoder": 490_800, "rssm": 1_020_048, "decoder": 980_423, "reward": 971_601,
        "model": 3_462_872, "actor": 976_012, "value": 971_601}),
    "crafter": ("crafter", image(), discrete(17), {
        "encoder": 1_552_752, "rssm": 13_145_088, "decoder": 11_152_947, "reward": 1_304_401,
        "cont": 1_304_401, "model": 28_459_589, "actor": 1_310_817, "value": 1_304_401}),
}  # fmt: skip


def at_paper_size(world: str, **overrides: object) -> DreamerV2Algorithm:
    preset, obs, action, _ = WORLDS[world]
    config = configure(DreamerV2Config, DreamerV2.presets[preset], overrides)
    with torch.device("meta"):
        return DreamerV2Algorithm(obs, action, config)


@pytest.mark.parametrize("world", WORLDS)
def test_parameters_of_every_part(world: str) -> None:
    algorithm, expected = at_paper_size(world), WORLDS[world][3]
    groups = algorithm.optimizers()
    counts = {name: sum(p.numel() for p in adam.params) for name, adam in groups.items()}
    for name, part in algorithm.named_children():
        if name in expected and name not in counts:
            counts[name] = sum(p.numel() for p in part.parameters())
    assert counts == expected
    slow = sum(p.numel() for p in algorithm.slow_value.parameters())
    assert slow == counts["value"]
    assert sum(p.numel() for p in algorithm.parameters()) == slow + sum(
        counts[name] for name in groups
    )


@pytest.mark.parametrize(
    ("preset", "rates"),
    [
        ("atari_paper", (2e-4, 4e-5, 1e-4)),
        ("atari_code", (2e-4, 4e-5, 1e-4)),
        ("dmc_vision", (3e-4, 8e-5, 8e-5)),
        ("dmc_proprio", (3e-4, 8e-5, 8e-5)),
        ("crafter", (1e-4, 1e-4, 1e-4)),
        ("defaults", (1e-4, 8e-5, 2e-4)),
    ],
)
def test_the_optimizers_are_the_codes(preset: str, rates: tuple[float, ...]) -> None:
    config = configure(DreamerV2Config, DreamerV2.presets[preset])
    with torch.device("meta"):
        adams = DreamerV2Algorithm(STATE, box(), config).optimizers()
    assert list(adams) == ["model", "actor", "value"]
    assert tuple(adam.lr for adam in adams.values()) == rates
    assert {(adam.eps, adam.clip, adam.betas, adam.decay) for adam in adams.values()} == {
        (1e-5, 100.0, (0.9, 0.999), 1e-6)
    }


SETTINGS = ("kl_scale", "cont_scale", "free_nats", "actor_entropy", "discount", "batch_size",
            "batch_length", "repeat", "clip_rewards", "cont", "prioritize_ends")  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("atari_paper", (0.1, 5.0, 0.0, 1e-3, 0.995, 50, 50, 4, "tanh", True, True)),
        ("atari_code", (0.1, 5.0, 0.0, 1e-3, 0.999, 16, 50, 4, "tanh", True, True)),
        ("dmc_vision", (1.0, 1.0, 1.0, 1e-4, 0.99, 16, 50, 2, "none", False, False)),
        ("crafter", (1.0, 1.0, 0.0, 3e-3, 0.999, 16, 50, 1, "tanh", True, True)),
        ("defaults", (1.0, 1.0, 0.0, 2e-3, 0.99, 16, 50, 1, "tanh", True, True)),
    ],
)
def test_settings_of_the_papers_runs(preset: str, expected: tuple) -> None:
    config = configure(DreamerV2Config, DreamerV2.presets[preset])
    assert tuple(getattr(config, name) for name in SETTINGS) == expected
    assert (config.kl_balance, config.lam, config.horizon, config.slow_every) == (
        0.8,
        0.95,
        15,
        100,
    )


@pytest.mark.parametrize(
    ("preset", "every", "updates"),
    [("atari_paper", 16, 12_500_000), ("atari_code", 64, 3_125_000), ("dmc_vision", 10, 200_000)],
)
def test_updates_of_the_papers_runs(preset: str, every: int, updates: int) -> None:
    c = configure(DreamerV2Config, DreamerV2.presets[preset])
    assert c.update_every == every
    assert c.total_steps // c.update_every * c.updates == updates
    schedule = c.schedule(c.repeat)
    assert schedule.due(c.prefill - 1, 0) == 0
    assert schedule.due(c.prefill, 0) == c.pretrain
    after = (c.total_steps - c.prefill) // every
    assert schedule.due(c.total_steps, 0) == c.pretrain + after


def test_shapes_at_paper_size() -> None:
    algorithm = at_paper_size("pong", batch_size=16)
    with torch.device("meta"):
        batch = random_batch(algorithm, WORLDS["pong"][1])
    post, _, _ = algorithm.model_loss(batch, ShapesOfNoise())
    assert [tuple(x.shape) for x in post] == [(16, 50, 600), (16, 50, 1024), (16, 50, 1024)]
    start, is_terminal = algorithm.starts(post, batch["is_terminal"], ShapesOfNoise())
    assert (start.deter.shape, is_terminal.shape) == ((800, 600), (800,))
    assert algorithm.encoder(batch).shape == (16, 50, 1536)
    actor, value, metrics = algorithm.behavior_losses(start, is_terminal, ShapesOfNoise())
    assert {x.shape for x in (actor, value, *metrics.values())} == {()}


# -- constants -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "floor"), [(1, 3763.97), (3, 11291.92)])
def test_floor_of_the_image_loss(channels: int, floor: float) -> None:
    algorithm = build(image(channels=channels))
    decoder = algorithm.decoder.image
    assert decoder is not None
    for p in decoder.parameters():
        nn.init.zeros_(p)
    nn.init.constant_(decoder.layers[-1].bias, 0.5)  # type: ignore
    white = {"image": torch.full((1, 1, 64, 64, channels), 255, dtype=torch.uint8)}
    feat = torch.zeros(1, 1, algorithm.rssm.feat_size)
    loss = algorithm.decoder.losses(feat, white)["image"]
    assert loss.item() == pytest.approx(floor, abs=0.01)


def test_floors_of_reward_and_discount() -> None:
    algorithm = build()
    reward = torch.tensor([0.3])
    assert algorithm.reward.prediction(reward).loss(reward).item() == pytest.approx(0.9189385)
    assert algorithm.cont is not None
    gamma = torch.tensor([0.999], dtype=torch.float64)
    assert algorithm.cont.prediction(torch.logit(gamma)).loss(gamma).item() == pytest.approx(
        0.0079073, abs=1e-7
    )


def silence(net: nn.Module, bias: float = 0.0) -> None:
    """A network that puts out its bias whatever it sees."""
    out = net.out if hasattr(net, "out") else net
    nn.init.zeros_(out.weight)  # type: ignore
    nn.init.constant_(out.bias, bias)  # type: ignore


# r and v of the sheet's returns 24.8725, 33.05, 39 with gamma 0.9 and lambda 0.5
OUTCOMES = [torch.tensor([x]) for x in ([1.0, 2, 3, 9], [0.9] * 4, [10.0, 20, 30, 40])]
THROUGH, SCORE = (33.05 + 0.9 * 39) / 2, -((33.05 - 10) + 0.9 * (39 - 20)) / 2 * 1.0986123


@pytest.mark.parametrize(
    ("rho", "actor_loss"), [(0.0, -THROUGH), (1.0, -SCORE), (0.9, -0.1 * THROUGH - 0.9 * SCORE)]
)
def test_known_actor_and_value_losses(rho: float, actor_loss: float) -> None:
    algorithm = build(action=discrete(3), horizon=3, lam=0.5, reinforce=rho, actor_entropy=0.0)
    algorithm.outcomes = lambda *_: OUTCOMES  # type: ignore
    silence(algorithm.actor.net)
    silence(algorithm.value.net, 7.0)
    actor, value, metrics = algorithm.behavior_losses(
        algorithm.rssm.initial(1), torch.tensor([False]), NoiseSource(0)
    )
    assert actor.item() == pytest.approx(actor_loss, rel=1e-5)
    errors = (24.8725 - 7) ** 2 + 0.9 * (33.05 - 7) ** 2 + 0.81 * (39 - 7) ** 2
    floor = 0.9189385 * (1 + 0.9 + 0.81) / 3
    assert value.item() == pytest.approx(errors / 2 / 3 + floor, rel=1e-5)
    assert metrics["imag/ret"].item() == pytest.approx((24.8725 + 33.05 + 39) / 3)
    assert metrics["actor/entropy"].item() == pytest.approx(1.0986123)


def test_entropy_is_weighted_like_the_returns() -> None:
    losses = []
    for scale in (0.0, 2.0):
        algorithm = build(action=discrete(3), horizon=3, lam=0.5, actor_entropy=scale)
        algorithm.outcomes = lambda *_: OUTCOMES  # type: ignore
        silence(algorithm.actor.net)
        start = algorithm.rssm.initial(1)
        losses.append(algorithm.behavior_losses(start, torch.tensor([False]), NoiseSource(0))[0])
    assert (losses[0] - losses[1]).item() == pytest.approx(2 * 1.0986123 * (1 + 0.9) / 2, rel=1e-4)


def test_the_first_discount_is_known_from_replay() -> None:
    algorithm = build(horizon=3)
    feat = torch.randn(2, 4, algorithm.rssm.feat_size)
    reward, discount, slow = algorithm.outcomes(feat, torch.tensor([True, False]))
    assert discount[:, 0].tolist() == pytest.approx([0.0, 0.99])
    assert algorithm.cont is not None
    assert_close(discount[:, 1:], torch.sigmoid(algorithm.cont(feat[:, 1:])))
    assert_close(reward, algorithm.reward(feat))
    assert_close(slow, algorithm.slow_value(feat))
    _, constant, _ = build(cont=False, discount=0.9).outcomes(feat, torch.tensor([True, False]))
    assert (constant == 0.9).all()


# -- losses --------------------------------------------------------------------------------------


def reference_model_loss(
    a: DreamerV2Algorithm, batch: Batch, noise: NoiseSource
) -> tuple[list[State], Tensor]:
    """States and the model's loss, written for reading: one sequence at a time."""
    c, (B, T) = a.config, batch["reward"].shape
    eps = noise.uniform(B, T, c.stoch, c.classes)
    state, states, loss = a.rssm.initial(B), [], torch.zeros(())
    dyn = rep = torch.zeros(())
    for t in range(T):
        first = batch["is_first"][:, t] | (t == 0)
        embed = a.encoder({"state": batch["state"][:, t]})
        state = a.rssm.obs_step(state, batch["prev_action"][:, t], embed, first, eps[:, t])
        states.append(state)
        feat = torch.cat([state.stoch, state.deter], -1)
        obs = Normal(a.decoder.vector(feat), c.state_std)  # type: ignore
        loss = loss - obs.log_prob(batch["state"][:, t]).sum(-1).mean() / T
        reward = Normal(a.reward(feat), 1.0).log_prob(batch["reward"][:, t].tanh())
        loss = loss - c.reward_scale * reward.mean() / T
        if a.cont is not None:
            label = c.discount * (~batch["is_terminal"][:, t]).float()
            p = torch.sigmoid(a.cont(feat))
            likelihood = label * p.log() + (1 - label) * (1 - p).log()
            loss = loss - c.cont_scale * likelihood.mean() / T
        q, p = (
            x.unflatten(-1, (c.stoch, c.classes))
            for x in (state.stats, a.rssm.prior_net(state.deter))
        )
        sides = [(q.detach(), p), (q, p.detach())]
        kls = [
            kl_divergence(*(Independent(Categorical(logits=x), 1) for x in side)).mean() / T
            for side in sides
        ]
        dyn, rep = dyn + kls[0], rep + kls[1]
    kl = 0.8 * torch.clamp(dyn, min=c.free_nats) + 0.2 * torch.clamp(rep, min=c.free_nats)
    return states, loss + c.kl_scale * kl


def reference_behavior_losses(
    a: DreamerV2Algorithm, states: list[State], batch: Batch, noise: NoiseSource
) -> dict[str, Tensor]:
    """Actor's and critic's loss; states z_0 .. z_H and actions a_1 .. a_H as in the paper."""
    c, rho = a.config, a.reinforce
    deter, stoch, stats = (
        torch.stack(x, 1).flatten(0, 1).detach() for x in zip(*states, strict=True)
    )
    z, N, H = State(deter, stoch, stats), len(deter), c.horizon
    eps = noise.uniform(N, H, c.stoch, c.classes)
    xi = noise.uniform(N, H, a.action.size)
    feats, actions = [torch.cat([z.stoch, z.deter], -1)], [torch.zeros(())]
    for t in range(H):
        actions.append(a.actor.sample(a.actor(feats[t].detach()), xi[:, t]))
        z = a.rssm.img_step(z, actions[-1], eps[:, t])
        feats.append(torch.cat([z.stoch, z.deter], -1))
    r, v = [a.reward(f) for f in feats], [a.slow_value(f) for f in feats]
    d = [torch.full((N,), c.discount) if a.cont is None else a.cont(f).sigmoid() for f in feats]
    if a.cont is not None:
        d[0] = c.discount * (~batch["is_terminal"].flatten()).float()
    V = {H: v[H]}
    for t in reversed(range(H)):
        V[t] = r[t] + d[t] * ((1 - c.lam) * v[t + 1] + c.lam * V[t + 1])
    weight, actor, critic = torch.ones(N), torch.zeros(()), torch.zeros(())
    for t in range(H):
        own = Normal(a.value(feats[t].detach()), 1.0)
        critic = critic - (weight * own.log_prob(V[t].detach())).mean() / H
        if t < H - 1:
            stats = a.actor(feats[t].detach())
            score = a.actor.log_prob(stats, actions[t + 1].detach()) * (V[t + 1] - v[t]).detach()
            objective = rho * score + (1 - rho) * V[t + 1]
            objective = objective + c.actor_entropy * a.actor.entropy(stats)
            actor = actor - (weight * objective).mean() / (H - 1)
        weight = weight * d[t].detach()
    return {"actor": actor, "value": critic}


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        (box(), {"cont": False, "free_nats": 0.05}),
        (box(), {"cont": True, "norm": "layer"}),
        (discrete(3), {"cont": True, "cont_scale": 5.0, "kl_scale": 0.1}),
        (discrete(3, 2), {"cont": True, "reinforce": 0.3}),
    ],
    ids=["dynamics", "dynamics-cont-norm", "score", "both"],
)
def test_update_is_one_step_along_the_reference_gradients(action: ActionSpec, fields: dict) -> None:
    algorithm = build(action=action, clip_rewards="tanh", **fields)
    algorithm.update(random_batch(algorithm), NoiseSource(3))  # value and slow value part
    algorithm.update(random_batch(algorithm), NoiseSource(4))
    reference, batch = copy.deepcopy(algorithm), random_batch(algorithm)
    batch["is_first"][2, 3] = batch["is_terminal"][1, 2] = True
    batch["prev_action"][2, 3] = 0
    metrics, write_back = algorithm.update(batch, NoiseSource(7))
    assert write_back == {}
    noise, adams = NoiseSource(7), reference.optimizers()
    states, model = reference_model_loss(reference, batch, noise)
    norms = {"model": adams["model"].step(torch.autograd.grad(model, adams["model"].params))}
    # the behaviour is learned inside the model that has just moved
    losses = reference_behavior_losses(reference, states, batch, noise)
    grads = {
        k: torch.autograd.grad(x, adams[k].params, retain_graph=True) for k, x in losses.items()
    }
    norms |= {name: adams[name].step(group) for name, group in grads.items()}
    for name, loss in {"model": model, **losses}.items():
        assert_close(metrics[f"loss/{name}"], loss.detach(), rtol=1e-4, atol=1e-5)
        assert_close(metrics[f"opt/{name}_grad_norm"], norms[name], rtol=1e-3, atol=1e-6)
    for name, adam in algorithm.optimizers().items():
        for key, moment in adam.state.items():
            expected = adams[name].state[key]
            assert_close(moment, expected, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def reached(algorithm: DreamerV2Algorithm, loss: Tensor) -> set[str]:
    """The parts that a loss has a gradient for."""
    named = [(k, p) for k, p in algorithm.named_parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True, retain_graph=True)
    return {
        k.split(".")[0]
        for (k, _), grad in zip(named, grads, strict=True)
        if grad is not None and grad.abs().sum() > 0
    }


def test_the_models_loss_reaches_the_model() -> None:
    algorithm = build()
    _, loss, _ = algorithm.model_loss(random_batch(algorithm), NoiseSource(0))
    assert reached(algorithm, loss) == {"encoder", "rssm", "decoder", "reward", "cont"}


def test_rewards_and_discounts_shape_the_states() -> None:
    algorithm = build()
    feat = torch.randn(4, algorithm.rssm.feat_size, requires_grad=True)
    assert algorithm.cont is not None
    for head in (algorithm.reward, algorithm.cont):
        (grad,) = torch.autograd.grad(head(feat).sum(), feat)
        assert (grad != 0).any()


@pytest.mark.parametrize(
    ("balance", "own", "other"), [(1.0, "prior_net", "post_net"), (0.0, "post_net", "prior_net")]
)
def test_each_side_of_the_balance_teaches_one_network(balance: float, own: str, other: str) -> None:
    algorithm = build(kl_balance=balance, batch_length=1)  # one step: no later states
    _, _, metrics = algorithm.model_loss(random_batch(algorithm), NoiseSource(0))
    logits = [getattr(algorithm.rssm, name).out.bias for name in (own, other)]
    mine, theirs = torch.autograd.grad(metrics["loss/kl"], logits, allow_unused=True)
    assert mine.abs().sum() > 0
    assert theirs is None or (theirs == 0).all()


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_the_actors_loss_depends_on_dreams_unless_it_is_all_score(rho: float) -> None:
    algorithm = build(action=discrete(3), reinforce=rho)
    actor, value, _ = algorithm.behavior_losses(*starts(algorithm), NoiseSource(0))
    dreamed = {"rssm", "reward", "cont"} if rho < 1 else set()
    assert reached(algorithm, actor) == {"actor"} | dreamed
    assert reached(algorithm, value) == {"value"}


@pytest.mark.parametrize(("action", "rho"), [(box(), 0.0), (discrete(3), 1.0)])
def test_actions_decide_whose_gradient_the_actor_follows(action: ActionSpec, rho: float) -> None:
    assert build(action=action).reinforce == rho
    assert build(action=action, reinforce=0.25).reinforce == 0.25


def test_behaviour_moves_actor_and_critic_only() -> None:
    algorithm = build(decay=0.0)
    start, is_terminal = starts(algorithm)
    assert not any(x.requires_grad for x in start)
    before = {k: p.clone() for k, p in algorithm.named_parameters()}
    actor, value, _ = algorithm.behavior_losses(start, is_terminal, NoiseSource(0))
    adams = [algorithm.optimizers()[name] for name in ("actor", "value")]
    grads = [torch.autograd.grad(actor + value, adam.params, retain_graph=True) for adam in adams]
    for adam, grad in zip(adams, grads, strict=True):
        adam.step(grad)
    moved = {k.split(".")[0] for k, p in algorithm.named_parameters() if not p.equal(before[k])}
    assert moved == {"actor", "value"}
    assert all(p.grad is None for p in algorithm.parameters())


def test_an_advantage_of_zero_teaches_a_discrete_actor_nothing() -> None:
    algorithm = build(action=discrete(3), actor_entropy=0.0)
    algorithm.outcomes = lambda feat, _: (  # type: ignore
        torch.zeros(feat.shape[:2]), torch.ones(feat.shape[:2]), torch.full(feat.shape[:2], 3.0)
    )  # fmt: skip
    actor, _, _ = algorithm.behavior_losses(*starts(algorithm), NoiseSource(0))
    grads = torch.autograd.grad(actor, algorithm.optimizers()["actor"].params)
    assert all((grad == 0).all() for grad in grads)


def test_after_a_termination_only_its_own_reward_counts() -> None:
    algorithm = build()
    start, _ = starts(algorithm)
    ended = torch.ones(len(start.deter), dtype=torch.bool)
    reward = algorithm.reward(algorithm.rssm.feat(start))
    _, discount, _ = algorithm.outcomes(algorithm.rssm.feat(start).unsqueeze(1), ended)
    assert not discount[:, 0].any()  # so the return of the first state is its own reward
    _, value, _ = algorithm.behavior_losses(start, ended, NoiseSource(0))
    known = algorithm.value.prediction(algorithm.value(algorithm.rssm.feat(start)))
    # of all states only the first has a weight, and it learns its own reward
    expected = known.loss(reward.detach()).mean() / algorithm.config.horizon
    assert_close(value, expected)


def test_the_slow_value_is_a_copy_of_every_nth_update() -> None:
    algorithm = build(slow_every=3)
    assert all(not p.requires_grad for p in algorithm.slow_value.parameters())
    fast, slow = list(algorithm.value.parameters()), list(algorithm.slow_value.parameters())
    assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True))
    same = []
    for i in range(7):
        algorithm.update(random_batch(algorithm), NoiseSource(i))
        same.append(all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True)))
    assert same == [True, False, False, True, False, False, True]
    assert algorithm.updates.item() == 7


def test_a_window_begins_from_nothing() -> None:
    algorithm = build()
    batch = random_batch(algorithm)
    eps = torch.rand(4, 8, *algorithm.latent.noise_shape)
    post = algorithm.observe(batch, eps)
    batch["prev_action"][:, 0] += 1
    again = algorithm.observe(batch, eps)
    assert torch.equal(post.deter, again.deter)
    assert not batch["is_first"].any()  # the batch is left as it is
    batch["prev_action"][:, 3] += 1
    other = algorithm.observe(batch, eps)
    assert torch.equal(post.deter[:, :3], other.deter[:, :3])
    assert not torch.equal(post.deter[:, 3], other.deter[:, 3])
    batch["is_first"][:, 3] = True
    cut = algorithm.observe(batch, eps)
    batch["state"][:, :3] += 1
    assert torch.equal(cut.deter[:, 3:], algorithm.observe(batch, eps).deter[:, 3:])


# -- acting --------------------------------------------------------------------------------------


def test_exploring_adds_nothing() -> None:
    algorithm = build()
    carry = algorithm.initial(2) | {"prev_action": torch.tensor([[0.5, 0.9], [0.0, -0.9]])}
    explored, action = algorithm.explore(carry, {}, 0, 10**9)
    assert explored is carry
    assert torch.equal(action, carry["prev_action"])
    assert all(spec.role != "explore" for spec in algorithm.noise_spec.values())


def test_the_margin_counts_the_latents_choices() -> None:
    algorithm = build()
    noise, obs = random_noise(algorithm, 2), acting(STATE, 2)
    margin = algorithm.margin(algorithm.initial(2), obs, noise, torch.tensor([True, False]))
    assert (margin > 0).all()
    assert (margin < torch.inf).all()  # a truncated normal chooses nothing


def test_the_published_protocol_takes_the_mode() -> None:
    assert DreamerV2.deterministic is True


# -- every kind of world -------------------------------------------------------------------------


@pytest.mark.slow
def test_an_agent_of_normalised_images_is_exported(tmp_path: Path) -> None:
    env = Steer(image=True, actions="discrete")
    agent = DreamerV2(env, preset="debug", device="cpu", seed=0, norm="layer")
    folder = export(agent.algorithm, agent.spec, agent.save(tmp_path / "agent"), golden_steps=10)
    assert verify(folder, provider="cpu").steps == 10


# -- settings ------------------------------------------------------------------------------------


def test_default_preset_follows_suite_and_observations() -> None:
    choices = {
        ("atari", "image"): "atari_paper",
        ("crafter", "image"): "crafter",
        ("dmc", "image"): "dmc_vision",
        ("dmc", "both"): "dmc_vision",
        ("dmc", "state"): "dmc_proprio",
        ("gym", "state"): "defaults",
        ("", "image"): "defaults",
    }
    kinds = {"image": image(), "state": STATE, "both": BOTH}
    for (suite, kind), preset in choices.items():
        assert DreamerV2.default_preset(suite, kinds[kind]) == preset


@pytest.mark.parametrize(
    ("suite", "fields"),
    [
        ("dmc", {"cont": False}),
        ("atari", {"cont": True}),
        ("crafter", {"cont": True, "repeat": 1}),
        ("", {"cont": True, "repeat": 1}),
    ],
)
def test_the_world_decides_continuation_and_repeat(suite: str, fields: dict) -> None:
    assert (
        DreamerV2.env_overrides(DreamerV2Config(), EnvFacts(f"{suite}:any", STATE, box())) == fields
    )


def test_ends_are_prioritised_where_the_settings_say_so() -> None:
    assert build(prioritize_ends=True).sampler == EpisodeSampler(prioritize_ends=True)
    assert build(prioritize_ends=False).sampler == EpisodeSampler()
