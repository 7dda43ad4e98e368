"""DreamerV3: mastering diverse control tasks through world models (Hafner et al. 2025, Nature 640).

Read beside arXiv:2301.04104v2. Three algorithms were published under this name; this is the last
one, as released in danijar/dreamerv3 since December 2024. docs/dreamer_v3.md lists what differs
from the others and from the paper's text.

In order: the losses as functions of tensors, the networks and the update that uses them, the
configuration, the agent with its presets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, ObsSpec

from ..agent import Agent
from ..algorithm import (
    Batch,
    Carry,
    DelayedValue,
    Metrics,
    Noise,
    NoiseSource,
    Obs,
    Transitions,
    WriteBack,
)
from ..blocks import acting
from ..blocks.actions import to_env
from ..blocks.actors import BoundedNormalActor, UnimixActor
from ..blocks.cores import BlockGRUCore
from ..blocks.decoders import SymlogDecoder, UpsampleDecoder
from ..blocks.dreaming import continuation, decoded, dream_step
from ..blocks.ema import ema_update, target_copy
from ..blocks.encoders import PoolEncoder, SymlogEncoder
from ..blocks.fast import kernels, rssm_observe
from ..blocks.heads import (
    BernoulliHead,
    BernoulliPrediction,
    TwoHotHead,
    TwoHotPrediction,
    fused_means,
    fused_outputs,
)
from ..blocks.imagination import imagine
from ..blocks.init import joined_name, trunc_normal_init
from ..blocks.kl import free_nats_floor
from ..blocks.latents import CategoricalLatent
from ..blocks.layers import MLP, RMSNorm
from ..blocks.normalize import PercentileScale
from ..blocks.optim import LaProp
from ..blocks.returns import lambda_return
from ..blocks.rssm import RSSM, State
from ..config import AgentConfig, EnvFacts, one_of
from ..environment import EnvLike
from ..overrides import DreamerV3Overrides
from ..ranks import ranks
from ..replay.samplers import OnlineSampler

LAYERS = {"encoder": 3, "decoder": 3, "posterior": 1, "prior": 2,
          "reward": 1, "cont": 1, "value": 3, "actor": 3}  # fmt: skip


def world_model_losses(
    batch: Batch,
    post: Tensor,
    prior: Tensor,
    latent: CategoricalLatent,
    reward: TwoHotPrediction,
    cont: BernoulliPrediction,
    *,
    discount: float,
    free_nats: float,
) -> dict[str, Tensor]:
    """The paper's prediction, dynamics and representation losses, without the observations'.

    Args:
        batch: replay columns (B, T, ...).
        post: logits (B, T, S*K) of the posterior.
        prior: logits (B, T, S*K) of the prior.
        latent: what the logits are of.
        reward: of the reward on arriving, (B, T).
        cont: of the discount, (B, T).
        discount: gamma.
        free_nats: smallest KL of a step that has a gradient.

    Returns:
        "reward", "cont", "dyn", "rep": (B, T) each, unscaled.

    Source: equations 2 and 3; danijar/dreamerv3 dreamerv3/agent.py:loss and rssm.py:loss.
    """
    # the discount is part of the label, so the head gives discounts
    label = (1 - batch["is_terminal"].float()) * discount
    # prior and posterior are pulled together, each at its own pace
    dyn, rep = latent.kl(post.detach(), prior), latent.kl(post, prior.detach())
    return {
        "reward": reward.loss(batch["reward"]),
        "cont": cont.loss(label),
        "dyn": free_nats_floor(dyn, free_nats),
        "rep": free_nats_floor(rep, free_nats),
    }


def imagined_returns(reward: Tensor, discount: Tensor, value: Tensor, lam: float) -> Tensor:
    """Lambda returns of imagined states, from rewards, discounts and values (N, H+1): (N, H)."""
    return lambda_return(reward[:, 1:], discount[:, 1:], value[:, 1:], lam)


def imagined_actor_critic_losses(
    log_prob: Tensor,
    entropy: Tensor,
    value: TwoHotPrediction,
    slow: Tensor,
    ret: Tensor,
    advantage: Tensor,
    weight: Tensor,
    *,
    entropy_scale: float,
    slow_scale: float,
) -> dict[str, Tensor]:
    """Actor and critic objectives on imagined returns.

    Args:
        log_prob: (N, H) of the actions taken.
        entropy: (N, H) of the policy.
        value: of the return, (N, H).
        slow: (N, H) means of the slow value.
        ret: (N, H) lambda returns, constants.
        advantage: (N, H) scaled returns above the value, constants.
        weight: (N, H) probability of getting there.
        entropy_scale: of the entropy.
        slow_scale: of the critic's loss towards the slow value.

    Returns:
        "policy" and "value": (N,) each, means over the steps.

    Source: equations 5 to 7; danijar/dreamerv3 dreamerv3/agent.py:imag_loss.
    """
    objective = advantage * log_prob + entropy_scale * entropy
    # towards the returns and, so that it moves slowly, towards its own slow copy
    surprise = value.loss(ret, (slow_scale, slow))
    return {"policy": (-weight * objective).mean(1), "value": (weight * surprise).mean(1)}


def replay_value_loss(
    batch: Batch,
    value: TwoHotPrediction,
    slow: Tensor,
    boot: Tensor,
    *,
    discount: float,
    lam: float,
    slow_scale: float,
) -> Tensor:
    """The critic's objective on replayed rewards; its gradient shapes the states, too.

    Args:
        batch: replay columns (B, K, ...).
        value: of the return, (B, K-1), at all transitions but the last.
        slow: (B, K-1) means of the slow value.
        boot: (B, K) imagined returns of the transitions, from which the returns bootstrap.
        discount: gamma.
        lam: lambda.
        slow_scale: of the loss towards the slow value.

    Returns:
        (B, K-1).

    Source: danijar/dreamerv3 dreamerv3/agent.py:repl_loss.
    """
    reward, last, terminal = (batch[k].float() for k in ("reward", "is_last", "is_terminal"))
    going_on, traced = (1 - terminal[:, 1:]) * discount, (1 - last[:, 1:]) * lam
    ret = lambda_return(reward[:, 1:], going_on, boot[:, 1:], traced)
    # nothing follows an episode's last transition
    return (1 - last[:, :-1]) * value.loss(ret, (slow_scale, slow))


class DreamerV3Algorithm(nn.Module):
    """World model, actor and critic; satisfies `agentzoo.algorithm.Algorithm`.

    Args:
        obs: the observations by key.
        action: the environment's action.
        config: the settings.
    """

    sampler = OnlineSampler()
    several_learners = True

    def __init__(
        self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: "DreamerV3Config"
    ) -> None:
        super().__init__()
        self.action, self.config, c = action, config, config
        units, hidden, deter, classes, depth = c.sizes
        mlp = partial(MLP, act=F.silu, norm=RMSNorm)
        self.encoder = SymlogEncoder(
            obs,
            image=lambda shape: PoolEncoder(shape, depth),
            vector=lambda size: mlp(size, units, LAYERS["encoder"]),
        )
        latent = CategoricalLatent(c.stoch, classes, c.unimix)
        self.rssm = RSSM(
            BlockGRUCore(latent.size, action.size, hidden, deter, c.blocks),
            latent,
            prior=mlp(deter, hidden, LAYERS["prior"], latent.size),
            posterior=mlp(deter, hidden, LAYERS["posterior"], latent.size, early=self.encoder.size),
        )
        feat = self.rssm.feat_size
        self.decoder = SymlogDecoder(
            obs,
            image=lambda shape: UpsampleDecoder(deter, latent.size, shape, depth, units, c.blocks),
            vector=lambda: mlp(feat, units, LAYERS["decoder"]),
        )
        self.reward = TwoHotHead(feat, units, LAYERS["reward"])
        self.cont = BernoulliHead(feat, units, LAYERS["cont"], act=F.silu, norm=RMSNorm)
        self.value = TwoHotHead(feat, units, LAYERS["value"])
        self.actor = build_actor(feat, action, config)
        self.apply(trunc_normal_init)
        for head, factor in ((self.reward, 0.0), (self.value, 0.0), (self.actor, 0.01)):
            head.scale_output(factor)
        self.slow_value = target_copy(self.value)
        self.return_scale = PercentileScale(decay=c.scale_decay, limit=c.scale_limit)
        self._optimizer = LaProp(
            {name: p for name, p in self.named_parameters() if p.requires_grad},
            lr=c.lr,
            warmup=c.warmup,
            clip=c.adaptive_clip,
            betas=(c.beta1, c.beta2),
            owner=joined_name,
        )
        self.latent = latent
        self.columns = {
            "deter": ColumnSpec(shape=(deter,), dtype="float16", mutable=True),
            "stoch": ColumnSpec(shape=(c.stoch,), dtype="uint8", mutable=True),
        }
        self.carry_spec = acting.carry_spec(self.rssm, action.size)
        self.noise_spec = acting.step_noise_spec(latent, self.actor)

    # -- acting ----------------------------------------------------------------------------------

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        return acting.initial_carry(self.rssm, self.action.size, batch)

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        """Filter the observation, then act: a sample, or the mode where `deterministic`."""
        state, stats = self._perceive(carry, obs, noise)
        action = self.actor.act(stats, noise["action"], deterministic)
        return acting.carry_of(state, action), to_env(action, self.action)

    def explore(
        self, carry: Carry, noise: Noise, env_step: int, total_steps: int
    ) -> tuple[Carry, Tensor]:
        """Keep the action: the policy's entropy explores."""
        return carry, to_env(carry["prev_action"], self.action)

    def margin(self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor) -> Tensor:
        """Margin of the closest choice, of a latent or of the action: (B,).

        Relative to the scores (`top2_margin`): where this is below their tolerance, two
        implementations of the same step may differ.
        """
        state, stats = self._perceive(carry, obs, noise)
        latent = self.latent.margin(state.stats, noise["latent"])
        return torch.minimum(latent, self.actor.margin(stats, noise["action"], deterministic))

    def annotate(
        self, transitions: Transitions, envs: Sequence[int], carry: Carry, state: object
    ) -> tuple[Transitions, Sequence[DelayedValue], object]:
        """Add the latents that decisions were made with; the classes as their indices."""
        latents = {
            "deter": carry["deter"].half().numpy(force=True),
            "stoch": self.latent.index(carry["stoch"]).numpy(force=True),
        }
        return {**transitions, **latents}, (), None

    def _perceive(self, carry: Carry, obs: Obs, noise: Noise) -> tuple[State, Tensor]:
        embed = self.encoder(obs)
        state = acting.filter_step(self.rssm, carry, embed, obs["is_first"], noise["latent"])
        return state, self.actor(self.rssm.feat(state))

    # -- learning --------------------------------------------------------------------------------

    def update(self, batch: Batch, noise: NoiseSource) -> tuple[Metrics, WriteBack]:
        """One gradient step on all losses at once, then the slow value follows.

        The first transition of each window is context: filtering begins at its stored latents.
        """
        c = self.config
        trained = {name: column[:, 1:] for name, column in batch.items()}
        with acting.autocast(self, c.precision), kernels(c.kernels):
            post, feat, losses, metrics = self.model_losses(self.stored(batch), trained, noise)
            imagined, ret, more = self.behavior_losses(post, noise)
            losses |= imagined
            losses["repval"] = self.replay_loss(feat, trained, ret)
            scales = {"dyn": c.dyn_scale, "rep": c.rep_scale, "repval": c.repval_scale}
            means = {name: loss.mean() for name, loss in losses.items()}
            scaled = [scales.get(name, 1.0) * mean for name, mean in means.items()]
            total = torch.stack(scaled).sum()
        # gradients of what learns only; the slow value has none
        grads = ranks().grad(total, self._optimizer.params)
        metrics |= more | {f"loss/{name}": mean for name, mean in means.items()}
        metrics |= {"loss/total": total, "opt/grad_norm": self._optimizer.step(grads)}
        ema_update(self.slow_value, self.value, c.slow_rate)
        post = post.detach()
        latents = {"deter": post.deter.half(), "stoch": self.latent.index(post.stoch)}
        return {k: v.detach() for k, v in metrics.items()}, latents

    def stored(self, batch: Batch) -> State:
        """The context transition's latents as replay holds them: the state before the window."""
        deter, stoch = batch["deter"][:, 0].float(), self.latent.onehot(batch["stoch"][:, 0])
        return State(deter, stoch, torch.zeros_like(stoch))

    def model_losses(
        self, prev: State, batch: Batch, noise: NoiseSource
    ) -> tuple[State, Tensor, dict[str, Tensor], Metrics]:
        """Posterior states, their features (B, T, F), the losses (B, T) by name, and metrics."""
        c, (B, T) = self.config, batch["reward"].shape
        # Infer states
        eps = noise.uniform(B, T, *self.latent.noise_shape)
        embeds = self.encoder(batch)  # (B, T, E)
        actions, firsts = batch["prev_action"], batch["is_first"]
        post = rssm_observe.observe(self.rssm, prev, actions, embeds, firsts, eps)
        feat = self.rssm.feat(post)  # (B, T, F)
        q, p = post.stats.float(), self.rssm.prior(post).float()  # (B, T, S*K)
        # Predict observations, rewards and continuation
        losses = {f"rec_{key}": loss for key, loss in self.decoder.losses(feat, batch).items()}
        losses |= world_model_losses(
            batch,
            q,
            p,
            self.latent,
            self.reward.prediction(self.reward(feat)),
            self.cont.prediction(self.cont(feat)),
            discount=self.discount,
            free_nats=c.free_nats,
        )
        for name, loss in losses.items():
            assert loss.shape == (B, T), (name, loss.shape)
        with torch.no_grad():
            metrics = {
                "model/kl": self.latent.kl(q, p).mean(),
                "model/post_entropy": self.latent.entropy(q).mean(),
                "model/prior_entropy": self.latent.entropy(p).mean(),
            }
        return post, feat, losses, metrics

    def behavior_losses(
        self, post: State, noise: NoiseSource
    ) -> tuple[dict[str, Tensor], Tensor, Metrics]:
        """Actor and critic losses in imagination.

        Returns:
            The losses "policy" and "value" (B, K), the imagined returns of the K states imagined
            from (B, K), and metrics.
        """
        c, B = self.config, len(post.deter)
        start = State(*(x[:, -(c.imag_last or 0) :] for x in post)).flatten()  # (B*K, ...)
        N, H = len(start.deter), c.horizon
        # Imagine trajectories; a score-function gradient needs none through them
        with torch.no_grad():
            imagined = imagine(
                self.rssm,
                lambda feat, eps: self.actor.sample(self.actor(feat), eps),
                start,
                noise.uniform(N, H, *self.latent.noise_shape),
                acting.draw_noise(noise, self.actor.noise_kind, N, H, *self.actor.noise_shape),
            )
            feat = imagined.feat  # (N, H+1, F)
            # (N, H+1) each
            reward, discount, slow = fused_means(feat, self.reward, self.cont, self.slow_value)
        value, stats = fused_outputs(feat[:, :-1], self.value, self.actor)
        values = self.value.prediction(value)
        # Estimate returns, weighted by the probability of getting there
        with torch.no_grad():
            now, end = values.mean, self.value.prediction(self.value(feat[:, -1:])).mean
            ret = imagined_returns(reward, discount, torch.cat([now, end], 1), c.lam)  # (N, H)
            weight = discount[:, :-1].cumprod(1)
            self.return_scale.update(ret)
            advantage = (ret - now) / self.return_scale()
        # Update the actor, and the critic
        entropy = self.actor.entropy(stats)
        losses = imagined_actor_critic_losses(
            self.actor.log_prob(stats, imagined.action),
            entropy,
            values,
            slow[:, :-1],
            ret,
            advantage,
            weight,
            entropy_scale=c.entropy,
            slow_scale=c.slow_scale,
        )
        metrics = {
            "imag/reward": reward.mean(),
            "imag/value": now.mean(),
            "imag/ret": ret.mean(),
            "imag/ret_scale": self.return_scale(),
            "imag/discount": discount.mean(),
            "actor/advantage": advantage.abs().mean(),
            "actor/entropy": entropy.mean(),
        }
        by_start = {name: loss.unflatten(0, (B, -1)) for name, loss in losses.items()}  # (B, K)
        return by_start, ret[:, 0].unflatten(0, (B, -1)), metrics

    def replay_loss(self, feat: Tensor, batch: Batch, boot: Tensor) -> Tensor:
        """The critic's loss on the last K transitions: features (B, T, F), returns (B, K)."""
        c, K = self.config, boot.shape[1]
        batch, feat = {k: x[:, -K:] for k, x in batch.items()}, feat[:, -K:-1]
        with torch.no_grad():
            slow = self.slow_value.prediction(self.slow_value(feat)).mean
        value = self.value.prediction(self.value(feat))
        return replay_value_loss(
            batch, value, slow, boot, discount=self.discount, lam=c.lam, slow_scale=c.slow_scale
        )

    @property
    def discount(self) -> float:
        """Gamma."""
        return 1 - 1 / self.config.discount_horizon

    def optimizers(self) -> Mapping[str, LaProp]:
        """One optimiser for everything."""
        return {"optimizer": self._optimizer}

    # -- the world model, called from outside ----------------------------------------------------

    def dream(self, carry: Carry, action: Tensor, noise: Noise) -> Carry:
        """One step of the prior: the state, without an action, that an action (N, A) leads to."""
        return dream_step(self.rssm, carry, action, noise["latent"])

    def decode(self, carry: Carry) -> dict[str, Tensor]:
        """Observations by key from the state: (N, h, w, c) in [0, 1], and (N, n)."""
        return decoded(self.rssm, self.decoder, carry)

    def judge(self, carry: Carry) -> dict[str, Tensor]:
        """Reward on arriving, value (of what follows) and continuation: (N,) each."""
        feat = self.rssm.feat(acting.state_of(self.rssm, carry))
        return {
            "reward": self.reward.prediction(self.reward(feat).double()).mean.float(),
            "value": self.value.prediction(self.value(feat).double()).mean.float(),
            "continue": continuation(self.cont.prediction(self.cont(feat)), self.discount),
        }

    def judge_spread(self, carry: Carry) -> dict[str, Tensor]:
        """Sensitivity of a judgement to its logits: the mean of the bins' size, (N,).

        A prediction near 0 may be the difference of rare and enormous bins.
        """
        feat = self.rssm.feat(acting.state_of(self.rssm, carry))
        heads = {"reward": self.reward, "value": self.value}
        return {
            name: torch.softmax(head(feat), -1).matmul(head.bins.abs())
            for name, head in heads.items()
        }

    def propose(self, carry: Carry, noise: Noise, deterministic: Tensor) -> Tensor:
        """The policy's action in the state, (N, A) in model units."""
        stats = self.actor(self.rssm.feat(acting.state_of(self.rssm, carry)))
        return self.actor.act(stats, noise["action"], deterministic)

    def dream_margin(
        self, carry: Carry, action: Tensor, noise: Noise, deterministic: Tensor
    ) -> Tensor:
        """`margin` of an imagined step and of the policy's action after it: (N,)."""
        state = self.rssm.img_step(acting.state_of(self.rssm, carry), action, noise["latent"])
        stats = self.actor(self.rssm.feat(state))
        latent = self.latent.margin(state.stats, noise["latent"])
        return torch.minimum(latent, self.actor.margin(stats, noise["action"], deterministic))

    # -- looking inside --------------------------------------------------------------------------

    @torch.no_grad()
    def open_loop(self, batch: Batch, noise: NoiseSource, context: int = 5) -> dict[str, Tensor]:
        """Observations by key: seen for `context` steps, imagined after.

        Args:
            batch: replay columns (B, T, ...) with T > context; the first one's stored latents are
                what the model knows at the start.
            noise: for the latents.
            context: steps reconstructed from posteriors; the rest follows the actions.

        Returns:
            (B, T, h, w, c) in [0, 1] for images, (B, T, n) for vectors.
        """
        B, T = batch["reward"].shape
        eps = noise.uniform(B, T, *self.latent.noise_shape)
        state = self.stored(batch)
        seen = {key: value[:, 1:context] for key, value in batch.items()}
        embeds, firsts = self.encoder(seen), seen["is_first"]
        actions = batch["prev_action"][:, 1:]
        later = acting.open_loop(self.rssm, state, actions, embeds, firsts, eps[:, 1:])
        return self.decoder(torch.cat([self.rssm.feat(state).unsqueeze(1), later], 1))


