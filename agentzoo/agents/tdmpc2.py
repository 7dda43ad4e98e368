"""TD-MPC2: planning in a latent space that is learned without a decoder (Hansen, Su and Wang 2024).

Read beside the paper (arXiv:2310.16828), section 3: components (equation 2), the model's objective
(equation 3), the policy's (equation 4), planning (`runtime/policy/planners.py:mppi`). Where paper
and released code (nicklashansen/tdmpc2) disagree, the code is followed; docs/tdmpc2.md lists it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.policy.planners import check, check_draws
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, MPPISpec, NoiseSpec, ObsSpec, TensorSpec

from ..agent import Agent
from ..algorithm import (
    Batch,
    Carry,
    Metrics,
    Noise,
    NoiseSource,
    Obs,
    WriteBack,
    same_for_all,
)
from ..blocks import acting
from ..blocks.actions import to_env
from ..blocks.distributions import symexp, symlog
from ..blocks.ema import ema_update, target_copy
from ..blocks.encoders import image_keys, join_images, join_vectors, vector_keys
from ..blocks.fast import kernels
from ..blocks.fast.mish import mish
from ..blocks.layers import MLP, LayerNorm
from ..blocks.normalize import percentile
from ..blocks.optim import Adam, clip_by_global_norm
from ..blocks.q_ensemble import QEnsemble, pair_of, pick_two
from ..blocks.simnorm import SimNorm
from ..blocks.twohot import twohot_loss, twohot_mean
from ..config import AgentConfig, EnvFacts, one_of
from ..environment import EnvLike
from ..overrides import TDMPC2Overrides
from ..planning import plan_step
from ..ranks import ranks
from ..replay.samplers import EpisodeSampler, Sampler
from ..train.schedule import ByDecision, Schedule

norm = partial(LayerNorm, eps=1e-5)  # torch's own epsilon


class Prior(NamedTuple):
    """The policy prior at latent states (..., L).

    `scaled_entropy` counts each action dimension as often as there are dimensions.
    """

    action: Tensor  # (..., A) a sample
    entropy: Tensor  # (...) of the sample, in nats
    scaled_entropy: Tensor  # (...)


def td_target(reward: Tensor, terminal: Tensor, discount: float, value: Tensor) -> Tensor:
    """Targets of the values: r + gamma (1 - d) Q(z', pi(z')), all (B, H).

    Source: the paper's equation 3; nicklashansen/tdmpc2 tdmpc2.py:_td_target.
    """
    return reward + discount * (1 - terminal) * value


def discounted_mean(loss: Tensor, rho: float) -> Tensor:
    """Mean of losses (B, H), a step t ahead counting rho^t: a scalar.

    Source: lambda in the paper's equations 3 and 4; nicklashansen/tdmpc2 tdmpc2.py:_update.
    """
    ahead = torch.arange(loss.shape[1], device=loss.device)
    return (loss.mean(0) * rho**ahead).mean()


def world_model_loss(
    losses: Mapping[str, Tensor],
    inside: Tensor,
    *,
    scales: Mapping[str, float],
    rho: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Equation 3: the model's and the values' losses over a roll-out of H steps.

    Args:
        losses: (B, H) consistency, reward and value, and termination where episodes end by it,
            whose steps all count the same.
        inside: (B, H) 1 before the sequence's next episode, else 0.
        scales: of the losses, by name.
        rho: weight of a step beside the step before it.

    Returns:
        The loss, a scalar, and the mean of each.

    Source: the paper's equation 3; nicklashansen/tdmpc2 tdmpc2.py:_update.
    """
    for name, loss in losses.items():
        assert loss.shape == inside.shape, (name, loss.shape, inside.shape)
    means = {
        name: discounted_mean(loss * inside, 1.0 if name == "termination" else rho)
        for name, loss in losses.items()
    }
    return torch.stack([scales[name] * mean for name, mean in means.items()]).sum(), means


