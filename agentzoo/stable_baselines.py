"""Policies of Stable-Baselines3 and sb3-contrib as modules that export: `from_sb3`.

Each acts as its library's `predict` does. What that draws from torch's or numpy's generators is
drawn from the policy's own noise here, so sampled actions have the same distribution and other
numbers.
"""

import copy
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentzoo.runtime.bundle.agent_config import Library
from agentzoo.runtime.envs import make_env, resolve
from agentzoo.runtime.errors import ConfigError, EnvironmentStringError, SpaceError
from agentzoo.runtime.policy.spaces import (
    BARE,
    action_spec,
    observation_specs,
    space_differences,
)
from agentzoo.runtime.spec import ActionSpec, NoiseSpec, ObsSpec, PolicySpec, TensorSpec

from .algorithm import Carry, Noise, Obs
from .blocks.distributions import gumbel, top2_margin
from .foreign import ForeignPolicy, plain_numbers

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecNormalize

ALGORITHMS = ("A2C", "PPO", "DQN", "SAC", "TD3", "DDPG", "QRDQN", "TQC", "RecurrentPPO")
LOG_STD = (-20.0, 2.0)  # SAC's and TQC's bounds: stable_baselines3/sac/policies.py


# -- what the networks read ----------------------------------------------------------------------


class ObservationColumn(nn.Module):
    """One raw observation as the features extractor takes it.

    VecNormalize's statistics, the transposition of images and their division by 255 are part of
    it; source: stable_baselines3/common/vec_env/vec_normalize.py and common/preprocessing.py.
    """

    def __init__(
        self, spec: ObsSpec, space: gym.Space[Any], *, channels_first: bool, scaled: bool
    ) -> None:
        super().__init__()
        self.spec, self.channels_first, self.scaled = spec, channels_first, scaled
        self.is_binary = isinstance(space, spaces.MultiBinary)
        self.is_normalized = False

    def normalize(self, mean: np.ndarray, var: np.ndarray, epsilon: float, limit: float) -> None:
        """Subtract, divide and clip by these statistics, each of the raw observation's shape."""
        scale = np.sqrt(var + epsilon)
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))
        self.limit, self.is_normalized = float(limit), True

    def forward(self, x: Tensor) -> Tensor:
        """(B, *spec.shape) -> what the extractor takes."""
        if self.spec.kind == "onehot":
            if not self.is_binary:
                return x
            return x.unflatten(-1, (-1, 2))[..., 1].reshape(-1, *self.spec.source)
        x = x.float().reshape(-1, *self.spec.source)  # len(x) would be a constant
        if self.is_normalized:
            mean, scale = cast("Tensor", self.mean), cast("Tensor", self.scale)
            x = ((x - mean) / scale).clamp(-self.limit, self.limit)
        if self.channels_first:
            x = x.permute(0, 3, 1, 2)
        return x / 255.0 if self.scaled else x


# -- what they give ------------------------------------------------------------------------------


class ActionHead(nn.Module):
    """From the networks' last outputs (B, X) and noise to the environment's action."""

    def __init__(self, noise: Mapping[str, NoiseSpec]) -> None:
        super().__init__()
        self.noise_spec = dict(noise)

    def act(self, out: Tensor, noise: Noise, deterministic: Tensor) -> Tensor:
        """(B, *action.shape)."""
        raise NotImplementedError

    def margin(self, out: Tensor, noise: Noise, deterministic: Tensor) -> Tensor:
        """(B,) of its closest discrete choice; inf where there is none."""
        return torch.full((len(out),), torch.inf)


class BoxHead(ActionHead):
    """Bounds and shape of a Box, which its three heads share."""

    def __init__(self, noise: Mapping[str, NoiseSpec], action: ActionSpec) -> None:
        super().__init__(noise)
        self.shape = action.shape
        self.register_buffer("low", torch.tensor(action.low))
        self.register_buffer("high", torch.tensor(action.high))

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Low and high, each (A,)."""
        return cast("Tensor", self.low), cast("Tensor", self.high)

    def unscaled(self, squashed: Tensor) -> Tensor:
        """From [-1, 1] to the bounds, in the environment's shape."""
        low, high = self.bounds()
        return (low + 0.5 * (squashed + 1.0) * (high - low)).reshape(-1, *self.shape)


