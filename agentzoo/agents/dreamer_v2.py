"""DreamerV2: mastering Atari with discrete world models (Hafner et al. 2021, arXiv:2010.02193).

Read beside the paper's algorithms 1 and 2. Paper and released code (danijar/dreamerv2) differ in
batch, update frequency and discount on Atari: both are presets. Elsewhere the code is followed;
docs/dreamer_v2.md lists every difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, ObsSpec

from ..agent import Agent
from ..algorithm import Batch, Carry, Metrics, Noise, NoiseSource, Obs, Transitions, WriteBack
from ..blocks import acting
from ..blocks.actions import to_env
from ..blocks.actors import OneHotActor, TruncatedNormalActor
from ..blocks.cores import LayerNormGRUCore
from ..blocks.decoders import ConvDecoder, Decoder
from ..blocks.dreaming import continuation, decoded, dream_step
from ..blocks.ema import hard_update, target_copy
from ..blocks.encoders import ConvEncoder, Encoder
from ..blocks.fast import kernels
from ..blocks.heads import BernoulliHead, Head, NormalHead, fused_outputs
from ..blocks.imagination import imagine
from ..blocks.init import keras_init
from ..blocks.kl import kl_balancing
from ..blocks.latents import CategoricalLatent
from ..blocks.layers import MLP, LayerNorm
from ..blocks.optim import Adam
from ..blocks.returns import lambda_return
from ..blocks.rssm import RSSM, State
from ..blocks.standardize import FORMS
from ..config import AgentConfig, EnvFacts, one_of
from ..environment import EnvLike
from ..overrides import DreamerV2Overrides
from ..ranks import ranks
from ..replay.samplers import EpisodeSampler

GROUPS = {
    "model": ("encoder", "rssm", "decoder", "reward", "cont"),
    "actor": ("actor",),
    "value": ("value",),
}


def world_model_loss(
    losses: Mapping[str, Tensor],
    dyn: Tensor,
    rep: Tensor,
    *,
    scales: Mapping[str, float],
    kl_balance: float,
    free_nats: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The paper's evidence bound: observations, rewards, discounts, and the balanced KL.

    Args:
        losses: negative log-likelihoods (B, T) by name.
        dyn: KL (B, T) whose gradient reaches the prior alone.
        rep: the same KL, whose gradient reaches the posterior alone.
        scales: of the likelihoods and of "kl"; 1 where left out.
        kl_balance: the prior's share.
        free_nats: of each mean KL, below which it has no gradient.

    Returns:
        The loss, a scalar, and the mean of each of its parts.

    Source: equations 1 and 2, algorithm 2; danijar/dreamerv2 agent.py:WorldModel.loss.
    """
    means = {name: loss.mean() for name, loss in losses.items()}
    means["kl"] = kl_balancing(dyn, rep, kl_balance, free_nats)
    scaled = [scales.get(name, 1.0) * mean for name, mean in means.items()]
    return torch.stack(scaled).sum(), means


def imagined_actor_loss(
    ret: Tensor,
    slow: Tensor,
    weight: Tensor,
    entropy: Tensor,
    log_prob: Tensor | None,
    *,
    reinforce: float,
    entropy_scale: float,
) -> Tensor:
    """The actor's objective: an action is worth the return of the state it leads to.

    Args:
        ret: (N, H) lambda returns of the states 0 to H-1, differentiable where reinforce < 1.
        slow: (N, H+1) slow values of all states.
        weight: (N, H) probability of getting there.
        entropy: (N, H-1) of the policy.
        log_prob: (N, H-1) of the actions taken; not read where reinforce is 0.
        reinforce: rho, the score function's share of the gradient; the rest is the dynamics'.
        entropy_scale: eta.

    Returns:
        A scalar.

    Source: equation 6; danijar/dreamerv2 agent.py:ActorCritic.actor_loss.
    """
    objective = entropy_scale * entropy
    if reinforce < 1:
        objective = objective + (1 - reinforce) * ret[:, 1:]
    if reinforce > 0:
        assert log_prob is not None, reinforce
        advantage = (ret[:, 1:] - slow[:, :-2]).detach()
        objective = objective + reinforce * advantage * log_prob
    return -(weight[:, :-1] * objective).mean()


