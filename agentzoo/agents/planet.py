"""PlaNet: learning latent dynamics for planning from pixels (Hafner et al. 2019, arXiv:1811.04551).

Read beside the paper's algorithm 1 (learning) and algorithm 2 (planning: the runtime's
`policy/planners.py`). Where the paper and its released code (google-research/planet) disagree,
the code is followed; docs/planet.md lists every difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.policy.planners import check, check_draws, check_plan
from agentzoo.runtime.spec import (
    ActionSpec,
    CEMSpec,
    ColumnSpec,
    NoiseSpec,
    ObsSpec,
    TensorSpec,
)

from ..agent import Agent
from ..algorithm import Batch, Carry, Metrics, Noise, NoiseSource, Obs, Transitions, WriteBack
from ..blocks import acting
from ..blocks.actions import to_env
from ..blocks.cores import ResetBeforeGRUCore, StochasticCore
from ..blocks.decoders import ConvDecoder, Decoder
from ..blocks.dreaming import decoded, dream_step
from ..blocks.encoders import ConvEncoder, Encoder, dequantise
from ..blocks.fast import kernels
from ..blocks.heads import NormalHead
from ..blocks.init import keras_init
from ..blocks.kl import free_nats_per_step
from ..blocks.latents import GaussianLatent, Latent, MeanLatent
from ..blocks.layers import MLP
from ..blocks.optim import Adam
from ..blocks.overshooting import overshoot
from ..blocks.rssm import RSSM, State
from ..blocks.standardize import FORMS
from ..config import AgentConfig, EnvFacts, one_of
from ..environment import EnvLike
from ..overrides import PlaNetOverrides
from ..planning import plan_step
from ..ranks import ranks
from ..replay.samplers import EpisodeSampler, Sampler

DYNAMICS = ("rssm", "stochastic", "deterministic")  # the paper's figure 2: c, b and a


def world_model_loss(
    losses: Mapping[str, Tensor], overshooting: Tensor | None, *, scales: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The variational bound: observations, rewards, and the KL to the prior.

    Args:
        losses: negative log-likelihoods and "kl" beyond its free nats, (B, T) by name.
        overshooting: mean KL over the distances beyond one step, a scalar, or None.
        scales: of single losses; 1 where left out.

    Returns:
        The loss, a scalar, and the mean of each of its parts.

    Source: equations 3 and 7; google-research/planet training/utility.py:compute_objectives.
    """
    means = {name: loss.mean() for name, loss in losses.items()}
    if overshooting is not None:
        means["overshooting"] = overshooting
    scaled = [scales.get(name, 1.0) * value for name, value in means.items()]
    return torch.stack(scaled).sum(), means


