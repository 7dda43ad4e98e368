"""DreamerV3's recipe against the published numbers and a slow, literal reference of its losses."""

import copy
import math
import re
from collections.abc import Mapping
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from agentzoo.agents.dreamer_v3 import (
    SIZES,
    DreamerV3,
    DreamerV3Algorithm,
    DreamerV3Config,
    replay_value_loss,
)
from agentzoo.algorithm import Batch, Metrics, NoiseSource
from agentzoo.blocks import acting as acting_block
from agentzoo.blocks.distributions import gumbel, symlog
from agentzoo.blocks.heads import TwoHotPrediction
from agentzoo.blocks.returns import lambda_return
from agentzoo.blocks.rssm import State
from agentzoo.blocks.twohot import symexp_bins, twohot_weights
from agentzoo.config import configure
from agentzoo.export import export
from agentzoo.replay.buffer import ReplayBuffer
from agentzoo.replay.samplers import OnlineSampler
from agentzoo.runtime import verify
from agentzoo.runtime.errors import ConfigError, EpisodeError
from agentzoo.runtime.spec import ActionSpec, ObsSpec
from agentzoo.train.callbacks import Callback
from agentzoo.train.loop import Training
from agentzoo.train.schedule import ByRatio
from tests.agents import builders
from tests.agents.builders import (
    CHOICE,
    STATE,
    ShapesOfNoise,
    acting,
    box,
    discrete,
    image,
    random_noise,
    vectors,
)
from tests.agents.contract import Keep

TINY = builders.TINY[DreamerV3]


def build(
    obs: Mapping[str, ObsSpec] = STATE, action: ActionSpec | None = None, **overrides: object
) -> DreamerV3Algorithm:
    return builders.build(DreamerV3, obs, action, **overrides)


def random_batch(
    algorithm: DreamerV3Algorithm, obs: Mapping[str, ObsSpec] = STATE, seed: int = 1
) -> Batch:
    """Sequences with an episode's end inside: by termination in one, by time in another."""
    batch = builders.random_batch(algorithm, obs, seed)
    c, lead = algorithm.config, batch["reward"].shape
    names = ("is_first", "is_last", "is_terminal")
    flags = {name: torch.zeros(lead, dtype=torch.bool) for name in names}
    flags["is_last"][0, 4] = flags["is_terminal"][0, 4] = flags["is_first"][0, 5] = True
    flags["is_last"][1, 5] = flags["is_first"][1, 6] = True
    stoch = torch.randint(0, c.sizes.classes, (*lead, c.stoch), dtype=torch.uint8)
    return batch | flags | {"reward": 2 * batch["reward"], "stoch": stoch}


# -- sizes and schedule --------------------------------------------------------------------------

WORLDS = {
    "crafter": (image(), discrete(17)),
    "walker-vision": (image(), box(6)),
    "walker-proprio": (vectors(orientations=14, height=1, velocity=9), box(6)),
    "atari": (image(96, 1), discrete(18)),
    "atari100k": (image(), discrete(6)),
}
TOTALS = {
    "crafter": (687_875, 10_498_259, 23_495_475, 41_658_259, 93_480_531, 165_965_075, 372_920_979),
    "walker-vision": (
        686_846, 10_494_158, 23_489_326, 41_650_062, 93_468_238, 165_948_686, 372_896_398,
    ),
    "walker-proprio": (
        640_867, 9_738_019, 21_782_947, 38_612_003, 86_622_499, 153_769_507, 345_473_059,
    ),
    "atari": (
        769_762, 11_808_850, 26_444_402, 46_900_882, 105_276_626, 186_936_082, 420_106_130,
    ),
    "atari100k": (
        686_456, 10_492_616, 23_487_016, 41_646_984, 93_463_624, 165_942_536, 372_887_176,
    ),
}  # fmt: skip
HEADS = {  # reward, continuation, value: the same in every world
    "1m": (57_663, 41_153, 66_111),
    "12m": (721_407, 656_129, 853_503),
    "25m": (1_573_503, 1_475_713, 1_869_951),
    "50m": (2_753_279, 2_622_977, 3_279_615),
    "100m": (6_095_871, 5_900_545, 7_278_591),
    "200m": (10_749_183, 10_488_833, 12_850_431),
    "400m": (23_987_967, 23_597_569, 28_712_703),
}
REST = {  # rssm, encoder, decoder, actor, by size
    "crafter": (
        (377_408, 14_304, 80_595, 50_641),
        (5_982_464, 220_416, 1_272_003, 792_337),
        (13_446_528, 493_824, 2_857_635, 1_778_321),
        (23_892_480, 876_032, 5_076_355, 3_157_521),
        (53_730_048, 1_966_848, 11_413_059, 7_095_569),
        (95_495_168, 3_492_864, 20_282_115, 12_606_481),
        (214_808_064, 7_850_496, 45_617_283, 28_346_897),
    ),
    "walker-vision": (
        (376_704, 14_304, 80_595, 50_316),
        (5_979_648, 220_416, 1_272_003, 791_052),
        (13_442_304, 493_824, 2_857_635, 1_776_396),
        (23_886_848, 876_032, 5_076_355, 3_154_956),
        (53_721_600, 1_966_848, 11_413_059, 7_091_724),
        (95_483_904, 3_492_864, 20_282_115, 12_601_356),
        (214_791_168, 7_850_496, 45_617_283, 28_339_212),
    ),
    "walker-proprio": (
        (364_416, 10_112, 51_096, 50_316),
        (5_783_040, 138_752, 794_136, 791_052),
        (12_999_936, 306_432, 1_781_016, 1_776_396),
        (23_100_416, 539_648, 3_161_112, 3_154_956),
        (51_952_128, 1_202_688, 7_100_952, 7_091_724),
        (92_338_176, 2_127_872, 12_613_656, 12_601_356),
        (207_713_280, 4_764_672, 28_357_656, 28_339_212),
    ),
    "atari": (
        (397_952, 13_904, 142_273, 50_706),
        (6_310_400, 218_816, 2_256_001, 792_594),
        (14_184_192, 491_424, 5_070_913, 1_778_706),
        (25_203_712, 872_832, 9_010_433, 3_158_034),
        (56_679_936, 1_962_048, 20_263_297, 7_096_338),
        (100_739_072, 3_486_464, 36_014_593, 12_607_506),
        (226_606_080, 7_840_896, 81_012_481, 28_348_434),
    ),
    "atari100k": (
        (376_704, 14_304, 80_595, 49_926),
        (5_979_648, 220_416, 1_272_003, 789_510),
        (13_442_304, 493_824, 2_857_635, 1_774_086),
        (23_886_848, 876_032, 5_076_355, 3_151_878),
        (53_721_600, 1_966_848, 11_413_059, 7_087_110),
        (95_483_904, 3_492_864, 20_282_115, 12_595_206),
        (214_791_168, 7_850_496, 45_617_283, 28_329_990),
    ),
}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def of_size(size: str, world: str) -> DreamerV3Algorithm:
    with torch.device("meta"):
        return DreamerV3Algorithm(*WORLDS[world], DreamerV3Config(size=size))


