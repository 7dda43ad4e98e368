"""Requests that wait together are computed together, and get what they would get alone."""

import math
import queue
import threading
import time

import numpy as np
import pytest

from agentzoo.runtime.errors import ServingError
from agentzoo.runtime.policy.policy import Policy, PolicyState
from agentzoo.runtime.policy.spaces import action_spec, encode, observation_specs
from agentzoo.runtime.server.batcher import Answer, Batch, Batcher, BatchLimits, StepRequest
from agentzoo.runtime.spec import NoiseSpec, PolicySpec, TensorSpec
from tests.unit_runtime.toys import BOX, VECTOR

SPEC = PolicySpec(
    agent="Sum",
    env="",
    obs=observation_specs(VECTOR),
    action=action_spec(BOX),
    carry={"total": TensorSpec(shape=()), "prev_action": TensorSpec(shape=(2,))},
    noise={"action": NoiseSpec(shape=(2,), role="action")},
)


class Sum:
    """Adds up what it sees; can be held, and stumbles over what it is told to."""

    def __init__(self):
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()

    def __call__(self, carry, obs, noise, deterministic):
        self.sizes.append(len(obs["is_first"]))
        self.entered.set()
        assert self.go.wait(30)
        seen = obs["observation"][:, 0]
        if (seen == 13).any():
            raise RuntimeError("thirteen")
        total = np.where(obs["is_first"], 0, carry["total"]) + seen
        action = np.where(deterministic[:, None], 0, noise["action"]).astype(np.float32)
        action[seen == 7] = np.nan
        return {"total": total.astype(np.float32), "prev_action": action}, action


class Waiting:
    """A batcher whose batches are put into a queue."""

    def __init__(self, **limits):
        self.step = Sum()
        self.policy = Policy(self.step, SPEC)
        self.batches: queue.Queue[Batch] = queue.Queue()
        self.batcher = Batcher(self.policy, self.batches.put, BatchLimits(**limits))

    def request(self, value, seed=0, deadline=np.inf, state=None):
        obs = encode(SPEC.obs, [value, 0, 0], batched=False)
        state = state or self.policy.session(seed).start(1)
        return StepRequest(obs, True, state, False, deadline)

    def outcomes(self, count):
        found: list[Answer | ServingError] = []
        while len(found) < count:
            found += self.batches.get(timeout=30).outcomes
        return found

    def held(self, *requests):
        """Submit one request and hold the step; then the others, and let go."""
        self.step.go.clear()
        self.batcher.submit(self.request(0))
        assert self.step.entered.wait(30)
        for request in requests:
            self.batcher.submit(request)
        self.step.go.set()


@pytest.fixture
def waiting():
    made = []

    def make(**limits):
        made.append(Waiting(**limits))
        return made[-1]

    yield make
    for one in made:
        one.step.go.set()
        one.batcher.close()
        one.batcher.join(30)
        assert not one.batcher.is_running


def test_what_waits_is_computed_together(waiting):
    one = waiting()
    one.held(*(one.request(i, seed=i) for i in range(5)))
    answers = one.outcomes(6)[1:]
    assert one.step.sizes == [1, 5]
    for i, answer in enumerate(answers):
        assert answer.state.carry["total"].tolist() == [i]
        assert answer.state.address.tolist() == [[i, 0, 1]]


def test_requests_get_what_they_would_get_alone(waiting):
    one = waiting()
    requests = [one.request(i, seed=i) for i in range(5)]
    one.held(*requests)
    for request, answer in zip(requests, one.outcomes(6)[1:], strict=True):
        alone, state = one.policy.advance(
            request.obs, np.ones(1, bool), request.state, np.zeros(1, bool)
        )
        assert np.array_equal(answer.action, alone[0])
        assert all(np.array_equal(answer.state.carry[n], state.carry[n]) for n in state.carry)


def test_an_answer_keeps_no_batch_alive(waiting):
    one = waiting()
    one.held(*(one.request(i) for i in range(5)))
    for answer in one.outcomes(6):
        arrays = [answer.action, answer.state.address, *answer.state.carry.values()]
        assert all(array.base is None or array.base.nbytes == array.nbytes for array in arrays)


def test_no_batch_is_larger_than_allowed(waiting):
    one = waiting(max_batch=2)
    one.held(*(one.request(i) for i in range(5)))
    one.outcomes(6)
    assert one.step.sizes == [1, 2, 2, 1]


