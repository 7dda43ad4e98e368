"""The planners' loops: find optima, keep batch elements apart, refuse nonsense."""

from dataclasses import replace

import numpy as np
import pytest

from agentzoo.runtime.errors import ConfigError, SpaceError
from agentzoo.runtime.policy.noise import draw, with_plan_axes
from agentzoo.runtime.policy.planners import (
    Draws,
    ImaginedStep,
    PlanModel,
    PlanStep,
    Rollouts,
    Search,
    cem,
    check,
    first_returns,
    mppi,
    parse_plan,
    replanned,
)
from agentzoo.runtime.policy.policy import Policy
from agentzoo.runtime.spec import ActionSpec, CEMSpec, MPPISpec, NoiseSpec, PolicySpec, TensorSpec
from tests.unit_runtime.toys import PlanningToy, seeded, torch_policy, toy_spec

ACTION = ActionSpec(
    kind="box", size=2, shape=(2,), dtype="float32", low=(-2.0, -2.0), high=(2.0, 2.0)
)
PLAN = CEMSpec(horizon=3, candidates=200, elites=20, iterations=10)


PLAN_NOISE = {
    "plan": NoiseSpec(shape=(2,), role="plan"),
    "gust": NoiseSpec(shape=(2,), role="score"),
    "latent": NoiseSpec(shape=(7,)),
}


def proposals(batch, spec=PLAN, seed=0):
    specs = with_plan_axes({"plan": PLAN_NOISE["plan"]}, spec)
    return draw(specs, [(seed, element, 0) for element in range(batch)])


def plan(score, spec, noise):
    return cem(Search(score), spec, ACTION.size, Draws(PLAN_NOISE, noise))


def towards(target):
    """Returns that fall with the squared distance of every action from the element's target."""
    target = np.asarray(target, np.float32)
    return lambda actions, *_: -((actions - target[:, None, None]) ** 2).sum((2, 3))


def test_finds_the_optimum_of_each_element():
    target = [[0.3, -0.6], [-0.8, 0.1], [0.0, 0.9]]
    score = towards(target)
    found = plan(score, PLAN, proposals(3))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, target, atol=0.02)


def test_optimum_outside_is_clipped_to_the_edge():
    score = towards([[5.0, -5.0]])
    found = plan(score, PLAN, proposals(1))
    np.testing.assert_allclose(found, [[1.0, -1.0]], atol=1e-3)
    assert (np.abs(found) <= 1).all()


def test_elements_planned_together_equal_elements_planned_alone():
    targets = np.random.default_rng(1).uniform(-1, 1, (4, 2))
    noise = proposals(4)
    together = plan(towards(targets), PLAN, noise)
    for i in range(4):
        one = slice(i, i + 1)
        alone = plan(towards(targets[one]), PLAN, {"plan": noise["plan"][one]})
        assert np.array_equal(alone[0], together[i])


def test_one_iteration_is_the_mean_of_the_clipped_elites():
    spec = CEMSpec(horizon=2, candidates=5, elites=2, iterations=1)
    noise = proposals(1, spec)
    returns = np.array([[0.0, 3.0, 1.0, 3.0, 3.0]])
    found = plan(lambda *_: returns, spec, noise)
    clipped = np.clip(noise["plan"][0, 0], -1, 1)
    np.testing.assert_allclose(found[0], (clipped[1, 0] + clipped[3, 0]) / 2, rtol=1e-6)


def test_second_iteration_starts_from_population_deviation():
    spec = CEMSpec(horizon=1, candidates=4, elites=2, iterations=2)
    noise, seen = proposals(1, spec), []

    def score(actions, *_):
        seen.append(actions)
        return np.array([[2.0, 1.0, 0.0, 0.0]])

    plan(score, spec, noise)
    elites = seen[0][0, :2]
    std = np.sqrt(((elites[0] - elites[1]) / 2) ** 2 + 1e-6)  # 1/K, not 1/(K-1)
    expected = np.clip(elites.mean(0) + std * noise["plan"][0, 1], -1, 1)
    np.testing.assert_allclose(seen[1][0], expected, rtol=1e-5, atol=1e-6)