@pytest.mark.parametrize("world", WORLDS)
def test_parameters_of_every_size_and_part(world: str) -> None:
    for size, total, rest in zip(SIZES, TOTALS[world], REST[world], strict=True):
        algorithm = of_size(size, world)
        heads = (algorithm.reward, algorithm.cont, algorithm.value)
        others = (algorithm.rssm, algorithm.encoder, algorithm.decoder, algorithm.actor)
        assert tuple(map(count, heads)) == HEADS[size]
        assert tuple(map(count, others)) == rest
        trained = sum(p.numel() for p in algorithm.optimizers()["optimizer"].params)
        assert trained == sum(HEADS[size]) + sum(rest) == total
        assert count(algorithm) == total + count(algorithm.value), "and the slow value"


def test_widths_of_features_and_tokens() -> None:
    sizes = {"1m": (640, 256, 576), "12m": (2560, 1024, 2304), "200m": (10240, 4096, 9216)}
    for size, (feat, tokens, tokens_96) in sizes.items():
        crafter, atari = of_size(size, "crafter"), of_size(size, "atari")
        assert (crafter.rssm.feat_size, crafter.encoder.size) == (feat, tokens)
        assert (atari.rssm.feat_size, atari.encoder.size) == (feat, tokens_96)


def test_parameters_of_every_block() -> None:
    algorithm = of_size("12m", "crafter")
    core, rssm = algorithm.rssm.core, algorithm.rssm
    blocks = {
        "from_deter": core.from_deter, "from_stoch": core.from_stoch,
        "from_action": core.from_action, "gates": core.gates,
        "posterior": rssm.post_net, "prior": rssm.prior_net,
    }  # type: ignore  # fmt: skip
    assert {name: count(block) for name, block in blocks.items()} == {
        "from_deter": 524_800, "from_stoch": 131_584, "from_action": 4_864, "gates": 1_579_008,
        "posterior": 786_944 + 131_584, "prior": 524_800 + 66_048 + 131_584,
    }  # fmt: skip
    assert count(core.inputs) + count(core.norm) == 2_101_248  # type: ignore
    assert [count(s) for s in algorithm.encoder.image.stages] == [  # type: ignore
        2_464, 38_496, 76_928, 102_528,
    ]  # fmt: skip


def test_the_optimizer_is_the_papers() -> None:
    optimizer = of_size("1m", "crafter").optimizers()["optimizer"]
    assert (optimizer.lr, optimizer.warmup, optimizer.eps) == (4e-5, 1000, 1e-20)
    assert (optimizer.betas, optimizer.clip.limit) == ((0.9, 0.999), 0.3)