class ClippedGaussianHead(BoxHead):
    """A2C's and PPO's: a normal distribution whose samples are clipped to the bounds."""

    def __init__(self, action: ActionSpec, log_std: Tensor) -> None:
        super().__init__({"action": _normal(action.size)}, action)
        self.register_buffer("log_std", log_std.detach().clone())

    def act(self, out: Tensor, noise: Noise, deterministic: Tensor) -> Tensor:
        """A sample clipped to the bounds."""
        std = cast("Tensor", self.log_std).exp()
        sample = out + torch.where(deterministic[:, None], 0.0, std * noise["action"])
        low, high = self.bounds()
        return torch.minimum(torch.maximum(sample, low), high).reshape(-1, *self.shape)


class TanhGaussianHead(BoxHead):
    """SAC's and TQC's: a normal distribution under tanh; out is the mean beside the log std."""

    def __init__(self, action: ActionSpec) -> None:
        super().__init__({"action": _normal(action.size)}, action)

    def act(self, out: Tensor, noise: Noise, deterministic: Tensor) -> Tensor:
        """A sample under tanh."""
        mean, log_std = out.chunk(2, -1)
        std = log_std.clamp(*LOG_STD).exp()
        sample = mean + torch.where(deterministic[:, None], 0.0, std * noise["action"])
        return self.unscaled(torch.tanh(sample))


class DeterministicHead(BoxHead):
    """TD3's and DDPG's, which `predict` never perturbs."""

    def __init__(self, action: ActionSpec) -> None:
        super().__init__({}, action)

    def act(self, out: Tensor, noise: Noise, deterministic: Tensor) -> Tensor:
        """The very output, scaled to the bounds."""
        return self.unscaled(out)


class GumbelHead(ActionHead):
    """A2C's and PPO's for Discrete and MultiDiscrete: joined logits, sampled as Gumbel-max."""

    def __init__(self, action: ActionSpec) -> None:
        super().__init__({"action": NoiseSpec(shape=(action.size,), kind="uniform", role="action")})
        self.nvec, self.shape = list(action.nvec), action.shape

    def scores(self, out: Tensor, noise: Noise, deterministic: Tensor) -> Sequence[Tensor]:
        """Logits of each choice, perturbed where it is sampled."""
        drawn = gumbel(noise["action"])
        scores = out + torch.where(deterministic[:, None], 0.0, drawn)
        return scores.split(self.nvec, -1)

    def act(self, out: Tensor, noise: Noise, deterministic: Tensor) -> Tensor:
        """The best index of each group of logits."""
        chosen = [one.argmax(-1) for one in self.scores(out, noise, deterministic)]
        return torch.stack(chosen, -1).reshape(-1, *self.shape)

    def margin(self, out: Tensor, noise: Noise, deterministic: Tensor) -> Tensor:
        """(B,) of the closest of its choices."""
        groups = self.scores(out, noise, deterministic)
        return torch.stack([top2_margin(one) for one in groups]).amin(0)


class BitsHead(GumbelHead):
    """A2C's and PPO's for MultiBinary: a logit of each bit is that of a one beside a zero's 0."""

    def scores(self, out: Tensor, noise: Noise, deterministic: Tensor) -> Sequence[Tensor]:
        """Scores of a zero and a one for each bit."""
        pairs = torch.stack([torch.zeros_like(out), out], -1).flatten(1)
        return super().scores(pairs, noise, deterministic)


class EpsilonGreedyHead(ActionHead):
    """DQN's and QR-DQN's: the best value, or any action with the probability epsilon."""

    def __init__(self, action: ActionSpec, epsilon: float) -> None:
        one = NoiseSpec(shape=(1,), kind="uniform", role="action")
        super().__init__({"explores": one, "action": one})
        self.n, self.epsilon = action.size, epsilon

    def act(self, out: Tensor, noise: Noise, deterministic: Tensor) -> Tensor:
        """The best value, or any action."""
        anything = (noise["action"][:, 0] * self.n).long().clamp(max=self.n - 1)
        return torch.where(self.explores(noise, deterministic), anything, out.argmax(-1))

    def explores(self, noise: Noise, deterministic: Tensor) -> Tensor:
        """(B,) whether an action is drawn."""
        return ~deterministic & (noise["explores"][:, 0] < self.epsilon)

    def margin(self, out: Tensor, noise: Noise, deterministic: Tensor) -> Tensor:
        """(B,) between the two best values."""
        greedy = ~self.explores(noise, deterministic)
        return torch.where(greedy, top2_margin(out), torch.inf)


