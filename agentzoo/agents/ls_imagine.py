"""LS-Imagine: open-world learning over long short-term imagination (Li et al. 2025).

Read beside arXiv:2410.03618. A DreamerV3 that sees a map of where its goal can be reached, is paid
for what the map shows, and may jump in imagination: from a far view of the goal to a near one, with
the number of steps and the reward in between predicted. docs/ls_imagine.md lists what differs from
the paper and from the released code.

In order: the losses as functions of tensors, the networks and the update that uses them, the
configuration, the agent with its presets. With `long_branch=False, alpha=0` it is DreamerV3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Unpack, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.runtime.envs.frames import shrunk
from agentzoo.runtime.envs.minedojo import HARVEST
from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, ObsSpec

from ..affordance import intrinsic, views, zoom
from ..affordance.map_network import MapModel, MapNetwork
from ..affordance.maps import check_map, resized
from ..affordance.scorers import read_scorer
from ..affordance.source import Scorer, require_goal
from ..affordance.video_reward import FORMS, VideoReward
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
    same_for_all,
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
    fused_outputs,
)
from ..blocks.imagination import Imagined, imagine
from ..blocks.init import joined_name, trunc_normal_init
from ..blocks.kl import free_nats_floor
from ..blocks.latents import CategoricalLatent
from ..blocks.layers import MLP, RMSNorm, truncated_normal_
from ..blocks.normalize import PercentileScale
from ..blocks.optim import LaProp
from ..blocks.returns import lambda_return
from ..blocks.rssm import RSSM, State
from ..config import AgentConfig, EnvFacts, one_of
from ..environment import EnvLike
from ..overrides import LSImagineOverrides
from ..ranks import RunningMoments, ranks
from ..replay.samplers import OnlineSampler

LAYERS = {"encoder": 3, "decoder": 3, "posterior": 1, "prior": 2,
          "reward": 1, "cont": 1, "value": 3, "actor": 3,
          "intrinsic": 1, "jump": 1, "interval": 1, "accumulated": 1}  # fmt: skip
IMAGE, MAP = "image", "map"  # observations
FRAME, MASK = "frame", "mask"  # side observations: the large view, and where it shows the goal


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

    Source: DreamerV3's; danijar/dreamerv3 dreamerv3/agent.py:loss and rssm.py:loss.
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


def long_losses(
    batch: Batch,
    interval: TwoHotPrediction,
    accumulated: TwoHotPrediction,
) -> dict[str, Tensor]:
    """Losses of how long a jump takes and what it earns, where that is known.

    Args:
        batch: replay columns (K, ...) of the transitions that are jumped from.
        interval: of the steps that a jump stands for, (K,).
        accumulated: of the average reward in between, (K,).

    Returns:
        "interval", "accumulated": (K,) each; 0, without a gradient, where the jump is still open.

    Source: qiwang067/LS-Imagine, the world model's loss.
    """
    known = batch["known"].float()
    return {
        "interval": known * interval.loss(batch["interval"]),
        "accumulated": known * accumulated.loss(batch["accumulated"]),
    }


def joint_mean(short: Tensor, long: Tensor, mask: Tensor) -> Tensor:
    """Mean over all short transitions (B, T) and those long ones (K,) whose mask is 1: a scalar."""
    total, count = short.sum() + (mask * long).sum(), short.numel() + mask.sum()
    return ranks().sum(total) / ranks().sum(count)


def spanned(
    reward: Tensor, discount: Tensor, interval: Tensor, accumulated: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """Reward and discount of moves that may stand for several steps.

        r' = g^(D-1) r + G' (1 - g^(D-1)) / (1 - g)        d' = g^(D-1) d

    Args:
        reward: (N, H) on arriving.
        discount: (N, H) of one step, gamma included.
        interval: (N, H) steps D, whole numbers of at least 1; at 1 nothing changes.
        accumulated: (N, H) average reward G' of the D - 1 steps before arriving.
        gamma: g.

    Returns:
        (N, H) each, for `lambda_return`.

    Source: qiwang067/LS-Imagine; the paper's return leaves the reward on arriving to G'.
    """
    before = torch.pow(gamma, interval - 1)
    return before * reward + accumulated * (1 - before) / (1 - gamma), before * discount


def imagined_returns(reward: Tensor, discount: Tensor, value: Tensor, lam: float) -> Tensor:
    """Lambda returns from moves' rewards and discounts (N, H), states' values (N, H+1): (N, H)."""
    return lambda_return(reward, discount, value[:, 1:], lam)


def imagined_actor_critic_losses(
    log_prob: Tensor,
    entropy: Tensor,
    value: TwoHotPrediction,
    slow: Tensor,
    ret: Tensor,
    advantage: Tensor,
    weight: Tensor,
    jumped: Tensor | None,
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
        jumped: (N, H) 1 where the move is a jump, which no action chose; None is nowhere.
        entropy_scale: of the entropy.
        slow_scale: of the critic's loss towards the slow value.

    Returns:
        "policy" and "value": (N,) each, means over the steps.

    Source: DreamerV3's; qiwang067/LS-Imagine for the mask.
    """
    if jumped is not None:
        advantage = (1 - jumped) * advantage
    objective = advantage * log_prob + entropy_scale * entropy
    # towards the returns and, so that it moves slowly, towards its own slow copy
    surprise = value.loss(ret, (slow_scale, slow))
    return {"policy": (-weight * objective).mean(1), "value": (weight * surprise).mean(1)}


