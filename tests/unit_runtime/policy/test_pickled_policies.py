"""An exported policy travels to other processes as its folder and digest."""

import copy
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from agentzoo.runtime import load_policy
from agentzoo.runtime.bundle.load import load_verified
from agentzoo.runtime.errors import BundleError


def observation(spec):
    rng = np.random.default_rng(0)
    return {
        key: rng.integers(0, 256, one.source, np.uint8)
        if one.kind == "image"
        else rng.standard_normal(one.source).astype(np.float32)
        for key, one in spec.obs.items()
    }


@pytest.mark.parametrize("kind", ["box", "discrete", "planning"])
def test_a_pickled_policy_goes_on_where_it_was(bundles, kind):
    policy = load_policy(bundles(kind)[0], provider="cpu", seed=5)
    obs = observation(policy.spec)
    policy.act(obs)
    content = pickle.dumps(policy)
    again, copied = pickle.loads(content), copy.deepcopy(policy)
    assert len(content) < 10_000  # no graph in it
    assert copied.step is policy.step
    assert again.digest == policy.digest
    for _ in range(3):
        expected = policy.act(obs)
        assert np.array_equal(again.act(obs), expected)
        assert np.array_equal(copied.act(obs), expected)


def test_a_copy_has_its_own_episode(bundles):
    policy = load_policy(bundles("box")[0], provider="cpu")
    obs = observation(policy.spec)
    copied = copy.deepcopy(policy)
    first = policy.act(obs)
    policy.act(obs)
    assert np.array_equal(copied.act(obs), first)


def test_other_settings_of_the_planner_travel_along(bundles):
    folder = bundles("planning")[0]
    policy = load_policy(folder, provider="cpu", plan={"candidates": 8, "elites": 2})
    again = pickle.loads(pickle.dumps(policy))
    assert again.spec.plan == again.step.plan == policy.spec.plan
    assert again.digest == policy.digest != load_policy(folder).digest


def test_a_verified_policy_is_pickled_too(bundles):
    policy, _ = load_verified(bundles("box")[0], provider="cpu")
    assert pickle.loads(pickle.dumps(policy)).digest == policy.digest


def test_another_process_acts_with_it_without_torch(bundles, tmp_path):
    policy = load_policy(bundles("vector")[0], provider="cpu", seed=2)
    obs = observation(policy.spec)["observation"]
    (tmp_path / "policy.pkl").write_bytes(pickle.dumps((policy, obs)))
    code = (
        "import pickle, sys; sys.modules['torch'] = None\n"
        f"policy, obs = pickle.load(open({str(tmp_path / 'policy.pkl')!r}, 'rb'))\n"
        "print(policy.act(obs).tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(policy.act(obs).tolist())


def test_a_folder_that_holds_another_policy_by_then_is_refused(bundles, tmp_path):
    folder = shutil.copytree(bundles("vector")[0], tmp_path / "bundle")
    content = pickle.dumps(load_policy(folder, provider="cpu"))
    shutil.rmtree(folder)
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        pickle.loads(content)
    shutil.copytree(bundles("discrete")[0], folder)
    with pytest.raises(BundleError, match="holds another policy than the one that was pickled"):
        pickle.loads(content)