class DreamerV2Algorithm(nn.Module):
    """World model, actor and critic; satisfies `agentzoo.algorithm.Algorithm`.

    Args:
        obs: the observations by key.
        action: the environment's action.
        config: the settings.
    """

    columns: Mapping[str, ColumnSpec] = {}
    several_learners = True
    updates: Tensor

    def __init__(
        self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: "DreamerV2Config"
    ) -> None:
        super().__init__()
        self.action, self.config, c = action, config, config
        self.sampler = EpisodeSampler(prioritize_ends=c.prioritize_ends)
        norm = LayerNorm if c.norm == "layer" else None
        mlp = partial(MLP, norm=norm)
        self.encoder = Encoder(
            obs,
            image=lambda channels: ConvEncoder(channels, c.depth, act=F.elu, norm=norm),
            vector=lambda size: mlp(size, c.units, c.layers),
            standardize=c.standardize,
        )
        latent = CategoricalLatent(c.stoch, c.classes)
        self.rssm = RSSM(
            LayerNormGRUCore(latent.size, action.size, c.hidden, c.deter, norm=norm),
            latent,
            prior=mlp(c.deter, c.hidden, 1, latent.size),
            posterior=mlp(c.deter, c.hidden, 1, latent.size, early=self.encoder.size),
        )
        feat = self.rssm.feat_size
        self.decoder = Decoder(
            obs,
            image=lambda channels: ConvDecoder(feat, channels, c.depth, act=F.elu, norm=norm),
            vector=lambda size: mlp(feat, c.units, c.layers, size),
            vector_std=c.state_std,
            standardizer=self.encoder.standardizer,
        )
        self.reward = NormalHead(feat, c.units, c.layers, norm=norm)
        self.cont = BernoulliHead(feat, c.units, c.layers, norm=norm) if c.cont else None
        self.value = NormalHead(feat, c.units, c.layers, norm=norm)
        self.actor = build_actor(feat, action, config)
        self.apply(keras_init)
        self.slow_value = target_copy(self.value)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.reinforce = float(action.kind != "box") if c.reinforce is None else c.reinforce
        rates = {"model": c.model_lr, "actor": c.actor_lr, "value": c.value_lr}
        self._optimizers = {
            name: Adam(
                acting.parameter_group(self, GROUPS[name]),
                lr=rate,
                eps=c.adam_eps,
                clip=c.grad_clip,
                decay=c.decay,
            )
            for name, rate in rates.items()
        }
        self.latent = latent
        self.carry_spec = acting.carry_spec(self.rssm, action.size)
        self.noise_spec = acting.step_noise_spec(latent, self.actor)

    # -- acting ----------------------------------------------------------------------------------

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        return acting.initial_carry(self.rssm, self.action.size, batch)

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        """Filter the observation, then act: the mode where `deterministic`, else a sample."""
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

    def _perceive(self, carry: Carry, obs: Obs, noise: Noise) -> tuple[State, Tensor]:
        embed = self.encoder(obs)
        state = acting.filter_step(self.rssm, carry, embed, obs["is_first"], noise["latent"])
        return state, self.actor(self.rssm.feat(state))

    def measure(self, transitions: Transitions, *, learning: bool) -> None:
        """Take vector observations into their statistics, where they are standardised."""
        self.encoder.measure(transitions, learning=learning)

    # -- learning --------------------------------------------------------------------------------

    def update(self, batch: Batch, noise: NoiseSource) -> tuple[Metrics, WriteBack]:
        """One gradient step of the model, then one of actor and critic inside the new model."""
        c = self.config
        with acting.autocast(self, c.precision), kernels(c.kernels):
            post, model_loss, metrics = self.model_loss(batch, noise)
        metrics |= self._descend(model_loss, "model")
        start, is_terminal = self.starts(post, batch["is_terminal"], noise)
        with acting.autocast(self, c.precision), kernels(c.kernels):
            actor_loss, value_loss, imagined = self.behavior_losses(start, is_terminal, noise)
        # neither loss reaches the other's parameters
        metrics |= imagined | self._descend(actor_loss + value_loss, "actor", "value")
        hard_update(self.updates % c.slow_every == 0, self.slow_value, self.value)
        self.updates.add_(1)
        return {k: v.detach() for k, v in metrics.items()}, {}

    def model_loss(self, batch: Batch, noise: NoiseSource) -> tuple[State, Tensor, Metrics]:
        """The paper's evidence bound: observations, rewards, discounts, and the balanced KL."""
        c, (B, T) = self.config, batch["reward"].shape
        # Infer states
        eps = noise.uniform(B, T, *self.latent.noise_shape)
        post = self.observe(batch, eps)
        prior, feat = self.rssm.prior(post), self.rssm.feat(post)
        # Predict observations, rewards and continuation
        reward = torch.tanh(batch["reward"]) if c.clip_rewards == "tanh" else batch["reward"]
        losses = self.decoder.losses(feat, batch)
        losses["reward"] = self.reward.prediction(self.reward(feat)).loss(reward)
        if self.cont is not None:
            # gamma is part of the label, so the head gives discounts
            label = c.discount * (1 - batch["is_terminal"].float())
            losses["cont"] = self.cont.prediction(self.cont(feat)).loss(label)
        for name, loss in losses.items():
            assert loss.shape == (B, T), (name, loss.shape)
        # Pull prior and posterior together, the prior faster
        q, p = post.stats.float(), prior.float()
        dyn, rep = self.latent.kl(q.detach(), p), self.latent.kl(q, p.detach())
        loss, means = world_model_loss(
            losses,
            dyn,
            rep,
            scales={"reward": c.reward_scale, "cont": c.cont_scale, "kl": c.kl_scale},
            kl_balance=c.kl_balance,
            free_nats=c.free_nats,
        )
        metrics = {f"loss/{name}": mean for name, mean in means.items()}
        metrics |= {"loss/model": loss, "model/kl": dyn.mean()}
        with torch.no_grad():
            metrics["model/post_entropy"] = self.latent.entropy(q).mean()
            metrics["model/prior_entropy"] = self.latent.entropy(p).mean()
        return post, loss, metrics

    def observe(self, batch: Batch, eps: Tensor) -> State:
        """Posterior states (B, T) of replayed windows, each filtered from nothing."""
        first = batch["is_first"].clone()
        first[:, 0] = True  # the action that led into the window is not seen, either
        initial = self.rssm.initial(len(first))
        return self.rssm.observe(initial, batch["prev_action"], self.encoder(batch), first, eps)

    def starts(self, post: State, is_terminal: Tensor, noise: NoiseSource) -> tuple[State, Tensor]:
        """Constant posteriors (N,) to imagine from, all or a random subset, and is_terminal."""
        start, is_terminal = post.detach().flatten(), is_terminal.flatten()
        return acting.random_starts(start, is_terminal, self.config.imagine_starts, noise)

    def behavior_losses(
        self, start: State, is_terminal: Tensor, noise: NoiseSource
    ) -> tuple[Tensor, Tensor, Metrics]:
        """The paper's actor and critic objectives on lambda returns (equations 4 to 6)."""
        c, N, rho = self.config, len(start.deter), self.reinforce
        # Imagine trajectories; the score function alone needs no gradient through them
        with torch.set_grad_enabled(rho < 1):
            imagined = imagine(
                self.rssm,
                lambda feat, eps: self.actor.sample(self.actor(feat.detach()), eps),
                start,
                noise.uniform(N, c.horizon, *self.latent.noise_shape),
                noise.uniform(N, c.horizon, *self.actor.noise_shape),
            )
            reward, discount, slow = self.outcomes(imagined.feat, is_terminal)
            # the reward of a state is part of its own return
            ret = lambda_return(reward[:, :-1], discount[:, :-1], slow[:, 1:], c.lam)
        value, stats = fused_outputs(imagined.feat[:, :-1].detach(), self.value, self.actor)
        with torch.no_grad():
            weight = torch.cat([torch.ones_like(reward[:, :1]), discount[:, :-2]], 1).cumprod(1)
        # Update the actor
        stats = stats[:, :-1]
        entropy, taken = self.actor.entropy(stats), imagined.action[:, :-1].detach()
        actor_loss = imagined_actor_loss(
            ret,
            slow,
            weight,
            entropy,
            self.actor.log_prob(stats, taken) if rho > 0 else None,
            reinforce=rho,
            entropy_scale=c.actor_entropy,
        )
        # Update the critic towards the returns
        value_loss = (weight * self.value.prediction(value).loss(ret.detach())).mean()
        metrics = {
            "loss/actor": actor_loss,
            "loss/value": value_loss,
            "imag/reward": reward.mean(),
            "imag/value": value.mean(),
            "imag/ret": ret.mean(),
            "imag/discount": discount.mean(),
            "actor/entropy": entropy.mean(),
        }
        return actor_loss, value_loss, metrics

    def outcomes(self, feat: Tensor, is_terminal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rewards, discounts and slow values at imagined states: (N, H+1, F) -> (N, H+1) each."""
        gamma = self.config.discount
        if self.cont is None:
            reward, slow = fused_outputs(feat, self.reward, self.slow_value)
            return reward, torch.full_like(reward, gamma), slow
        heads: tuple[Head, ...] = (self.reward, self.slow_value, self.cont)
        reward, slow, cont = fused_outputs(feat, *heads)
        # what follows the first state is known from replay
        known = gamma * (1 - is_terminal.float())
        discount = torch.cat([known[:, None], torch.sigmoid(cont[:, 1:])], 1)
        return reward, discount, slow

    def _descend(self, loss: Tensor, *names: str) -> Metrics:
        """One step of the named optimisers along the gradients of one loss; their norms."""
        optimizers = {name: self._optimizers[name] for name in names}
        # gradients of these groups only: nothing else is computed, so nothing has to be frozen
        params = [p for optimizer in optimizers.values() for p in optimizer.params]
        grads = iter(ranks().grad(loss, params))
        return {
            f"opt/{name}_grad_norm": optimizer.step([next(grads) for _ in optimizer.params])
            for name, optimizer in optimizers.items()
        }

    def optimizers(self) -> Mapping[str, Adam]:
        """The three Adams by name: model, actor, value."""
        return self._optimizers

    # -- the world model, called from outside ----------------------------------------------------

    def dream(self, carry: Carry, action: Tensor, noise: Noise) -> Carry:
        """One step of the prior: the state, without an action, that an action (N, A) leads to."""
        return dream_step(self.rssm, carry, action, noise["latent"])

    def decode(self, carry: Carry) -> dict[str, Tensor]:
        """Observations by key from the state: (N, h, w, c) in [0, 1], and (N, n)."""
        return decoded(self.rssm, self.decoder, carry)

    def judge(self, carry: Carry) -> dict[str, Tensor]:
        """Reward on arriving, value (that reward included) and continuation: (N,) each."""
        feat = self.rssm.feat(acting.state_of(self.rssm, carry))
        judged = {
            "reward": self.reward.prediction(self.reward(feat)).mean,
            "value": self.value.prediction(self.value(feat)).mean,
        }
        if self.cont is not None:
            goes_on = self.cont.prediction(self.cont(feat))
            judged["continue"] = continuation(goes_on, self.config.discount)
        return judged

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
            batch: replay columns (B, T, ...) with T > context.
            noise: for the latents.
            context: steps reconstructed from posteriors; the rest follows the actions.

        Returns:
            (B, T, h, w, c) in [0, 1] for images, (B, T, n) for vectors.
        """
        B, T = batch["reward"].shape
        eps = noise.uniform(B, T, *self.latent.noise_shape)
        seen = {key: value[:, :context] for key, value in batch.items()}
        first = seen["is_first"].clone()
        first[:, 0] = True  # as in `observe`
        initial, actions = self.rssm.initial(B), batch["prev_action"]
        feat = acting.open_loop(self.rssm, initial, actions, self.encoder(seen), first, eps)
        return self.decoder(feat)


def build_actor(
    inputs: int, action: ActionSpec, config: "DreamerV2Config"
) -> OneHotActor | TruncatedNormalActor:
    """The actor that fits the action: a truncated normal for a Box, else one-hot groups."""
    c, norm = config, LayerNorm if config.norm == "layer" else None
    if action.kind != "box":
        return OneHotActor(inputs, action.nvec, c.units, c.layers, norm=norm)
    return TruncatedNormalActor(
        inputs, action.size, c.units, c.layers, min_std=c.actor_min_std, norm=norm
    )


@dataclass(frozen=True, kw_only=True)
class DreamerV2Config(AgentConfig):
    """Settings of DreamerV2; the defaults are danijar/dreamerv2's section `defaults`."""

    deter: int = 1024  # D, deterministic state
    stoch: int = 32  # S, number of categorical latents
    classes: int = 32  # K, classes of each
    hidden: int = 1024  # width of the RSSM's dense layers
    depth: int = 48  # filters of the first convolution
    units: int = 400  # width of all heads, and of the networks for vector observations
    layers: int = 4  # of them
    norm: str = "none"  # none|layer, before every activation outside the recurrent unit
    state_std: float = 1.0  # deviation of the vector likelihood, in units of what it sees; ours
    standardize: str = "none"  # none|prefill|running, vector observations; ours
    reward_scale: float = 1.0  # of the reward's likelihood
    kl_scale: float = 1.0  # beta
    kl_balance: float = 0.8  # alpha, the prior's share of the KL
    free_nats: float = 0.0  # nats, on each mean KL
    cont: bool = True  # learn to predict terminations
    cont_scale: float = 1.0  # of the continuation's likelihood
    clip_rewards: str = "tanh"  # none|tanh, on replayed rewards
    discount: float = 0.99  # gamma
    lam: float = 0.95  # lambda of the return
    horizon: int = 15  # H, imagined steps
    imagine_starts: int | None = None  # posteriors to imagine from; None is all
    reinforce: float | None = None  # rho, the score function's share of the actor's gradient, the
    # rest is the dynamics'; None is 1 for discrete actions, 0 for continuous ones
    actor_entropy: float = 2e-3  # eta, weight of the action's entropy
    actor_min_std: float = 0.1  # continuous actions, before truncation
    slow_every: int = 100  # updates from one copy of the value to the next
    model_lr: float = 1e-4  # learning rate of the world model
    actor_lr: float = 8e-5  # of the actor
    value_lr: float = 2e-4  # of the value
    adam_eps: float = 1e-5  # added to Adam's denominator
    grad_clip: float = 100.0  # global norm, each optimiser
    decay: float = 1e-6  # share of every weight taken away each update
    prioritize_ends: bool = True  # replay draws the ends of episodes more often

    total_steps: int = 100_000_000
    repeat: int = 1
    prefill: int = 10_000
    pretrain: int = 1
    update_every: int = 5
    updates: int = 1
    batch_size: int = 16  # B
    batch_length: int = 50  # T
    replay_rows: int = 2_000_000
    log_every: int = 10_000

    def __post_init__(self) -> None:
        """Check what no type says.

        Raises:
            ConfigError: naming the field, its value and what it has to be.
        """
        super().__post_init__()
        one_of("standardize", self.standardize, FORMS)
        one_of("norm", self.norm, ("none", "layer"))
        one_of("clip_rewards", self.clip_rewards, ("none", "tanh"))
        for name, least, why in (
            ("horizon", 2, "the last imagined state has no return of its own"),
            ("classes", 2, "one class says nothing"),
            ("slow_every", 1, "updates from one copy of the value to the next"),
            ("layers", 1, "a head has a hidden layer"),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} has to be at least {least}: {why}")
        if self.imagine_starts is not None and self.imagine_starts < 1:
            raise ConfigError(
                f"imagine_starts={self.imagine_starts} has to be at least 1, or None for all"
            )
        for name in ("kl_balance", "reinforce", "decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name}={value} is a share; it has to be from 0 to 1")


_ATARI_CODE: dict[str, object] = {
    "protocol": "dreamerv2",
    "total_steps": 200_000_000,
    "repeat": 4,
    "deter": 600,
    "hidden": 600,
    "kl_scale": 0.1,
    "cont_scale": 5.0,
    "discount": 0.999,
    "actor_entropy": 1e-3,
    "model_lr": 2e-4,
    "actor_lr": 4e-5,
    "value_lr": 1e-4,
    "prefill": 200_000,
    "update_every": 64,
    "log_every": 40_000,
    "checkpoint_every": 1_000_000,
}
_DMC: dict[str, object] = {
    "total_steps": 2_000_000,  # as long as the published curves
    "repeat": 2,
    "deter": 200,
    "hidden": 200,
    "free_nats": 1.0,
    "cont": False,
    "clip_rewards": "none",
    "actor_entropy": 1e-4,
    "model_lr": 3e-4,
    "value_lr": 8e-5,
    "prioritize_ends": False,
    "prefill": 2_000,
    "pretrain": 100,
    "update_every": 10,
    "checkpoint_every": 20_000,
}
_CPU: dict[str, object] = {
    "total_steps": 100_000,
    "repeat": 4,
    "render": "fast",
    "deter": 64,
    "stoch": 8,
    "classes": 8,
    "hidden": 64,
    "units": 64,
    "layers": 3,
    "standardize": "prefill",
    "state_std": 0.3,
    "reward_scale": 10.0,
    "clip_rewards": "none",
    "actor_entropy": 0.1,
    "slow_every": 20,
    "batch_size": 16,
    "batch_length": 32,
    "imagine_starts": 256,
    "model_lr": 1e-3,
    "actor_lr": 3e-4,
    "value_lr": 1e-3,
    "prefill": 5_000,
    "pretrain": 100,
    "update_every": 100,
    "updates": 10,
    "replay_rows": 200_000,
    "log_every": 1_000,
}
_DEBUG: dict[str, object] = {
    **_CPU,
    "total_steps": 2_000,
    "repeat": 1,
    "deter": 16,
    "stoch": 4,
    "classes": 4,
    "hidden": 16,
    "units": 16,
    "layers": 2,
    "batch_size": 4,
    "batch_length": 8,
    "horizon": 5,
    "imagine_starts": 16,
    "prefill": 500,
    "pretrain": 2,
    "updates": 2,
    "replay_rows": 10_000,
    "eval_every": 1_000,
    "eval_episodes": 1,
    "final_episodes": 1,
    "checkpoint_every": 1_000,
}


class DreamerV2(Agent):
    """DreamerV2: learns a world model of categorical latents and acts from inside it.

    Example:
        >>> agent = DreamerV2("dmc:walker-walk")  # pixels, the released code's settings
        >>> agent.learn(1_000_000)
        >>> action = agent.act(obs)

    Source: Hafner, Lillicrap, Norouzi, Ba: Mastering Atari with Discrete World Models (ICLR 2021,
    arXiv:2010.02193).
    """

    config_class = DreamerV2Config
    algorithm_class = DreamerV2Algorithm
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "atari_paper": {
            **_ATARI_CODE,
            "protocol": "dreamerv2-paper",
            "batch_size": 50,
            "update_every": 16,
            "discount": 0.995,
        },
        "atari_code": _ATARI_CODE,
        "crafter": {
            "total_steps": 1_000_000,
            "norm": "layer",
            "discount": 0.999,
            "actor_entropy": 3e-3,
            "actor_lr": 1e-4,
            "value_lr": 1e-4,
            "checkpoint_every": 20_000,
        },
        "dmc_vision": _DMC,
        "dmc_proprio": _DMC,
        "defaults": {},
        "cpu": _CPU,
        "cpu_pixels": {**_CPU, "depth": 8, "batch_length": 24, "reward_scale": 100.0},
        "debug": _DEBUG,
        "debug_pixels": {**_DEBUG, "depth": 2},
    }

    def __init__(
        self,
        env: EnvLike | None = None,
        *,
        preset: str | None = None,
        device: str = "auto",
        seed: int | None = None,
        **overrides: Unpack[DreamerV2Overrides],
    ) -> None:
        """Args and errors are those of `Agent`; overrides are the fields of `DreamerV2Config`."""
        super().__init__(env, preset=preset, device=device, seed=seed, **overrides)

    @classmethod
    def default_preset(cls, suite: str, obs: Mapping[str, ObsSpec]) -> str:
        """The settings of a suite that paper or code has; else the code's defaults."""
        if suite == "dmc":
            image = any(s.kind == "image" for s in obs.values())
            return "dmc_vision" if image else "dmc_proprio"
        return {"atari": "atari_paper", "crafter": "crafter"}.get(suite, "defaults")

    @classmethod
    def env_overrides(cls, config: AgentConfig, world: EnvFacts) -> Mapping[str, object]:
        """A continuation head where episodes can terminate; repeats where the papers repeat."""
        fields: dict[str, object] = {"cont": world.suite != "dmc"}
        return fields if world.suite in ("dmc", "atari") else {**fields, "repeat": 1}