def _normal(size: int) -> NoiseSpec:
    return NoiseSpec(shape=(size,), kind="normal", role="action")


# -- the acting step -----------------------------------------------------------------------------


class LstmStep(nn.Module):
    """RecurrentPPO's LSTM as one step of B batch elements, each with its own memory.

    Source: the equations of torch.nn.LSTM; states are zeros where an episode begins, as in
    sb3_contrib/common/recurrent/policies.py.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm
        shape = (lstm.num_layers, lstm.hidden_size)
        self.carry_spec = {"hidden": TensorSpec(shape=shape), "cell": TensorSpec(shape=shape)}

    def forward(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        """(B, X), carry, (B,) -> (B, H), carry."""
        keep = (~is_first).float()[:, None]
        hidden: list[Tensor] = []
        cell: list[Tensor] = []
        for k in range(self.lstm.num_layers):
            inside, recurrent, b_in, b_rec = (
                getattr(self.lstm, f"{name}_l{k}")
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            before = keep * carry["hidden"][:, k]
            gates = x @ inside.T + b_in + before @ recurrent.T + b_rec
            i, f, g, o = gates.chunk(4, -1)
            c = f.sigmoid() * (keep * carry["cell"][:, k]) + i.sigmoid() * g.tanh()
            x = o.sigmoid() * c.tanh()
            hidden.append(x)
            cell.append(c)
        return x, {"hidden": torch.stack(hidden, 1), "cell": torch.stack(cell, 1)}


class Sb3Actor(nn.Module):
    """An acting step: columns, features, perhaps a memory, trunk, outputs, head."""

    def __init__(
        self,
        columns: Mapping[str, ObservationColumn],
        extractor: nn.Module,
        outputs: Sequence[nn.Module],
        head: ActionHead,
        *,
        trunk: nn.Module | None = None,
        memory: LstmStep | None = None,
        quantiles: int = 0,
    ) -> None:
        super().__init__()
        self.keys = list(columns)
        self.columns = nn.ModuleList(columns.values())  # a key may be no attribute's name
        self.extractor, self.trunk, self.memory = extractor, trunk, memory
        self.outputs, self.head, self.quantiles = nn.ModuleList(outputs), head, quantiles
        self.noise_spec = head.noise_spec
        self.carry_spec = {} if memory is None else memory.carry_spec

    def out(self, carry: Carry, obs: Obs) -> tuple[Carry, Tensor]:
        """The new carry and what the head takes."""
        seen = {key: column(obs[key]) for key, column in zip(self.keys, self.columns, strict=True)}
        x = self.extractor(seen[BARE] if self.keys == [BARE] else seen)
        carried: Carry = {}
        if self.memory is not None:
            x, carried = self.memory(x, carry, obs["is_first"])
        x = x if self.trunk is None else self.trunk(x)
        found = torch.cat([output(x) for output in self.outputs], -1)
        if self.quantiles:
            found = found.unflatten(-1, (self.quantiles, -1)).mean(1)
        return carried, found

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        """Observe and act."""
        carried, out = self.out(carry, obs)
        return carried, self.head.act(out, noise, deterministic)

    def margin(self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor) -> Tensor:
        """(B,) of its closest discrete choice."""
        return self.head.margin(self.out(carry, obs)[1], noise, deterministic)


class ActorTrunk(nn.Module):
    """The actor's half of a MlpExtractor."""

    def __init__(self, policy_net: nn.Module) -> None:
        super().__init__()
        self.policy_net = policy_net

    def forward(self, x: Tensor) -> Tensor:
        """(B, X) -> (B, Y)."""
        return self.policy_net(x)


# -- from a model --------------------------------------------------------------------------------