def build_actor(
    inputs: int, action: ActionSpec, config: "DreamerV3Config"
) -> BoundedNormalActor | UnimixActor:
    """The actor that fits the action: a bounded normal for a Box, else one-hot groups."""
    c, units, layers = config, config.sizes.units, LAYERS["actor"]
    if action.kind != "box":
        unimix = c.unimix if c.actor_unimix is None else c.actor_unimix
        return UnimixActor(inputs, action.nvec, units, layers, unimix=unimix)
    return BoundedNormalActor(
        inputs, action.size, units, layers, min_std=c.actor_min_std, max_std=c.actor_max_std
    )


# parameters, about -> width of every dense layer, from which the other sizes follow
SIZES = {"1m": 64, "12m": 256, "25m": 384, "50m": 512, "100m": 768, "200m": 1024, "400m": 1536}


class Sizes(NamedTuple):
    """The five numbers that a size stands for."""

    units: int  # width of encoder, decoder and heads
    hidden: int  # width of the RSSM's dense layers
    deter: int  # D, deterministic state
    classes: int  # K, classes of each latent
    depth: int  # unit of the convolutions' widths


@dataclass(frozen=True, kw_only=True)
class DreamerV3Config(AgentConfig):
    """Settings of DreamerV3; the defaults are those of danijar/dreamerv3."""

    replay_rows: int = 5_000_000  # capacity of the replay buffer
    size: str = "200m"  # 1m|12m|25m|50m|100m|200m|400m parameters
    units: int | None = None  # width of encoder, decoder and heads; None is the size's, 64 to 1536
    hidden: int | None = None  # width of the RSSM's dense layers; None is units
    deter: int | None = None  # D, deterministic state; None is 8 * units
    classes: int | None = None  # K, classes of each latent; None is units / 16
    depth: int | None = None  # unit of the convolutions' widths; None is units / 16
    stoch: int = 32  # S, number of categorical latents
    blocks: int = 8  # G, of the recurrent unit
    unimix: float = 0.01  # uniform share of latents
    actor_unimix: float | None = (
        None  # of discrete actions; None is unimix, the released code has 0
    )
    free_nats: float = 1.0  # nats, each step
    dyn_scale: float = 1.0  # of the prior's loss
    rep_scale: float = 0.1  # of the posterior's
    horizon: int = 15  # H, imagined steps
    imag_last: int | None = None  # last transitions of each window to imagine from; None is all
    compile: str = "off"  # auto|on|off, imagination by torch.compile on a CPU, see docs/training.md
    discount_horizon: float = 333.0  # steps; gamma = 1 - 1 / 333
    lam: float = 0.95  # lambda of the returns
    entropy: float = 3e-4  # scale of the actor's entropy
    actor_min_std: float = 0.1  # continuous actions
    actor_max_std: float = 1.0  # continuous actions
    scale_decay: float = 0.99  # of the returns' 5th and 95th percentile
    scale_limit: float = 1.0  # smallest scale of the returns
    slow_rate: float = 0.02  # by which the slow value follows, each update
    slow_scale: float = 1.0  # of the value's loss towards the slow value
    repval_scale: float = 0.3  # of the value's loss on replayed transitions
    lr: float = 4e-5  # learning rate
    warmup: int = 1000  # updates in which the learning rate rises from 0
    beta1: float = 0.9  # decay of the optimiser's momentum
    beta2: float = 0.999  # of its second moment; the paper's text says 0.99
    adaptive_clip: float = 0.3  # largest norm of a gradient over that of its weight

    repeat: int = 1
    total_steps: int = 1_100_000
    train_ratio: float = 512.0  # transitions trained on for each decision collected
    prefill: int = 0  # nothing is random: a fresh policy explores
    pretrain: int = 1  # updates at the first opportunity
    update_every: int = 0  # not used; see train_ratio
    updates: int = 1
    batch_size: int = 16  # B
    batch_length: int = 65  # T + 1: a context transition, then 64 that are trained on

    def __post_init__(self) -> None:
        """Check what no type says.

        Raises:
            ConfigError: naming the field, its value and what it has to be.
        """
        super().__post_init__()
        one_of("size", self.size, tuple(SIZES))
        one_of("compile", self.compile, ("auto", "on", "off"))
        _at_least("batch_length", self.batch_length, 3, "the context and two to learn from")
        _at_least("horizon", self.horizon, 1, "an imagined step")
        if self.imag_last is not None:
            _at_least("imag_last", self.imag_last, 2, "the replayed value spans two transitions")
        if not self.train_ratio:
            raise ConfigError("train_ratio=0 never learns; the paper's are 32 to 1024")
        if (self.update_every, self.updates) != (0, 1):
            raise ConfigError(
                f"update_every={self.update_every} and updates={self.updates} have no effect here: "
                "DreamerV3 updates in proportion to what it collects; set train_ratio"
            )
        sizes = self.sizes
        if sizes.deter % self.blocks:
            raise ConfigError(f"deter={sizes.deter} has to be a multiple of blocks={self.blocks}")
        if not 1 <= sizes.classes <= 256:
            raise ConfigError(f"classes={sizes.classes} has to be 1 to 256; replay stores a byte")

    @classmethod
    def decided_by(cls, field: str) -> tuple[str, ...]:
        """A size decides its numbers."""
        return Sizes._fields if field == "size" else ()

    @property
    def sizes(self) -> Sizes:
        """The five numbers of this size, each unless it is set by itself."""
        units = SIZES[self.size] if self.units is None else self.units
        derived = Sizes(units, units, 8 * units, max(units // 16, 1), max(units // 16, 1))
        given = [getattr(self, name) for name in Sizes._fields]
        return Sizes(*(d if g is None else g for d, g in zip(derived, given, strict=True)))


def _at_least(name: str, value: int, least: int, why: str) -> None:
    if value < least:
        raise ConfigError(f"{name}={value} has to be at least {least}: {why}")


# the published scores are those of collection: returns of episodes of training
_DMC: dict[str, object] = {"envs": 16, "log_every": 16_000, "eval_every": 0}
_CPU: dict[str, object] = {
    "total_steps": 100_000,
    "repeat": 4,
    "render": "fast",
    "size": "1m",
    "deter": 256,
    "batch_size": 32,
    "batch_length": 17,
    "imag_last": 4,
    "train_ratio": 256.0,
    "lr": 1e-3,
    "warmup": 200,
    "replay_rows": 200_000,
}
_DEBUG: dict[str, object] = {
    **_CPU,
    "total_steps": 2_000,
    "repeat": 1,
    "units": 16,
    "deter": 16,
    "classes": 4,
    "depth": 2,
    "stoch": 4,
    "batch_size": 4,
    "batch_length": 9,
    "horizon": 5,
    "imag_last": 4,
    "train_ratio": 0.8,
    "warmup": 10,
    "replay_rows": 10_000,
    "eval_every": 1_000,
    "eval_episodes": 1,
    "final_episodes": 1,
    "checkpoint_every": 1_000,
}


class DreamerV3(Agent):
    """DreamerV3: one configuration for many worlds; learns a world model and acts from inside it.

    Example:
        >>> agent = DreamerV3("dmc:walker-walk", size="12m")
        >>> agent.learn(1_000_000)
        >>> action = agent.act(obs)

    Source: Hafner, Pasukonis, Ba, Lillicrap: Mastering diverse control tasks through world models
    (Nature 640, 2025; arXiv:2301.04104).
    """

    config_class = DreamerV3Config
    algorithm_class = DreamerV3Algorithm
    paper: ClassVar[str] = "Hafner et al. 2025, arXiv:2301.04104"
    deterministic: ClassVar[bool] = False  # the published scores are of sampled actions
    # checkpoint_every: checkpoints hold all latents, up to 84 GB; writing is below 5 % of a run
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "dmc_vision": {**_DMC, "train_ratio": 256.0},
        "dmc_proprio": {**_DMC, "train_ratio": 1024.0, "size": "1m"},
        # the published curves' settings but for the size, 12m: their returns are training's own
        "dmc_proprio_paper": {
            **{"size": "1m", "repeat": 2, "train_ratio": 512.0},
            **{"total_steps": 510_000, "eval_every": 0},
        },
        "crafter": {"checkpoint_every": 50_000},
        "atari": {
            **{"protocol": "dreamerv3", "repeat": 4, "envs": 16},
            **{"total_steps": 204_000_000, "train_ratio": 32.0, "log_every": 64_000},
            # games last: waiting for all 16 has to stay a small part of the run
            **{"checkpoint_every": 1_000_000, "eval_every": 0},
        },
        "atari100k": {
            **{"protocol": "atari100k", "repeat": 4},
            **{"total_steps": 440_000, "train_ratio": 256.0, "eval_every": 0},
            **{"checkpoint_every": 100_000},
        },
        "pixels": {"size": "12m", "checkpoint_every": 60_000},
        "state": {"size": "1m", "checkpoint_every": 20_000},
        "cpu": _CPU,
        "cpu_pixels": {**_CPU, "batch_size": 16, "train_ratio": 64.0},
        "debug": _DEBUG,
        "debug_pixels": _DEBUG,
    }

    def __init__(
        self,
        env: EnvLike | None = None,
        *,
        preset: str | None = None,
        device: str = "auto",
        seed: int | None = None,
        **overrides: Unpack[DreamerV3Overrides],
    ) -> None:
        """Args and errors are those of `Agent`; overrides are the fields of `DreamerV3Config`."""
        super().__init__(env, preset=preset, device=device, seed=seed, **overrides)

    @classmethod
    def default_preset(cls, suite: str, obs: Mapping[str, ObsSpec]) -> str:
        """The paper's settings of a suite it has; else one environment and a smaller model."""
        image = any(s.kind == "image" for s in obs.values())
        if suite == "dmc":
            return "dmc_vision" if image else "dmc_proprio"
        return suite if suite in cls.presets else ("pixels" if image else "state")

    @classmethod
    def env_overrides(cls, config: AgentConfig, world: EnvFacts) -> Mapping[str, object]:
        """Actions are repeated where the papers repeat them, in two suites."""
        return {} if world.suite in ("dmc", "atari") else {"repeat": 1}
