"""Dreamer: behaviors learned by latent imagination (Hafner et al. 2020, arXiv:1912.01603).

Read beside the paper's algorithm 1. Where the paper and the author's second implementation
(danijar/dreamer) disagree, the implementation is followed; docs/dreamer.md lists every difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn

from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, NoiseSpec, ObsSpec

from ..agent import Agent
from ..algorithm import (
    Batch,
    Carry,
    Metrics,
    Noise,
    NoiseSource,
    Obs,
    Transitions,
    WriteBack,
    same_for_all,
)
from ..blocks import acting
from ..blocks.actions import to_env
from ..blocks.actors import Actor, OneHotActor, TanhNormalActor
from ..blocks.cores import GRUCore
from ..blocks.decoders import ConvDecoder, Decoder
from ..blocks.distributions import onehot_argmax
from ..blocks.dreaming import continuation, decoded, dream_step
from ..blocks.encoders import ConvEncoder, Encoder
from ..blocks.fast import kernels
from ..blocks.heads import BernoulliHead, NormalHead, NormalPrediction
from ..blocks.imagination import imagine
from ..blocks.init import keras_init
from ..blocks.kl import free_nats_on_mean
from ..blocks.latents import GaussianLatent
from ..blocks.layers import MLP
from ..blocks.optim import Adam
from ..blocks.returns import lambda_return
from ..blocks.rssm import RSSM, State
from ..blocks.standardize import FORMS
from ..config import AgentConfig, EnvFacts, one_of
from ..environment import EnvLike
from ..overrides import DreamerOverrides
from ..ranks import ranks
from ..replay.samplers import EpisodeSampler

GROUPS = {
    "model": ("encoder", "rssm", "decoder", "reward", "cont"),
    "actor": ("actor",),
    "value": ("value",),
}
ENTROPY_STATES = 32  # imagined states whose actor entropy is measured


def world_model_loss(
    losses: Mapping[str, Tensor],
    kl: Tensor,
    *,
    scales: Mapping[str, float],
    kl_scale: float,
    free_nats: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The paper's reconstruction objective: observations, rewards, and the KL to the prior.

    Args:
        losses: negative log-likelihoods (B, T) by name.
        kl: (B, T) of posterior from prior.
        scales: of single likelihoods; 1 where left out.
        kl_scale: of the KL.
        free_nats: of the mean KL, below which it has no gradient.

    Returns:
        The loss, a scalar, and the mean of each likelihood.

    Source: equation 10 of the paper; danijar/dreamer dreamer.py:_train.
    """
    means = {name: loss.mean() for name, loss in losses.items()}
    scaled = [scales.get(name, 1.0) * mean for name, mean in means.items()]
    return torch.stack(scaled).sum() + kl_scale * free_nats_on_mean(kl, free_nats), means