def test_rollouts_get_their_iterations_noise_and_nothing_else():
    spec = CEMSpec(horizon=2, candidates=3, elites=1, iterations=2)
    noise, seen = proposals(1, spec), []
    noise["gust"] = np.arange(2 * 3 * 2 * 2.0).reshape(1, 2, 3, 2, 2)
    noise["latent"] = np.zeros((1, 7))

    def score(actions, imagined, valued):
        seen.append(imagined)
        assert valued == {}
        return np.zeros((1, 3))

    plan(score, spec, noise)
    assert [list(one) for one in seen] == [["gust"]] * 2
    assert np.array_equal(seen[1]["gust"], noise["gust"][:, 1])


def test_no_iterations_plan_nothing():
    spec = CEMSpec(horizon=2, candidates=5, elites=2, iterations=0)
    found = plan(lambda *_: np.full((3, 5), np.nan), spec, proposals(3, spec))
    assert found.dtype == np.float32
    assert np.array_equal(found, np.zeros((3, 2)))


def test_equal_elites_leave_a_thousandth_to_search():
    spec, seen = CEMSpec(horizon=1, candidates=3, elites=2, iterations=2), []
    noise = proposals(1, spec)
    noise["plan"][:, 0] = 0.25

    def score(actions, *_):
        seen.append(actions)
        return np.zeros((1, 3))

    plan(score, spec, noise)
    np.testing.assert_allclose(seen[1], 0.25 + 1e-3 * noise["plan"][:, 1], rtol=1e-5)


def test_returns_that_do_not_depend_on_actions_move_nothing_far():
    spec = CEMSpec(horizon=2, candidates=1000, elites=100, iterations=10)
    rng = np.random.default_rng(0)
    found = plan(lambda *_: rng.random((8, 1000)), spec, proposals(8, spec))
    assert np.abs(found).max() < 0.6  # ten means of 100 draws, each a step of a random walk


def walk(carry, action, noise):
    """Moves by the action and some noise; the reward is how far along its own way an element is."""
    place = carry["place"] + action + 0.1 * noise["gust"]
    return ImaginedStep({"place": place, "way": carry["way"]}, (place * carry["way"]).sum(-1))


def model(**heads):
    return PlanModel(lambda *_: {}, heads.pop("imagine", walk), **heads)


def walkers(batch, spec, specs=PLAN_NOISE, seed=0):
    rng = np.random.default_rng(seed)
    carry = {name: rng.standard_normal((batch, 2), np.float32) for name in ("place", "way")}
    return carry, draw(with_plan_axes(specs, spec), [(seed, i, 0) for i in range(batch)])


def test_rollouts_add_up_the_rewards_of_every_step():
    spec = CEMSpec(horizon=3, candidates=4, elites=2, iterations=1)
    carry, noise = walkers(2, spec)
    actions, gust = noise["plan"][:, 0], noise["gust"][:, 0]
    rollouts = Rollouts(model(), carry | {"prev_action": np.ones((2, 2))})
    found = rollouts.score(actions, {"gust": gust}, {})
    for i in range(2):
        for j in range(4):
            place, total = carry["place"][i], 0.0
            for t in range(3):
                place = place + actions[i, j, t] + 0.1 * gust[i, j, t]
                total += place @ carry["way"][i]
            assert found[i, j] == pytest.approx(total, rel=1e-4)