def policy_loss(
    scaled_entropy: Tensor, value: Tensor, spread: Tensor, *, entropy_scale: float, rho: float
) -> Tensor:
    """Equation 4: the policy's values in units of their own spread, and its entropy; a scalar.

    Args:
        scaled_entropy: (B, T) of the policy's samples.
        value: (B, T) of the samples, differentiable in them.
        spread: a scalar, the running distance between low and high values.
        entropy_scale: of the entropy.
        rho: weight of a step beside the step before it.

    Source: the paper's equation 4; nicklashansen/tdmpc2 tdmpc2.py:update_pi.
    """
    return -discounted_mean(entropy_scale * scaled_entropy + value / spread, rho)


class TDMPC2Algorithm(nn.Module):
    """World model, value and policy; satisfies `agentzoo.algorithm.PlanningAlgorithm`.

    Args:
        obs: the observations by key.
        action: the environment's action, a box.
        config: the settings.

    Raises:
        ConfigError: if a decision would draw more random numbers than a machine holds.
        SpaceError: if the action is not a box.
    """

    columns: Mapping[str, ColumnSpec] = {}
    sampler: Sampler = EpisodeSampler()
    several_learners = True
    carry_spec: Mapping[str, TensorSpec]
    noise_spec: Mapping[str, NoiseSpec]
    bins: Tensor

    def __init__(
        self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: "TDMPC2Config"
    ) -> None:
        super().__init__()
        c, A, (L, M, enc_units, enc_layers, members) = config, action.size, config.sizes
        self.action, self.config, self.plan_spec = action, config, config.plan(A)
        check(self.plan_spec, action)
        self.encoder = LatentEncoder(obs, L, enc_units, enc_layers, c.simnorm)
        self.dynamics = nn.Sequential(
            MLP(L + A, M, 2, L, act=mish, norm=norm), norm(L), SimNorm(c.simnorm)
        )
        self.reward = MLP(L + A, M, 2, c.bins, act=mish, norm=norm)
        self.termination = MLP(L, M, 2, 1, act=mish, norm=norm) if c.episodic else None
        self.pi = MLP(L, M, 2, 2 * A, act=mish, norm=norm)
        self.apply(truncated_init)
        assert self.reward.out is not None
        nn.init.zeros_(self.reward.out.weight)
        self.q = QEnsemble(L + A, M, c.bins, members, c.dropout)
        self.target_q = target_copy(self.q)
        self.scale = ReturnScale(c.tau)
        self.register_buffer("bins", torch.linspace(-c.reach, c.reach, c.bins), persistent=False)
        self._optimizers = self._make_optimizers()
        self.carry_spec = {
            "latent": TensorSpec(shape=(L,)),
            "prev_action": TensorSpec(shape=(A,)),
            **self.plan_spec.memory(A),
        }
        self.noise_spec = noise_spec(obs, A, members)
        check_draws(self.plan_spec, self.noise_spec)

    # -- acting ----------------------------------------------------------------------------------

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        like = self.bins
        return {k: like.new_zeros(batch, *spec.shape) for k, spec in self.carry_spec.items()}

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        """Encode, then plan; `deterministic` leaves out the noise on the chosen action."""
        return plan_step(self, carry, obs, noise, deterministic)

    def observe(self, carry: Carry, obs: Obs, noise: Noise) -> Carry:
        """The latent state of this observation; nothing of an earlier one is in it."""
        return {**carry, "latent": self.encoder(obs, noise.get("shift"))}

    def imagine(self, carry: Carry, action: Tensor, noise: Noise) -> tuple[Carry, Tensor]:
        """One step of the dynamics, and the reward of the action that is taken."""
        z = torch.cat([carry["latent"], action], -1)
        return {"latent": self.dynamics(z)}, self._scalar(self.reward(z))

    def value(self, carry: Carry, noise: Noise) -> Tensor:
        """(N,) mean of two members' values of an action that the policy samples."""
        z = carry["latent"]
        action = self._sampled(z, noise["value"])
        values = self._scalar(self.q(torch.cat([z, action], -1)))
        return pick_two(values, noise["members"]).mean(-1)

    def cont(self, carry: Carry) -> Tensor:
        """(N,) 1 where the episode is expected to go on, else 0."""
        assert self.termination is not None, "only where episodes may end"
        return (self.termination(carry["latent"]).squeeze(-1) <= 0).float()

    def policy(self, carry: Carry, noise: Noise, deterministic: Tensor) -> Tensor:
        """(N, A) actions of the policy prior: proposals, and acting without planning."""
        mean, log_std = self._normal(carry["latent"])
        eps = torch.where(deterministic[:, None], 0.0, noise["policy"])
        return torch.tanh(mean + eps * log_std.exp())

    def explore(
        self, carry: Carry, noise: Noise, env_step: int, total_steps: int
    ) -> tuple[Carry, Tensor]:
        """Act as planned: the planner's own noise is the exploration."""
        return carry, to_env(carry["prev_action"], self.action)

    def prior(self, z: Tensor, eps: Tensor) -> Prior:
        """The policy prior: a normal through tanh, its deviation bounded.

        Args:
            z: (..., L) latent states.
            eps: (..., A) standard normal draws.

        Source: nicklashansen/tdmpc2 common/world_model.py:pi, common/math.py.
        """
        A = self.action.size
        mean, log_std = self._normal(z)
        gaussian = (-0.5 * eps.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
        action = torch.tanh(mean + eps * log_std.exp())
        log_prob = gaussian - torch.log(F.relu(1 - action.square()) + 1e-6).sum(-1)
        scaled = -log_prob * (gaussian * A / (log_prob + 1e-8))
        return Prior(action, -log_prob, scaled)

    def _normal(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log deviation (..., A) of the policy's normal, before tanh."""
        c = self.config
        mean, raw = self.pi(z).float().chunk(2, -1)
        return mean, c.log_std_min + 0.5 * (c.log_std_max - c.log_std_min) * (torch.tanh(raw) + 1)

    def _sampled(self, z: Tensor, eps: Tensor) -> Tensor:
        """An action (..., A) that the policy samples, without its likelihood."""
        mean, log_std = self._normal(z)
        return torch.tanh(mean + eps * log_std.exp())

    def _scalar(self, logits: Tensor) -> Tensor:
        """Logits over bins (..., M) as numbers in task units: (...)."""
        return symexp(twohot_mean(logits.float(), self.bins))

    # -- learning --------------------------------------------------------------------------------

    def update(self, batch: Batch, noise: NoiseSource) -> tuple[Metrics, WriteBack]:
        """One gradient step of the model and its values, then one of the policy."""
        c = self.config
        with acting.autocast(self, c.precision), kernels(c.kernels):
            loss, states, metrics = self._model_loss(batch, noise)
        params = [p for one in ("encoder", "model") for p in self._optimizers[one].params]
        grads, norm = clip_by_global_norm(ranks().grad(loss, params), c.grad_clip)
        split = len(self._optimizers["encoder"].params)
        self._optimizers["encoder"].step(grads[:split])
        self._optimizers["model"].step(grads[split:])
        with acting.autocast(self, c.precision), kernels(c.kernels):
            loss, more = self._policy_loss(states, noise)
        optimizer = self._optimizers["policy"]
        more["opt/policy_grad_norm"] = optimizer.step(ranks().grad(loss, optimizer.params))
        ema_update(self.target_q, self.q, c.tau)
        metrics = {**metrics, "opt/model_grad_norm": norm, **more}
        return {name: value.detach() for name, value in metrics.items()}, {}

    def _model_loss(self, batch: Batch, noise: NoiseSource) -> tuple[Tensor, Tensor, Metrics]:
        """Equation 3: consistency, reward and value over a short roll-out of the dynamics.

        Returns:
            The loss, the rolled-out latent states (B, H+1, L) without gradient, and metrics.
        """
        c, (B, T) = self.config, batch["reward"].shape
        H, A = T - 1, self.action.size
        action, reward = batch["prev_action"][:, 1:], batch["reward"][:, 1:]
        terminal = batch["is_terminal"][:, 1:].float()
        # short episodes are joined to fill a sequence: nothing is learned across the seam
        inside = 1 - torch.cummax(batch["is_first"][:, 1:].float(), 1).values
        shifts = self._shifts(noise, B, T)
        # Compute targets
        with torch.no_grad():
            later = {k: batch[k][:, 1:] for k in self.encoder.keys}
            arrived = self.encoder(later, shifts[:, 1:])  # (B, H, L)
            best = self._sampled(arrived, noise.normal(B, H, A))
            pair = pair_of(same_for_all(noise).uniform(c.sizes.members))
            logits = self.target_q(torch.cat([arrived, best], -1), chosen=pair)
            value = self._scalar(logits).amin(0)  # (B, H)
            target = td_target(reward, terminal, c.discount, value)
        # Roll out the dynamics
        first = {k: batch[k][:, 0] for k in self.encoder.keys}
        states = [self.encoder(first, shifts[:, 0])]
        for t in range(H):
            states.append(self.dynamics(torch.cat([states[t], action[:, t]], -1)))
        z = torch.stack(states, 1)  # (B, H+1, L)
        # Predict rewards and values
        za = torch.cat([z[:, :-1], action], -1)
        draws = self._dropout(noise, B, H)
        losses = {
            "consistency": (z[:, 1:] - arrived).square().mean(-1),
            "reward": twohot_loss(self.reward(za).float(), symlog(reward), self.bins),
            "value": self._value_loss(self.q(za, draws).float(), target),
        }
        if self.termination is not None:
            logits = self.termination(z[:, 1:]).squeeze(-1).float()
            losses["termination"] = F.binary_cross_entropy_with_logits(
                logits, terminal, reduction="none"
            )
        scales = {"consistency": c.consistency_scale, "reward": c.reward_scale,
                  "value": c.value_scale, "termination": c.termination_scale}  # fmt: skip
        loss, means = world_model_loss(losses, inside, scales=scales, rho=c.rho)
        metrics = {f"loss/{name}": mean for name, mean in means.items()}
        return loss, z.detach(), {**metrics, "loss/model": loss, "model/td_target": target.mean()}

    def _value_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """(B, H) mean over the members of the cross-entropy to the same targets (B, H)."""
        repeated = symlog(target).expand(logits.shape[:-1])
        return twohot_loss(logits, repeated, self.bins).mean(0)

    def _policy_loss(self, z: Tensor, noise: NoiseSource) -> tuple[Tensor, Metrics]:
        """Equation 4: the policy's values, in units of their own spread, and its entropy."""
        c, (B, T) = self.config, z.shape[:2]
        prior = self.prior(z, noise.normal(B, T, self.action.size))
        pair = pair_of(same_for_all(noise).uniform(c.sizes.members))
        draws = self._dropout(noise, B, T)
        values = self._scalar(self.q(torch.cat([z, prior.action], -1), draws, pair))
        value = values.mean(0)  # (B, T)
        self.scale.update(value[:, 0])
        loss = policy_loss(
            prior.scaled_entropy, value, self.scale.value, entropy_scale=c.entropy_scale, rho=c.rho
        )
        metrics = {
            "loss/policy": loss,
            "policy/entropy": prior.entropy.mean(),
            "policy/scaled_entropy": prior.scaled_entropy.mean(),
            "policy/value": value.mean(),
            "policy/return_scale": self.scale.value.clone(),
        }
        return loss, metrics

    def _shifts(self, noise: NoiseSource, B: int, T: int) -> Tensor:
        """Draws of the random shift of each transition's images; (B, T, 0) where there are none."""
        shape = self.noise_spec["shift"].shape if "shift" in self.noise_spec else (0,)
        return noise.uniform(B, T, *shape) if math.prod(shape) else self.bins.new_empty(B, T, 0)

    def _dropout(self, noise: NoiseSource, B: int, T: int) -> Tensor | None:
        if not self.config.dropout:
            return None
        shape = self.q.mask_shape((ranks().count * B, T))  # members come first, then the batch
        return ranks().share(same_for_all(noise).uniform(*shape), 1)

    def _make_optimizers(self) -> dict[str, Adam]:
        """The encoder learns more slowly; both count in the same clip, so theirs is left out."""
        c, named = self.config, dict(self.named_parameters())
        groups: dict[str, dict[str, Tensor]] = {"encoder": {}, "model": {}, "policy": {}}
        for name, param in named.items():
            part = name.partition(".")[0]
            if part != "target_q":
                groups[{"encoder": "encoder", "pi": "policy"}.get(part, "model")][name] = param
        return {
            "encoder": Adam(
                groups["encoder"], lr=c.lr * c.encoder_lr_scale, eps=1e-8, torch_eps=True
            ),
            "model": Adam(groups["model"], lr=c.lr, eps=1e-8, torch_eps=True),
            "policy": Adam(groups["policy"], lr=c.lr, eps=1e-5, torch_eps=True, clip=c.grad_clip),
        }

    def optimizers(self) -> Mapping[str, Adam]:
        """Three of Adam: encoder, model, policy."""
        return self._optimizers


class LatentEncoder(nn.Module):
    """Raw observations to a latent state: vectors by dense layers, images by convolutions.

    Images are shifted at random by up to three pixels each way, while acting too, as in the
    authors' code. Of both kinds at once the networks' outputs are added before the last
    normalisation; ours.

    Args:
        obs: the observations by key.
        size: L, a multiple of 16 and of `group`.
        units: width of the dense layers.
        layers: number of dense layers, the last one included.
        group: of SimNorm.

    Raises:
        ConfigError: if the images' sizes do not fit.

    Source: nicklashansen/tdmpc2 common/layers.py:enc, conv and ShiftAug.
    """

    PAD = 3  # pixels

    def __init__(
        self, obs: Mapping[str, ObsSpec], size: int, units: int, layers: int, group: int
    ) -> None:
        super().__init__()
        self.images, self.vectors = image_keys(obs), vector_keys(obs)
        self.keys = [*self.images, *self.vectors]
        channels = sum(obs[key].shape[-1] for key in self.images)
        length = sum(obs[key].shape[0] for key in self.vectors)
        self.vector = self.image = None
        if self.vectors:
            dense = MLP(length, units, max(layers - 1, 1), size, act=mish, norm=norm)
            self.vector = nn.Sequential(dense, norm(size))
        if self.images:
            n = size // 16  # of the 4x4 pixels that are left in the end
            self.image = nn.Sequential(
                *(nn.Conv2d(channels, n, 7, 2), nn.ReLU(), nn.Conv2d(n, n, 5, 2), nn.ReLU()),
                *(nn.Conv2d(n, n, 3, 2), nn.ReLU(), nn.Conv2d(n, n, 3, 1), nn.Flatten()),
            )
        self.normalise = SimNorm(group)

    def forward(self, obs: Mapping[str, Tensor], shift: Tensor | None) -> Tensor:
        """Raw observations (..., *shape) and uniform draws (..., 2) -> (..., L)."""
        parts: list[Tensor] = []
        if self.image is not None:
            assert shift is not None, "images are shifted"
            pixels = join_images(obs, self.images)
            lead = pixels.shape[:-3]
            # (..., h, w, c) -> (N, c, h, w)
            moved = shifted(pixels.flatten(0, -4), shift.flatten(0, -2), self.PAD)
            parts.append(self.image(moved.permute(0, 3, 1, 2)).unflatten(0, lead))
        if self.vector is not None:
            parts.append(self.vector(join_vectors(obs, self.vectors)))
        return self.normalise(sum(parts[1:], parts[0]).float())


class ReturnScale(nn.Module):
    """A moving average of the distance between the 5th and the 95th percentile, at least 1.

    Args:
        rate: of the average.

    Source: nicklashansen/tdmpc2 common/scale.py.
    """

    value: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("value", torch.ones(()))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Move towards the spread of all entries of x, of every learner's."""
        x = ranks().gather(x)
        spread = percentile(x, 0.95) - percentile(x, 0.05)
        self.value.lerp_(spread.clamp(min=1), self.rate)


def shifted(image: Tensor, draws: Tensor, pad: int) -> Tensor:
    """Images moved by whole pixels at random, their edges repeated.

    Args:
        image: (N, h, w, c).
        draws: (N, 2) uniform, across and down.
        pad: largest way in pixels.

    Source: Yarats et al. 2021 (arXiv:2107.09645); nicklashansen/tdmpc2 common/layers.py:ShiftAug.
    """
    h, w = image.shape[1:3]
    way = (draws * (2 * pad + 1)).long() - pad  # (N, 2)
    rows = (torch.arange(h, device=image.device) + way[:, 1:]).clamp(0, h - 1)  # (N, h)
    columns = (torch.arange(w, device=image.device) + way[:, :1]).clamp(0, w - 1)
    image = image.gather(1, rows[:, :, None, None].expand(-1, -1, w, image.shape[3]))
    return image.gather(2, columns[:, None, :, None].expand(-1, h, -1, image.shape[3]))


@torch.no_grad()
def truncated_init(module: nn.Module) -> None:
    """Dense weights from a normal of deviation 0.02, biases zero; for `nn.Module.apply`.

    Source: nicklashansen/tdmpc2 common/init.py.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        module.bias.zero_()


def noise_spec(obs: Mapping[str, ObsSpec], size: int, members: int) -> dict[str, NoiseSpec]:
    """The noise of a decision: encoder's, planner's, value's and policy's."""
    shift = {"shift": NoiseSpec(shape=(2,), kind="uniform", role="latent")}
    return {
        **(shift if image_keys(obs) else {}),
        "plan": NoiseSpec(shape=(size,), role="plan"),
        "policy": NoiseSpec(shape=(size,), role="policy"),
        "value": NoiseSpec(shape=(size,), role="value"),
        "members": NoiseSpec(shape=(members,), kind="uniform", role="shared"),
        "elite": NoiseSpec(shape=(), kind="uniform", role="elite"),
        "perturb": NoiseSpec(shape=(size,), role="perturb"),
    }


# -- settings --------------------------------------------------------------------------------------


class ModelSizes(NamedTuple):
    """The numbers that a size stands for."""

    latent: int  # L
    units: int  # width of dynamics, reward, policy and values
    encoder_units: int
    encoder_layers: int
    members: int  # Q


# Source: nicklashansen/tdmpc2 common/__init__.py:MODEL_SIZE
SIZES = {
    "1m": ModelSizes(128, 384, 256, 2, 2),
    "5m": ModelSizes(512, 512, 256, 2, 5),
    "19m": ModelSizes(768, 1024, 1024, 3, 5),
}


@dataclass(frozen=True, kw_only=True)
class TDMPC2Config(AgentConfig):
    """Settings of TD-MPC2; the defaults are nicklashansen/tdmpc2 config.yaml's."""

    total_steps: int = 4_000_000  # the paper's budget on the DeepMind Control Suite
    repeat: int = 2  # in the DeepMind Control Suite
    prefill: int = 5_000  # 5 episodes of 500 decisions
    pretrain: int = 2_500  # as many as decisions of prefill
    updates: int = 1  # for each decision
    batch_size: int = 256
    batch_length: int = 4  # transitions: the roll-out's 3 steps and where they begin
    replay_rows: int = 1_000_000
    size: str = "5m"  # 1m|5m|19m parameters
    latent: int | None = None  # L; None is the size's
    units: int | None = None  # width of dynamics, reward, policy and values; None is the size's
    encoder_units: int | None = None  # None is the size's
    encoder_layers: int | None = None  # None is the size's
    members: int | None = None  # Q networks; None is the size's
    simnorm: int = 8  # V, entries in a group
    bins: int = 101  # of reward and value, equally spaced in symlog
    reach: float = 10.0  # symlog of the largest bin
    dropout: float = 0.01  # in the Q networks
    episodic: bool = False  # whether episodes may end by themselves; adds a termination head
    episode_length: int = 500  # decisions, from which the discount follows
    discount_denom: float = 5.0  # of the episode's length; the discount looks so far ahead
    discount_min: float = 0.95  # smallest discount
    discount_max: float = 0.995  # largest discount
    rho: float = 0.5  # weight of a step ahead; lambda in the paper
    consistency_scale: float = 20.0  # weight of the latents' loss
    reward_scale: float = 0.1  # of the reward's loss
    value_scale: float = 0.1  # of the Q networks' loss
    termination_scale: float = 1.0  # of the termination's loss
    entropy_scale: float = 1e-4  # weight of the policy's entropy
    log_std_min: float = -10.0  # of the policy's logarithm of its deviation
    log_std_max: float = 2.0  # the largest one
    tau: float = 0.01  # rate of the target networks and of the return scale
    lr: float = 3e-4  # learning rate
    encoder_lr_scale: float = 0.3  # of the encoder's learning rate
    grad_clip: float = 20.0  # global norm
    horizon: int = 3  # H, planned steps
    candidates: int = 512  # J, action sequences in an iteration
    elites: int = 64  # K, sequences that are refitted to
    iterations: int = 6  # two more where an action has 20 dimensions or more
    proposals: int = 24  # candidates that are the policy's
    temperature: float = 0.5  # of the elites' weights
    min_std: float = 0.05  # smallest deviation of a planned action
    max_std: float = 2.0  # largest one, and the first

    def __post_init__(self) -> None:
        """Check what no type says.

        Raises:
            ConfigError: naming the field, its value and what it has to be.
        """
        super().__post_init__()
        one_of("size", self.size, tuple(SIZES))
        latent, *others = self.sizes
        if latent % 16 or latent % self.simnorm:
            raise ConfigError(
                f"latent={latent} has to be a multiple of 16 and of simnorm={self.simnorm}"
            )
        if min(others) < 1 or self.sizes.members < 2:
            raise ConfigError(
                "units, encoder_units and encoder_layers have to be at least 1, and members at "
                f"least 2; the sizes are {', '.join(map(str, self.sizes))}"
            )
        if (self.update_every, self.train_ratio) != (1, 0):
            raise ConfigError(
                f"update_every={self.update_every} and train_ratio={self.train_ratio} have no "
                "effect here: TDMPC2 makes a number of updates at each decision; set updates"
            )
        for low, high in (("discount_min", "discount_max"), ("log_std_min", "log_std_max")):
            least, most = getattr(self, low), getattr(self, high)
            if least > most:
                raise ConfigError(f"{low}={least} is above {high}={most}; set either of them")
        if self.batch_length < 2:
            raise ConfigError(f"batch_length={self.batch_length} has to be at least 2")
        if self.bins < 3 or self.bins % 2 == 0:
            raise ConfigError(f"bins={self.bins} has to be odd and at least 3")

    @classmethod
    def decided_by(cls, field: str) -> tuple[str, ...]:
        """A size decides its numbers."""
        return ModelSizes._fields if field == "size" else ()

    @property
    def sizes(self) -> ModelSizes:
        """The numbers of this size, each unless it is set by itself."""
        given = [getattr(self, name) for name in ModelSizes._fields]
        pairs = zip(SIZES[self.size], given, strict=True)
        return ModelSizes(*(usual if own is None else own for usual, own in pairs))

    @property
    def discount(self) -> float:
        """Gamma, nearer to 1 the longer episodes are.

        Source: nicklashansen/tdmpc2 tdmpc2.py:_get_discount.
        """
        share = self.episode_length / self.discount_denom
        return min(max((share - 1) / share, self.discount_min), self.discount_max)

    def plan(self, size: int) -> MPPISpec:
        """The planner's settings for actions of `size` dimensions."""
        return MPPISpec(
            heads=("continue", "value", "policy") if self.episodic else ("value", "policy"),
            horizon=self.horizon,
            candidates=self.candidates,
            elites=self.elites,
            iterations=self.iterations + 2 * (size >= 20),
            proposals=self.proposals,
            discount=self.discount,
            temperature=self.temperature,
            min_std=self.min_std,
            max_std=self.max_std,
        )

    def schedule(self, repeat: int) -> Schedule:
        """`updates` for each decision, after `pretrain` on what prefill collected."""
        return ByDecision(self.prefill, self.pretrain, self.updates, repeat)


_CPU: dict[str, object] = {
    "total_steps": 100_000,
    "render": "fast",
    "prefill": 2_000,
    "pretrain": 500,
    "size": "1m",
    "latent": 64,
    "units": 128,
    "encoder_units": 128,
    "batch_size": 128,
    "lr": 1e-3,
    "candidates": 128,
    "elites": 16,
    "iterations": 4,
    "proposals": 8,
    "replay_rows": 100_000,
}
# the authors' networks of this size and their rate, at which the policy prior lives: 1e-3 ends it
_CPU_1M: dict[str, object] = {
    **{name: value for name, value in _CPU.items() if name not in ModelSizes._fields},
    "lr": 3e-4,
    "precision": "auto",
}
_DEBUG: dict[str, object] = {
    **_CPU,
    "total_steps": 2_000,
    "repeat": 1,
    "prefill": 400,
    "pretrain": 10,
    "latent": 16,
    "units": 16,
    "encoder_units": 16,
    "batch_size": 8,
    "candidates": 16,
    "elites": 4,
    "iterations": 2,
    "proposals": 4,
    "replay_rows": 10_000,
    "eval_every": 1_000,
    "checkpoint_every": 1_000,
}


class TDMPC2(Agent):
    """TD-MPC2, for continuous control: plans in a latent space that it learns without a decoder.

    Example:
        >>> agent = TDMPC2("dmc:walker-walk,obs=state")
        >>> agent.learn(1_000_000)
        >>> action = agent.act(obs)

    Source: Hansen, Su and Wang: TD-MPC2: Scalable, Robust World Models for Continuous Control
    (ICLR 2024, arXiv:2310.16828).
    """

    config_class = TDMPC2Config
    algorithm_class = TDMPC2Algorithm
    paper: ClassVar[str] = "Hansen et al. 2024, arXiv:2310.16828"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "dmc_state": {},
        "dmc_pixels": {"frames": 3},
        "cpu": _CPU,
        "cpu_1m": _CPU_1M,
        # a sixteenth of the latent dimensions are filters, and 4 of them see too little
        "cpu_pixels": {**_CPU, "prefill": 5_000, "latent": 256, "batch_size": 64, "frames": 3},
        "debug": _DEBUG,
        "debug_pixels": {**_DEBUG, "frames": 3},
    }

    def __init__(
        self,
        env: EnvLike | None = None,
        *,
        preset: str | None = None,
        device: str = "auto",
        seed: int | None = None,
        **overrides: Unpack[TDMPC2Overrides],
    ) -> None:
        """Args and errors are those of `Agent`; overrides are the fields of `TDMPC2Config`."""
        super().__init__(env, preset=preset, device=device, seed=seed, **overrides)

    @classmethod
    def default_preset(cls, suite: str, obs: Mapping[str, ObsSpec]) -> str:
        """The paper's settings; of vectors and of images they are the same."""
        return "dmc_pixels" if any(s.kind == "image" for s in obs.values()) else "dmc_state"

    @classmethod
    def env_overrides(cls, config: AgentConfig, world: EnvFacts) -> Mapping[str, object]:
        """The discount follows from the episode's length.

        Only the DeepMind Control Suite repeats actions, and its episodes end by time alone.
        """
        fields = {} if world.suite == "dmc" else {"repeat": 1, "episodic": True}
        if world.time_limit is not None:
            repeat = world.repeat or fields.get("repeat", config.repeat)
            fields["episode_length"] = max(world.time_limit // repeat, 1)
        return fields