def imagined_actor_critic_losses(
    reward: Tensor,
    discount: Tensor,
    value: Tensor,
    learned: NormalPrediction,
    alive: Tensor,
    *,
    lam: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Actor and value objectives on lambda returns of imagined states.

    Args:
        reward: (N, H-1) of arriving at the states 1 to H-1, differentiable in the actions.
        discount: (N, H-1), likewise.
        value: (N, H) of the states 1 to H, likewise.
        learned: the value of the states 1 to H-1, differentiable in its own weights.
        alive: (N, 1) weight of each start.
        lam: lambda.

    Returns:
        The actor's loss, the value's loss, and the returns (N, H-1).

    Source: equations 6 to 8; danijar/dreamer dreamer.py:_train.
    """
    # a value includes the reward of arriving at its own state
    ret = lambda_return(reward, discount, value[:, 1:], lam)
    with torch.no_grad():
        weight = torch.cat([alive, discount[:, :-1]], 1).cumprod(1)
    return -(weight * ret).mean(), (weight * learned.loss(ret.detach())).mean(), ret


class DreamerAlgorithm(nn.Module):
    """World model, actor and value; satisfies `agentzoo.algorithm.Algorithm`.

    Args:
        obs: the observations by key.
        action: the environment's action.
        config: the settings.
    """

    columns: Mapping[str, ColumnSpec] = {}
    sampler = EpisodeSampler()
    several_learners = True

    def __init__(
        self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: "DreamerConfig"
    ) -> None:
        super().__init__()
        self.action, self.config, c = action, config, config
        self.encoder = Encoder(
            obs,
            image=lambda channels: ConvEncoder(channels, c.depth),
            vector=lambda size: MLP(size, c.units, c.state_layers),
            standardize=c.standardize,
        )
        latent = GaussianLatent(c.stoch, c.min_std)
        self.rssm = RSSM(
            GRUCore(c.stoch, action.size, c.hidden, c.deter),
            latent,
            prior=MLP(c.deter, c.hidden, 1, latent.stats_size),
            posterior=MLP(c.deter, c.hidden, 1, latent.stats_size, early=self.encoder.size),
        )
        feat = self.rssm.feat_size
        self.decoder = Decoder(
            obs,
            image=lambda channels: ConvDecoder(feat, channels, c.depth),
            vector=lambda size: MLP(feat, c.units, c.state_layers, size),
            vector_std=c.state_std,
            standardizer=self.encoder.standardizer,
        )
        self.reward = NormalHead(feat, c.units, c.reward_layers)
        self.cont = BernoulliHead(feat, c.units, c.cont_layers) if c.cont else None
        self.value = NormalHead(feat, c.units, c.value_layers)
        self.actor = build_actor(feat, action, config)
        self.apply(keras_init)
        rates = {"model": c.model_lr, "actor": c.actor_lr, "value": c.value_lr}
        self._optimizers = {
            name: Adam(
                acting.parameter_group(self, GROUPS[name]),
                lr=rate,
                eps=c.adam_eps,
                clip=c.grad_clip,
            )
            for name, rate in rates.items()
        }
        for name in ("actor", "value"):
            self._optimizers[name].warmup = c.warmup
        self.carry_spec = acting.carry_spec(self.rssm, action.size)
        self.noise_spec = noise_spec(latent, self.actor, action)

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
        """Add clipped Gaussian noise, or replace a discrete action by a random one now and then.

        Source: danijar/dreamer dreamer.py:exploration.
        """
        c = self.config
        halving = total_steps / 5 if c.expl_decay is None else c.expl_decay
        amount = c.expl_amount * (0.5 ** (env_step / halving) if halving else 1.0)
        amount, action = max(c.expl_min, amount), carry["prev_action"]
        if self.action.kind == "box":
            action = (action + amount * noise["explore"]).clamp(-1, 1)
        else:
            # (B, 1 + A): the first number decides, the others choose
            decide, choose = noise["explore"].split([1, self.action.size], -1)
            groups = choose.split(list(self.action.nvec), -1)
            uniform = torch.cat([onehot_argmax(group) for group in groups], -1)
            action = torch.where(decide < amount, uniform, action)
        return {**carry, "prev_action": action}, to_env(action, self.action)

    def margin(self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor) -> Tensor:
        """Margin of the chosen action over the runner-up, (B,); inf where none was chosen.

        Relative to the scores (`top2_margin`): where this is below their tolerance, two
        implementations of the same step may differ.
        """
        _, stats = self._perceive(carry, obs, noise)
        return self.actor.margin(stats, noise["action"], deterministic)

    def _perceive(self, carry: Carry, obs: Obs, noise: Noise) -> tuple[State, Tensor]:
        embed = self.encoder(obs)
        state = acting.filter_step(self.rssm, carry, embed, obs["is_first"], noise["latent"])
        return state, self.actor(self.rssm.feat(state))

    def measure(self, transitions: Transitions, *, learning: bool) -> None:
        """Take vector observations into their statistics, where they are standardised."""
        self.encoder.measure(transitions, learning=learning)

    # -- learning --------------------------------------------------------------------------------

    def update(self, batch: Batch, noise: NoiseSource) -> tuple[Metrics, WriteBack]:
        """One gradient step of model, actor and value, all from the same parameters."""
        c = self.config
        with acting.autocast(self, c.precision), kernels(c.kernels):
            post, model_loss, metrics = self.model_loss(batch, noise)
        grads = {"model": self._grad("model", model_loss)}
        start, alive = self.starts(post, batch["is_terminal"], noise)
        with acting.autocast(self, c.precision), kernels(c.kernels):
            actor_loss, value_loss, imagined = self.behavior_losses(start, alive, noise)
        grads["actor"] = self._grad("actor", actor_loss)
        grads["value"] = self._grad("value", value_loss)
        for name, group in grads.items():
            metrics[f"opt/{name}_grad_norm"] = self._optimizers[name].step(group)
        return {k: v.detach() for k, v in (metrics | imagined).items()}, {}

    def model_loss(self, batch: Batch, noise: NoiseSource) -> tuple[State, Tensor, Metrics]:
        """The paper's reconstruction objective: observations, rewards, and the KL to the prior."""
        c, (B, T) = self.config, batch["reward"].shape
        # Dynamics learning: infer states
        eps = noise.normal(B, T, *self.rssm.latent.noise_shape)
        embeds = self.encoder(batch)
        post = self.rssm.observe(
            self.rssm.initial(B), batch["prev_action"], embeds, batch["is_first"], eps
        )
        prior, feat = self.rssm.prior(post), self.rssm.feat(post)
        # Predict observations, rewards and continuation
        reward = torch.tanh(batch["reward"]) if c.clip_rewards == "tanh" else batch["reward"]
        losses = self.decoder.losses(feat, batch)
        losses["reward"] = self.reward.prediction(self.reward(feat)).loss(reward)
        if self.cont is not None:
            # gamma is part of the label, so the head gives discounts
            target = c.discount * (1 - batch["is_terminal"].float())
            losses["cont"] = self.cont.prediction(self.cont(feat)).loss(target)
        for name, loss in losses.items():
            assert loss.shape == (B, T), (name, loss.shape)
        # Stay close to the prior
        latent, post_stats, prior = self.rssm.latent, post.stats.float(), prior.float()
        kl = latent.kl(post_stats, prior)
        scales = {"cont": c.cont_scale, "reward": c.reward_scale}
        loss, means = world_model_loss(
            losses, kl, scales=scales, kl_scale=c.kl_scale, free_nats=c.free_nats
        )
        metrics = {f"loss/{name}": value for name, value in means.items()}
        metrics |= {"loss/model": loss, "model/kl": kl.mean()}
        with torch.no_grad():
            metrics["model/post_entropy"] = latent.entropy(post_stats).mean()
            metrics["model/prior_entropy"] = latent.entropy(prior).mean()
        return post, loss, metrics

    def starts(self, post: State, is_terminal: Tensor, noise: NoiseSource) -> tuple[State, Tensor]:
        """Constant posteriors (N,) to imagine from, all or a random subset, and weights (N, 1).

        Nothing follows a terminal state. The reference leaves out each window's last transition,
        the only one that can be terminal there; where short episodes are joined in a window, the
        others have weight zero.
        """
        alive = torch.ones_like(post.deter[..., :1])
        if self.cont is not None:
            alive = alive * ~is_terminal[..., None]
            post, alive = State(*(x[:, :-1] for x in post)), alive[:, :-1]
        start, alive = post.detach().flatten(), alive.flatten(0, 1)
        return acting.random_starts(start, alive, self.config.imagine_starts, noise)

    def behavior_losses(
        self, start: State, alive: Tensor, noise: NoiseSource
    ) -> tuple[Tensor, Tensor, Metrics]:
        """The paper's actor and value objectives, on lambda returns (equation 6)."""
        c, N = self.config, len(start.deter)
        # Imagine trajectories; the start state is not part of them
        entropy: list[Tensor] = []

        def act(feat: Tensor, eps: Tensor) -> Tensor:
            stats = self.actor(feat.detach())
            if c.actor_entropy:
                entropy.append(self.actor.sample_entropy(stats, eps))
            return self.actor.sample(stats, eps)

        imagined = imagine(
            self.rssm,
            act,
            start,
            noise.normal(N, c.horizon, *self.rssm.latent.noise_shape),
            acting.draw_noise(noise, self.actor.noise_kind, N, c.horizon, self.action.size),
        )
        first, *feats = imagined.feats
        # Predict rewards, values and discounts; of the last state only its value is needed
        reward = self.reward.input_grad(feats[:-1])
        value, learned_value = self.value.value_and_input_grad(feats)
        if self.cont is None:
            discount = torch.full_like(reward, c.discount)
        else:
            discount = torch.sigmoid(self.cont.input_grad(feats[:-1]))
        # Update the actor, then the value
        actor_loss, value_loss, ret = imagined_actor_critic_losses(
            reward,
            discount,
            value,
            self.value.prediction(learned_value[:, :-1]),
            alive,
            lam=c.lam,
        )
        if c.actor_entropy:
            # keeps tanh away from saturation, where the return has no gradient to leave it by
            actor_loss = actor_loss - c.actor_entropy * torch.stack(entropy).mean()
        metrics = {
            "loss/actor": actor_loss,
            "loss/value": value_loss,
            "imag/reward": reward.mean(),
            "imag/value": value.mean(),
            "imag/ret": ret.mean(),
            "imag/discount": discount.mean(),
            "actor/entropy": self._entropy(ranks().gather(first[:ENTROPY_STATES]), noise),
        }
        return actor_loss, value_loss, metrics

    @torch.no_grad()
    def _entropy(self, feat: Tensor, noise: NoiseSource) -> Tensor:
        feat = feat[:ENTROPY_STATES]
        shape = len(feat), *self.actor.entropy_shape
        eps = acting.draw_noise(same_for_all(noise), self.actor.noise_kind, *shape)
        return self.actor.entropy(self.actor(feat), eps).mean()

    def _grad(self, name: str, loss: Tensor) -> list[Tensor]:
        # gradients of one group only: nothing else is computed, so nothing has to be frozen
        return ranks().grad(loss, self._optimizers[name].params)

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
        return self.actor.margin(stats, noise["action"], deterministic)

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
        eps = noise.normal(B, T, *self.rssm.latent.noise_shape)
        seen = {key: value[:, :context] for key, value in batch.items()}
        embeds, firsts, actions = self.encoder(seen), seen["is_first"], batch["prev_action"]
        initial = self.rssm.initial(B)
        return self.decoder(acting.open_loop(self.rssm, initial, actions, embeds, firsts, eps))


def build_actor(
    inputs: int, action: ActionSpec, config: "DreamerConfig"
) -> TanhNormalActor | OneHotActor:
    """The actor that fits the action: tanh-normal for a Box, else one-hot groups."""
    c = config
    if action.kind != "box":
        return OneHotActor(inputs, action.nvec, c.units, c.actor_layers)
    return TanhNormalActor(
        inputs,
        action.size,
        c.units,
        c.actor_layers,
        init_std=c.actor_init_std,
        mean_scale=c.actor_mean_scale,
        min_std=c.actor_min_std,
        samples=c.mode_samples,
    )


def noise_spec(latent: GaussianLatent, actor: Actor, action: ActionSpec) -> dict[str, NoiseSpec]:
    """The noise that a step and an exploring step draw."""
    box = action.kind == "box"
    return {
        "latent": NoiseSpec(shape=latent.noise_shape, kind=latent.noise_kind, role="latent"),
        "action": NoiseSpec(shape=actor.noise_shape, kind=actor.noise_kind, role="action"),
        "explore": NoiseSpec(
            shape=(action.size if box else 1 + action.size,),
            kind="normal" if box else "uniform",
            role="explore",
        ),
    }


@dataclass(frozen=True, kw_only=True)
class DreamerConfig(AgentConfig):
    """Settings of Dreamer; the defaults are danijar/dreamer's for the DeepMind Control Suite."""

    total_steps: int = 5_000_000  # environment steps including repeat; learn()'s default budget
    repeat: int = 2  # action repeat, where the environment string leaves it open
    prefill: int = 5_000  # environment steps of uniformly random actions
    pretrain: int = 100  # updates at the first opportunity
    update_every: int = 1_000  # environment steps between bursts of updates
    updates: int = 100  # in a burst
    batch_size: int = 50  # B, sequences in a batch
    batch_length: int = 50  # T, transitions in a sequence
    replay_rows: int = 5_000_000  # capacity of the replay buffer
    deter: int = 200  # D, deterministic state
    stoch: int = 30  # S, Gaussian latent dimensions
    hidden: int = 200  # width of the RSSM's dense layers
    min_std: float = 0.1  # of prior and posterior
    depth: int = 32  # filters of the first convolution
    units: int = 400  # width of all heads, and of the networks for vector observations
    state_layers: int = 2  # dense layers of the networks for vector observations; ours
    reward_layers: int = 2  # the paper's text has three layers of 300 everywhere
    cont_layers: int = 3  # of the continuation head
    value_layers: int = 3  # dense layers of the value
    actor_layers: int = 4  # dense layers of the actor
    state_std: float = 1.0  # deviation of the vector likelihood, in units of what it sees; ours
    standardize: str = "none"  # none|prefill|running, vector observations; ours
    reward_scale: float = 1.0  # of the reward's likelihood
    free_nats: float = 3.0  # nats, on the mean KL
    kl_scale: float = 1.0  # 0.1 for discrete actions
    cont: bool = False  # learn to predict terminations; needed where episodes can terminate
    cont_scale: float = 10.0  # of the continuation's likelihood
    clip_rewards: str = "none"  # none|tanh, on replayed rewards
    discount: float = 0.99  # gamma
    lam: float = 0.95  # lambda of the return
    horizon: int = 15  # H, imagined steps; 10 for discrete actions
    imagine_starts: int | None = None  # posteriors to imagine from; None is all
    actor_init_std: float = 5.0  # before tanh
    actor_mean_scale: float = 5.0  # largest mean before tanh
    actor_min_std: float = 1e-4  # before tanh
    actor_entropy: float = 0.0  # weight of the action's entropy in the actor's objective; ours
    mode_samples: int = 100  # candidates of a deterministic continuous action; 0 is the exact mode
    expl_amount: float = 0.3  # added deviation; discrete: probability of a random action
    # environment steps in which it halves; 0 is never, None a fifth of the run's steps
    expl_decay: float | None = 0.0
    expl_min: float = 0.0  # floor of the decay
    model_lr: float = 6e-4  # learning rate of the world model
    actor_lr: float = 8e-5  # of the actor
    value_lr: float = 8e-5  # of the value
    warmup: int = 0  # updates in which the actor's and the value's rate rise from 0; ours
    adam_eps: float = 1e-7  # added to Adam's denominator
    grad_clip: float = 100.0  # global norm, each optimiser

    def __post_init__(self) -> None:
        """Check what no type says.

        Raises:
            ConfigError: naming the field, its value and what it has to be.
        """
        super().__post_init__()
        one_of("standardize", self.standardize, FORMS)
        one_of("clip_rewards", self.clip_rewards, ("none", "tanh"))
        if self.horizon < 2:
            raise ConfigError(
                f"horizon={self.horizon} has to be at least 2: the last imagined state has no "
                "return of its own"
            )
        if self.mode_samples < 0:
            raise ConfigError(
                f"mode_samples={self.mode_samples} has to be 0 or more; 0 is the exact mode"
            )
        if self.imagine_starts is not None and self.imagine_starts < 1:
            raise ConfigError(
                f"imagine_starts={self.imagine_starts} has to be at least 1, or None for all"
            )
        if self.cont and self.batch_length < 2:
            raise ConfigError(
                "batch_length=1 leaves nothing to imagine from: with cont=True a window's last "
                "transition is left out; use 2 or more"
            )


# a few numbers a step hold about one nat of surprise: with three free the prior is never trained
_STATE: dict[str, object] = {"free_nats": 0.5, "state_std": 0.3, "standardize": "prefill"}
_CPU: dict[str, object] = {
    **_STATE,
    "total_steps": 100_000,
    "repeat": 4,
    "render": "fast",
    "deter": 64,
    "stoch": 16,
    "hidden": 64,
    "units": 64,
    "actor_layers": 3,
    "actor_init_std": 1.0,
    "actor_mean_scale": 2.0,
    "actor_min_std": 0.1,
    "actor_entropy": 0.1,
    "mode_samples": 0,
    "reward_scale": 10.0,
    "batch_size": 16,
    "batch_length": 32,
    "imagine_starts": 256,
    "model_lr": 1e-3,
    "actor_lr": 3e-4,
    "value_lr": 1e-3,
    # so fast a value, without a target network, runs away from what can be reached while the model
    # is new, and takes the actor with it; DreamerV3's number of updates
    "warmup": 1_000,
    "update_every": 100,
    "updates": 10,
    "replay_rows": 200_000,
}
_DEBUG: dict[str, object] = {
    **_CPU,
    "total_steps": 2_000,
    "deter": 16,
    "stoch": 4,
    "hidden": 16,
    "units": 16,
    "batch_size": 4,
    "batch_length": 8,
    "horizon": 5,
    "imagine_starts": 16,
    "prefill": 500,
    "pretrain": 2,
    "warmup": 10,
    "update_every": 100,
    "updates": 2,
    "replay_rows": 10_000,
    "eval_every": 1_000,
    "eval_episodes": 1,
    "final_episodes": 1,
    "checkpoint_every": 1_000,
}


class Dreamer(Agent):
    """Dreamer, the 2020 agent: learns a world model and trains its actor inside it.

    Example:
        >>> agent = Dreamer("dmc:walker-walk")  # pixels, the paper's settings
        >>> agent.learn(1_000_000)
        >>> action = agent.act(obs)

    Source: Hafner, Lillicrap, Ba, Norouzi: Dream to Control (ICLR 2020, arXiv:1912.01603).
    """

    config_class = DreamerConfig
    algorithm_class = DreamerAlgorithm
    paper: ClassVar[str] = "Hafner et al. 2020, arXiv:1912.01603"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "dmc_vision": {"mode_samples": 0},
        "dmc_state": {**_STATE, "mode_samples": 0, "replay_rows": 2_000_000},
        "atari": {"protocol": "dreamer", "repeat": 4, "clip_rewards": "tanh"},
        "cpu": _CPU,
        "cpu_pixels": {**_CPU, "free_nats": 3.0, "depth": 8, "batch_length": 24},
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
        **overrides: Unpack[DreamerOverrides],
    ) -> None:
        """Args and errors are those of `Agent`; overrides are the fields of `DreamerConfig`."""
        super().__init__(env, preset=preset, device=device, seed=seed, **overrides)

    @classmethod
    def default_preset(cls, suite: str, obs: Mapping[str, ObsSpec]) -> str:
        """The paper's settings, for images or for vectors alone, or for Atari."""
        if suite == "atari":
            return "atari"
        return "dmc_vision" if any(s.kind == "image" for s in obs.values()) else "dmc_state"

    @classmethod
    def env_overrides(cls, config: AgentConfig, world: EnvFacts) -> Mapping[str, object]:
        """A continuation head where episodes can terminate; discrete settings for discrete actions.

        Source: google-research/dreamer configs `discrete` and `pcont`; the exploration's halving
        reaches its floor at two fifths of the run, as the paper's linear decay does.
        """
        fields: dict[str, object] = {} if world.suite == "dmc" else {"cont": True}
        if world.suite not in ("dmc", "atari"):
            fields["repeat"] = 1
        if world.action.kind != "box":
            assert isinstance(config, DreamerConfig), type(config)
            fields |= {"horizon": min(10, config.horizon), "kl_scale": 0.1, "expl_amount": 0.4}
            fields |= {"expl_min": 0.1, "expl_decay": None}
        return fields