def test_rollouts_discount_end_with_the_episode_and_value_where_they_lead():
    spec = MPPISpec(horizon=3, candidates=4, elites=2, iterations=1)
    carry, noise = walkers(2, spec)
    actions, gust = noise["plan"][:, 0], noise["gust"][:, 0]
    shared = np.random.default_rng(5).random((2, 4), np.float32)

    def lives(carry, action, noise):
        return walk(carry, action, noise)._replace(cont=(carry["place"][:, 0] < 0.5).astype("f4"))

    def value(carry, noise):
        return carry["place"].sum(-1) + noise["shared"]

    rollouts = Rollouts(model(imagine=lives, value=value), carry, discount=0.9)
    found = rollouts.score(actions, {"gust": gust}, {"shared": shared})
    for i in range(2):
        for j in range(4):
            place, total, weight = carry["place"][i], 0.0, 1.0
            for t in range(3):
                goes_on = place[0] < 0.5
                place = place + actions[i, j, t] + 0.1 * gust[i, j, t]
                total += weight * (place @ carry["way"][i])
                weight *= 0.9 * goes_on
            total += weight * (place.sum() + shared[i, j])
            assert found[i, j] == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_elements_of_different_states_plan_together_as_alone():
    spec = CEMSpec(horizon=3, candidates=50, elites=5, iterations=4)
    carry, noise = walkers(4, spec)
    together = plan(Rollouts(model(), carry).score, spec, noise)
    for i in range(4):
        one = {name: array[i : i + 1] for name, array in carry.items()}
        mine = {name: array[i : i + 1] for name, array in noise.items()}
        alone = plan(Rollouts(model(), one).score, spec, mine)
        np.testing.assert_allclose(alone[0], together[i], atol=1e-6)
    assert len(np.unique(together.round(3), axis=0)) == 4


# -- mppi ----------------------------------------------------------------------------------------

MPPI = MPPISpec(
    heads=("value", "policy"), horizon=3, candidates=200, elites=20, iterations=8, proposals=10,
    max_std=1.0,
)  # fmt: skip
MPPI_NOISE = {
    "plan": NoiseSpec(shape=(2,), role="plan"),
    "gust": NoiseSpec(shape=(2,), role="score"),
    "own": NoiseSpec(shape=(2,), role="policy"),
    "worth": NoiseSpec(shape=(1,), role="value"),
    "pick": NoiseSpec(shape=(5,), kind="uniform", role="shared"),
    "elite": NoiseSpec(shape=(), kind="uniform", role="elite"),
    "perturb": NoiseSpec(shape=(2,), role="perturb"),
}


def still(batch, value):
    return lambda noise, mode: np.full((batch, *noise["own"].shape[1:]), value, np.float32)


def search(score, batch, value=0.0):
    return Search(score, still(batch, value))


def decide(score, batch=1, spec=MPPI, memory=None, greedy=True, value=0.0, seed=0):
    _, noise = walkers(batch, spec, MPPI_NOISE, seed)
    memory = np.zeros((batch, spec.horizon, 2), np.float32) if memory is None else memory
    draws, modes = Draws(MPPI_NOISE, noise), np.full(batch, greedy)
    return mppi(search(score, batch, value), spec, 2, draws, modes, memory)


def test_mppi_finds_the_optimum_of_each_element():
    target = [[0.3, -0.6], [-0.8, 0.1], [0.0, 0.9]]
    found, memory = decide(lambda actions, *_: 20 * towards(target)(actions), batch=3)
    assert found.dtype == memory.dtype == np.float32
    np.testing.assert_allclose(found, target, atol=0.15)
    np.testing.assert_allclose(memory, np.repeat(np.array(target)[:, None], 3, 1), atol=0.15)


