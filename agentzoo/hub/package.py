"""The files of a published bundle: which, how large, who makes a missing one.

The same checks stand before a push and after a pull. Nothing is run here: JSON is parsed, digests
are compared, ONNX files and weights are looked at.
"""

import json
import mmap
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

from agentzoo.runtime.bundle.agent_config import CONFIG, Settings, read_settings
from agentzoo.runtime.bundle.manifest import (
    GOLDEN,
    JSON_LIMIT,
    MANIFEST,
    RESULTS,
    UNPLANNED,
    Manifest,
    policy_digest,
    read_manifest,
)
from agentzoo.runtime.bundle.onnx_check import check_onnx
from agentzoo.runtime.envs import check_downloaded
from agentzoo.runtime.errors import BundleError, ConfigError
from agentzoo.runtime.evaluation.results import read_results, require_own
from agentzoo.runtime.evaluation.rollout import Evaluation
from agentzoo.runtime.files import open_plain, stands
from agentzoo.runtime.policy.onnx_session import GRAPHS as POLICY_GRAPHS
from agentzoo.runtime.policy.planners import replanned
from agentzoo.runtime.spec import PolicySpec
from agentzoo.runtime.strict_json import read_fields, read_object
from agentzoo.runtime.world.signature import DECODE, IMAGINE, TRACE

WEIGHTS, CARD = "model.safetensors", "README.md"
VIDEO, CURVE = "replay.mp4", "learning_curve.png"  # the Hub previews a replay.mp4
GRAPHS = (*POLICY_GRAPHS, IMAGINE, DECODE)
MIB, GIB = 1 << 20, 1 << 30
LIMITS = {  # bytes a file may have; larger ones are not even fetched
    CONFIG: JSON_LIMIT,
    MANIFEST: JSON_LIMIT,
    RESULTS: JSON_LIMIT,
    UNPLANNED: JSON_LIMIT,
    CARD: MIB,
    CURVE: 16 * MIB,
    VIDEO: 256 * MIB,
    GOLDEN: GIB,
    TRACE: GIB,
    WEIGHTS: 16 * GIB,
    **dict.fromkeys(GRAPHS, 2 * GIB),  # what a protobuf message can hold
}
NAMES = tuple(LIMITS)  # all that ever goes up or comes down
# what a machine that only acts needs
SERVING = (MANIFEST, CONFIG, GOLDEN, TRACE, RESULTS, UNPLANNED, *GRAPHS)
EPISODES = 10  # the fewest that a score is published over
PICTURES = (VIDEO, CURVE)  # what a machine that cannot draw may leave out
MARKS = {VIDEO: (4, b"ftyp"), CURVE: (0, b"\x89PNG\r\n\x1a\n")}  # what stands where in a picture
HEADER_LIMIT = (
    25_000_000  # bytes of a safetensors header; huggingface_hub constants.py has the same
)
AXES_LIMIT = 64  # of a tensor, which PyTorch has no more of
LARGEST_SIZE = 1 << 53
WIDTHS = {  # bytes of a number
    **dict.fromkeys(("BOOL", "U8", "I8"), 1),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F64", "I64", "U64"), 8),
}


@dataclass(frozen=True)
class _Tensor:
    """A tensor's entry in a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]


@dataclass(frozen=True)
class Package:
    """A folder that has passed the checks for being published.

    Attributes:
        folder: where it is.
        manifest: its manifest.json.
        settings: its config.json.
        results: its results.json.
        unplanned: the score of a planner's policy network by itself, where it is there.
        files: the names of what goes up, the card left out.
    """

    folder: Path
    manifest: Manifest
    settings: Settings
    results: Evaluation
    files: tuple[str, ...]
    unplanned: Evaluation | None = None


def read_package(folder: Path, without: Collection[str] = ()) -> Package:
    """Check a folder that is to be published.

    Args:
        folder: a bundle's.
        without: pictures that may be missing.

    Raises:
        BundleError: if a file is missing (naming the command that makes it) or a link, is not what
            the manifest says, or the score is of another agent, environment, graph or plan, or over
            fewer than 10 episodes.
        ConfigError: if `without` names something else than a picture.
    """
    for name in without:
        if name not in PICTURES:
            raise ConfigError(f'"{name}" cannot be left out; only {" and ".join(PICTURES)} can')
    _require_files(folder, (CONFIG, WEIGHTS, MANIFEST, GOLDEN, RESULTS, VIDEO), without)
    manifest = read_manifest(folder)
    _require_files(folder, manifest.graphs, ())
    settings = check_content(folder, manifest)
    if settings.library is None:  # of another library's policy there is no run to draw
        _require_files(folder, (CURVE,), without)
    results = read_results(folder)
    _check_score(results, manifest, manifest.policy, folder / RESULTS)
    unplanned = _unplanned(manifest, folder)
    present = (name for name in NAMES if name != CARD and stands(folder / name))
    # what an earlier export left and the manifest does not list stays here
    listed = (*GRAPHS, TRACE)
    files = tuple(name for name in present if name not in listed or name in manifest.files)
    return Package(folder, manifest, settings, results, files, unplanned)


def _unplanned(manifest: Manifest, folder: Path) -> Evaluation | None:
    path = folder / UNPLANNED
    if not stands(path):
        return None
    try:
        spec = replanned(manifest.policy, "off")
    except ConfigError as error:
        raise BundleError(f"{path} is of a policy that plans otherwise: {error}") from None
    results = read_results(path)
    _check_score(results, manifest, spec, path)
    return results


def _check_score(results: Evaluation, manifest: Manifest, spec: PolicySpec, path: Path) -> None:
    """Refuse a score that is not this policy's, with this plan, or of too few episodes."""
    command = _command(path.name, path.parent)
    try:
        require_own(results, spec, policy_digest(spec, manifest.files), path)
    except BundleError as error:
        raise BundleError(f"{error}: {command}") from None
    count = len(results.returns)
    if count < EPISODES:
        raise BundleError(
            f"{path} holds {count} episodes, and a score is published over at least "
            f"{EPISODES}; evaluate it anew with: {command}"
        )