@pytest.mark.parametrize(
    ("preset", "decisions", "updates"),
    [
        ("crafter", 1_000_000, 500_000),
        ("atari", 50_000_000, 1_562_500),
        ("atari100k", 100_000, 25_000),
        ("atari100k-paper", 100_000, 12_500),
        ("dmc_vision", 1_000_000, 250_000),
        ("dmc_proprio", 1_000_000, 1_000_000),
    ],
)
def test_updates_of_the_papers_runs(preset: str, decisions: int, updates: int) -> None:
    name, _, paper = preset.partition("-")
    overrides = {"train_ratio": 128.0} if paper else {}
    config = configure(DreamerV3Config, DreamerV3.presets[name], overrides)
    schedule = config.schedule(config.repeat)
    begin = 2048 if config.envs == 16 else 1088
    assert schedule.due(begin * config.repeat - 1, 0) == 0
    assert schedule.due(begin * config.repeat, 0) == 1
    assert schedule.due((decisions + begin) * config.repeat, 0) == updates + 1


def test_fractions_of_an_update_are_owed_and_never_lost() -> None:
    schedule = ByRatio(prefill=0, pretrain=1, ratio=0.3, batch=4, length=9, envs=1, repeat=2)
    due = [schedule.due(step, 0) for step in range(0, 4_000, 2)]
    assert due[39] == 0
    assert due[40] == 1
    assert due[1_000] == 1 + int(960 * 0.3 / 32)
    assert set(np.diff(due)) == {0, 1}
    late = ByRatio(prefill=500, pretrain=1, ratio=0.3, batch=4, length=9, envs=1, repeat=2)
    assert late.due(499, 0) == 0
    assert late.due(500, 0) == 1


def test_shapes_at_paper_size() -> None:
    with torch.device("meta"):
        algorithm = DreamerV3Algorithm(image(), discrete(17), DreamerV3Config(size="1m"))
        flags = ("is_first", "is_last", "is_terminal")
        batch = {
            "image": torch.empty(16, 65, 64, 64, 3, dtype=torch.uint8),
            "prev_action": torch.empty(16, 65, 17),
            "reward": torch.empty(16, 65),
            "deter": torch.empty(16, 65, 512, dtype=torch.float16),
            "stoch": torch.empty(16, 65, 32, dtype=torch.uint8),
        } | {k: torch.empty(16, 65, dtype=torch.bool) for k in flags}
    trained = {name: column[:, 1:] for name, column in batch.items()}
    prev = algorithm.stored(batch)
    post, feat, losses, _ = algorithm.model_losses(prev, trained, ShapesOfNoise())
    assert post.deter.shape == (16, 64, 512)
    assert post.stoch.shape == (16, 64, 32 * 4)
    assert {loss.shape for loss in losses.values()} == {(16, 64)}
    assert set(losses) == {"rec_image", "reward", "cont", "dyn", "rep"}
    behavior, ret, _ = algorithm.behavior_losses(post, ShapesOfNoise())
    assert {name: loss.shape for name, loss in behavior.items()} == {
        "policy": (16, 64),
        "value": (16, 64),
    }
    assert ret.shape == (16, 64)
    assert algorithm.replay_loss(feat, trained, ret).shape == (16, 63)


# -- numbers of the papers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "terminal", "expected"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], [24.8725, 33.05, 39.0]),
        ([0, 0, 1, 0], [0, 0, 1, 0], [10.9, 2.0, 39.0]),
        ([0, 0, 1, 0], [0, 0, 0, 0], [23.05, 29.0, 39.0]),
    ],
)
def test_returns_of_replayed_transitions(last: list, terminal: list, expected: list) -> None:
    batch = {
        "reward": torch.tensor([[9.0, 1, 2, 3]]),
        "is_last": torch.tensor([last]).bool(),
        "is_terminal": torch.tensor([terminal]).bool(),
    }
    seen: list[Tensor] = []

    class Value(TwoHotPrediction):
        def loss(self, target: Tensor, *others: tuple[float, Tensor]) -> Tensor:
            seen.append(target)
            return torch.ones(1, 3)

    loss = replay_value_loss(
        batch,
        Value(torch.zeros(1, 3, 255), symexp_bins()),
        torch.zeros(1, 3),
        torch.tensor([[10.0, 20, 30, 40]]),
        discount=0.9,
        lam=0.5,
        slow_scale=1.0,
    )
    assert_close(seen[0], torch.tensor([expected]))
    assert loss.tolist() == [[1.0 - ended for ended in last[:-1]]]


def test_returns_of_imagined_steps() -> None:
    cont = torch.full((1, 4), 332 / 333)
    value = torch.full((1, 4), 5.0)
    reward = torch.tensor([[0.0, 1, 1, 1]])
    ret = lambda_return(reward[:, 1:], cont[:, 1:], value[:, 1:], 0.95)
    assert_close(ret, torch.tensor([[7.8015286, 6.9179107, 5.9849850]]))