def test_mppi_starts_from_the_plan_before_one_step_on():
    spec, seen = replace(MPPI, iterations=1, proposals=0), []
    memory = np.array([[[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]], np.float32)

    def score(actions, *_):
        seen.append(actions.copy())
        return np.zeros(actions.shape[:2], np.float32)

    decide(score, spec=spec, memory=memory)
    _, noise = walkers(1, spec, MPPI_NOISE)
    start = np.array([[0.3, 0.4], [0.5, 0.6], [0, 0]], np.float32)
    np.testing.assert_allclose(seen[0], np.clip(start + noise["plan"][:, 0], -1, 1), atol=1e-6)


def test_mppi_scores_the_policys_proposals_every_time():
    seen = []

    def score(actions, *_):
        seen.append(actions[:, :10].copy())
        return np.zeros(actions.shape[:2], np.float32)

    decide(score, value=0.25)
    assert len(seen) == 8
    assert all((one == 0.25).all() for one in seen)


def test_mppi_weighs_elites_by_their_returns_and_draws_one():
    spec = replace(MPPI, candidates=4, elites=3, iterations=1, proposals=0, temperature=2.0)
    returns = np.array([[1.0, 0.5, -9.0, 0.0]], np.float32)
    _, noise = walkers(1, spec, MPPI_NOISE)
    actions = np.clip(noise["plan"][0, 0], -1, 1)[[0, 1, 3]]
    weights = np.exp(2 * (np.array([1.0, 0.5, 0.0]) - 1))
    weights /= weights.sum()
    firsts = {}
    for seed in range(200):
        found, memory = decide(lambda *_: returns, spec=spec, seed=seed)
        _, noise = walkers(1, spec, MPPI_NOISE, seed)
        actions = np.clip(noise["plan"][0, 0], -1, 1)[[0, 1, 3]]
        np.testing.assert_allclose(memory[0], np.tensordot(weights, actions, 1), atol=1e-5)
        (chosen,) = np.flatnonzero((actions[:, 0] == found[0]).all(1))
        firsts[chosen] = firsts.get(chosen, 0) + 1
    np.testing.assert_allclose([firsts[k] / 200 for k in range(3)], weights, atol=0.1)


def test_mppi_perturbs_what_is_not_deterministic_by_the_last_spread():
    spec = replace(MPPI, min_std=0.3, max_std=0.3, candidates=4, elites=1, iterations=1)
    spec = replace(spec, proposals=0)
    _, noise = walkers(1, spec, MPPI_NOISE)
    score = lambda actions, *_: np.zeros(actions.shape[:2], np.float32)  # noqa: E731
    greedy, _ = decide(score, spec=spec)
    sampled, _ = decide(score, spec=spec, greedy=False)
    np.testing.assert_allclose(sampled, np.clip(greedy + 0.3 * noise["perturb"], -1, 1), atol=1e-6)


def test_mppi_takes_returns_that_are_no_numbers_for_nothing():
    spec = replace(MPPI, candidates=3, elites=1, iterations=1, proposals=0)
    found, _ = decide(lambda *_: np.array([[-1.0, np.nan, -2.0]], np.float32), spec=spec)
    _, noise = walkers(1, spec, MPPI_NOISE)
    np.testing.assert_allclose(found, np.clip(noise["plan"][:, 0, 1, 0], -1, 1), atol=1e-6)


def test_without_a_search_the_policy_acts():
    spec = replace(MPPI, iterations=0, candidates=1, elites=1, proposals=1, horizon=1)
    found, memory = decide(lambda *_: np.zeros((1, 0)), spec=spec, value=0.75)
    np.testing.assert_array_equal(found, [[0.75, 0.75]])
    assert memory.shape == (1, 1, 2)


def test_the_policys_proposals_follow_it_through_the_model():
    spec = replace(MPPI, candidates=3, elites=1, iterations=1, proposals=2)
    carry, noise = walkers(2, spec, MPPI_NOISE)

    def policy(carry, noise, deterministic):
        return np.tanh(carry["place"]) + 0.1 * noise["own"]

    rollouts, draws = Rollouts(model(policy=policy), carry), Draws(MPPI_NOISE, noise)
    found = rollouts.propose(draws.proposals(2), np.zeros(2, bool))
    for i in range(2):
        for j in range(2):
            place = carry["place"][i]
            for t in range(3):
                action = np.tanh(place) + 0.1 * noise["own"][i, j, t]
                np.testing.assert_allclose(found[i, j, t], action, rtol=1e-4)
                place = place + action + 0.1 * noise["gust"][i, 0, j, t]


# -- settings ------------------------------------------------------------------------------------


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
    spec = CEMSpec(**({"horizon": 2, "candidates": 5, "elites": 2, "iterations": 2} | changes))
    with pytest.raises(ConfigError, match=match):
        check(spec, ACTION)


def test_discrete_actions_are_refused():
    action = ActionSpec(kind="discrete", size=2, shape=(), dtype="int64", nvec=(2,), start=(0,))
    with pytest.raises(SpaceError, match="searches over a Box of actions"):
        check(PLAN, action)


def test_plan_step_needs_exactly_one_tensor_of_proposals():
    spec = toy_spec(seeded(PlanningToy), noise={"latent": NoiseSpec(shape=(4,))})
    with pytest.raises(ConfigError, match="draws 0 noise tensors of the role plan"):
        PlanStep(model(), spec)
    with pytest.raises(ConfigError, match="has no planner"):
        PlanStep(model(), toy_spec(seeded(PlanningToy), plan=None))


def test_some_settings_are_replaced_and_the_others_kept():
    spec = replanned(planning_spec(), {"candidates": 40, "horizon": 5})
    assert spec.plan == CEMSpec(horizon=5, candidates=40, elites=20, iterations=10)
    assert replanned(planning_spec(), {}) == planning_spec()
    assert replanned(planning_spec(), "candidates=40,horizon=5") == spec


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"candidates": 0}, "candidates is 0, expected at least 1"),
        ({"candidates": 5}, "keeps 20 elites of 5 candidates"),
        ({"candidate": 50}, r"no setting 'candidate'; did you mean \"candidates\""),
        ({"horizon": 2.5}, r"horizon is 2\.5, expected a whole number"),
        ({"horizon": True}, "horizon is True, expected a whole number"),
        ("on", "plan takes \"off\" or settings such as .*given 'on'"),
        ("", "plan takes .*given ''"),
        (False, 'plan is False, expected "off" or settings'),
        ([("horizon", 2)], "plan is .*expected"),
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

    def imagine(carry, action, noise):
        return ImaginedStep(carry, -((action - carry["target"]) ** 2).sum(-1))

    step = PlanStep(PlanModel(observe, imagine), spec)
    policy = Policy(step, spec)
    action, state = policy.predict(np.array([0.5, -0.25, 0.0]))
    np.testing.assert_allclose(action, [1.0, -0.5], atol=0.05)  # bounds are +-2
    np.testing.assert_allclose(state.carry["prev_action"], [[0.5, -0.25]], atol=0.025)
    assert given == [["latent"]]


