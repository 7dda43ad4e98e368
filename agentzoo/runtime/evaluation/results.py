"""results.json: what a policy scored; read from anywhere, written where the user says."""

import json
from pathlib import Path

from ..bundle.manifest import MANIFEST, RESULTS, UNPLANNED, policy_digest, read_json, read_manifest
from ..envs import for_evaluation, resolve, settings_of
from ..errors import BundleError, ConfigError
from ..files import at_home, stands, write_plain
from ..policy.planners import can_leave_out, replanned
from ..spec import PolicySpec
from .rollout import Evaluation, check_episodes


def read_results(path: Path) -> Evaluation:
    """The evaluation in a file that ends in .json, or in a folder's `results.json`.

    Raises:
        BundleError: if there is none, or it is ill-formed.
    """
    return Evaluation.from_json(read_json(path if path.suffix == ".json" else path / RESULTS))


def write_results(found: Evaluation, path: Path) -> Path:
    """Write an evaluation down.

    Args:
        found: the evaluation.
        path: a file that ends in .json, or a folder for its `results.json`. Into a bundle's folder
            goes only a score of that very bundle; that of its policy network without planning goes
            to `results_plan_off.json`.

    Returns:
        The file.

    Raises:
        BundleError: if the folder is a bundle and the score is not its own, of fewer episodes than
            those that are written there, or a link is in the way.
    """
    path = results_file(path)
    folder = path.parent
    check_episodes(found)  # what could not be read back is not written
    if path.name in (RESULTS, UNPLANNED) and stands(folder / MANIFEST):
        manifest = read_manifest(folder)
        spec = manifest.policy
        other = found.policy_sha256 != policy_digest(spec, manifest.files)
        if path.name == UNPLANNED or (other and can_leave_out(spec)):
            path, spec = folder / UNPLANNED, replanned(spec, "off")
        require_own(found, spec, policy_digest(spec, manifest.files), folder)
        _require_no_fewer(found, path)
    folder.mkdir(parents=True, exist_ok=True)
    return write_plain(path, json.dumps(found.to_json(), indent=1) + "\n")


def results_file(path: str | Path) -> Path:
    """The file of a score: a .json file, or the results.json of a folder, which may be missing.

    Raises:
        ConfigError: if another kind of file stands there.
    """
    path = at_home(path)
    if path.suffix == ".json":
        return path
    if path.is_file():
        raise ConfigError(f"{path} is a file; name a .json file for the score, or a folder")
    return path / RESULTS


def require_own(found: Evaluation, spec: PolicySpec, digest: str, where: Path | str) -> None:
    """Refuse a score of another agent, environment, action repeat or graph than the policy's.

    Args:
        found: the score.
        spec: the policy's spec.
        digest: the policy's (see `manifest.policy_digest`).
        where: the score's place, for messages.

    Raises:
        BundleError: saying what differs.
    """
    env = for_evaluation(resolve(spec.env, trusted=False)) if spec.env else ""
    repeat = int(settings_of(env).get("repeat", 1)) if env else 1
    pairs = {
        "agent": (found.agent, spec.agent),
        "environment": (found.env, env),
        "action repeat": (found.repeat, repeat),
    }
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise BundleError(
                f"the score in {where} is of the {name} {theirs!r:.120}, the policy's is "
                f"{ours!r:.120}; evaluate the policy anew"
            )
    if found.policy_sha256 != digest:
        raise BundleError(
            f"the score in {where} is of another graph or plan, with sha256 "
            f"{found.policy_sha256[:12] or '(none)'}, than this policy's, {digest[:12]}; evaluate "
            "it anew"
        )


def _require_no_fewer(found: Evaluation, path: Path) -> None:
    if not stands(path):
        return
    try:
        there = read_results(path)
    except BundleError:  # ill-formed, or of an older format: nothing that is worth keeping
        return
    same = (there.policy_sha256, there.deterministic) == (found.policy_sha256, found.deterministic)
    if same and len(there.returns) > len(found.returns):
        raise BundleError(
            f"{path} holds {len(there.returns)} episodes of this policy, and these are "
            f"{len(found.returns)}; evaluate as many, or remove it first"
        )
