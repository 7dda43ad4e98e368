"""The cross-entropy loop: finds optima, keeps rows apart, refuses nonsense."""

import numpy as np
import pytest

from agentzoo.runtime.errors import ConfigError, SpaceError
from agentzoo.runtime.policy.noise import draw, with_plan_axes
from agentzoo.runtime.policy.planners import PlanStep, Rollouts, first_proposals, plan, replanned
from agentzoo.runtime.policy.policy import Policy
from agentzoo.runtime.spec import ActionSpec, NoiseSpec, PlanSpec, PolicySpec, TensorSpec
from tests.serving.toys import PlanningToy, seeded, torch_policy, toy_spec

ACTION = ActionSpec(
    kind="box", size=2, shape=(2,), dtype="float32", low=(-2.0, -2.0), high=(2.0, 2.0)
)
PLAN = PlanSpec(horizon=3, candidates=200, elites=20, iterations=10)


def proposals(batch, spec=PLAN, seed=0):
    shape = (spec.iterations, spec.candidates, spec.horizon, ACTION.size)
    specs = {"plan": NoiseSpec(shape=shape, role="plan")}
    return draw(specs, [(seed, row, 0) for row in range(batch)])


def towards(target):
    """Returns that fall with the squared distance of every action from the row's target."""

    def score(carry, actions, noise):
        return -((actions - carry["target"][:, None, None]) ** 2).sum((2, 3))

    return score, {"target": np.asarray(target, np.float32)}


def test_finds_the_optimum_of_each_row():
    target = [[0.3, -0.6], [-0.8, 0.1], [0.0, 0.9]]
    score, carry = towards(target)
    found = plan(score, carry, PLAN, ACTION, proposals(3))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, target, atol=0.02)


def test_optimum_outside_is_clipped_to_the_edge():
    score, carry = towards([[5.0, -5.0]])
    found = plan(score, carry, PLAN, ACTION, proposals(1))
    np.testing.assert_allclose(found, [[1.0, -1.0]], atol=1e-3)
    assert (np.abs(found) <= 1).all()


def test_rows_planned_together_equal_rows_planned_alone():
    score, carry = towards(np.random.default_rng(1).uniform(-1, 1, (4, 2)))
    noise = proposals(4)
    together = plan(score, carry, PLAN, ACTION, noise)
    for row in range(4):
        one = slice(row, row + 1)
        alone = plan(
            score, {"target": carry["target"][one]}, PLAN, ACTION, {"plan": noise["plan"][one]}
        )
        assert np.array_equal(alone[0], together[row])


def test_one_iteration_is_the_mean_of_the_clipped_elites():
    spec = PlanSpec(horizon=2, candidates=5, elites=2, iterations=1)
    noise = proposals(1, spec)
    returns = np.array([[0.0, 3.0, 1.0, 3.0, 3.0]])
    found = plan(lambda carry, actions, noise: returns, {}, spec, ACTION, noise)
    clipped = np.clip(noise["plan"][0, 0], -1, 1)
    np.testing.assert_allclose(found[0], (clipped[1, 0] + clipped[3, 0]) / 2, rtol=1e-6)


def test_second_iteration_starts_from_population_deviation():
    spec = PlanSpec(horizon=1, candidates=4, elites=2, iterations=2)
    noise, seen = proposals(1, spec), []

    def score(carry, actions, noise):
        seen.append(actions)
        return np.array([[2.0, 1.0, 0.0, 0.0]])

    plan(score, {}, spec, ACTION, noise)
    elites = seen[0][0, :2]
    std = np.sqrt(((elites[0] - elites[1]) / 2) ** 2 + 1e-6)  # 1/K, not 1/(K-1)
    expected = np.clip(elites.mean(0) + std * noise["plan"][0, 1], -1, 1)
    np.testing.assert_allclose(seen[1][0], expected, rtol=1e-5, atol=1e-6)