def test_first_returns_are_those_of_the_clipped_noise():
    spec = planning_spec()
    noise = draw(with_plan_axes(spec.noise, spec.plan), [(0, 0, 0)])
    carry = {"target": np.zeros((1, 2), np.float32), "prev_action": np.ones((1, 2), np.float32)}
    summed = PlanModel(
        lambda *_: {}, lambda carry, action, noise: ImaginedStep(carry, action.sum(-1))
    )
    found = first_returns(summed, spec, carry, noise)
    np.testing.assert_allclose(
        found, np.clip(noise["proposals"][:, 0], -1, 1).sum((2, 3)), rtol=1e-4, atol=1e-5
    )


def test_first_returns_of_mppi_run_policy_and_value():
    spec = replace(planning_spec(), plan=replace(MPPI, max_std=2.0), noise=MPPI_NOISE)
    noise = draw(with_plan_axes(spec.noise, spec.plan), [(0, 0, 0)])
    carry = {"target": np.full((1, 2), 0.5, np.float32)}
    graphs = PlanModel(
        lambda *_: {},
        lambda carry, action, noise: ImaginedStep(carry, action.sum(-1)),
        value=lambda carry, noise: noise["pick"].sum(-1),
        policy=lambda carry, noise, deterministic: carry["target"],
    )
    found = first_returns(graphs, spec, carry, noise)
    discounts, worth = 1 + 0.99 + 0.99**2, 0.99**3 * noise["pick"][0, 0].sum()
    np.testing.assert_allclose(found[0, :10], discounts + worth, rtol=1e-5)
    actions = np.clip(2 * noise["plan"][0, 0, 10:], -1, 1).sum(-1)
    expected = (actions * 0.99 ** np.arange(3)).sum(-1) + worth
    np.testing.assert_allclose(found[0, 10:], expected, rtol=1e-4, atol=1e-5)