class PlaNetAlgorithm(nn.Module):
    """World model and planner; satisfies `agentzoo.algorithm.PlanningAlgorithm`.

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

    def __init__(
        self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: "PlaNetConfig"
    ) -> None:
        super().__init__()
        self.action, self.config, self.plan_spec, c = action, config, config.plan, config
        check(self.plan_spec, action)
        self.encoder = Encoder(
            obs,
            image=lambda channels: ConvEncoder(channels, c.depth),
            vector=lambda size: MLP(size, c.units, c.state_layers, act=F.relu),
            standardize=c.standardize,
        )
        self.rssm = build_dynamics(self.encoder.size, action.size, config)
        feat = self.rssm.feat_size
        self.decoder = Decoder(
            obs,
            image=lambda channels: ConvDecoder(feat, channels, c.depth),
            vector=lambda size: MLP(feat, c.units, c.state_layers, size, act=F.relu),
            vector_std=c.state_std,
            standardizer=self.encoder.standardizer,
        )
        self.reward = NormalHead(feat, c.units, c.reward_layers, act=F.relu)
        self.apply(keras_init)
        self.learn_only(())
        self.carry_spec = acting.carry_spec(self.rssm, action.size)
        self.noise_spec = noise_spec(self.rssm.latent, self.encoder, obs, action)
        check_draws(self.plan_spec, self.noise_spec)

    # -- acting ----------------------------------------------------------------------------------

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        return acting.initial_carry(self.rssm, self.action.size, batch)

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        """Filter the observation, then plan; `deterministic` changes nothing."""
        return plan_step(self, carry, obs, noise, deterministic)

    def observe(self, carry: Carry, obs: Obs, noise: Noise) -> Carry:
        """The filtering half of a step: one sample of the posterior, from which all plans start."""
        embed = self.encoder(self._dequantised(obs, noise.get("dequantise")))
        state = acting.filter_step(self.rssm, carry, embed, obs["is_first"], noise["latent"])
        return acting.carry_of(state, carry["prev_action"])

    def imagine(self, carry: Carry, action: Tensor, noise: Noise) -> tuple[Carry, Tensor]:
        """One sampled step of the prior and the mean of the reward on arriving."""
        state = self.rssm.img_step(acting.state_of(self.rssm, carry), action, noise["score"])
        reward = self.reward(self.rssm.feat(state))
        return {"deter": state.deter, "stoch": state.stoch}, reward

    def explore(
        self, carry: Carry, noise: Noise, env_step: int, total_steps: int
    ) -> tuple[Carry, Tensor]:
        """Add Gaussian noise to the planned action and clip it.

        Source: google-research/planet control/planning.py and configs (`train_action_noise`).
        """
        action = carry["prev_action"] + self.config.expl_amount * noise["explore"]
        action = action.clamp(-1, 1)
        return {**carry, "prev_action": action}, to_env(action, self.action)

    def _dequantised(self, obs: Obs, noise: Tensor | None) -> Obs:
        """The observations, images in 5 bits with the noise (..., h, w, all channels) added."""
        if noise is None:
            return obs
        parts = noise.split(self.decoder.channels, -1)
        pairs = zip(self.encoder.images, parts, strict=True)
        images = {key: dequantise(obs[key], part, self.config.image_bits) for key, part in pairs}
        return {**obs, **images}

    def measure(self, transitions: Transitions, *, learning: bool) -> None:
        """Take vector observations into their statistics, where they are standardised."""
        if any(one.requires_grad for one in self.encoder.parameters()):
            self.encoder.measure(transitions, learning=learning)

    # -- learning --------------------------------------------------------------------------------

    def learn_only(self, parts: Sequence[str]) -> None:
        """Give only these parts gradients, and an Adam that begins afresh; () is all of them.

        With "reward" alone another task is learned on kept dynamics.
        """
        chosen: dict[str, nn.Parameter] = {}
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not parts or name.partition(".")[0] in parts)
            if parameter.requires_grad:
                chosen[name] = parameter
        c = self.config
        self._optimizer = Adam(chosen, lr=c.model_lr, eps=c.adam_eps, clip=c.grad_clip)

    def update(self, batch: Batch, noise: NoiseSource) -> tuple[Metrics, WriteBack]:
        """One gradient step of the whole model, or of the parts that `learn_only` names."""
        c = self.config
        with acting.autocast(self, c.precision), kernels(c.kernels):
            loss, metrics = self.model_loss(batch, noise)
        grads = ranks().grad(loss, self._optimizer.params)
        metrics["opt/model_grad_norm"] = self._optimizer.step(grads)
        return {k: v.detach() for k, v in metrics.items()}, {}

    def model_loss(self, batch: Batch, noise: NoiseSource) -> tuple[Tensor, Metrics]:
        """The variational bound: observations, rewards, and the KL to the prior (equation 3)."""
        c, (B, T) = self.config, batch["reward"].shape
        # Infer states
        batch = self._dequantised(batch, self._colour_noise(noise, B, T))
        eps = noise.normal(B, T, *self.rssm.latent.noise_shape)
        post = self.rssm.observe(
            self.rssm.initial(B), batch["prev_action"], self.encoder(batch), batch["is_first"], eps
        )
        prior, feat, latent = self.rssm.prior(post), self.rssm.feat(post), self.rssm.latent
        # Predict observations and rewards
        losses = self.decoder.losses(feat, batch)
        losses["reward"] = self.reward.prediction(self.reward(feat)).loss(batch["reward"])
        # Stay close to the prior, apart from the free nats of each step
        kl = latent.kl(post.stats.float(), prior.float())
        losses["kl"] = free_nats_per_step(kl, c.free_nats)
        for name, loss in losses.items():
            assert loss.shape == (B, T), (name, loss.shape)
        scales = {"reward": c.reward_scale, "kl": c.kl_scale, "overshooting": c.overshooting_scale}
        longer = self.overshooting_loss(post, batch, noise) if c.overshooting else None
        loss, means = world_model_loss(losses, longer, scales=scales)
        metrics = {f"loss/{name}": value for name, value in means.items()}
        metrics |= {"loss/model": loss, "model/kl": kl.mean()}
        with torch.no_grad():
            metrics["model/post_entropy"] = latent.entropy(post.stats.float()).mean()
            metrics["model/prior_entropy"] = latent.entropy(prior.float()).mean()
        return loss, metrics

    def overshooting_loss(self, post: State, batch: Batch, noise: NoiseSource) -> Tensor:
        """Mean over distances 1 to D of the KL from constant posteriors to open-loop priors.

        The KL of distance 0, the ordinary one, is not among them. Source: the paper's equation 7.
        """
        c, latent, shape = self.config, self.rssm.latent, self.rssm.latent.noise_shape
        loops = overshoot(
            self.rssm,
            post,
            batch["prev_action"],
            batch["is_first"],
            c.overshooting,
            lambda B, n: noise.normal(B, n, *shape),
        )
        means: list[Tensor] = []
        for d, (prior, valid) in enumerate(loops):
            arrived = post.stats[:, d:].detach().float()
            kl = free_nats_per_step(latent.kl(arrived, prior.stats.float()), c.free_nats)
            steps = ranks().sum(valid.sum())
            means.append(ranks().sum((kl * valid).sum()) / steps.clamp(min=1))
        return torch.stack(means[1:]).mean()

    def _colour_noise(self, noise: NoiseSource, B: int, T: int) -> Tensor | None:
        spec = self.noise_spec.get("dequantise")
        return None if spec is None else noise.uniform(B, T, *spec.shape)

    def optimizers(self) -> Mapping[str, Adam]:
        """One Adam for all: model."""
        return {"model": self._optimizer}

    # -- the world model, called from outside ----------------------------------------------------

    def dream(self, carry: Carry, action: Tensor, noise: Noise) -> Carry:
        """One step of the prior: the state, without an action, that an action (N, A) leads to."""
        return dream_step(self.rssm, carry, action, noise["latent"])

    def decode(self, carry: Carry) -> dict[str, Tensor]:
        """Observations by key from the state: (N, h, w, c) in [0, 1], and (N, n)."""
        return decoded(self.rssm, self.decoder, carry)

    def judge(self, carry: Carry) -> dict[str, Tensor]:
        """The mean of the reward on arriving, (N,)."""
        feat = self.rssm.feat(acting.state_of(self.rssm, carry))
        return {"reward": self.reward.prediction(self.reward(feat)).mean}

    # -- looking inside --------------------------------------------------------------------------

    @torch.no_grad()
    def open_loop(self, batch: Batch, noise: NoiseSource, context: int = 5) -> dict[str, Tensor]:
        """Observations by key: seen for `context` steps, imagined after.

        Args:
            batch: replay columns (B, T, ...) with T > context.
            noise: for colours and latents.
            context: steps reconstructed from posteriors; the rest follows the actions.

        Returns:
            (B, T, h, w, c) in [0, 1] for images, (B, T, n) for vectors.
        """
        B, T = batch["reward"].shape
        eps = noise.normal(B, T, *self.rssm.latent.noise_shape)
        seen = {key: value[:, :context] for key, value in batch.items()}
        seen = self._dequantised(seen, self._colour_noise(noise, B, context))
        embeds, firsts, actions = self.encoder(seen), seen["is_first"], batch["prev_action"]
        initial = self.rssm.initial(B)
        return self.decoder(acting.open_loop(self.rssm, initial, actions, embeds, firsts, eps))


def noise_spec(
    latent: Latent, encoder: Encoder, obs: Mapping[str, ObsSpec], action: ActionSpec
) -> dict[str, NoiseSpec]:
    """The noise that a step, its plan and an exploring step draw."""
    specs = {
        "latent": NoiseSpec(shape=latent.noise_shape, role="latent"),
        "plan": NoiseSpec(shape=(action.size,), role="plan"),
        "score": NoiseSpec(shape=latent.noise_shape, role="score"),
        "explore": NoiseSpec(shape=(action.size,), role="explore"),
    }
    if encoder.images:
        # all images joined on channels
        shapes = [obs[key].shape for key in encoder.images]
        shape = (*shapes[0][:2], sum(one[2] for one in shapes))
        specs["dequantise"] = NoiseSpec(shape=shape, kind="uniform", role="dequantise")
    return specs


def build_dynamics(embed: int, action: int, config: "PlaNetConfig") -> RSSM:
    """The latent dynamics by their name: both kinds of state, or one of the two.

    `deterministic` is the RSSM with means for samples; `stochastic` has no memory beside its
    sample, which is all that the heads see.

    Source: google-research/planet models/rssm.py (also `mean_only`) and models/ssm.py.
    """
    c = config
    latent_class = MeanLatent if c.dynamics == "deterministic" else GaussianLatent
    latent = latent_class(c.stoch, c.min_std)
    if c.dynamics == "stochastic":
        core = StochasticCore(c.stoch, action, c.hidden, latent.stats_size)
        prior = nn.Identity()
    else:
        core = ResetBeforeGRUCore(c.stoch, action, c.hidden, c.deter)
        prior = MLP(core.size, c.hidden, 1, latent.stats_size, act=F.relu)
    posterior = MLP(core.size, c.hidden, 1, latent.stats_size, early=embed, act=F.relu)
    features = "stoch" if c.dynamics == "stochastic" else "stoch+deter"
    return RSSM(core, latent, prior, posterior, features=features)


@dataclass(frozen=True, kw_only=True)
class PlaNetConfig(AgentConfig):
    """Settings of PlaNet; the defaults are google-research/planet's last ones."""

    repeat: int = 2  # action repeat, where the environment string leaves it open
    prefill: int = 5_000  # environment steps of uniformly random actions
    batch_size: int = 50  # B, sequences in a batch
    batch_length: int = 50  # T, transitions in a sequence
    total_steps: int = 1_000_000  # 1,000 episodes, the paper's table 1
    pretrain: int = 100  # before the first planned episode
    update_every: int = 0  # each episode's end
    updates: int = 100  # for each collected episode
    replay_rows: int = 1_000_000
    dynamics: str = "rssm"  # rssm|stochastic|deterministic
    deter: int = 200  # D, deterministic state
    stoch: int = 30  # S, Gaussian latent dimensions
    hidden: int = 200  # width of the dynamics' dense layers
    min_std: float = 0.1  # of prior and posterior
    depth: int = 32  # filters of the first convolution
    image_bits: int = 5  # bits of colour, 1 to 8
    units: int = 300  # of the reward head, and of the networks for vectors; the text has 200
    reward_layers: int = 3  # the paper's text has 2
    state_layers: int = 2  # dense layers of the networks for vector observations; ours
    state_std: float = 1.0  # deviation of the vector likelihood, in units of what it sees; ours
    standardize: str = "none"  # none|prefill|running, vector observations; ours
    reward_scale: float = 10.0  # not in the paper
    kl_scale: float = 1.0  # weight of the KL to the prior
    free_nats: float = 3.0  # nats, taken off each step's KL
    overshooting: int = 0  # distance beyond one step; 49 in the first release
    overshooting_scale: float = 1.0  # of the mean over the distances
    horizon: int = 12  # H, planned steps
    candidates: int = 1000  # J, action sequences in an iteration
    elites: int = 100  # K, sequences that are refitted to
    iterations: int = 10  # of the search, for each action
    expl_amount: float = 0.3  # deviation added to the planned action while collecting
    model_lr: float = 1e-3  # learning rate
    adam_eps: float = 1e-4  # added to Adam's denominator
    grad_clip: float = 1000.0  # global norm

    def __post_init__(self) -> None:
        """Check what no type says.

        Raises:
            ConfigError: naming the field, its value and what it has to be.
        """
        super().__post_init__()
        one_of("standardize", self.standardize, FORMS)
        one_of("dynamics", self.dynamics, DYNAMICS)
        check_plan(self.plan)
        if not 1 <= self.image_bits <= 8:
            raise ConfigError(f"image_bits={self.image_bits} has to be from 1 to 8")
        if not 0 <= self.overshooting < self.batch_length:
            raise ConfigError(
                f"overshooting={self.overshooting} has to be at least 0 and below the batch_length "
                f"of {self.batch_length}, since loops end with the window"
            )

    @property
    def plan(self) -> CEMSpec:
        """The planner's settings."""
        return CEMSpec(
            horizon=self.horizon,
            candidates=self.candidates,
            elites=self.elites,
            iterations=self.iterations,
        )