def test_rollouts_get_their_iterations_noise_and_nothing_else():
    spec = PlanSpec(horizon=2, candidates=3, elites=1, iterations=2)
    noise, seen = proposals(1, spec), []
    noise["rollout"] = np.arange(2 * 3 * 2 * 4.0).reshape(1, 2, 3, 2, 4)
    noise["latent"] = np.zeros((1, 7))

    def score(carry, actions, rollouts):
        seen.append(rollouts)
        return np.zeros((1, 3))

    plan(score, {}, spec, ACTION, noise)
    assert [list(one) for one in seen] == [["rollout"]] * 2
    assert np.array_equal(seen[1]["rollout"], noise["rollout"][:, 1])


def test_no_iterations_plan_nothing():
    spec = PlanSpec(horizon=2, candidates=5, elites=2, iterations=0)
    found = plan(lambda *_: np.full((3, 5), np.nan), {}, spec, ACTION, proposals(3, spec))
    assert found.dtype == np.float32
    assert np.array_equal(found, np.zeros((3, 2)))


def test_equal_elites_leave_a_thousandth_to_search():
    spec, seen = PlanSpec(horizon=1, candidates=3, elites=2, iterations=2), []
    noise = proposals(1, spec)
    noise["plan"][:, 0] = 0.25

    def score(carry, actions, noise):
        seen.append(actions)
        return np.zeros((1, 3))

    plan(score, {}, spec, ACTION, noise)
    np.testing.assert_allclose(seen[1], 0.25 + 1e-3 * noise["plan"][:, 1], rtol=1e-5)


def test_returns_that_do_not_depend_on_actions_move_nothing_far():
    spec = PlanSpec(horizon=2, candidates=1000, elites=100, iterations=10)
    rng = np.random.default_rng(0)
    found = plan(lambda *_: rng.random((8, 1000)), {}, spec, ACTION, proposals(8, spec))
    assert np.abs(found).max() < 0.6  # ten means of 100 draws, each a step of a random walk


def walk(carry, action, noise):
    """Moves by the action and some noise; the reward is how far along the row's own way it is."""
    place = carry["place"] + action + 0.1 * noise["gust"]
    return {"place": place, "way": carry["way"]}, (place * carry["way"]).sum(-1)


def walkers(batch, spec, seed=0):
    rng = np.random.default_rng(seed)
    carry = {name: rng.standard_normal((batch, 2), np.float32) for name in ("place", "way")}
    lead = (spec.iterations, spec.candidates, spec.horizon)
    specs = {
        "plan": NoiseSpec(shape=(*lead, 2), role="plan"),
        "gust": NoiseSpec(shape=(*lead, 2), role="score"),
    }
    return carry, draw(specs, [(seed, row, 0) for row in range(batch)])


def test_rollouts_add_up_the_rewards_of_every_step():
    spec = PlanSpec(horizon=3, candidates=4, elites=2, iterations=1)
    carry, noise = walkers(2, spec)
    actions, gust = noise["plan"][:, 0], noise["gust"][:, 0]
    found = Rollouts(walk)(carry | {"prev_action": np.ones((2, 2))}, actions, {"gust": gust})
    for row in range(2):
        for j in range(4):
            place, total = carry["place"][row], 0.0
            for t in range(3):
                place = place + actions[row, j, t] + 0.1 * gust[row, j, t]
                total += place @ carry["way"][row]
            assert found[row, j] == pytest.approx(total, rel=1e-4)


def test_rows_of_different_states_plan_together_as_alone():
    spec = PlanSpec(horizon=3, candidates=50, elites=5, iterations=4)
    carry, noise = walkers(4, spec)
    together = plan(Rollouts(walk), carry, spec, ACTION, noise)
    for row in range(4):
        alone = plan(
            Rollouts(walk),
            {name: array[row : row + 1] for name, array in carry.items()},
            spec,
            ACTION,
            {name: array[row : row + 1] for name, array in noise.items()},
        )
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)
    assert len(np.unique(together.round(3), axis=0)) == 4


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"candidates": 0}, "candidates is 0, expected at least 1"),
        ({"horizon": 0}, "horizon is 0"),
        ({"iterations": -1}, "iterations is -1, expected at least 0"),
        ({"elites": 0}, "elites is 0"),
        ({"candidates": 5, "elites": 6}, "keeps 6 elites of 5 candidates"),
    ],
)
def test_contradicting_settings_are_refused(changes, match):
    spec = PlanSpec(**({"horizon": 2, "candidates": 5, "elites": 2, "iterations": 2} | changes))
    with pytest.raises(ConfigError, match=match):
        plan(lambda *_: np.zeros((1, 5)), {}, spec, ACTION, {"plan": np.zeros((1, 2, 5, 2, 2))})