def mppi_spec(**changes):
    plan = replace(MPPI, **changes)
    carry = {**planning_spec().carry, **plan.memory(2)}
    return replace(planning_spec(), plan=plan, noise=MPPI_NOISE, carry=carry)


def test_a_new_horizon_changes_what_is_remembered():
    spec = replanned(mppi_spec(), {"horizon": 5, "temperature": 1, "max_std": 1.5})
    assert spec.plan == replace(MPPI, horizon=5, temperature=1.0, max_std=1.5)
    assert spec.carry["plan"] == TensorSpec(shape=(5, 2))


def test_a_plan_that_is_off_is_the_policy_alone():
    spec = replanned(mppi_spec(), "off")
    assert spec.plan.iterations == 0
    with pytest.raises(ConfigError, match='plan="off" needs a policy network, which Follow has'):
        replanned(planning_spec(), "off")
    with pytest.raises(ConfigError, match="needs a policy network"):
        replanned(mppi_spec(heads=("value",), proposals=0), "off")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"heads": ("value",)}, "no setting 'heads'"),
        ({"driver": "cem"}, "no setting 'driver'"),
        ({"proposals": 201}, "takes 201 of 200 candidates from the policy"),
        ({"discount": 1.1}, "discount is 1.1, expected from 0 to 1"),
        ({"min_std": 3.0}, "spread goes from 3.0 to 1.0"),
        ({"max_std": float("nan")}, "spread goes from"),
        ({"temperature": -1.0}, "temperature is -1.0, expected 0 or more"),
        ({"temperature": "hot"}, "temperature is 'hot', expected a number"),
        ({"horizon": 2.0}, "horizon is 2.0, expected a whole number"),
    ],
)
def test_mppi_refuses_nonsense(changes, match):
    with pytest.raises(ConfigError, match=match):
        replanned(mppi_spec(), changes)


def test_a_planner_without_a_policy_takes_no_proposals():
    with pytest.raises(ConfigError, match="the agent has no policy network; choose 0 proposals"):
        check(replace(MPPI, heads=("value",)), ACTION)


def test_a_planner_whose_noise_is_missing_is_refused():
    spec = mppi_spec()
    lacking = {name: one for name, one in MPPI_NOISE.items() if name != "perturb"}
    with pytest.raises(ConfigError, match="draws 0 noise tensors of the role perturb, expected"):
        PlanStep(model(), replace(spec, noise=lacking))


def test_the_command_lines_settings_are_read():
    assert parse_plan("off") == "off"
    assert parse_plan("candidates=200, temperature=0.25") == {
        "candidates": 200,
        "temperature": 0.25,
    }
    for text in ("candidates", "candidates=many", ""):
        with pytest.raises(ConfigError, match='plan takes "off" or settings such as'):
            parse_plan(text)


def test_planning_in_a_batch_equals_planning_alone():
    policy = torch_policy(seeded(PlanningToy))
    batch = np.random.default_rng(0).standard_normal((3, 3))
    actions, _ = policy.predict(batch)
    again, _ = policy.predict(batch[:1])
    np.testing.assert_allclose(actions[:1], again, atol=1e-5)