def test_a_fresh_agent_predicts_zero_and_has_free_nats_to_spare() -> None:
    torch.manual_seed(0)
    algorithm = DreamerV3Algorithm(STATE, box(), configure(DreamerV3Config, TINY))
    assert algorithm.discount == pytest.approx(0.996996997)
    feat = torch.randn(20, algorithm.rssm.feat_size)
    for head in (algorithm.reward, algorithm.value, algorithm.slow_value):
        assert (head.prediction(head(feat)).mean == 0).all()
    for net in (algorithm.rssm.post_net, algorithm.rssm.prior_net):
        torch.nn.init.zeros_(net.out.weight)  # type: ignore
    batch = random_batch(algorithm)
    prev, trained = algorithm.stored(batch), {k: v[:, 1:] for k, v in batch.items()}
    _, _, losses, metrics = algorithm.model_losses(prev, trained, NoiseSource(0))
    assert metrics["model/kl"].abs() < 1e-6
    assert (losses["dyn"] == 1).all()
    assert (losses["rep"] == 1).all()
    grads = torch.autograd.grad(
        losses["dyn"].sum() + losses["rep"].sum(), list(algorithm.rssm.parameters()),
        allow_unused=True,
    )  # fmt: skip
    assert all(grad is None or (grad == 0).all() for grad in grads)
    certain = torch.tensor(algorithm.discount)
    floor = algorithm.cont.prediction(torch.logit(certain)).loss(certain)
    assert floor.item() == pytest.approx(0.0204404, abs=1e-6)
    assert algorithm.reward.prediction(algorithm.reward(feat)).loss(
        torch.ones(20)
    ).mean().item() == (pytest.approx(5.5412635))


# -- losses --------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    low, upper = twohot_weights(target, symexp_bins())
    dense = F.one_hot(low, 255) * (1 - upper)[..., None]
    dense = dense + F.one_hot(low + 1, 255) * upper[..., None]
    return -(dense * torch.log_softmax(logits, -1)).sum(-1)


def expectation(logits: Tensor) -> Tensor:
    return (torch.softmax(logits.double(), -1) * symexp_bins().double()).sum(-1).float()


def mixed(logits: Tensor, groups: int, unimix: float = 0.01) -> torch.distributions.Categorical:
    probs = torch.softmax(logits.unflatten(-1, (groups, -1)), -1)
    return torch.distributions.Categorical((1 - unimix) * probs + unimix / probs.shape[-1])


def reference_losses(
    a: DreamerV3Algorithm, batch: Batch, noise: NoiseSource
) -> tuple[dict[str, Tensor], Tensor]:
    """Every loss, written for reading, one state at a time; and the imagined returns."""
    c, S = a.config, a.config.stoch
    B, T, gamma = len(batch["reward"]), batch["reward"].shape[1] - 1, 1 - 1 / 333
    K = c.imag_last or T
    kl = torch.distributions.kl_divergence
    eps = noise.uniform(B, T, S, c.sizes.classes)
    stoch = F.one_hot(batch["stoch"][:, 0].long(), c.sizes.classes).float().flatten(1)
    state = State(batch["deter"][:, 0].float(), stoch, torch.zeros_like(stoch))
    losses = {k: torch.zeros(()) for k in ("rec_state", "reward", "cont", "dyn", "rep")}
    states, feats = [], []
    for t in range(1, T + 1):
        now = {name: column[:, t] for name, column in batch.items()}
        embed = a.encoder({"state": now["state"]})
        state = a.rssm.obs_step(state, now["prev_action"], embed, now["is_first"], eps[:, t - 1])
        states.append(state)
        feats.append(torch.cat([state.stoch, state.deter], -1))
        q, p = mixed(state.stats, S), mixed(a.rssm.prior_net(state.deter), S)
        sg_q, sg_p = (
            mixed(state.stats.detach(), S),
            mixed(a.rssm.prior_net(state.deter).detach(), S),
        )
        losses["dyn"] += torch.clamp(kl(sg_q, p).sum(-1), min=c.free_nats).mean() / T
        losses["rep"] += torch.clamp(kl(q, sg_p).sum(-1), min=c.free_nats).mean() / T
        out = symlog(a.decoder(feats[-1][:, None])["state"][:, 0])
        losses["rec_state"] += (out - symlog(now["state"])).square().sum(-1).mean() / T
        losses["reward"] += cross_entropy(a.reward(feats[-1]), now["reward"]).mean() / T
        label, prob = gamma * (1 - now["is_terminal"].float()), torch.sigmoid(a.cont(feats[-1]))
        bce = -(label * prob.log() + (1 - label) * (1 - prob).log())
        losses["cont"] += bce.mean() / T

    N, H = B * K, c.horizon
    start = [torch.stack([s[i].detach() for s in states[-K:]], 1).flatten(0, 1) for i in range(3)]
    eps = noise.uniform(N, H, S, c.sizes.classes)
    xi = (noise.normal if a.actor.noise_kind == "normal" else noise.uniform)(N, H, a.action.size)
    state, actions, imag = State(*start), [], []
    for h in range(H + 1):
        imag.append(torch.cat([state.stoch, state.deter], -1).detach())
        if h < H:
            actions.append(a.actor.sample(a.actor(imag[-1]), xi[:, h]).detach())
            state = a.rssm.img_step(state, actions[-1], eps[:, h])
    r = [expectation(a.reward(f)).detach() for f in imag]
    v = [expectation(a.value(f)).detach() for f in imag]
    d = [torch.sigmoid(a.cont(f)).detach() for f in imag]
    ret, returns = v[H], {}
    for t in reversed(range(H)):
        ret = r[t + 1] + d[t + 1] * ((1 - c.lam) * v[t + 1] + c.lam * ret)
        returns[t] = ret
    every = torch.stack([returns[t] for t in range(H)], 1)
    low, high = (0.01 * torch.quantile(every, q) for q in (0.05, 0.95))
    scale = max(1.0, (high - low).item())
    policy = value = torch.zeros(())
    weight = torch.ones(N)
    for t in range(H):
        weight = weight * d[t]
        stats = a.actor(imag[t])
        log_prob, entropy = a.actor.log_prob(stats, actions[t]), a.actor.entropy(stats)
        advantage = (returns[t] - v[t]) / scale
        policy = policy - (weight * (advantage * log_prob + 3e-4 * entropy)).mean() / H
        slow = expectation(a.slow_value(imag[t])).detach()
        logits = a.value(imag[t])
        both = cross_entropy(logits, returns[t]) + cross_entropy(logits, slow)
        value = value + (weight * both).mean() / H

    boot = returns[0].unflatten(0, (B, K))
    ret, repval = boot[:, -1], torch.zeros(())
    for t in reversed(range(K - 1)):
        now = {name: column[:, T - K + 1 + t] for name, column in batch.items()}
        then = {name: column[:, T - K + 2 + t] for name, column in batch.items()}
        live = gamma * (1 - then["is_terminal"].float())
        keep = c.lam * (1 - then["is_last"].float())
        ret = then["reward"] + live * ((1 - keep) * boot[:, t + 1] + keep * ret)
        feat = feats[T - K + t]
        logits, slow = a.value(feat), expectation(a.slow_value(feat)).detach()
        both = cross_entropy(logits, ret) + cross_entropy(logits, slow)
        repval = repval + ((1 - now["is_last"].float()) * both).mean() / (K - 1)
    return losses | {"policy": policy, "value": value, "repval": repval}, every