def test_discrete_actions_are_refused():
    action = ActionSpec(kind="discrete", size=2, shape=(), dtype="int64", nvec=(2,), start=(0,))
    with pytest.raises(SpaceError, match="searches over a Box of actions"):
        plan(lambda *_: np.zeros((1, 5)), {}, PLAN, action, proposals(1))


def test_plan_step_needs_exactly_one_tensor_of_proposals():
    spec = toy_spec(seeded(PlanningToy), noise={"latent": NoiseSpec(shape=(4,))})
    with pytest.raises(ConfigError, match="draws 0 noise tensors of the role plan"):
        PlanStep(lambda *_: {}, lambda *_: np.zeros(0), spec)
    with pytest.raises(ConfigError, match="has no planner"):
        PlanStep(lambda *_: {}, lambda *_: np.zeros(0), toy_spec(seeded(PlanningToy), plan=None))


def test_some_settings_are_replaced_and_the_others_kept():
    spec = replanned(planning_spec(), {"candidates": 40, "horizon": 5})
    assert spec.plan == PlanSpec(horizon=5, candidates=40, elites=20, iterations=10)
    assert replanned(planning_spec(), {}) == planning_spec()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"candidates": 0}, "candidates is 0, expected at least 1"),
        ({"candidates": 5}, "keeps 20 elites of 5 candidates"),
        ({"candidate": 50}, r"no setting 'candidate'; did you mean \"candidates\""),
        ({"horizon": 2.5}, r"horizon is 2\.5, expected a whole number"),
        ({"horizon": True}, "horizon is True, expected a whole number"),
        ({"candidates": 10_000_000}, "would draw .* random numbers, 268,435,456 are allowed"),
    ],
)
def test_replanning_refuses_nonsense(changes, match):
    with pytest.raises(ConfigError, match=match):
        replanned(planning_spec(), changes)


def test_replanning_needs_a_planner():
    spec = toy_spec(seeded(PlanningToy), plan=None)
    with pytest.raises(ConfigError, match="a Toy, which acts without planning; leave out plan"):
        replanned(spec, {"horizon": 2})


def planning_spec():
    return PolicySpec(
        agent="Follow",
        env="",
        obs=toy_spec(seeded(PlanningToy)).obs,
        action=ACTION,
        carry={"target": TensorSpec(shape=(2,)), "prev_action": TensorSpec(shape=(2,))},
        noise={"proposals": NoiseSpec(shape=(2,), role="plan"), "latent": NoiseSpec(shape=(1,))},
        plan=PLAN,
    )


def test_plan_step_feeds_back_model_units_and_gives_the_environments_own():
    spec, given = planning_spec(), []

    def observe(carry, obs, noise):
        given.append(list(noise))
        return {"target": obs["observation"][:, :2], "prev_action": carry["prev_action"]}

    step = PlanStep(observe, towards([[0.0, 0.0]])[0], spec)
    policy = Policy(step, spec)
    action, state = policy.predict(np.array([0.5, -0.25, 0.0]))
    np.testing.assert_allclose(action, [1.0, -0.5], atol=0.05)  # bounds are +-2
    np.testing.assert_allclose(state.carry["prev_action"], [[0.5, -0.25]], atol=0.025)
    assert given == [["latent"]]


def test_first_proposals_are_the_clipped_noise():
    spec = planning_spec()
    noise = draw(with_plan_axes(spec.noise, spec.plan), [(0, 0, 0)])
    actions, rollouts = first_proposals(spec, noise)
    assert np.array_equal(actions, np.clip(noise["proposals"][:, 0], -1, 1))
    assert rollouts == {}


def test_planning_in_a_batch_equals_planning_alone():
    policy = torch_policy(seeded(PlanningToy))
    batch = np.random.default_rng(0).standard_normal((3, 3))
    actions, _ = policy.predict(batch)
    again, _ = policy.predict(batch[:1])
    np.testing.assert_allclose(actions[:1], again, atol=1e-5)