def from_sb3(
    model: "BaseAlgorithm",
    *,
    env: str | None = None,
    normalize: "VecNormalize | None" = None,
) -> ForeignPolicy:
    """A trained model of Stable-Baselines3 or sb3-contrib as a policy of this zoo.

    It acts like the model's `predict`, on raw observations: the environment's own, before
    VecNormalize and VecTransposeImage. Weights are copied.

    Args:
        model: an A2C, PPO, DQN, SAC, TD3, DDPG, QRDQN, TQC or RecurrentPPO.
        env: the environment string it is scored in; None is the id of a Gymnasium environment that
            the model was made with, where its spaces are the model's, else "".
        normalize: the statistics that a model loaded without its environment learned with; None is
            the model's own.

    Raises:
        ConfigError: for another kind of model, generalised state-dependent exploration, or a string
            whose spaces are not the model's.
        SpaceError: if observations or actions are of a kind that agents do not read.

    Example:
        policy = from_sb3(PPO("MlpPolicy", "CartPole-v1").learn(50_000))
        policy.export("ppo-cartpole")
    """
    name = _name(model)
    statistics = model.get_vec_normalize_env() if normalize is None else normalize
    raw = _raw_space(model.observation_space, statistics)
    obs, action = observation_specs(raw), action_spec(model.action_space)
    columns = _columns(model, raw, obs, statistics)
    actor = _actor(model, name, columns, action).cpu().eval().requires_grad_(False)
    spec = PolicySpec(
        agent=name,
        env=_environment(model, (obs, action), env),
        obs=obs,
        action=action,
        carry=actor.carry_spec,
        noise=actor.noise_spec,
        seed=model.seed or 0,
    )
    package = "sb3-contrib" if _package(model) == "sb3_contrib" else "stable-baselines3"
    return ForeignPolicy(
        actor,
        spec,
        library=Library(name=package, version=version(package)),
        settings=plain_numbers(vars(model)),
        env_steps=int(model.num_timesteps),
    )


def _package(model: object) -> str:
    """The library whose class a model is, or is derived from."""
    for kind in type(model).__mro__:
        if (found := kind.__module__.partition(".")[0]) in ("stable_baselines3", "sb3_contrib"):
            return found
    return ""


def _name(model: object) -> str:
    """The algorithm's name, of the library's class where the model's is derived from it."""
    for kind in type(model).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in ("stable_baselines3", "sb3_contrib") and kind.__name__ in ALGORITHMS:
            return kind.__name__
    raise ConfigError(
        f"from_sb3 was given a {type(model).__name__}, expected a model of Stable-Baselines3 or "
        f"sb3-contrib ({', '.join(ALGORITHMS)}); any other torch module goes through "
        "agentzoo.bundle(module, spec, folder)"
    )


def _raw_space(space: gym.Space[Any], statistics: "VecNormalize | None") -> gym.Space[Any]:
    """The environment's own observation space, images with their channels last."""
    if isinstance(space, spaces.Dict):
        keys = getattr(statistics, "norm_obs_keys", None) or []
        inner = None if statistics is None else cast("Any", statistics.venv).observation_space
        parts = {
            key: cast("spaces.Dict", inner)[key] if key in keys else _channels_last(one)
            for key, one in space.spaces.items()
        }
        return spaces.Dict(parts)
    if statistics is not None and statistics.norm_obs:
        return cast("Any", statistics.venv).observation_space
    return _channels_last(space)


def _is_transposed(space: gym.Space[Any]) -> bool:
    """Whether a space is of images that VecTransposeImage gave."""
    from stable_baselines3.common.preprocessing import is_image_space

    # the very rule of is_image_space_channels_first, which warns where it is in doubt
    return is_image_space(space) and int(np.argmin(cast("spaces.Box", space).shape)) == 0


def _channels_last(space: gym.Space[Any]) -> gym.Space[Any]:
    if not _is_transposed(space):
        return space
    c, h, w = cast("spaces.Box", space).shape
    return spaces.Box(0, 255, (h, w, c), np.uint8)


def _columns(
    model: "BaseAlgorithm",
    raw: gym.Space[Any],
    obs: Mapping[str, ObsSpec],
    statistics: "VecNormalize | None",
) -> dict[str, ObservationColumn]:
    from stable_baselines3.common.preprocessing import is_image_space

    def part(space: gym.Space[Any], key: str) -> gym.Space[Any]:
        return space[key] if isinstance(space, spaces.Dict) else space

    columns: dict[str, ObservationColumn] = {}
    for key, spec in obs.items():
        taken, given = part(model.observation_space, key), part(raw, key)
        scaled = bool(model.policy.normalize_images) and is_image_space(taken)
        transposed = _is_transposed(taken) and taken.shape != given.shape
        column = ObservationColumn(spec, given, channels_first=transposed, scaled=scaled)
        found = _statistics(statistics, key)
        if found is not None and isinstance(given, spaces.Box):
            assert statistics is not None
            column.normalize(found.mean, found.var, statistics.epsilon, statistics.clip_obs)
        columns[key] = column
    return columns