@pytest.mark.parametrize(
    ("action", "imag_last"),
    [(box(), None), (discrete(3), None), (box(), 3)],
    ids=["box", "discrete", "last-transitions"],
)
def test_update_is_one_step_along_the_reference_gradients(
    action: ActionSpec, imag_last: int | None
) -> None:
    algorithm = build(action=action, imag_last=imag_last, free_nats=0.05, warmup=0)
    reference, batch = copy.deepcopy(algorithm), random_batch(algorithm)
    metrics, _ = algorithm.update(batch, NoiseSource(7))
    losses, ret = reference_losses(reference, batch, NoiseSource(7))
    for name, loss in losses.items():
        assert_close(metrics[f"loss/{name}"], loss, rtol=1e-4, atol=1e-5, msg=name)
    assert_close(metrics["imag/ret"], ret.mean(), rtol=1e-4, atol=1e-5)
    scales = {"rep": 0.1, "repval": 0.3}
    total = torch.stack([scales.get(k, 1.0) * v for k, v in losses.items()]).sum()
    assert_close(metrics["loss/total"], total, rtol=1e-4, atol=1e-5)
    optimizer = reference.optimizers()["optimizer"]
    grads = torch.autograd.grad(total, optimizer.params)
    norm = optimizer.step(grads)
    assert_close(metrics["opt/grad_norm"], norm, rtol=1e-3, atol=1e-6)
    for key, moment in algorithm.optimizers()["optimizer"].state.items():
        if key.startswith("square."):
            assert_close(moment, optimizer.state[key], rtol=1e-2, atol=1e-6, msg=key)


def losses_of(algorithm: DreamerV3Algorithm) -> dict[str, Tensor]:
    batch = random_batch(algorithm)
    trained = {name: column[:, 1:] for name, column in batch.items()}
    prev = algorithm.stored(batch)
    post, feat, losses, _ = algorithm.model_losses(prev, trained, NoiseSource(0))
    behavior, ret, _ = algorithm.behavior_losses(post, NoiseSource(1))
    losses |= behavior
    losses["repval"] = algorithm.replay_loss(feat, trained, ret)
    return {name: loss.mean() for name, loss in losses.items()}


