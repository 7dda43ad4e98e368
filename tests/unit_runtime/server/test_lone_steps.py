"""A lone request whose step is short is computed in the event loop, and nothing else changes."""

import asyncio
import threading
import time

import numpy as np
import pytest

from agentzoo.runtime import load_policy
from agentzoo.runtime.client.msgpack_arrays import pack
from agentzoo.runtime.errors import ServingError
from agentzoo.runtime.policy.policy import Policy
from agentzoo.runtime.policy.spaces import encode
from agentzoo.runtime.server import ModelSettings
from agentzoo.runtime.server.batcher import Answer, Batcher, BatchLimits, StepRequest
from agentzoo.runtime.server.lone_steps import FEWEST, LONG_S, MOST, RECENT, LoneSteps
from tests.unit_runtime.server.live import serving
from tests.unit_runtime.server.test_batcher import SPEC, Sum
from tests.unit_runtime.server.wires import Openpi, Rest

VECTORS = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float32)
LOOP, THREAD = "server", "batcher"  # names of threads: the loop's in live.py, the batcher's


# -- the rule ------------------------------------------------------------------------------------


def short(times: LoneSteps, step_s: float = 1e-4, way_s: float = 1.0) -> LoneSteps:
    """Let it have seen short steps and long ways."""
    for _ in range(RECENT):
        times.went(way_s)
    for _ in range(FEWEST):
        times.took(step_s)
    return times


def test_a_step_counts_as_short_once_enough_of_both_was_measured():
    times = LoneSteps()
    for _ in range(RECENT):
        assert not times.is_quicker
        times.went(1e-3)
    for _ in range(FEWEST):
        assert not times.is_quicker
        times.took(1e-4)
    assert times.is_quicker


@pytest.mark.parametrize("step_s", [1e-5, 1e-4, 1.9e-3], ids=str)
def test_a_step_shorter_than_two_ways_is_short(step_s):
    assert short(LoneSteps(), step_s, 1e-3).is_quicker


@pytest.mark.parametrize("step_s", [2.1e-3, 1e-2, 1e-1], ids=str)
def test_a_longer_one_is_not(step_s):
    assert not short(LoneSteps(), step_s, 1e-3).is_quicker


def test_a_step_that_is_long_for_everybody_is_long_however_long_the_way():
    assert not short(LoneSteps(), 2 * LONG_S, 60.0).is_quicker


def test_one_step_in_many_counts_little_unless_it_is_long_for_everybody():
    times = short(LoneSteps(), 1e-4, 1e-3)
    times.took(LONG_S / 2)
    assert times.is_quicker
    times.took(2 * LONG_S)
    assert not times.is_quicker


def test_a_policy_that_was_long_once_has_to_be_short_twice_as_often():
    times, asked_for = short(LoneSteps()), FEWEST
    while asked_for < 4 * MOST:
        times.took(2 * LONG_S)
        asked_for *= 2
        for _ in range(min(asked_for, MOST)):
            assert not times.is_quicker
            times.took(1e-4)
        assert times.is_quicker


def test_steps_that_grow_longer_bit_by_bit_are_noticed():
    times = short(LoneSteps(), 1e-4, 1e-3)
    for _ in range(RECENT):
        times.took(5e-3)
    assert not times.is_quicker


def test_it_can_be_switched_off():
    assert not short(LoneSteps(is_on=False)).is_quicker


# -- the batcher ---------------------------------------------------------------------------------


class Watched(Sum):
    """Says which threads step, and stumbles where two do at once."""

    def __init__(self):
        super().__init__()
        self.threads: list[str] = []
        self.alone = threading.Lock()

    def __call__(self, carry, obs, noise, deterministic):
        assert self.alone.acquire(blocking=False), "two steps at once"
        try:
            self.threads.append(threading.current_thread().name)
            return super().__call__(carry, obs, noise, deterministic)
        finally:
            self.alone.release()


@pytest.fixture
def made():
    step, answers = Watched(), []
    policy = Policy(step, SPEC)
    batcher = Batcher(policy, answers.append, BatchLimits(max_wait_s=1e-4, lone_steps=True))
    batcher.step, batcher.answers = step, answers
    yield batcher
    step.go.set()
    batcher.close()
    batcher.join(30)


def request(policy, value, seed=0, deadline=np.inf):
    obs = encode(SPEC.obs, [value, 0, 0], batched=False)
    return StepRequest(obs, True, policy.session(seed).start(1), False, deadline)