def replay_value_loss(
    batch: Batch,
    reward: Tensor,
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
        reward: (B, K) in total.
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
    last, terminal = (batch[k].float() for k in ("is_last", "is_terminal"))
    going_on, traced = (1 - terminal[:, 1:]) * discount, (1 - last[:, 1:]) * lam
    ret = lambda_return(reward[:, 1:], going_on, boot[:, 1:], traced)
    # nothing follows an episode's last transition
    return (1 - last[:, :-1]) * value.loss(ret, (slow_scale, slow))


class JumpCore(BlockGRUCore):
    """A recurrent unit whose action may have one bit more, which says that the move is a jump.

    An action of the environment's length goes through as in `BlockGRUCore`; the bit adds a vector
    of its own to the action's first product.
    """

    def __init__(self, stoch: int, action: int, hidden: int, deter: int, blocks: int = 8) -> None:
        super().__init__(stoch, action, hidden, deter, blocks)
        self.action = action
        self.jump = nn.Parameter(torch.zeros(hidden))

    def project(self, action: Tensor) -> Tensor:
        """The action's share of the units' inputs: (..., A) or (..., A+1) -> (..., D)."""
        if action.shape[-1] == self.action:
            return super().project(action)
        own, bit = action.clamp(-1, 1).split([self.action, 1], -1)
        return self.inputs.project(
            self.from_action.after_first(self.from_action.first(own) + bit * self.jump)
        )


class LSImagineAlgorithm(nn.Module):
    """World model, actor and critic; satisfies `agentzoo.algorithm.Algorithm`.

    Args:
        obs: the observations by key.
        action: the environment's action.
        config: the settings.

    Raises:
        ConfigError: if there is no map, or no image of its size.
    """

    jump_statistics: Tensor
    score_statistics: Tensor
    scorer: Scorer | None = None  # of videos, read when it is first needed
    _shared: list[RunningMoments] | None = None  # statistics that all learners know
    sampler = OnlineSampler()
    several_learners = True

    def __init__(
        self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: "LSImagineConfig"
    ) -> None:
        super().__init__()
        require_map(obs, config)
        c, self.observed = config, tuple(obs)
        if c.map_network:
            obs = {**obs, MAP: map_spec(obs)}
        self.obs, self.action, self.config = tuple(obs), action, config
        units, hidden, deter, classes, depth = c.sizes
        mlp = partial(MLP, act=F.silu, norm=RMSNorm)
        self.encoder = SymlogEncoder(
            obs,
            image=lambda shape: PoolEncoder(shape, depth),
            vector=lambda size: mlp(size, units, LAYERS["encoder"]),
        )
        latent = CategoricalLatent(c.stoch, classes, c.unimix)
        core = JumpCore if c.long_branch else BlockGRUCore
        self.rssm = RSSM(
            core(latent.size, action.size, hidden, deter, c.blocks),
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
        # what DreamerV3 lacks comes last, so that all before has the weights it has there
        self._add_heads(feat, units)
        self.maps = MapNetwork().requires_grad_(False) if c.map_network else None
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
            **({MAP: ColumnSpec(shape=obs[MAP].shape, dtype="uint8")} if c.map_network else {}),
            **(INTRINSIC_COLUMNS if c.alpha else {}),
            **(VIDEO_COLUMNS if c.scorer else {}),
            **(long_columns(obs, paid=bool(c.alpha)) if c.long_branch else {}),
        }
        self.carry_spec = acting.carry_spec(self.rssm, action.size)
        self.noise_spec = acting.step_noise_spec(latent, self.actor)

    def _add_heads(self, feat: int, units: int) -> None:
        """The heads of the intrinsic reward and of jumps, as far as the settings use them."""
        c = self.config
        if c.alpha:
            self.intrinsic = TwoHotHead(feat, units, LAYERS["intrinsic"])
            self.intrinsic.apply(trunc_normal_init).scale_output(0.0)
        if c.scorer:
            self.video = TwoHotHead(feat, units, LAYERS["intrinsic"])
            self.video.apply(trunc_normal_init).scale_output(0.0)
        # in the state, so that a resumed run tests against what it has seen
        for name in ("jump_statistics", "score_statistics"):
            self.register_buffer(name, torch.zeros(3, dtype=torch.float64))
        if not c.long_branch:
            return
        assert isinstance(self.rssm.core, JumpCore)
        truncated_normal_(self.rssm.core.jump, self.action.size + 1)
        self.jump = BernoulliHead(feat, units, LAYERS["jump"], act=F.silu, norm=RMSNorm)
        self.jump.apply(trunc_normal_init)
        # these two read the features before and after
        self.interval = TwoHotHead(2 * feat, units, LAYERS["interval"])
        self.accumulated = TwoHotHead(2 * feat, units, LAYERS["accumulated"])
        for head in (self.interval, self.accumulated):
            head.apply(trunc_normal_init)
            head.scale_output(0.0)

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
        """Add the latents, and what the map says: rewards, jumps, zoomed views, pairs that close.

        Raises:
            ConfigError: without a frame to zoom into.
            ObservationError: if the map is none.
        """
        latents = {
            "deter": carry["deter"].half().numpy(force=True),
            "stoch": self.latent.index(carry["stoch"]).numpy(force=True),
        }
        c = self.config
        if self.maps is not None:
            transitions = {**transitions, MAP: as_bytes(self.mapped(transitions[IMAGE]))}
        videos: dict[int, VideoReward] = {}
        if c.scorer:
            transitions, videos = self._watched(transitions, envs, state)
        if not (c.alpha or c.long_branch):
            return {**transitions, **latents}, (), Memory({}, videos)
        episodes = dict(cast("Memory", state).episodes) if state else {}
        jumps, scores = self.statistics()
        kept = (*latents, MAP, *VIDEO_COLUMNS)
        added = {name: self._empty(name, len(envs)) for name in self.columns if name not in kept}
        late: list[DelayedValue] = []
        for i, env in enumerate(envs):
            if transitions["is_first"][i]:
                episodes[env] = self.new_episode()
            map_, frame = self.view(transitions, i)
            seen = episodes[env].look(
                map_,
                frame,
                float(transitions["reward"][i] + (transitions["video"][i] if c.scorer else 0)),
                jumps,
                scores,
                alpha=c.alpha,
                is_last=bool(transitions["is_last"][i]),
            )
            for name, value in self._columns(seen, transitions[IMAGE].shape[1]).items():
                added[name][i] = value
            late += [
                DelayedValue(
                    env,
                    one.interval,
                    {"interval": one.interval, "accumulated": one.accumulated, "known": True},
                )
                for one in seen.closed
            ]
        for buffer, numbers in ((self.jump_statistics, jumps), (self.score_statistics, scores)):
            found = [numbers.count, numbers.mean, numbers.squares]
            buffer.copy_(torch.tensor(found, dtype=buffer.dtype))  # float32 would stop counting
        return {**transitions, **latents, **added}, late, Memory(episodes, videos)

    def pool(self) -> None:
        """Take in the maps that every learner has seen since the last call."""
        now = [
            RunningMoments(*buffer.clone().unbind())
            for buffer in (self.jump_statistics, self.score_statistics)
        ]
        if self._shared is not None:
            now = [mine.pooled(before) for mine, before in zip(now, self._shared, strict=True)]
            for buffer, numbers in zip(
                (self.jump_statistics, self.score_statistics), now, strict=True
            ):
                buffer.copy_(torch.stack(list(numbers)))
        self._shared = now

    def _watched(
        self, transitions: Transitions, envs: Sequence[int], state: object
    ) -> tuple[Transitions, dict[int, VideoReward]]:
        """Transitions with the scorer's pay for their frames, and its memory of the episodes."""
        c, paid = self.config, np.zeros(len(envs), np.float32)
        videos = dict(cast("Memory", state).videos) if state else {}
        if self.scorer is None:
            self.scorer = open_scorer(c)
        for i, env in enumerate(envs):
            if transitions["is_first"][i]:
                negatives = [one.strip() for one in c.scorer_negatives.split(";") if one.strip()]
                videos[env] = VideoReward(self.scorer, c.goal, c.scorer_form, negatives)
            frame = transitions[FRAME if FRAME in transitions else IMAGE][i]
            paid[i] = videos[env].look(frame)
        return {**transitions, "video": paid}, videos

    def new_episode(self) -> views.EpisodeViews:
        """The memory of an episode that begins."""
        again = None if self.maps is None else self._map_of_frame
        return views.EpisodeViews(self.rules, self.config.long_branch, again)

    def statistics(self) -> tuple[zoom.RunningStatistics, zoom.RunningStatistics]:
        """P_jump and S of all transitions so far, copies."""
        jumps, scores = self.jump_statistics.tolist(), self.score_statistics.tolist()
        return zoom.RunningStatistics(*jumps), zoom.RunningStatistics(*scores)

    @property
    def rules(self) -> views.Rules:
        """Rules of a jump: its condition, target and pause."""
        c = self.config
        return views.Rules(
            jump_rule=c.jump_rule,
            zoom_margin=c.zoom_margin,
            jump_max=c.jump_max,
            jump_mean=c.jump_mean,
            jump_gain=c.jump_gain,
            gate=c.gate,
            max_interval=c.max_interval,
            discount=self.discount,
        )

    def _empty(self, name: str, count: int) -> np.ndarray:
        spec = self.columns[name]
        return np.zeros((count, *spec.shape), spec.dtype)

    def view(self, transitions: Transitions, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Transition i's map (h, w) in [0, 1], the large one where there is one, and its frame."""
        if MASK in transitions:
            map_ = check_map(transitions[MASK][i] / 255.0, transitions[MASK].shape[1:3])
        else:
            map_ = transitions[MAP][i, ..., 0] / 255.0
        if not self.config.long_branch:
            return map_, None
        frame = transitions[FRAME][i] if FRAME in transitions else None
        if self.maps is not None and frame is not None:
            map_ = np.clip(resized(map_, *frame.shape[:2]), 0, 1)
        return map_, views.require_frame(frame, map_)

    @torch.no_grad()
    def mapped(self, images: np.ndarray) -> np.ndarray:
        """Maps of the policy's images (B, h, w, 3) uint8 by the map network: (B, h, w, 1)."""
        assert self.maps is not None, "there is a map network"
        weight = self.maps.out.weight
        return self.maps(torch.from_numpy(images).to(weight.device)).numpy(force=True)

    def _map_of_frame(self, frame: np.ndarray) -> np.ndarray:
        """The network's map of a large frame, which it sees as the policy would: (h, w)."""
        small = shrunk(as_bytes(frame / 255.0), self.columns[MAP].shape[0])
        return np.clip(resized(self.mapped(small[None])[0, ..., 0], *frame.shape[:2]), 0, 1)

    def _columns(self, seen: views.Seen, size: int) -> dict[str, object]:
        """The columns that replay stores of a transition; those left out stay 0."""
        c, found = self.config, dict[str, object]()
        if c.alpha:
            found["intrinsic"] = seen.intrinsic
        if seen.zoomed is None:
            return found
        found |= {"zoomed": True, "jump": seen.jump}
        if c.alpha:
            found["zoomed_intrinsic"] = seen.zoomed_intrinsic
        image, map_ = seen.zoomed.image(size), seen.zoomed.small_map(size)
        return found | {"zoomed_image": image, "zoomed_map": map_}

    def _perceive(self, carry: Carry, obs: Obs, noise: Noise) -> tuple[State, Tensor]:
        embed = self.encoder(obs if self.maps is None else self._with_map(self.maps, obs))
        state = acting.filter_step(self.rssm, carry, embed, obs["is_first"], noise["latent"])
        return state, self.actor(self.rssm.feat(state))

    def _with_map(self, network: MapNetwork, obs: Obs) -> Obs:
        """The observation with the network's map of its image, both in [-0.5, 0.5]."""
        # not as bytes: two implementations would round differently
        return {**obs, IMAGE: obs[IMAGE].float() / 255 - 0.5, MAP: network(obs[IMAGE]) - 0.5}

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
            if c.long_branch:
                long, mask, last = self.long_branch_losses(post, trained, noise)
                more |= last
                nothing = feat.new_zeros(feat.shape[:2])
                means |= {
                    name: joint_mean(losses.get(name, nothing), loss, mask)
                    for name, loss in long.items()
                }
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
        losses |= self._judged(feat, q, p, batch)
        if c.alpha:
            paid = self.intrinsic.prediction(self.intrinsic(feat))
            losses["intrinsic"] = paid.loss(batch["intrinsic"])
        if c.scorer:
            losses["video"] = self.video.prediction(self.video(feat)).loss(batch["video"])
        if c.long_branch:
            jump = self.jump.prediction(self.jump(feat))
            losses["jump"] = jump.loss(batch["jump"].float())
        for name, loss in losses.items():
            assert loss.shape == (B, T), (name, loss.shape)
        with torch.no_grad():
            metrics = {
                "model/kl": self.latent.kl(q, p).mean(),
                "model/post_entropy": self.latent.entropy(q).mean(),
                "model/prior_entropy": self.latent.entropy(p).mean(),
                "reward/env": batch["reward"].mean(),
            }
            if c.alpha:
                metrics["reward/intrinsic"] = batch["intrinsic"].mean()
            if c.scorer:
                metrics["reward/video"] = batch["video"].mean()
            if c.alpha or c.scorer:
                metrics["reward/total"] = self.total_reward(batch).mean()
        return post, feat, losses, metrics

    def _judged(self, feat: Tensor, q: Tensor, p: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The losses by name of what features (..., F) say beside the observations."""
        return world_model_losses(
            batch,
            q,
            p,
            self.latent,
            self.reward.prediction(self.reward(feat)),
            self.cont.prediction(self.cont(feat)),
            discount=self.discount,
            free_nats=self.config.free_nats,
        )

    def total_reward(self, batch: Batch) -> Tensor:
        """The environment's reward, alpha times the map's, the scorer's: as `reward` is shaped."""
        c, total = self.config, batch["reward"].float()
        if c.alpha:
            total = total + c.alpha * batch["intrinsic"]
        return total + batch["video"] if c.scorer else total

    def long_branch_losses(
        self, post: State, batch: Batch, noise: NoiseSource
    ) -> tuple[dict[str, Tensor], Tensor, Metrics]:
        """The model's losses on long transitions, from short ones to their zoomed views.

        Shapes are fixed: `long_cap` transitions of all learners' batch are taken, zoomed ones
        first, and those that are none, or another learner's, masked.

        Returns:
            The losses (K,) by name, the mask (K,), and metrics.
        """
        c, (B, T) = self.config, batch["reward"].shape
        cap = min(c.long_cap, ranks().count * B * T)
        zoomed = batch["zoomed"].flatten().float()
        # which of them, if there are more, is up to chance
        index, place, own = ranks().largest(zoomed + noise.uniform(B * T), cap)
        eps = same_for_all(noise).uniform(cap, *self.latent.noise_shape)[place]
        K = len(index)
        taken = {name: column.flatten(0, 1)[index] for name, column in batch.items()}
        mask = taken["zoomed"].float() * own  # (K,)
        before = State(*(part.flatten(0, 1)[index] for part in post))
        views_ = {IMAGE: taken["zoomed_image"], MAP: taken["zoomed_map"]}
        seen = {key: taken[key] for key in self.obs} | views_
        jump = torch.cat([eps.new_zeros(K, self.action.size), eps.new_ones(K, 1)], -1)
        # it begins no episode, whatever the short transition does
        begun = torch.zeros_like(taken["is_first"])
        after = self.rssm.obs_step(before, jump, self.encoder(seen), begun, eps)
        feat = self.rssm.feat(after)  # (K, F)
        q, p = after.stats.float(), self.rssm.prior(after).float()
        sequences = {key: value.unsqueeze(1) for key, value in seen.items()}
        seen_losses = self.decoder.losses(feat.unsqueeze(1), sequences)
        losses = {f"rec_{key}": loss.squeeze(1) for key, loss in seen_losses.items()}
        losses |= self._judged(feat, q, p, taken)
        if c.alpha:
            paid = self.intrinsic.prediction(self.intrinsic(feat))
            losses["intrinsic"] = paid.loss(taken["zoomed_intrinsic"])
        # nobody jumps twice in a row
        losses["jump"] = self.jump.prediction(self.jump(feat)).loss(torch.zeros_like(mask))
        both = torch.cat([self.rssm.feat(before), feat], -1)  # (K, 2F)
        interval = self.interval.prediction(self.interval(both))
        accumulated = self.accumulated.prediction(self.accumulated(both))
        losses |= long_losses(taken, interval, accumulated)
        unscaled = ("dyn", "rep")
        losses = {k: x if k in unscaled else c.long_scale * x for k, x in losses.items()}
        with torch.no_grad():
            known = batch["known"].float()
            pairs, closed = ranks().sum(zoomed.sum()), ranks().sum(known.sum())
            steps = ranks().sum((known * batch["interval"]).sum())
            metrics = {
                "long/zoomed": zoomed.mean(),
                "long/jump": batch["jump"].float().mean(),
                "long/closed": closed / pairs.clamp(min=1),
                "long/interval": steps / closed.clamp(min=1),
                "long/over_cap": (pairs - cap).clamp(min=0),
            }
        return losses, mask, metrics

    def imagined(
        self, start: State, noise: NoiseSource
    ) -> tuple[Imagined, Tensor | None, Tensor | None]:
        """Trajectories of H moves from states (N, ...), jumps among them.

        Returns:
            The trajectories, with actions as the environment takes them; (N, H), 1 where a move is
            a jump, and (N, H) uniform noise; None where there are no jumps.
        """
        c, N = self.config, len(start.deter)
        H = c.horizon
        latent = noise.uniform(N, H, *self.latent.noise_shape)
        action = acting.draw_noise(noise, self.actor.noise_kind, N, H, *self.actor.noise_shape)
        if not c.long_branch:

            def policy(feat: Tensor, eps: Tensor) -> Tensor:
                return self.actor.sample(self.actor(feat), eps)

            return imagine(self.rssm, policy, start, latent, action), None, None
        chance = noise.uniform(N, H)

        def mixed(feat: Tensor, eps: Tensor) -> Tensor:
            own, u = eps[..., :-1], eps[..., -1:]
            stats, jump, cont = fused_outputs(feat, self.actor, self.jump, self.cont)
            goes_on = continuation(self.cont.prediction(cont), self.discount)
            likely = self.jump.prediction(jump).mean * goes_on > 0.5
            bit = (likely.unsqueeze(-1) & (u < c.jump_prob)).to(feat.dtype)
            return torch.cat([self.actor.sample(stats, own) * (1 - bit), bit], -1)

        found = imagine(
            self.rssm, mixed, start, latent, torch.cat([action, chance.unsqueeze(-1)], -1)
        )
        jumped = found.action[..., -1]
        return Imagined(found.feats, [a[..., :-1] for a in found.actions]), jumped, chance

    def jump_lengths(self, feat: Tensor, jumped: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
        """Steps and average reward of every move: 1 and 0 but for jumps.

        Of all learners' N * H moves an eighth is looked at, jumps first; a jump beyond that counts
        as a step.

        Args:
            feat: (N, H+1, F).
            jumped: (N, H).
            chance: (N, H) in [0, 1), which jumps to look at if there are too many.

        Returns:
            (N, H) each.
        """
        index, _, own = ranks().largest((jumped + chance).flatten(), jump_cap(jumped))
        before, after = feat[:, :-1].flatten(0, 1)[index], feat[:, 1:].flatten(0, 1)[index]
        both = torch.cat([before, after], -1)  # (M, 2F)
        steps = self.interval.prediction(self.interval(both)).mean
        earned = self.accumulated.prediction(self.accumulated(both)).mean
        is_jump = (jumped.flatten()[index] > 0) & own
        longer = torch.where(is_jump, steps.clamp(1, self.config.max_interval).floor() - 1, 0)
        earned = torch.where(is_jump, earned, 0)
        # added, not written: where a learner has less of the eighth, a move is named again for 0
        flat = torch.zeros_like(jumped).flatten()
        interval = 1 + flat.scatter_add(0, index, longer).view_as(jumped)
        return interval, flat.scatter_add(0, index, earned).view_as(jumped)

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
        # Imagine trajectories; a score-function gradient needs none through them
        with torch.no_grad():
            imagined, jumped, chance = self.imagined(start, noise)
            feat = imagined.feat  # (N, H+1, F)
            heads = fused_outputs(
                feat,
                *(self.reward, self.cont, self.slow_value),
                *([self.intrinsic] if c.alpha else []),
                *([self.video] if c.scorer else []),
            )
            reward = self.reward.prediction(heads[0]).mean  # (N, H+1), like the next three
            discount = self.cont.prediction(heads[1]).mean
            slow = self.slow_value.prediction(heads[2]).mean
            metrics = {"imag/reward": reward.mean()}
            if c.alpha:
                paid = self.intrinsic.prediction(heads[3]).mean
                metrics["imag/intrinsic"] = paid.mean()
                reward = reward + c.alpha * paid
            if c.scorer:
                watched = self.video.prediction(heads[-1]).mean
                metrics["imag/video"] = watched.mean()
                reward = reward + watched
            moves = reward[:, 1:], discount[:, 1:]
            if jumped is not None and chance is not None:
                interval, earned = self.jump_lengths(feat, jumped, chance)
                moves = spanned(*moves, interval, earned, self.discount)
                jumps, steps = ranks().sum(jumped.sum()), ranks().sum((jumped * interval).sum())
                metrics |= {
                    "imag/jumps": jumped.mean(),
                    "imag/interval": steps / jumps.clamp(min=1),
                    "imag/jumps_over_cap": (jumps - jump_cap(jumped)).clamp(min=0),
                }
        value, stats = fused_outputs(feat[:, :-1], self.value, self.actor)
        values = self.value.prediction(value)
        # Estimate returns, weighted by the probability of getting there
        with torch.no_grad():
            now, end = values.mean, self.value.prediction(self.value(feat[:, -1:])).mean
            ret = imagined_returns(*moves, torch.cat([now, end], 1), c.lam)  # (N, H)
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
            jumped,
            entropy_scale=c.entropy,
            slow_scale=c.slow_scale,
        )
        metrics |= {
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
            batch,
            self.total_reward(batch),
            value,
            slow,
            boot,
            discount=self.discount,
            lam=c.lam,
            slow_scale=c.slow_scale,
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
        found = decoded(self.rssm, self.decoder, carry)
        return {key: found[key] for key in self.observed}  # a network's map is none of them

    def judge(self, carry: Carry) -> dict[str, Tensor]:
        """The environment's reward on arriving, value and continuation: (N,) each.

        The value is of all that is paid, the map's intrinsic reward included.
        """
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
        shown = self.decoder(torch.cat([self.rssm.feat(state).unsqueeze(1), later], 1))
        return {key: shown[key] for key in self.observed}


def jump_cap(jumped: Tensor) -> int:
    """Number of jumps of all learners' moves (N, H) that are looked at: an eighth of the moves."""
    return max(ranks().count * jumped.numel() // 8, 1)


INTRINSIC_COLUMNS = {"intrinsic": ColumnSpec()}
VIDEO_COLUMNS = {"video": ColumnSpec()}


def long_columns(obs: Mapping[str, ObsSpec], *, paid: bool) -> dict[str, ColumnSpec]:
    """Columns of a transition's zoomed view; the mutable ones are known later, if at all."""
    return {
        "zoomed": ColumnSpec(dtype="bool"),
        "jump": ColumnSpec(dtype="bool"),
        "zoomed_image": ColumnSpec(shape=obs[IMAGE].shape, dtype="uint8"),
        "zoomed_map": ColumnSpec(shape=obs[MAP].shape, dtype="uint8"),
        **({"zoomed_intrinsic": ColumnSpec()} if paid else {}),
        "interval": ColumnSpec(mutable=True),
        "accumulated": ColumnSpec(mutable=True),
        "known": ColumnSpec(dtype="bool", mutable=True),
    }


class Memory(NamedTuple):
    """Views and video rewards of the open episodes, by environment, between two decisions."""

    episodes: dict[int, views.EpisodeViews]
    videos: dict[int, VideoReward]


def open_scorer(config: "LSImagineConfig") -> Scorer:
    """The scorer that the settings name.

    Raises:
        ConfigError: if there is no goal, or the scorer cannot be read.
    """
    c = config
    require_goal(c.goal)
    return read_scorer(
        c.scorer,
        sha256=c.scorer_sha256,
        words=c.scorer_words,
        slope=c.scorer_slope,
        centre=c.scorer_centre,
    )


def require_map(obs: Mapping[str, ObsSpec], config: "LSImagineConfig") -> None:
    """Refuse an environment without a map of where the goal is, if no network makes one.

    Raises:
        ConfigError: saying what is missing and where there is one.
    """
    if config.map_network:
        require_goal(config.goal)
        if MAP in obs:
            raise ConfigError(
                f'map_network="{config.map_network}" has no effect in an environment that gives a '
                f'"{MAP}" itself; leave it out, or choose the environment without (map=none)'
            )
        obs = {**obs, MAP: map_spec(obs)}
    if MAP not in obs:
        raise ConfigError(
            f'LSImagine needs an affordance map, an observation "{MAP}", and the environment gives '
            f"{', '.join(obs)}; choose an environment with one "
            "(vizdoom:harvest-tree,map=oracle), set map_network to a folder that agentzoo "
            "affordance train made, or take an agent that needs none (DreamerV3)"
        )
    shape = obs[MAP].shape
    if obs[MAP].kind != "image" or shape[-1] != 1 or shape[0] != shape[1]:
        raise ConfigError(
            f'the observation "{MAP}" has shape {shape} and kind {obs[MAP].kind}, expected a '
            "square of bytes with one channel, (64, 64, 1); resize it in the environment"
        )
    image = obs[IMAGE].shape if IMAGE in obs else None
    if image != (*shape[:2], 3):
        raise ConfigError(
            f'the observation "{IMAGE}" has shape {image}, expected {(*shape[:2], 3)} as the '
            f'"{MAP}" has {shape}; give both in one size'
        )


def map_spec(obs: Mapping[str, ObsSpec]) -> ObsSpec:
    """The spec of a network's map of the image.

    Raises:
        ConfigError: if there is no image to make one of.
    """
    if IMAGE not in obs or obs[IMAGE].kind != "image":
        raise ConfigError(
            f'a map network reads the observation "{IMAGE}", and the environment gives '
            f"{', '.join(obs)}; name its picture so"
        )
    shape = (*obs[IMAGE].shape[:2], 1)
    return ObsSpec(kind="image", shape=shape, source=shape)


def as_bytes(map_: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1] as bytes."""
    return np.clip(np.floor(255 * map_ + 0.5), 0, 255).astype(np.uint8)


def build_actor(
    inputs: int, action: ActionSpec, config: "LSImagineConfig"
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


class JumpSizes(NamedTuple):
    """The five numbers that a size stands for."""

    units: int  # width of encoder, decoder and heads
    hidden: int  # width of the RSSM's dense layers
    deter: int  # D, deterministic state
    classes: int  # K, classes of each latent
    depth: int  # unit of the convolutions' widths


@dataclass(frozen=True, kw_only=True)
class LSImagineConfig(AgentConfig):
    """Settings of LS-Imagine; those it shares with DreamerV3 have that one's defaults."""

    replay_rows: int = 5_000_000  # capacity of the replay buffer
    alpha: float = 1.0  # of the intrinsic reward; 0 is none
    gate: str = "gated"  # gated|ungated|delta, when the intrinsic reward is paid
    goal: str = ""  # what is to be reached; the task's own where it is known
    # folder of a network that makes maps where the environment gives none; read once, then saved
    map_network: str = ""
    # MineCLIP's checkpoint or the folder of a CLIP, which pays for videos like the goal; none is ""
    scorer: str = ""
    scorer_sha256: str = ""  # of MineCLIP's checkpoint, to be checked
    scorer_words: str = ""  # for MineCLIP: a folder with CLIP's vocab.json and merges.txt
    scorer_form: str = "released"  # released|direct|delta, of the reward
    scorer_negatives: str = ""  # sentences to compare the goal with, between semicolons
    scorer_slope: float = 1.2  # from a logit to a score; a CLIP needs its own, and its own centre
    scorer_centre: float = 21.8  # the logit that counts one half
    long_branch: bool = True  # jumps
    jump_rule: str = "absolute"  # released|absolute, when a view is zoomed
    zoom_margin: float = 6.0  # times the goal's own area; the released code's is 1
    jump_max: float = 0.25  # absolute rule: the map's maximum is above
    jump_mean: float = 0.025  # absolute rule: the map's mean is below
    jump_gain: float = 0.15  # absolute rule: the zoomed view scores that much more, or no jump
    jump_prob: float = 0.7  # of a jump in imagination where one is likely
    long_cap: int = 64  # long transitions of a batch that are learned from
    long_scale: float = 1.0  # of the predictions' losses on them
    max_interval: int = 1000  # decisions; a jump that took longer is closed
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
        self._check_jumps()
        _at_least("batch_length", self.batch_length, 3, "the context and two to learn from")
        _at_least("horizon", self.horizon, 1, "an imagined step")
        if self.imag_last is not None:
            _at_least("imag_last", self.imag_last, 2, "the replayed value spans two transitions")
        if not self.train_ratio:
            raise ConfigError("train_ratio=0 never learns; the paper's are 32 to 1024")
        if (self.update_every, self.updates) != (0, 1):
            raise ConfigError(
                f"update_every={self.update_every} and updates={self.updates} have no effect here: "
                "LSImagine updates in proportion to what it collects; set train_ratio"
            )
        sizes = self.sizes
        if sizes.deter % self.blocks:
            raise ConfigError(f"deter={sizes.deter} has to be a multiple of blocks={self.blocks}")
        if not 1 <= sizes.classes <= 256:
            raise ConfigError(f"classes={sizes.classes} has to be 1 to 256; replay stores a byte")

    def _check_jumps(self) -> None:
        """Check the settings that DreamerV3 lacks."""
        one_of("gate", self.gate, intrinsic.GATES)
        one_of("jump_rule", self.jump_rule, zoom.RULES)
        one_of("scorer_form", self.scorer_form, FORMS)
        if self.scorer and self.scorer_form != "released" and not self.scorer_negatives:
            raise ConfigError(
                f"scorer_form={self.scorer_form!r} compares the goal with other sentences, and "
                'scorer_negatives is empty; give some, as "Explore; Stand still"'
            )
        for name in ("alpha", "long_scale"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)!r} has to be 0 or more")
        for name in ("jump_max", "jump_mean", "jump_gain", "jump_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)!r} has to be within 0 and 1")
        if self.zoom_margin < 1:
            raise ConfigError(f"zoom_margin={self.zoom_margin!r} has to be at least 1")
        _at_least("long_cap", self.long_cap, 1, "a long transition to learn from")
        _at_least("max_interval", self.max_interval, 2, "a jump that is longer than a step")

    @classmethod
    def decided_by(cls, field: str) -> tuple[str, ...]:
        """A size decides its numbers."""
        return JumpSizes._fields if field == "size" else ()

    @property
    def sizes(self) -> JumpSizes:
        """The five numbers of this size, each unless it is set by itself."""
        units = SIZES[self.size] if self.units is None else self.units
        derived = JumpSizes(units, units, 8 * units, max(units // 16, 1), max(units // 16, 1))
        given = [getattr(self, name) for name in JumpSizes._fields]
        return JumpSizes(*(d if g is None else g for d, g in zip(derived, given, strict=True)))


def _at_least(name: str, value: int, least: int, why: str) -> None:
    if value < least:
        raise ConfigError(f"{name}={value} has to be at least {least}: {why}")


_CPU: dict[str, object] = {
    "total_steps": 160_000,
    "repeat": 4,
    "size": "1m",
    "deter": 256,
    # small batches and all states to imagine from: pictures are what an update's time goes to
    "batch_size": 8,
    "batch_length": 17,
    "train_ratio": 16.0,
    "lr": 1e-3,
    "warmup": 200,
    "long_cap": 16,
    "max_interval": 300,
    "replay_rows": 100_000,
}
_DEBUG: dict[str, object] = {
    **_CPU,
    "total_steps": 4_000,
    "units": 16,
    "deter": 16,
    "classes": 4,
    "depth": 2,
    "stoch": 4,
    "batch_size": 4,
    "batch_length": 9,
    "horizon": 5,
    "long_cap": 4,
    "train_ratio": 0.8,
    "warmup": 10,
    "replay_rows": 10_000,
    "eval_every": 2_000,
    "eval_episodes": 1,
    "final_episodes": 1,
    "checkpoint_every": 2_000,
}


GOALS = {  # task -> what its scorers and its map network are told, the paper's where it has one
    "vizdoom:harvest-tree": "Cut a tree",
    "vizdoom:reach-water": "Reach water",
    "vizdoom:shear-sheep": "Shear a sheep",
    **{f"minedojo:{name}": harvest.prompt for name, harvest in HARVEST.items()},
}


class LSImagine(Agent):
    """LS-Imagine: jumps to far goals in imagination; for first-person worlds with a map.

    Example:
        >>> agent = LSImagine("vizdoom:harvest-tree,far=mid,map=oracle", preset="cpu")
        >>> agent.learn()
        >>> action = agent.act(obs)

    Source: Li, Wang, Wang, Jin, Li, Zeng, Yang: Open-world reinforcement learning over long
    short-term imagination (ICLR 2025; arXiv:2410.03618).
    """

    config_class = LSImagineConfig
    algorithm_class = LSImagineAlgorithm
    paper: ClassVar[str] = "Li et al. 2025, arXiv:2410.03618"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        # the released code's, where DreamerV3 as it is here has the setting
        "minedojo": {
            **{"total_steps": 1_000_000, "repeat": 1, "deter": 4096, "horizon": 14},
            **{"batch_length": 33, "train_ratio": 16.0, "prefill": 2_500, "pretrain": 100},
            **{"jump_rule": "released", "zoom_margin": 1.0, "replay_rows": 1_000_000},
            # two hours of a world that makes 6 steps a second
            "checkpoint_every": 50_000,
        },
        "cpu": _CPU,
        "debug": _DEBUG,
    }

    def __init__(
        self,
        env: EnvLike | None = None,
        *,
        preset: str | None = None,
        device: str = "auto",
        seed: int | None = None,
        **overrides: Unpack[LSImagineOverrides],
    ) -> None:
        """Args and errors are those of `Agent`; overrides are the fields of `LSImagineConfig`."""
        super().__init__(env, preset=preset, device=device, seed=seed, **overrides)

    @classmethod
    def default_preset(cls, suite: str, obs: Mapping[str, ObsSpec]) -> str:
        """The paper's settings in its own suite; else a small model."""
        return suite if suite in cls.presets else "cpu"

    @classmethod
    def env_overrides(cls, config: AgentConfig, world: EnvFacts) -> Mapping[str, object]:
        """Actions are repeated in ViZDoom, whose tics are short; a known task has its goal."""
        goal = {"goal": GOALS[world.task]} if world.task in GOALS else {}
        return goal if world.suite == "vizdoom" else {"repeat": 1, **goal}

    def _build(self, env: EnvLike) -> None:
        """Build as every agent does; one that is new reads its map network."""
        is_new = not hasattr(self, "algorithm")
        super()._build(env)
        config, algorithm = self.config, self.algorithm
        assert isinstance(config, LSImagineConfig)
        assert isinstance(algorithm, LSImagineAlgorithm)
        if is_new and config.scorer:
            algorithm.scorer = open_scorer(config)  # what is wrong with it is said at once
        if is_new and algorithm.maps is not None:
            algorithm.maps.load_state_dict(MapModel.load(config.map_network).for_goal(config.goal))

    def _wire(self, obs: Mapping[str, ObsSpec], action: ActionSpec) -> None:
        """Make the networks, anew where several processes agree on a seed; maps are kept."""
        before: LSImagineAlgorithm | None = vars(self).get("algorithm")
        super()._wire(obs, action)
        algorithm = self.algorithm
        assert isinstance(algorithm, LSImagineAlgorithm)
        if before is not None and before.maps is not None and algorithm.maps is not None:
            algorithm.maps.load_state_dict(before.maps.state_dict())