def reached(algorithm: DreamerV3Algorithm, loss: Tensor) -> set[str]:
    named = {k: p for k, p in algorithm.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {
        k.split(".")[0]
        for k, g in zip(named, grads, strict=True)
        if g is not None and g.abs().sum() > 0
    }


def test_every_loss_reaches_what_it_should() -> None:
    algorithm = build(free_nats=0.0)
    losses = losses_of(algorithm)
    states = {"encoder", "rssm"}
    assert {name: reached(algorithm, loss) for name, loss in losses.items()} == {
        "rec_state": states | {"decoder"},
        "reward": states | {"reward"},
        "cont": states | {"cont"},
        "dyn": states,
        "rep": states,
        "policy": {"actor"},
        "value": {"value"},
        "repval": states | {"value"},
    }


@pytest.mark.parametrize(
    ("loss", "own", "other"), [("dyn", "prior", "post"), ("rep", "post", "prior")]
)
def test_prior_and_posterior_learn_from_one_side_each(loss: str, own: str, other: str) -> None:
    algorithm = build(free_nats=0.0, batch_size=2, batch_length=8)
    batch = {name: column[:, :2] for name, column in random_batch(algorithm).items()}
    trained = {name: column[:, 1:] for name, column in batch.items()}  # one step: no later states
    _, _, losses, _ = algorithm.model_losses(algorithm.stored(batch), trained, NoiseSource(0))
    rssm = algorithm.rssm
    logits = {"prior": rssm.prior_net.out.bias, "post": rssm.post_net.out.bias}  # type: ignore
    sides = [logits[own], logits[other]]
    mine, theirs = torch.autograd.grad(losses[loss].sum(), sides, allow_unused=True)
    assert mine.abs().sum() > 0
    assert theirs is None or not theirs.any()


def test_the_policy_learns_from_constants_only() -> None:
    algorithm = build()
    start = algorithm.rssm.initial(4, 2)
    start.deter.requires_grad_(True)
    losses, ret, _ = algorithm.behavior_losses(start, NoiseSource(0))
    assert not ret.requires_grad
    (grad,) = torch.autograd.grad(losses["policy"].sum(), start.deter, allow_unused=True)
    assert grad is None


def test_the_slow_value_starts_as_the_value_and_follows() -> None:
    torch.manual_seed(0)
    algorithm = DreamerV3Algorithm(STATE, box(), configure(DreamerV3Config, TINY))
    pairs = zip(algorithm.slow_value.parameters(), algorithm.value.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    before = [p.clone() for p in algorithm.slow_value.parameters()]
    for i in range(3):
        algorithm.update(random_batch(algorithm), NoiseSource(i))
    slow, fast = list(algorithm.slow_value.parameters()), list(algorithm.value.parameters())
    moved = [(a - b).norm() for a, b in zip(slow, before, strict=True)]
    ahead = [(a - b).norm() for a, b in zip(fast, before, strict=True)]
    assert all(0 < m < 0.1 * a for m, a in zip(moved, ahead, strict=True))


def test_the_first_update_has_no_learning_rate() -> None:
    algorithm = build(warmup=1000)
    trained = algorithm.optimizers()["optimizer"].params
    before = [p.detach().clone() for p in trained]
    algorithm.update(random_batch(algorithm), NoiseSource(0))
    assert all(torch.equal(p, b) for p, b in zip(trained, before, strict=True))
    algorithm.update(random_batch(algorithm), NoiseSource(1))
    assert not all(torch.equal(p, b) for p, b in zip(trained, before, strict=True))


@pytest.mark.slow
def test_a_model_learns_a_constant_world() -> None:
    torch.manual_seed(0)
    config = configure(DreamerV3Config, TINY, {"lr": 1e-2, "warmup": 0})
    algorithm = DreamerV3Algorithm(STATE, box(), config)
    batch = random_batch(algorithm)
    batch["state"], batch["reward"] = torch.full((4, 9, 5), 20.0), torch.full((4, 9), 50.0)
    metrics = [algorithm.update(batch, NoiseSource(i))[0] for i in range(80)]
    assert metrics[-1]["loss/rec_state"] < 0.05 * metrics[0]["loss/rec_state"]
    assert metrics[-1]["imag/reward"].item() == pytest.approx(50, rel=0.2)


# -- stored latents ------------------------------------------------------------------------------


def test_a_window_begins_with_the_latents_of_its_context() -> None:
    algorithm = build()
    batch = random_batch(algorithm)
    _, base = algorithm.update(batch, NoiseSource(0))
    context = {k: v.clone() for k, v in batch.items()}
    context["deter"][:, 0] += 1
    _, moved = build().update(context, NoiseSource(0))
    assert (moved["deter"][:, 0] != base["deter"][:, 0]).any()
    assert torch.equal(moved["deter"][0, 4:], base["deter"][0, 4:]), "an episode begins at step 5"
    later = {k: v.clone() for k, v in batch.items()}
    later["deter"][:, 1:] += 1
    later["reward"][:, 0] += 9  # what comes before the first trained one is not looked at
    later["state"][:, 0] += 9
    a, same = build().update(later, NoiseSource(0))
    assert torch.equal(same["deter"], base["deter"])
    assert a == build().update(batch, NoiseSource(0))[0]


def test_new_latents_are_those_the_update_inferred() -> None:
    algorithm = build()
    batch = random_batch(algorithm)
    reference = copy.deepcopy(algorithm)
    _, latents = algorithm.update(batch, NoiseSource(3))
    T = algorithm.config.batch_length - 1
    assert latents["deter"].shape == (4, T, 16)
    assert latents["stoch"].shape == (4, T, 4)
    trained = {name: column[:, 1:] for name, column in batch.items()}
    post, *_ = reference.model_losses(reference.stored(batch), trained, NoiseSource(3))
    assert torch.equal(latents["deter"], post.deter.half())
    assert torch.equal(reference.latent.onehot(latents["stoch"]), post.stoch)


def test_collected_transitions_carry_their_latents() -> None:
    algorithm = build()
    carry = algorithm.initial(3)
    carry["deter"] = torch.rand(3, 16)
    carry["stoch"] = algorithm.latent.onehot(torch.tensor([[0, 1, 2, 3]] * 3))
    reward = {"reward": np.zeros(3)}
    found, late, state = algorithm.annotate(reward, [0, 1, 2], carry, None)
    assert (late, state) == ((), None)
    assert found["stoch"].tolist() == [[0, 1, 2, 3]] * 3
    np.testing.assert_allclose(found["deter"], carry["deter"], atol=3e-4)
    for name, spec in algorithm.columns.items():
        assert found[name].dtype == np.dtype(spec.dtype)
        assert found[name].shape == (3, *spec.shape)


def test_what_replay_gives_is_what_update_takes(tmp_path: Path) -> None:
    algorithm = build()
    replay = ReplayBuffer(tmp_path, STATE, algorithm.action, algorithm.columns, capacity=2048)
    rng = np.random.default_rng(0)
    for n in range(60):
        replay.add(0, {
            "state": rng.normal(size=5), "action": rng.uniform(-1, 1, 2), "reward": n / 60,
            "is_first": n % 20 == 0, "is_last": n % 20 == 19, "is_terminal": n % 20 == 19,
            "deter": rng.uniform(-1, 1, 16), "stoch": rng.integers(0, 4, 4),
        })  # type: ignore  # fmt: skip
    before = [chunk.mutable["deter"].copy() for chunk in replay.streams[0].chunks]
    batch, drawn = replay.sample(OnlineSampler(), 4, 9, rng)
    _, latents = algorithm.update(batch, NoiseSource(0))
    replay.write_back(drawn, {name: x.numpy() for name, x in latents.items()})
    changed = (replay.streams[0].chunks[0].mutable["deter"] != before[0]).any(-1)
    # four fresh windows of nine transitions; each one's first is context
    assert np.flatnonzero(changed).tolist() == [n for n in range(36) if n % 9]


# -- acting --------------------------------------------------------------------------------------


def test_the_environment_clips_what_the_policy_says() -> None:
    algorithm = build()
    carry = algorithm.initial(1) | {"prev_action": torch.tensor([[1.7, -0.2]])}
    explored, action = algorithm.explore(carry, {}, 0, 10**9)
    assert_close(action, torch.tensor([[1.0, -0.2]]))
    assert explored is carry
    core = algorithm.rssm.core
    assert_close(core.project(carry["prev_action"]), core.project(action))


def test_the_margin_counts_the_latents_choices() -> None:
    algorithm = build()
    noise, obs = random_noise(algorithm, 2), acting(STATE, 2)
    carry = algorithm.initial(2)
    embed, first = algorithm.encoder(obs), obs["is_first"]
    state = acting_block.filter_step(algorithm.rssm, carry, embed, first, noise["latent"])
    scores = algorithm.latent.log_probs(state.stats) + gumbel(noise["latent"])
    best = scores.topk(2, -1).values
    # relative to the scores, as everything is that a replay compares
    scale = best.abs().amax(-1).clamp(min=1)
    expected = ((best[..., 0] - best[..., 1]) / scale).amin(-1)
    found = algorithm.margin(carry, obs, noise, torch.tensor([True, False]))
    assert_close(found, expected)


def test_the_published_protocol_samples_actions() -> None:
    assert DreamerV3.deterministic is False


# -- every kind of world -------------------------------------------------------------------------

BOTH = image() | STATE | CHOICE


class World(gym.Env[np.ndarray, np.int64]):
    """Episodes of a given length with given rewards; small images, or vectors."""

    def __init__(
        self, length: int = 3, reward: float = 1.0, *, side: int = 0, actions: int = 2
    ) -> None:
        self.length, self.reward = length, reward
        self.action_space = gym.spaces.Discrete(actions)
        self.observation_space = (
            gym.spaces.Box(0, 255, (side, side, 1), np.uint8)
            if side
            else gym.spaces.Box(-1, 1, (2,), np.float32)
        )

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: np.int64):
        self.t += 1
        return self.observation_space.sample(), self.reward, self.t >= self.length, False, {}


def debug(env: gym.Env, **fields: object) -> DreamerV3:
    return DreamerV3(
        env, preset="debug", device="cpu", seed=3, eval_every=0, final_episodes=0, **fields
    )


@pytest.mark.slow
def test_an_agent_of_images_is_exported(tmp_path: Path) -> None:
    agent = debug(World(side=48))
    folder = export(agent.algorithm, agent.spec, tmp_path, golden_steps=6)
    assert verify(folder, provider="cpu").steps == 6


def test_episodes_of_one_step_are_learned_from(tmp_path: Path) -> None:
    keep = Keep()
    debug(World(length=1)).learn(120, run=tmp_path, callbacks=[keep], progress=False)
    assert keep.training.counters.updates == keep.training.schedule.due(120, 0) == 3
    assert keep.training.replay.streams[0].fresh == 9 * 4 * 3
    assert keep.training.returns[-1][1] == 1.0
    assert all(torch.isfinite(p).all() for p in keep.training.learner.algorithm.parameters())


def test_a_world_with_one_action_is_learned_and_played(tmp_path: Path) -> None:
    agent = debug(World(actions=1)).learn(60, run=tmp_path, progress=False)
    assert all(torch.isfinite(p).all() for p in agent.algorithm.parameters())
    obs, _ = World().reset(seed=0)
    assert [int(agent.act(obs, deterministic=d)) for d in (True, False)] == [0, 0]


@pytest.mark.slow
def test_an_agent_of_one_action_is_exported(tmp_path: Path) -> None:
    agent = debug(World(actions=1))
    assert verify(agent.export(tmp_path, golden_steps=5), provider="cpu").steps == 5


class StopAt(Callback):
    """Stops the run at an update, whatever else is due."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_update(self, training: Training, metrics: Metrics) -> None:
        training.stop = training.counters.updates == self.update


@pytest.mark.slow
def test_what_is_owed_survives_a_resume(tmp_path: Path) -> None:
    """7.3 updates a decision: a stop within a burst owes whole ones, and fractions besides."""
    owing, paid = Keep(), Keep()
    fields = {"train_ratio": 7.3 * 32, "checkpoint_every": 0, "log_every": 10_000}
    debug(World(), **fields).learn(48, run=tmp_path, callbacks=[owing, StopAt(12)], progress=False)
    counters = owing.training.counters
    due = owing.training.schedule.due(counters.env_step, 0)
    assert counters.updates == 12
    assert due - counters.updates == 3
    assert (counters.env_step - 40) * 7.3 % 1 > 0.05
    debug(World(), **fields).learn(48, run=tmp_path, callbacks=[paid], progress=False)
    assert paid.training.counters.updates == 1 + int(8 * 7.3) == 59


@pytest.mark.parametrize("reward", [math.inf, -math.inf, math.nan, 1e39])
def test_a_reward_that_is_not_finite_is_refused(tmp_path: Path, reward: float) -> None:
    said = rf"reward of environment 0 at step 1 of its episode is {reward}, expected one finite"
    with pytest.raises(EpisodeError, match=re.escape(said)):
        debug(World(reward=reward)).learn(100, run=tmp_path, progress=False)


def test_an_image_that_does_not_halve_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"84x84 pixels; .* a multiple of 16 from 48 to 256"):
        debug(World(side=84))


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "size", "envs", "repeat", "train_ratio", "steps", "protocol"),
    [
        ("dmc_vision", "200m", 16, 1, 256, 1_100_000, None),
        ("dmc_proprio", "1m", 16, 1, 1024, 1_100_000, None),
        ("crafter", "200m", 1, 1, 512, 1_100_000, None),
        ("atari", "200m", 16, 4, 32, 4 * 51_000_000, "dreamerv3"),
        ("atari100k", "200m", 1, 4, 256, 4 * 110_000, "atari100k"),
        ("dmc_proprio_paper", "1m", 1, 2, 512, 510_000, None),
    ],
)
def test_presets_are_the_published_settings(
    preset: str, size: str, envs: int, repeat: int, train_ratio: float, steps: int, protocol: str
) -> None:
    config = configure(DreamerV3Config, DreamerV3.presets[preset])
    assert (config.size, config.envs, config.repeat) == (size, envs, repeat)
    assert (config.train_ratio, config.total_steps) == (train_ratio, steps)
    assert (config.protocol, config.render) == (protocol, "default")
    # one setting for all of them
    assert (config.batch_size, config.batch_length, config.replay_rows) == (16, 65, 5_000_000)
    assert (config.horizon, config.imag_last, config.lam, config.entropy) == (15, None, 0.95, 3e-4)
    assert (config.unimix, config.free_nats, config.prefill, config.pretrain) == (0.01, 1.0, 0, 1)
    assert (config.dyn_scale, config.rep_scale, config.repval_scale) == (1.0, 0.1, 0.3)


@pytest.mark.parametrize("preset", ["pixels", "state", "cpu", "cpu_pixels", "debug"])
def test_our_own_presets_are_smaller(preset: str) -> None:
    with torch.device("meta"):
        config = configure(DreamerV3Config, DreamerV3.presets[preset])
        algorithm = DreamerV3Algorithm(STATE, box(), config)
    limit = {"pixels": 12e6, "state": 1e6, "debug": 5e4}.get(preset, 1e6)
    assert count(algorithm) < limit
    assert config.total_steps <= 1_100_000
    assert config.train_ratio > 0


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_one_number(size: str) -> None:
    units, hidden, deter, classes, depth = DreamerV3Config(size=size).sizes
    assert (hidden, deter, classes, depth) == (units, 8 * units, units // 16, units // 16)
    assert DreamerV3Config(size=size, deter=32).sizes == (units, units, 32, classes, depth)


def test_default_preset_follows_suite_and_observations() -> None:
    assert DreamerV3.default_preset("dmc", image()) == "dmc_vision"
    assert DreamerV3.default_preset("dmc", STATE) == "dmc_proprio"
    assert DreamerV3.default_preset("crafter", image()) == "crafter"
    assert DreamerV3.default_preset("atari", image()) == "atari"
    assert DreamerV3.default_preset("gym", STATE) == "state"
    assert DreamerV3.default_preset("", BOTH) == "pixels"