def test_nothing_is_computed_alone_before_it_is_known_to_be_short(made):
    assert made.compute_alone(request(made.policy, 1)) is None
    assert made.step.threads == []


def test_requests_that_came_too_late_are_no_short_steps(made):
    """A policy's steps may be long, and its clients in a hurry."""
    for _ in range(RECENT):
        made.lone_steps.went(1.0)
    for i in range(FEWEST):
        made.submit(request(made.policy, 1, deadline=0.0))
        while len(made.answers) <= i:  # so that each is alone
            time.sleep(1e-4)
    assert made.step.threads == []
    assert not made.may_compute_alone


def test_a_lone_request_is_computed_by_who_asks_as_the_thread_would(made):
    short(made.lone_steps)
    (found,) = made.compute_alone(request(made.policy, 4, seed=9)).outcomes
    made.submit(request(made.policy, 4, seed=9))
    made.close()
    made.join(30)
    (expected,) = made.answers[0].outcomes
    assert made.step.threads == [threading.current_thread().name, THREAD]
    assert isinstance(found, Answer)
    assert np.array_equal(found.action, expected.action)
    assert found.state.address.tolist() == expected.state.address.tolist() == [[9, 0, 1]]
    for name, array in found.state.carry.items():
        assert np.array_equal(array, expected.state.carry[name])


def test_nothing_is_computed_beside_a_step_under_way(made):
    short(made.lone_steps)
    made.step.go.clear()
    made.submit(request(made.policy, 1))
    assert made.step.entered.wait(30)
    assert made.compute_alone(request(made.policy, 2)) is None
    made.submit(request(made.policy, 3))
    made.step.go.set()


def test_two_never_step_at_once(made):
    """Threads submit and compute alone as they like; `Watched` would stumble."""
    short(made.lone_steps)
    alone = []

    def ask(thread):
        for i in range(200):
            one = request(made.policy, 1, seed=200 * thread + i)
            batch = made.compute_alone(one)
            if batch is None:
                made.submit(one)
            else:
                alone.append(batch)

    threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    made.close()
    made.join(30)
    answers = [answer for batch in (*made.answers, *alone) for answer in batch.outcomes]
    assert sorted(answer.state.address[0, 0] for answer in answers) == list(range(600))


def test_a_late_request_is_not_computed_alone(made):
    short(made.lone_steps)
    late = request(made.policy, 1, deadline=time.monotonic() - 1)
    (found,) = made.compute_alone(late).outcomes
    assert (found.reason, made.step.threads) == ("deadline", [])


def test_a_closed_batcher_computes_nothing_alone(made):
    short(made.lone_steps)
    made.close()
    with pytest.raises(ServingError, match="no longer served"):
        made.compute_alone(request(made.policy, 1))


# -- the server ----------------------------------------------------------------------------------


class Told(LoneSteps):
    """Is told how long steps take, since a busy machine may take its time for the shortest."""

    says: float | None = 1e-4

    def took(self, seconds):
        super().took(seconds if self.says is None else self.says)


class Noted:
    """A policy's own step; says in which thread it ran, and takes its time if told to."""

    def __init__(self, step):
        self.step, self.seconds = step, 0.0
        self.threads: list[str] = []
        self.sizes: list[int] = []
        self.entered, self.go = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, carry, obs, noise, deterministic):
        self.threads.append(threading.current_thread().name)
        self.sizes.append(len(deterministic))
        self.entered.set()
        assert self.go.wait(30)
        time.sleep(self.seconds)
        return self.step(carry, obs, noise, deterministic)


@pytest.fixture
def folder(bundles):
    return bundles("vector")[0]


@pytest.fixture
def live(folder):
    with serving(folder) as found:
        noted(found)
        yield found
        found.step.go.set()


def noted(live):
    version = live.service.models["a"].current
    live.step = version.policy.step = Noted(version.policy.step)
    live.lone_steps = version.batcher.lone_steps = Told(is_on=version.batcher.lone_steps.is_on)
    return live


def expected(folder, count):
    policy = load_policy(folder, provider="cpu")
    return [policy.act(one) for one in VECTORS[:count]]


def test_a_lone_session_gets_the_same_actions_in_the_loop(live, folder):
    short(live.lone_steps)
    before = live.metrics()
    with Openpi(live.ws) as client:
        found = [client.act(one) for one in VECTORS[:20]]
    assert all(map(np.array_equal, found, expected(folder, 20)))
    assert set(live.step.threads) == {LOOP}
    after = live.metrics()
    for kind in ("step", "queue"):
        name = f'agentzoo_{kind}_seconds_count{{model="a"}}'
        assert after[name] - before.get(name, 0) == 20