# a few numbers a step hold about one nat of surprise: with three free the prior is never trained
_STATE: dict[str, object] = {"free_nats": 0.5, "state_std": 0.3, "standardize": "prefill"}
_CPU: dict[str, object] = {
    **_STATE,
    "total_steps": 100_000,
    "render": "fast",
    "deter": 64,
    "stoch": 16,
    "hidden": 64,
    "units": 64,
    "reward_layers": 2,
    "batch_size": 16,
    "batch_length": 32,
    "candidates": 200,
    "elites": 20,
    "iterations": 5,
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
    "horizon": 3,
    "candidates": 16,
    "elites": 4,
    "iterations": 2,
    "prefill": 500,
    "pretrain": 2,
    "updates": 2,
    "replay_rows": 10_000,
    "eval_every": 1_000,
    "eval_episodes": 1,
    "final_episodes": 1,
    "checkpoint_every": 1_000,
}


class PlaNet(Agent):
    """PlaNet, the 2019 agent: learns a world model and plans each action inside it.

    Example:
        >>> agent = PlaNet("dmc:cheetah-run")  # pixels, the paper's settings, 4 repeats an action
        >>> agent.learn(1_000_000)
        >>> action = agent.act(obs)

    Source: Hafner, Lillicrap, Fischer, Villegas, Ha, Lee, Davidson: Learning Latent Dynamics for
    Planning from Pixels (ICML 2019, arXiv:1811.04551).
    """

    config_class = PlaNetConfig
    algorithm_class = PlaNetAlgorithm
    paper: ClassVar[str] = "Hafner et al. 2019, arXiv:1811.04551"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "dmc_vision": {},
        "dmc_state": _STATE,
        "cpu": _CPU,
        "cpu_pixels": {**_CPU, "free_nats": 3.0, "depth": 8, "batch_length": 24},
        "debug": _DEBUG,
        "debug_pixels": {**_DEBUG, "depth": 2},
    }
    # Source: the paper's appendix A; google-research/planet scripts/tasks.py
    tasks: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "dmc:cartpole-balance": {"repeat": 8},
        "dmc:cartpole-swingup": {"repeat": 8},
        "dmc:reacher-easy": {"repeat": 4},
        "dmc:cheetah-run": {"repeat": 4},
        "dmc:finger-spin": {"repeat": 2},
        "dmc:ball_in_cup-catch": {"repeat": 4},
        "dmc:walker-walk": {"repeat": 2},
    }

    def __init__(
        self,
        env: EnvLike | None = None,
        *,
        preset: str | None = None,
        device: str = "auto",
        seed: int | None = None,
        **overrides: Unpack[PlaNetOverrides],
    ) -> None:
        """Args and errors are those of `Agent`; overrides are the fields of `PlaNetConfig`."""
        super().__init__(env, preset=preset, device=device, seed=seed, **overrides)

    @classmethod
    def default_preset(cls, suite: str, obs: Mapping[str, ObsSpec]) -> str:
        """The paper's settings, for images or for vectors alone."""
        return "dmc_vision" if any(s.kind == "image" for s in obs.values()) else "dmc_state"

    @classmethod
    def env_overrides(cls, config: AgentConfig, world: EnvFacts) -> Mapping[str, object]:
        """Actions are repeated in the DeepMind Control Suite alone, as often as the task says."""
        return {} if world.suite == "dmc" else {"repeat": 1}
