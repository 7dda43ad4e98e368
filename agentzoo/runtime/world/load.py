"""A world model from a bundle's folder, without torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..bundle.load import open_graphs, read_trace_of
from ..bundle.manifest import read_checked, read_json, read_manifest
from ..errors import BundleError
from ..files import at_home
from ..policy.onnx_session import Provider, graph_specs
from ..policy.spaces import env_action, raw_observation
from ..spec import Arrays, PolicySpec
from .graphs import OnnxWorld, open_world_graphs
from .world import Start, World

EPISODE = "is_first"


def has_world(folder: str | Path) -> bool:
    """Whether a bundle holds a world model; nothing is opened or checked.

    Raises:
        BundleError: if the folder has no manifest.
    """
    value = read_json(at_home(folder) / "manifest.json")
    return isinstance(value, dict) and value.get("world") is not None  # pyright: ignore[reportUnknownMemberType]


def load_world(
    folder: str | Path,
    *,
    provider: Provider = "auto",
    threads: int = 1,
    seed: int | None = None,
    deterministic: bool | None = None,
) -> World:
    """Check a bundle's folder and open its world model.

    Args:
        folder: what `agent.export(folder, world=True)` wrote.
        provider: "cpu", "cuda", or "auto" for CUDA where there is a device.
        threads: of onnxruntime, for one step.
        seed: keys the world's noise; None is the one recorded in the bundle.
        deterministic: whether the policy's actions are the distribution's mode where a call does
            not say; None is the paper's evaluation protocol.

    Raises:
        BundleError: if the folder is incomplete, damaged, foreign, or holds no world model.
        MissingExtraError: without onnxruntime.
        ProviderError: if CUDA was asked for and is not there.

    Example:
        world = load_world("walker")
        dream = world.imagine(world.encode(obs), steps=15)
    """
    folder = at_home(folder)
    manifest = read_manifest(folder)
    if manifest.world is None:
        raise BundleError(
            f"{folder} holds a policy without its world model; export it with "
            "agent.export(folder, world=True) or agentzoo export --world"
        )
    contents = {name: read_checked(folder, name, manifest.files[name]) for name in manifest.graphs}
    acting = {name: contents[name] for name in graph_specs(manifest.policy)}
    graphs = {
        **open_graphs(
            acting, manifest.policy, opset=manifest.opset, provider=provider, threads=threads
        ),
        **open_world_graphs(
            contents,
            manifest.policy,
            manifest.world,
            opset=manifest.opset,
            provider=provider,
            threads=threads,
        ),
    }
    return World(
        OnnxWorld(manifest.policy, manifest.world, graphs),
        manifest.policy,
        seed=seed,
        deterministic=deterministic,
        starts=lambda: golden_starts(manifest.policy, read_trace_of(folder, manifest)),
    )


def golden_starts(spec: PolicySpec, golden: Arrays) -> Sequence[Start]:
    """The observations of a policy's golden trace, an episode each."""
    graph = next(iter(graph_specs(spec).values()))
    seen = {port.key: golden[name] for name, port in graph.inputs.items() if port.role == "obs"}
    units = next(golden[name] for name, port in graph.inputs.items() if port.key == "prev_action")
    firsts = np.flatnonzero(golden[EPISODE])
    episodes = zip(firsts, [*firsts[1:], len(golden[EPISODE])], strict=True)
    return [
        Start(
            obs={key: raw_observation(spec.obs[key], array[a:b]) for key, array in seen.items()},
            # the carry before step t holds the action that led to it
            actions=env_action(spec.action, units[a + 1 : b]),
        )
        for a, b in episodes
    ]