def test_it_moves_to_the_loop_and_back_without_a_trace(live, folder):
    with Openpi(live.ws) as client:
        found = [client.act(one) for one in VECTORS[:5]]
        short(live.lone_steps)
        found += [client.act(one) for one in VECTORS[5:10]]
        live.lone_steps.says = 2 * LONG_S
        found += [client.act(one) for one in VECTORS[10:15]]
    assert all(map(np.array_equal, found, expected(folder, 15)))
    # the step that took too long is the last one in the loop
    assert live.step.threads == [THREAD] * 5 + [LOOP] * 6 + [THREAD] * 4


def test_requests_that_come_together_are_computed_together(live):
    """While the thread holds the first, the others gather, as they do without lone steps."""
    short(live.lone_steps)
    service = live.service

    async def together():
        sessions = [service.begin(i) for i in range(4)]
        steps = [service.act(one, VECTORS[i]) for i, one in enumerate(sessions)]
        return await asyncio.gather(*steps)

    live.call(together())
    assert set(live.step.threads) == {THREAD}
    assert sum(live.step.sizes) == 4
    assert len(live.step.sizes) < 4


def test_a_batch_over_rest_is_one_batch(live):
    short(live.lone_steps)
    with Rest(live.http) as rest:
        status, _ = rest.infer({"observation": VECTORS[:4]})
    assert status == 200
    assert set(live.step.threads) == {THREAD}


def test_a_policy_that_turns_slow_leaves_the_loop_with_its_first_slow_step(live):
    short(live.lone_steps)
    with Openpi(live.ws) as client, Rest(live.http) as rest:
        client.act(VECTORS[0])
        live.step.seconds, live.lone_steps.says = 0.3, None
        client.act(VECTORS[1])
        assert live.step.threads == [LOOP, LOOP]
        live.step.seconds = 0.0
        live.step.go.clear()
        live.step.entered.clear()
        client.send(pack({"observation": VECTORS[2]}, "openpi"))
        assert live.step.entered.wait(30)
        assert rest.get("/v2/health/live") == (200, {"live": True})  # the loop is free
        live.step.go.set()
        client.receive()
    assert live.step.threads[2:] == [THREAD]


def test_a_policy_that_is_slow_from_the_start_never_comes_into_the_loop(live):
    live.step.seconds, live.lone_steps.says = 1.5 * LONG_S, None
    with Openpi(live.ws) as client:
        for one in VECTORS[: FEWEST + 2]:
            client.act(one)
    assert set(live.step.threads) == {THREAD}


def test_an_answer_after_its_deadline_changes_nothing(live, folder):
    short(live.lone_steps)
    with Openpi(live.ws) as client:
        first = client.act(VECTORS[0])
        live.step.seconds = 0.1
        assert client.ask(VECTORS[1], timeout_s=0.05).startswith("deadline: ")
        live.step.seconds = 0.0
        second = client.act(VECTORS[1])
    assert all(map(np.array_equal, (first, second), expected(folder, 2)))
    assert live.step.threads[:2] == [LOOP, LOOP]


def test_a_step_that_fails_in_the_loop_leaves_the_state(live, folder, caplog):
    short(live.lone_steps)
    step, live.step.step = live.step.step, None
    with Openpi(live.ws) as client:
        assert client.ask(VECTORS[0]).startswith("failed: ")
    live.step.step = step
    with Openpi(live.ws) as client:
        assert np.array_equal(client.act(VECTORS[0]), expected(folder, 1)[0])
    assert "a step of 1 requests failed" in caplog.text
    assert set(live.step.threads) == {LOOP}


def test_a_client_that_gives_up_before_its_turn_costs_no_step(live):
    short(live.lone_steps)
    service = live.service

    async def given_up():
        session, _ = service.begin("one"), service.begin("another, so that it has company")
        task = asyncio.ensure_future(service.act(session, VECTORS[0]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return await service.act(session, VECTORS[0]), session.is_busy

    assert live.call(given_up())[1] is False
    assert live.step.threads == [LOOP]


def test_the_thread_computes_all_where_it_is_told_to(folder):
    settings = ModelSettings(name="a", source=str(folder), provider="cpu", lone_steps="thread")
    with serving(models=[settings]) as found, Openpi(found.ws) as client:
        short(noted(found).lone_steps)
        for one in VECTORS[:5]:
            client.act(one)
        assert set(found.step.threads) == {THREAD}
