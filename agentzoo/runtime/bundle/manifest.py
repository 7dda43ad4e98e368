"""manifest.json: what a bundle's files are and what they have to be."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import BundleError
from ..files import open_plain, stands, write_plain
from ..policy.onnx_session import GraphSpec, graph_specs
from ..spec import PolicySpec
from ..strict_json import read_fields, read_object, write_fields
from ..world.signature import TRACE, WorldSpec, check_world, world_graph_specs
from .spec_check import check_spec

FORMAT = 1
OPSET = 20
MANIFEST, GOLDEN, RESULTS = "manifest.json", "golden.npz", "results.json"
UNPLANNED = "results_plan_off.json"  # the score of a planner's policy network by itself
OWNED = ("config.json", "model.safetensors")  # the agent's; a serving machine may do without
JSON_LIMIT = 4 << 20  # bytes of a JSON file


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """The size and digest that a file has to have.

    Attributes:
        sha256: of its content, in hexadecimal.
        bytes: its size.
    """

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A bundle's manifest.json.

    Attributes:
        format: version of the folder's format.
        policy: what the policy reads, keeps, draws and gives.
        graphs: inputs and outputs of each ONNX file.
        files: size and sha256 of the files that existed at export.
        opset: ONNX operator set of the graphs.
        provenance: versions of the packages that made the bundle.
        world: what the world model's graphs say; None where the bundle holds none.
    """

    format: int
    policy: PolicySpec
    graphs: Mapping[str, GraphSpec]
    files: Mapping[str, FileEntry]
    opset: int
    provenance: Mapping[str, str]
    world: WorldSpec | None = None

    @property
    def needed(self) -> list[str]:
        """Files that have to be there: graphs and recorded steps."""
        return [*self.graphs, GOLDEN, *([TRACE] if self.world else [])]


def read_manifest(folder: Path, digests: Mapping[str, str] | None = None) -> Manifest:
    """A folder's manifest, after checking it and the files it lists.

    Args:
        folder: a bundle's.
        digests: name -> sha256 of files that the caller has just hashed; the others are read.

    Raises:
        BundleError: if it is missing, from a newer version, ill-formed, or not true of the folder.
    """
    value = read_object(read_json(folder / MANIFEST), MANIFEST)
    _check_format(value.get("format"), folder)
    # a bundle without a world model does not mention one
    manifest = read_fields(Manifest, {"world": None, **value}, MANIFEST)
    check_spec(manifest.policy, has_world=manifest.world is not None)
    if manifest.world is not None:
        check_world(manifest.world)
    if manifest.graphs != _graph_specs(manifest.policy, manifest.world):
        raise BundleError(
            f"{folder / MANIFEST} names the graphs' tensors otherwise than its policy implies; "
            "export the policy again"
        )
    _check_files(folder, manifest.files, manifest.needed, digests or {})
    return manifest


def _graph_specs(policy: PolicySpec, world: WorldSpec | None) -> dict[str, GraphSpec]:
    return graph_specs(policy) | ({} if world is None else world_graph_specs(policy, world))


def write_manifest(
    folder: Path,
    spec: PolicySpec,
    provenance: Mapping[str, str],
    world: WorldSpec | None = None,
) -> None:
    """Write manifest.json for the files that are in the folder now."""
    specs = _graph_specs(spec, world)
    traces = (GOLDEN,) if world is None else (GOLDEN, TRACE)
    names = [name for name in (*specs, *traces, *OWNED) if stands(folder / name)]
    manifest = Manifest(
        format=FORMAT,
        policy=spec,
        graphs=specs,
        files={name: _entry(folder / name) for name in names},
        opset=OPSET,
        provenance=provenance,
        world=world,
    )
    entries = write_fields(manifest)
    if world is None:
        del entries["world"]
    text = json.dumps(entries, indent=1, allow_nan=False)
    write_plain(folder / MANIFEST, text + "\n")


def policy_digest(spec: PolicySpec, files: Mapping[str, FileEntry]) -> str:
    """The policy's digest in scores: sha256 of its graph, or of all its graphs and its plan.

    Args:
        spec: the policy's spec, with the plan that is used.
        files: size and sha256 of the graphs, and perhaps of other files.
    """
    graphs = [*graph_specs(spec)]
    if len(graphs) == 1 and spec.plan is None:
        return files[graphs[0]].sha256
    lines = [f"{name} {files[name].sha256}\n" for name in graphs]
    plan = json.dumps(asdict(spec.plan) if spec.plan else None, sort_keys=True)
    return hashlib.sha256("".join([*lines, f"plan {plan}\n"]).encode()).hexdigest()


def read_json(path: Path) -> object:
    """Parsed JSON of a file that may come from anywhere.

    Raises:
        BundleError: if it is missing, a link, larger than 4 MiB, or not JSON.
    """
    if not stands(path):
        raise BundleError(
            f"{path.parent} has no {path.name}, so it is not a whole bundle; "
            "make one with agent.export(folder) or agentzoo export"
        )
    with open_plain(path) as file:
        content = file.read(JSON_LIMIT + 1)
    if len(content) > JSON_LIMIT:
        raise BundleError(f"{path} is larger than {JSON_LIMIT:,} bytes, which no manifest is")
    try:
        value = json.loads(content)
        # a lone surrogate, which JSON can spell, could be neither shown, sent nor stored
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON ({error}); fetch or export it again") from error
    return value


def _check_format(found: object, folder: Path) -> None:
    if type(found) is not int or found < 1:
        raise BundleError(f"{folder / MANIFEST} is not a bundle's manifest: its format is {found}")
    if found > FORMAT:
        raise BundleError(
            f"{folder} has format {found}, this version reads up to {FORMAT}; "
            "run: pip install --upgrade agentzoo-rl"
        )


def _check_files(
    folder: Path,
    files: Mapping[str, FileEntry],
    needed: Sequence[str],
    digests: Mapping[str, str],
) -> None:
    for name in needed:
        if name not in files:
            raise BundleError(f"{folder / MANIFEST} does not list {name}; export the policy again")
    for name, entry in files.items():
        if name not in (*needed, *OWNED):
            raise BundleError(f'{folder / MANIFEST} lists "{name}", which no bundle has')
        if name not in OWNED or stands(folder / name):
            _check_file(folder / name, entry, digests.get(name))


def _check_file(path: Path, entry: FileEntry, digest: str | None) -> None:
    if not stands(path):
        raise BundleError(f"{path.parent} lacks {path.name}; fetch or export the bundle again")
    if path.stat().st_size != entry.bytes or (digest or file_sha256(path)) != entry.sha256:
        raise _tampered(path)


def _tampered(path: Path) -> BundleError:
    return BundleError(
        f"{path} is not the file that was exported: its sha256 differs from {MANIFEST}; "
        "fetch or export the bundle again"
    )


def read_checked(folder: Path, name: str, entry: FileEntry) -> bytes:
    """A file's content, hashed as it was read: what was checked is what is parsed.

    Raises:
        BundleError: if it is not the file that the manifest lists.
    """
    with open_plain(folder / name) as file:
        content = file.read(entry.bytes + 1)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise _tampered(folder / name)
    return content


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file that is no link, in hexadecimal digits."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