def test_a_request_waits_for_those_that_came_last_time_and_no_longer_than_told(waiting):
    one = waiting(max_wait_s=30.0)
    one.held(one.request(1), one.request(2))
    one.outcomes(3)
    one.batcher.submit(one.request(1))
    assert one.batches.empty()  # two came before: the second is worth 30 seconds
    one.batcher.submit(one.request(2))
    assert len(one.outcomes(2)) == 2
    assert one.step.sizes == [1, 2, 2]


def test_a_lone_request_is_not_kept_waiting_for_ever(waiting):
    one = waiting(max_wait_s=0.001)
    one.held(one.request(1), one.request(2))
    one.outcomes(3)
    one.batcher.submit(one.request(1))
    one.outcomes(1)
    assert one.step.sizes == [1, 2, 1]


def test_a_full_queue_refuses(waiting):
    one = waiting(max_queue=2)
    one.held(one.request(1), one.request(2))
    one.outcomes(3)
    one.step.go.clear()
    one.step.entered.clear()
    one.batcher.submit(one.request(0))
    assert one.step.entered.wait(30)
    one.batcher.submit(one.request(1))
    one.batcher.submit(one.request(2))
    with pytest.raises(ServingError, match="2 requests wait already") as caught:
        one.batcher.submit(one.request(3))
    assert caught.value.reason == "overloaded"


def test_one_request_that_fails_does_not_fail_the_others(waiting, caplog):
    one = waiting()
    one.held(one.request(1), one.request(13), one.request(2))
    found = one.outcomes(4)[1:]
    assert [type(outcome) for outcome in found] == [Answer, ServingError, Answer]
    assert found[1].reason == "failed"
    assert "thirteen" in caplog.text  # for whoever runs the server, and only there
    assert "thirteen" not in str(found[1])


def test_one_request_that_diverges_does_not_harm_the_others(waiting):
    one = waiting()
    one.held(one.request(1), one.request(7), one.request(2))
    found = one.outcomes(4)[1:]
    assert [getattr(outcome, "reason", "") for outcome in found] == ["", "diverged", ""]


def test_a_late_request_is_not_computed(waiting):
    one = waiting()
    late = one.request(1, deadline=time.monotonic() - 1)
    one.held(late, one.request(2))
    found = one.outcomes(3)[1:]
    assert found[0].reason == "deadline"
    assert isinstance(found[1], Answer)
    assert one.step.sizes == [1, 1]


def test_a_closed_batcher_finishes_what_waits_and_takes_no_more(waiting):
    one = waiting()
    one.step.go.clear()
    one.batcher.submit(one.request(0))
    assert one.step.entered.wait(30)
    one.batcher.submit(one.request(1))
    one.batcher.close()
    with pytest.raises(ServingError, match="no longer served"):
        one.batcher.submit(one.request(2))
    one.step.go.set()
    assert len(one.outcomes(2)) == 2


def test_requests_of_several_threads_are_each_delivered_once(waiting):
    """The batcher falls asleep and is woken while others submit; none is left behind."""
    one = waiting(max_wait_s=1e-4, max_batch=7)

    def submit(thread):
        for i in range(300):
            one.batcher.submit(one.request(1, seed=300 * thread + i))

    threads = [threading.Thread(target=submit, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    answers = one.outcomes(900)
    for thread in threads:
        thread.join(30)
    assert sorted(answer.state.address[0, 0] for answer in answers) == list(range(900))
    assert sum(one.step.sizes) == 900
    assert one.batches.empty()


def test_states_join_and_part_again():
    policy = Policy(Sum(), SPEC)
    states = [policy.session(seed).start(1) for seed in (3, 4)]
    joined = PolicyState.joined(states)
    assert len(joined) == 2
    assert np.array_equal(joined.element(1).address, states[1].address)


def test_it_says_how_long_its_step_takes(waiting):
    one = waiting()
    assert one.batcher.delay_s == 0
    one.step.go.clear()
    one.batcher.submit(one.request(1))
    assert one.step.entered.wait(30)
    first = one.batcher.delay_s
    assert 0 < first < one.batcher.delay_s
    one.step.go.set()
    one.outcomes(1)
    assert one.batcher.delay_s == 0


def test_a_thread_that_dies_says_so_to_all_who_wait_and_to_whoever_asks(waiting, caplog):
    one = waiting(max_wait_s=math.inf)  # no lock can be waited for so long
    one.held(one.request(1), one.request(2))
    one.outcomes(3)
    one.batcher.submit(one.request(1))
    (found,) = one.outcomes(1)
    assert isinstance(found, ServingError)
    assert (found.reason, "has died" in str(found)) == ("failed", True)
    one.batcher.join(30)
    assert one.batcher.delay_s == math.inf
    with pytest.raises(ServingError, match="has died"):
        one.batcher.submit(one.request(1))
    assert "OverflowError" in caplog.text
