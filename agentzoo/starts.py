"""Starts of an agent's dreams: in episodes of its replay, else of its environment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np

from agentzoo.runtime.errors import ReplayError
from agentzoo.runtime.policy.spaces import encode, env_action, raw_observation
from agentzoo.runtime.spec import Array, PolicySpec
from agentzoo.runtime.world.world import Start

from .replay.chunks import DAMAGED
from .replay.saved_state import read_state
from .train import checkpoint

if TYPE_CHECKING:
    from .agent import Agent

MOST = 64  # episodes of a replay
PLAYED = 8  # episodes that are begun where there is no replay
LENGTH = 16  # observations of each, at most


def starts_of(agent: "Agent") -> Sequence[Start]:
    """The beginnings of episodes in the agent's run, else some that are played now.

    Empty for an agent that learned on an environment object and has no run.
    """
    run = agent.run or agent.run_dir
    newest = None if run is None else checkpoint.newest(run / "checkpoints")
    if newest is not None:
        found = replayed_starts(newest / "training" / "replay", agent.spec)
        if found:
            return found
    if not agent.can_open_environment:
        return ()
    env = agent.open_environment()
    try:
        return [played_start(agent, env, seed) for seed in range(PLAYED)]
    finally:
        env.close()


def played_start(agent: "Agent", env: gym.Env[Any, Any], seed: int) -> Start:
    """The beginning of one episode of the agent's own."""
    session = agent.session(seed)
    obs, _ = env.reset(seed=seed)
    seen, moves = [obs], list[Array]()
    while len(seen) < LENGTH:
        moves.append(session.act(obs))
        obs, _, terminated, truncated, _ = env.step(moves[-1])
        seen.append(obs)
        if terminated or truncated:
            break
    keys = list(agent.spec.obs)
    named = [one if isinstance(one, Mapping) else {keys[0]: one} for one in seen]
    stacked = {key: np.stack([np.asarray(one[key]) for one in named]) for key in keys}
    return Start(obs=stacked, actions=np.stack(moves) if moves else None)


def replayed_starts(folder: Path, spec: PolicySpec) -> list[Start]:
    """The beginnings of finished episodes in a saved replay, spread over all it holds."""
    if not (folder / "replay.json").is_file():
        return []
    state = read_state(folder)
    dtype = _transition_type(state.layout, folder)
    if not {*spec.obs, "action"} <= {*(dtype.names or ())}:
        raise ReplayError(f"{folder} holds other observations than the agent's: {DAMAGED}")
    found: list[Start] = []
    for env, (first, count, _, _) in enumerate(state.streams):
        stream = folder / f"env{env:02d}"
        episodes = state.episodes(stream, env)
        chosen = episodes[:: max(1, -(-len(episodes) * len(state.streams) // MOST))]
        chunks = sorted(path for path in stream.glob("*.rows") if path.name != "open.rows")
        if len(chunks) != (count - first) // state.chunk_size:
            raise ReplayError(f"{stream} lacks or adds chunks: {DAMAGED}")
        files = [*chunks, stream / "open.rows"]
        for start, length in chosen:
            beginning = start - first, min(length, LENGTH)
            found.append(_start(_transitions(files, dtype, *beginning, state.chunk_size), spec))
    return found


def _transition_type(described: object, folder: Path) -> np.dtype[Any]:
    try:
        dtype = np.dtype([_field(one) for one in cast("list[Sequence[Any]]", described)])
    except (TypeError, ValueError) as error:
        raise ReplayError(f"{folder} does not say what a transition holds: {DAMAGED}") from error
    if dtype.hasobject:
        raise ReplayError(f"{folder} says that a transition holds objects: {DAMAGED}")
    return dtype


def _field(entry: Sequence[Any]) -> tuple[Any, ...]:
    name, kind, *shape = entry
    return (name, kind, *(tuple(one) for one in shape))


def _transitions(
    files: Sequence[Path], dtype: np.dtype[Any], at: int, count: int, chunk_size: int
) -> Array:
    """Consecutive transitions, from as many chunk files as they lie in."""
    parts: list[Array] = []
    while count:
        chunk, inside = divmod(at, chunk_size)
        take = min(count, chunk_size - inside)
        offset = inside * dtype.itemsize
        part = np.fromfile(files[chunk], dtype, take, offset=offset)
        if len(part) != take:
            raise ReplayError(f"{files[chunk]} ends before transition {inside + take}: {DAMAGED}")
        parts.append(part)
        at, count = at + take, count - take
    return np.concatenate(parts)


def _start(transitions: Array, spec: PolicySpec) -> Start:
    obs = {key: raw_observation(one, transitions[key]) for key, one in spec.obs.items()}
    encode(spec.obs, obs, batched=True)  # what replay holds is what the agent reads
    return Start(obs=obs, actions=env_action(spec.action, transitions["action"][:-1]))
