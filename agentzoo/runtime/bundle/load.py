"""Open a bundle's folder: everything is checked before anything is run.

The format is described in docs/bundle.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np

from ..errors import BundleError, ConfigError
from ..files import at_home, stands
from ..policy.onnx_session import Graph, Provider, graph_specs, onnx_model
from ..policy.onnx_step import OnnxStep
from ..policy.planners import Changes, PlanStep, as_changes, replanned
from ..policy.policy import Policy, Step
from ..printable import printable
from ..spec import Arrays, PlanSpec, PolicySpec
from ..world.graphs import open_world_graphs
from ..world.signature import TRACE, world_graph_specs
from ..world.trace import check_dream, read_trace
from .golden_trace import BATCHES, EXCUSABLE, TraceComparison, check_trace, read_golden
from .manifest import (
    GOLDEN,
    OPSET,
    RESULTS,
    UNPLANNED,
    Manifest,
    policy_digest,
    read_checked,
    read_manifest,
)
from .onnx_check import check_onnx

TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}  # of a step from the recording, by provider


@dataclass(frozen=True)
class Verification:
    """The outcome of checking a bundle's golden trace.

    Attributes:
        agent: class name of the agent.
        provider: what it ran on, "cpu" or "cuda".
        steps: recorded steps.
        worst: largest difference among the steps that were not excused.
        tolerance: what it may be at most.
        excused: steps in which a discrete choice too close to call fell otherwise; at most a
            tenth.
        dream: the same of the world model's recorded dream; None where there is none.
    """

    agent: str
    provider: str
    steps: int
    worst: float
    tolerance: float
    excused: int
    dream: "Verification | None" = None

    def __str__(self) -> str:
        """One line for the terminal, and one for the dream."""
        line = (
            f"{printable(self.agent)}: {self.steps} recorded steps agree on {self.provider}; "
            f"largest difference {self.worst:.1e} of {self.tolerance:.0e} allowed, "
            f"{self.excused} excused"
        )
        if self.dream is None:
            return line
        return f"{line}\nits dream, {self.dream}"


def load_policy(
    folder: str | Path,
    *,
    provider: Provider = "auto",
    threads: int = 1,
    seed: int | None = None,
    deterministic: bool | None = None,
    plan: Changes | Literal["off"] | None = None,
) -> Policy:
    """Check a bundle's folder and open its policy.

    Args:
        folder: what `export` wrote.
        provider: "cpu", "cuda", or "auto" for CUDA where there is a device.
        threads: of onnxruntime, for one step.
        seed: keys the policy's noise; None is the one recorded in the bundle.
        deterministic: whether actions are the distribution's mode where a call does not say; None
            is the paper's evaluation protocol.
        plan: settings of a planning agent that differ from the bundle's, such as
            `{"candidates": 200, "elites": 20}`; "off" leaves the search out, so that the policy
            network acts by itself, where the agent has one.

    Raises:
        BundleError: if the folder is incomplete, damaged, foreign or from a newer version.
        ConfigError: if `plan` does not fit the policy or contradicts itself, or an address of a
            server is given.
        MissingExtraError: without onnxruntime.
        ProviderError: if CUDA was asked for and is not there.
    """
    if str(folder).startswith(("ws://", "wss://")):
        raise ConfigError(
            f"{folder} is a server's address, expected a bundle's folder; take "
            "agentzoo.runtime.RemotePolicy(address), which acts through it"
        )
    folder = at_home(folder)
    manifest = read_manifest(folder)
    graphs = _open_graphs(folder, manifest, provider, threads)
    spec = manifest.policy if plan is None else replanned(manifest.policy, plan)
    digest = policy_digest(spec, manifest.files)
    step = _step(
        spec, graphs, _Origin(str(folder.absolute()), digest, provider, threads, spec.plan)
    )
    return Policy(step, spec, seed=seed, deterministic=deterministic, digest=digest)


def load_verified(
    folder: str | Path,
    *,
    provider: Provider = "auto",
    threads: int = 1,
    plan: Changes | Literal["off"] | None = None,
) -> tuple[Policy, Verification]:
    """`load_policy` and `verify` in one: the graphs that were checked are the graphs that act.

    Raises:
        BundleError, ConfigError, MissingExtraError, ProviderError: as those two.
    """
    folder = at_home(folder)
    manifest = read_manifest(folder)
    graphs = _open_graphs(folder, manifest, provider, threads)
    found = judge(graphs, manifest.policy, read_trace_of(folder, manifest))
    spec = manifest.policy if plan is None else replanned(manifest.policy, plan)
    digest = policy_digest(spec, manifest.files)
    step = _step(
        spec, graphs, _Origin(str(folder.absolute()), digest, provider, threads, spec.plan)
    )
    return Policy(step, spec, digest=digest), found


class _Origin(NamedTuple):
    """The pickled form of open graphs: where they are, and what they have to be there."""

    folder: str
    digest: str
    provider: Provider
    threads: int
    plan: PlanSpec | None


class _Reopening:
    """A step that is pickled as its folder and digest; a copy shares its open graphs."""

    origin: _Origin

    def __reduce__(self) -> tuple[Callable[[_Origin], Step], tuple[_Origin]]:
        """Folder and digest, from which unpickling opens the graphs anew."""
        return _reopened, (self.origin,)

    def __deepcopy__(self, memo: object) -> Self:
        """The same step: it keeps nothing between calls."""
        return self


class _BundleStep(_Reopening, OnnxStep):
    pass


class _BundlePlanStep(_Reopening, PlanStep):
    pass


def _step(spec: PolicySpec, graphs: Mapping[str, Graph], origin: _Origin) -> Step:
    if spec.plan is None:
        step = _BundleStep(graphs["policy.onnx"])
    else:
        step = _BundlePlanStep(onnx_model(graphs), spec)
    step.origin = origin
    return step


def _reopened(origin: _Origin) -> Step:
    plan = None if origin.plan is None else as_changes(origin.plan)
    policy = load_policy(origin.folder, provider=origin.provider, threads=origin.threads, plan=plan)
    if policy.digest != origin.digest:
        raise BundleError(
            f"{origin.folder} holds another policy than the one that was pickled: its sha256 is "
            f"{policy.digest[:12]}, was {origin.digest[:12]}; load the policy again"
        )
    return policy.step


def read_trace_of(folder: Path, manifest: Manifest) -> Arrays:
    """The golden trace of a bundle whose manifest was read."""
    return read_golden(read_checked(folder, GOLDEN, manifest.files[GOLDEN]), manifest.policy)


def verify(folder: str | Path, *, provider: Provider = "auto", threads: int = 1) -> Verification:
    """Check a bundle's golden trace on this machine, step by step from the recorded carry.

    Each step is run alone and together with others.

    Raises:
        BundleError: if the folder does not pass its checks, if a step differs by more than the
            tolerance without a discrete choice too close to call (naming the worst step), or if
            more than a tenth of the steps differ in such a choice.
        MissingExtraError: without onnxruntime.
        ProviderError: if CUDA was asked for and is not there.
    """
    folder = at_home(folder)
    manifest = read_manifest(folder)
    graphs = _open_graphs(folder, manifest, provider, threads)
    found = judge(graphs, manifest.policy, read_trace_of(folder, manifest))
    if manifest.world is None:
        return found
    return replace(found, dream=_verify_world(folder, manifest, provider, threads))


def _verify_world(
    folder: Path, manifest: Manifest, provider: Provider, threads: int
) -> Verification:
    assert manifest.world is not None, "asked before"
    names = world_graph_specs(manifest.policy, manifest.world)
    contents = {name: read_checked(folder, name, manifest.files[name]) for name in names}
    graphs = open_world_graphs(
        contents,
        manifest.policy,
        manifest.world,
        opset=manifest.opset,
        provider=provider,
        threads=threads,
    )
    recorded = read_checked(folder, TRACE, manifest.files[TRACE])
    trace = read_trace(recorded, manifest.policy, manifest.world)
    return judge_dream(graphs, manifest.policy, trace)


def judge_dream(
    graphs: Mapping[str, Graph],
    spec: PolicySpec,
    trace: Arrays,
    batches: Sequence[int] = BATCHES,
) -> Verification:
    """`judge` for the recorded dream of a world model.

    Raises:
        BundleError: as `judge`.
    """
    provider = next(iter(graphs.values())).provider
    return _judged(lambda batch: check_dream(graphs, trace, batch), spec.agent, provider, batches)


def judge(
    graphs: Mapping[str, Graph],
    spec: PolicySpec,
    golden: Arrays,
    batches: Sequence[int] = BATCHES,
) -> Verification:
    """Check a trace through open graphs, its steps alone and together, and say how they agree.

    Args:
        graphs: the policy's open graphs by file name.
        spec: the policy's spec.
        golden: the trace.
        batches: steps in one call; the whole trace is checked with each.

    Raises:
        BundleError: if a step differs (naming the worst one), or if more than a tenth of the steps
            differ and are excused.
    """
    provider = next(iter(graphs.values())).provider
    return _judged(
        lambda batch: check_trace(graphs, spec, golden, batch), spec.agent, provider, batches
    )


def _judged(
    run: Callable[[int], TraceComparison], agent: str, provider: str, batches: Sequence[int]
) -> Verification:
    """Judge a recording that is checked once with each number of steps in a call."""
    tolerance = TOLERANCE[provider]
    found: TraceComparison | None = None
    for batch in batches:
        one = run(batch)
        if one.failed(tolerance).any():
            raise _differs(one, tolerance, provider, batch)
        if found is not None:  # of the same recording, so the margins are the same
            one = TraceComparison(np.maximum(found.error, one.error), one.margin)
        found = one
    assert found is not None, "a recording is checked at least once"
    excused = found.excused(tolerance)
    if excused.sum() > EXCUSABLE * len(excused):
        raise _undecided(found, tolerance, provider)
    return Verification(
        agent=agent,
        provider=provider,
        steps=len(excused),
        worst=float(found.error[~excused].max(initial=0.0)),
        tolerance=tolerance,
        excused=int(excused.sum()),
    )


def _differs(found: TraceComparison, tolerance: float, provider: str, batch: int) -> BundleError:
    failed = found.failed(tolerance)
    error = np.where(failed, np.nan_to_num(found.error, nan=np.inf), -1.0)
    worst = int(error.argmax())
    together = f", {batch} steps together" if batch > 1 else ""
    return BundleError(
        f"{int(failed.sum())} of {len(failed)} recorded steps differ on {provider}{together}; the "
        f"worst is step {worst}, by {found.error[worst]:.2e} with {tolerance:.0e} allowed, and its "
        f"closest discrete choice had a margin of {found.margin[worst]:.2e}: export the policy "
        "again, and if that does not help, do not trust this provider"
    )


def _undecided(found: TraceComparison, tolerance: float, provider: str) -> BundleError:
    excused = found.excused(tolerance)
    return BundleError(
        f"{int(excused.sum())} of {len(excused)} recorded steps differ on {provider} in discrete "
        f"choices with margins below {tolerance:.0e}; at most a tenth may, since beyond that the "
        "check says nothing: if the agent has hardly learned, let it learn and export it again; "
        "else look at the unit of its margins (Algorithm.margin)"
    )


def inspect(folder: str | Path) -> str:
    """The content of a bundle, for people: the policy's parts, its files, its score.

    Raises:
        BundleError: if the folder does not pass its checks.
    """
    folder = at_home(folder)
    manifest = read_manifest(folder)
    spec = manifest.policy
    mode = "the distribution's mode" if spec.deterministic else "sampled"
    from ..envs.names import EnvName

    facts = [
        ("agent", spec.agent),
        ("environment", EnvName.read(spec.env).shell or "an object of the user's own"),
        *((f"reads {key}", f"{one.kind} {one.source}") for key, one in spec.obs.items()),
        ("gives", f"{spec.action.kind} {spec.action.shape} {spec.action.dtype}, {mode}"),
        *((f"keeps {key}", f"{one.dtype} {one.shape}") for key, one in spec.carry.items()),
        *((f"draws {key}", f"{one.kind} {one.shape}") for key, one in spec.noise.items()),
        *(
            (f"plans with {name}", str(n))
            for name, n in (asdict(spec.plan) if spec.plan else {}).items()
        ),
        *((f"file {name}", f"{entry.bytes:,} bytes") for name, entry in manifest.files.items()),
        *((f"made with {name}", found) for name, found in manifest.provenance.items()),
        ("score", _score(folder, RESULTS)),
        *([("score, plan=off", _score(folder, UNPLANNED))] if stands(folder / UNPLANNED) else []),
    ]
    plain = [(printable(name), printable(fact)) for name, fact in facts]  # it may be a stranger's
    width = max(len(name) for name, _ in plain)
    return "\n".join(f"{name:{width}}  {fact}" for name, fact in plain)


def _score(folder: Path, name: str) -> str:
    path = folder / name
    if not stands(path):
        return "not evaluated yet"
    from ..evaluation.results import read_results

    try:
        results = read_results(path)
    except BundleError:
        return f"{name} is ill-formed; evaluate the policy again"
    return f"mean {results.mean:.2f} over {len(results.returns)} episodes"


def _open_graphs(
    folder: Path, manifest: Manifest, provider: Provider, threads: int
) -> dict[str, Graph]:
    names = graph_specs(manifest.policy)
    contents = {name: read_checked(folder, name, manifest.files[name]) for name in names}
    return open_graphs(
        contents, manifest.policy, opset=manifest.opset, provider=provider, threads=threads
    )


def open_graphs(
    contents: Mapping[str, bytes],
    spec: PolicySpec,
    *,
    opset: int = OPSET,
    provider: Provider = "auto",
    threads: int = 1,
) -> dict[str, Graph]:
    """Look inside a policy's ONNX files, then open them.

    Args:
        contents: the files by name.
        spec: the policy's spec.
        opset: the operator set that they import.
        provider: as in `Graph`.
        threads: as in `Graph`.

    Raises:
        BundleError: if a graph reaches outside of itself or is not the spec's.
        MissingExtraError: without onnxruntime.
        ProviderError: if CUDA was asked for and is not there.
    """
    for name, content in contents.items():
        check_onnx(content, name, opset)
    return {
        name: Graph(name, contents[name], graph, provider=provider, threads=threads)
        for name, graph in graph_specs(spec).items()
    }