COMMANDS = {
    UNPLANNED: "agentzoo evaluate {folder} --plan off --record {folder}",
    RESULTS: "agentzoo evaluate {folder} --record {folder}",
    VIDEO: "agentzoo evaluate {folder} --video {folder}/replay.mp4",
}
EXPORT = "agentzoo export RUN {folder}"  # all else


def _command(name: str, folder: Path) -> str:
    return COMMANDS.get(name, EXPORT).format(folder=folder)


def _require_files(folder: Path, names: Collection[str], without: Collection[str]) -> None:
    if not folder.is_dir():
        raise BundleError(f"there is no folder {folder}; give one that agentzoo export wrote")
    for name in names:
        path = folder / name
        if not stands(path):
            if name in without:
                continue
            leave = f", or leave it out with --without {name}" if name in PICTURES else ""
            raise BundleError(
                f"{folder} has no {name}; make it with: {_command(name, folder)}{leave}"
            )
        check_size(name, path.stat().st_size)


def check_size(name: str, size: int) -> None:
    """Refuse a file that is larger than any of its name should be.

    Raises:
        BundleError: saying how large it may be.
    """
    if size > LIMITS[name]:
        raise BundleError(f"{name} has {size:,} bytes, expected at most {LIMITS[name]:,}")


def check_content(folder: Path, manifest: Manifest) -> Settings:
    """Look at what a bundle's files say, before anything opens them for use.

    Args:
        folder: whose files have the manifest's digests; may lack the weights.
        manifest: the folder's.

    Returns:
        What config.json says.

    Raises:
        BundleError: if a graph reaches outside of itself, weights are no safetensors, or
            config.json and manifest.json contradict each other, or a picture is none.
        EnvironmentStringError: if the environment string is not that of a registered suite.
    """
    for name in manifest.graphs:
        _check_graph(folder / name, manifest.opset)
    if stands(folder / WEIGHTS):
        check_safetensors(folder / WEIGHTS)
    settings = read_settings(folder)
    policy = manifest.policy
    ours = (settings.agent, settings.env, dict(settings.policy.obs), settings.policy.action)
    if ours != (policy.agent, policy.env, dict(policy.obs), policy.action):
        raise BundleError(
            f"{folder / CONFIG} is of {settings.agent} in {settings.env!r}, {MANIFEST} of "
            f"{policy.agent} in {policy.env!r}, or their spaces differ; export the agent again"
        )
    if policy.env:
        check_downloaded(policy.env)
    for name, (at, mark) in MARKS.items():
        if stands(folder / name):
            _check_mark(folder / name, at, mark)
    return settings


def _check_mark(path: Path, at: int, mark: bytes) -> None:
    with open_plain(path) as file:
        found = file.read(at + len(mark))[at:]
    if found != mark:
        raise BundleError(
            f"{path} is not what its name says: it begins otherwise than such files do"
        )


def _check_graph(path: Path, opset: int) -> None:
    if path.stat().st_size == 0:
        raise BundleError(f"{path} is empty; export the policy again")
    with open_plain(path) as file:  # mapped: a look at it takes no memory of its size
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    check_onnx(content, path.name, opset)


def check_safetensors(path: Path) -> None:
    """Refuse weights that are not plain tensors lying end to end, reading the header only.

    Raises:
        BundleError: saying what is wrong with the file.

    Source: the format's description in huggingface/safetensors README.
    """
    size = path.stat().st_size
    with open_plain(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise _no_safetensors(path, f"its header would have {length:,} bytes")
        header = file.read(length)
    try:
        entries = read_object(json.loads(header), path.name)
        json.dumps(entries, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        raise _no_safetensors(path, "its header is no JSON object") from error
    _check_metadata(path, entries.pop("__metadata__", {}))
    spans = sorted(_span(path, name, entry) for name, entry in entries.items())
    edges = [(0, 0), *spans, (size - 8 - length,) * 2]
    if any(end != start for (_, end), (start, _) in pairwise(edges)):
        raise _no_safetensors(path, "its tensors do not lie end to end")


def _check_metadata(path: Path, value: object) -> None:
    texts = read_object(value, f"{path.name}.__metadata__")
    if not all(isinstance(one, str) for one in texts.values()):
        raise _no_safetensors(path, "its metadata are no texts")


def _span(path: Path, name: str, value: object) -> tuple[int, int]:
    """First and last byte of a tensor."""
    tensor = read_fields(_Tensor, value, f"{path.name}.{name[:80]}")
    sizes = tensor.shape
    plain = len(sizes) <= AXES_LIMIT and all(0 <= size <= LARGEST_SIZE for size in sizes)
    width = WIDTHS.get(tensor.dtype)
    if len(tensor.data_offsets) == 2 and width is not None and plain:
        start, end = tensor.data_offsets
        if 0 <= start <= end and prod(tensor.shape) * width == end - start:
            return start, end
    raise _no_safetensors(path, f'the entry of "{name[:80]}" is {value!r:.120}')


def _no_safetensors(path: Path, why: str) -> BundleError:
    return BundleError(f"{path} is not in the safetensors format: {why}; save the agent again")
