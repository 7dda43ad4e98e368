"""Acting with a filtered latent: what every recipe does between an observation and its action.

Free functions, so that the networks stay the recipe's own and parameters keep their names.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from agentzoo.runtime.spec import NoiseSpec, TensorSpec

from ..algorithm import Carry, NoiseSource, same_for_all
from ..ranks import ranks
from .actors import Actor
from .latents import Latent
from .rssm import RSSM, State


def initial_carry(rssm: RSSM, action: int, batch: int) -> Carry:
    """The carry before the first observation: the initial state and a previous action of zeros."""
    state = rssm.initial(batch)
    return carry_of(state, state.deter.new_zeros(batch, action))


def carry_of(state: State, action: Tensor) -> Carry:
    """A carry from a state (B, ...) and the action chosen in it (B, A), in model units."""
    return {"deter": state.deter, "stoch": state.stoch, "prev_action": action}


def carry_spec(rssm: RSSM, action: int) -> dict[str, TensorSpec]:
    """Shapes of the carry's tensors, without the batch."""
    return {
        "deter": TensorSpec(shape=(rssm.core.size,)),
        "stoch": TensorSpec(shape=(rssm.latent.size,)),
        "prev_action": TensorSpec(shape=(action,)),
    }


def step_noise_spec(latent: Latent, actor: Actor) -> dict[str, NoiseSpec]:
    """The noise of a step: for the latent and for the action."""
    return {
        "latent": NoiseSpec(shape=latent.noise_shape, kind=latent.noise_kind, role="latent"),
        "action": NoiseSpec(shape=actor.noise_shape, kind=actor.noise_kind, role="action"),
    }


def state_of(rssm: RSSM, carry: Carry) -> State:
    """The state that a carry holds; its stats, which nothing reads, are zeros."""
    # shape[0], not len(): the latter fixes the batch size in an exported graph
    zeros = rssm.initial(carry["stoch"].shape[0])
    return zeros._replace(deter=carry["deter"], stoch=carry["stoch"])


def filter_step(rssm: RSSM, carry: Carry, embed: Tensor, is_first: Tensor, noise: Tensor) -> State:
    """The posterior state (B, ...) at an observation, from the carry of the step before.

    Args:
        rssm: the dynamics.
        carry: name -> (B, *shape).
        embed: (B, E) encoded observation.
        is_first: (B,) bool, where history and previous action are not used.
        noise: (B, *noise_shape) of the latent.
    """
    return rssm.obs_step(state_of(rssm, carry), carry["prev_action"], embed, is_first, noise)


def open_loop(
    rssm: RSSM, prev: State, prev_actions: Tensor, embeds: Tensor, is_first: Tensor, noise: Tensor
) -> Tensor:
    """Features of a sequence whose first observations are seen and whose others are imagined.

    Args:
        rssm: the dynamics.
        prev: state before the sequence, batch shape (B,).
        prev_actions: (B, T, A), followed throughout.
        embeds: (B, T', E) of the observations that are seen, T' from 0 to T.
        is_first: (B, T') bool.
        noise: (B, T, *noise_shape).

    Returns:
        (B, T, F).
    """
    seen, state, feats = embeds.shape[1], prev, []
    if seen:
        post = rssm.observe(prev, prev_actions[:, :seen], embeds, is_first, noise[:, :seen])
        state = State(*(x[:, -1] for x in post))
        feats.append(rssm.feat(post))
    for t in range(seen, prev_actions.shape[1]):
        state = rssm.img_step(state, prev_actions[:, t], noise[:, t])
        feats.append(rssm.feat(state).unsqueeze(1))
    return torch.cat(feats, 1)


def draw_noise(noise: NoiseSource, kind: str, *shape: int) -> Tensor:
    """Noise of a kind, "normal" or "uniform", and a shape."""
    return noise.normal(*shape) if kind == "normal" else noise.uniform(*shape)


def random_starts(
    start: State, beside: Tensor, count: int | None, noise: NoiseSource
) -> tuple[State, Tensor]:
    """A random subset of constant states (N, ...) and of what stands beside them.

    Args:
        start: states, batch shape (N,).
        beside: (N, ...).
        count: how many, of all learners' N; None, or as many as there are, is all.
        noise: for the choice.
    """
    total = ranks().count * len(beside)
    if count is None or count >= total:
        return start, beside
    chosen = same_for_all(noise).uniform(total).topk(count).indices
    whole = [ranks().gather(x)[chosen] for x in (*start, beside)]
    *parts, beside = [ranks().share(x) for x in whole]
    return State(*parts), beside


def autocast(module: nn.Module, precision: str) -> torch.autocast:
    """bfloat16 products where `precision` is "bf16", on the device that the module is on.

    Norms, likelihoods and recurrent states stay float32 by promotion.
    """
    assert precision != "auto", "an agent has resolved it before anything learns"
    device = next(module.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def parameter_group(module: nn.Module, children: tuple[str, ...]) -> Mapping[str, nn.Parameter]:
    """The parameters of some children, by their names in the module."""
    return {k: p for k, p in module.named_parameters() if k.split(".")[0] in children}