def _statistics(statistics: "VecNormalize | None", key: str) -> Any:
    """Running mean and variance of one observation; None where it is left alone."""
    if statistics is None or not statistics.norm_obs:
        return None
    if isinstance(statistics.obs_rms, dict):
        return statistics.obs_rms[key] if key in (statistics.norm_obs_keys or []) else None
    return statistics.obs_rms


def _actor(
    model: "BaseAlgorithm", name: str, columns: Mapping[str, ObservationColumn], action: ActionSpec
) -> Sb3Actor:
    policy: Any = model.policy
    if getattr(model, "use_sde", False):
        raise ConfigError(
            f"this {name} explores by use_sde=True, whose noise is held over several steps; "
            "from_sb3 does not export it: train with use_sde=False"
        )
    if name in ("DQN", "QRDQN"):
        net = policy.q_net if name == "DQN" else policy.quantile_net
        last = copy.deepcopy(net.q_net if name == "DQN" else net.quantile_net)
        head = EpsilonGreedyHead(action, float(cast("Any", model).exploration_rate))
        quantiles = 0 if name == "DQN" else int(net.n_quantiles)
        extractor = copy.deepcopy(net.features_extractor)
        return Sb3Actor(columns, extractor, [last], head, quantiles=quantiles)
    if name in ("SAC", "TQC"):
        net = copy.deepcopy(policy.actor)
        outputs = [net.mu, net.log_std]
        head = TanhGaussianHead(action)
        return Sb3Actor(columns, net.features_extractor, outputs, head, trunk=net.latent_pi)
    if name in ("TD3", "DDPG"):
        net = copy.deepcopy(policy.actor)
        return Sb3Actor(columns, net.features_extractor, [net.mu], DeterministicHead(action))
    memory = LstmStep(copy.deepcopy(policy.lstm_actor)) if name == "RecurrentPPO" else None
    return Sb3Actor(
        columns,
        copy.deepcopy(policy.pi_features_extractor),
        [copy.deepcopy(policy.action_net)],
        _on_policy_head(model, action),
        trunk=ActorTrunk(copy.deepcopy(policy.mlp_extractor.policy_net)),
        memory=memory,
    )


def _on_policy_head(model: "BaseAlgorithm", action: ActionSpec) -> ActionHead:
    if action.kind == "box":
        return ClippedGaussianHead(action, cast("Any", model.policy).log_std)
    if isinstance(model.action_space, spaces.MultiBinary):
        return BitsHead(action)
    return GumbelHead(action)


def _environment(
    model: "BaseAlgorithm", ours: tuple[dict[str, ObsSpec], ActionSpec], env: str | None
) -> str:
    """The resolved string of the environment a model learned in, or "" where none is known."""
    name = _registered(model) if env is None else env
    if not name:
        return ""
    try:
        name = resolve(name)
        made = make_env(name)
    except (EnvironmentStringError, SpaceError):
        if env is None:
            return ""
        raise
    try:
        theirs = observation_specs(made.observation_space), action_spec(made.action_space)
    finally:
        made.close()
    differences = space_differences(ours, theirs)
    if differences and env is not None:
        raise ConfigError(
            f'the model\'s spaces are not those of "{env}": {"; ".join(differences)}; name the '
            'environment it learned in, or pass env=""'
        )
    return "" if differences else name


def _registered(model: "BaseAlgorithm") -> str:
    """gym:ID of a model's first environment, if it was made by id and without arguments."""
    try:
        found = None if model.env is None else model.env.get_attr("spec")[0]
    except AttributeError:
        return ""
    if found is None:
        return ""
    wrappers = {one.name for one in found.additional_wrappers} - {"Monitor"}  # the library's own
    changed = found.kwargs.keys() - {"render_mode"}
    return "" if wrappers or changed else f"gym:{found.id}"
