"""Jobs and workers that fail, die, hang and do not start: every job ends, and only once."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osvos_tf.jobs import dispatch

FINE, ERROR, LOST, FAULT = "fine", "error", "lost", "fault"


class Worker:
    """Does what a plan says: job -> what happens at its first, second, ... attempt."""

    def __init__(self, plan, log):
        self.plan, self.log, self.closed = plan, log, threading.Event()

    def run(self, job):
        assert not self.closed.is_set(), "a lost or closed worker was given a job"
        self.log.append(job)
        happens = self.plan[job][self.log.count(job) - 1]
        if happens == LOST:
            self.closed.set()
            raise dispatch.WorkerLost(f"{job} killed me")
        if happens == FAULT:
            raise OSError(f"{job} confused me")
        return {"error": f"{job} is broken"} if happens == ERROR else {"frames": job}

    def close(self):
        self.closed.set()


class Engine:
    def __init__(self, plan):
        self.plan, self.log, self.workers = plan, [], []

    def start(self, slot, is_wanted):
        self.workers.append(Worker(self.plan, self.log))
        return self.workers[-1]


def run(plan, slots=2, **options):
    engine = Engine(plan)
    outcomes = list(dispatch.run(list(plan), engine.start, slots, **options))
    assert all(worker.closed.is_set() for worker in engine.workers)
    return {outcome.job: outcome for outcome in outcomes}, engine


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.sampled_from([FINE, ERROR, LOST, FAULT])] * 2), max_size=12),
    st.integers(1, 4),
)
def test_every_job_ends_once_after_its_attempts(happenings, slots):
    plan = dict(enumerate(happenings))
    outcomes, engine = run(plan, slots)
    assert outcomes.keys() == plan.keys()
    for job, (first, second) in plan.items():
        attempts = 1 if first == FINE else 2
        assert outcomes[job].attempts == engine.log.count(job) == attempts
        ended = (first, second)[attempts - 1]
        assert bool(outcomes[job].reply.get("error")) == (ended != FINE)
    # Only those replace a worker that lost one.
    lost = sum(plan[job][n] in (LOST, FAULT) for job in plan for n in range(outcomes[job].attempts))
    assert len(engine.workers) <= slots + lost


def test_what_is_said_of_failures():
    told = []
    plan = {"a": [ERROR, ERROR], "b": [LOST, LOST], "c": [FAULT, FINE]}
    outcomes, _ = run(plan, on_retry=lambda job, reply: told.append((job, reply["error"])))
    assert outcomes["a"].reply == {"error": "a is broken"}
    assert outcomes["b"].reply == {"error": "b killed me"}
    assert outcomes["c"].reply == {"frames": "c"}
    assert sorted(told) == [
        ("a", "a is broken"),
        ("b", "b killed me"),
        ("c", "OSError: c confused me"),
    ]


def test_a_failed_job_goes_to_the_end_of_the_queue():
    _, engine = run({"a": [ERROR, FINE], "b": [FINE], "c": [FINE]}, slots=1)
    assert engine.log == ["a", "b", "c", "a"]


def test_workers_are_replaced_after_so_many_jobs():
    _, engine = run({job: [FINE] for job in range(7)}, slots=1, jobs_per_worker=3)
    assert len(engine.workers) == 3 and engine.log == list(range(7))


def test_workers_that_do_not_start():
    def start(slot, is_wanted):
        raise OSError("no memory")

    outcomes = list(dispatch.run(["a", "b"], start, 2))
    assert [outcome.reply["error"] for outcome in outcomes] == [
        "No worker could be started. OSError: no memory"
    ] * 2
    assert [outcome.attempts for outcome in outcomes] == [0, 0]


def test_one_place_without_a_worker_leaves_the_work_to_the_others():
    engine = Engine({job: [FINE] for job in range(6)})

    def start(slot, is_wanted):
        if slot == 0:
            raise OSError("no memory")
        return engine.start(slot, is_wanted)

    assert len(list(dispatch.run(range(6), start, 2))) == 6
    assert sorted(engine.log) == list(range(6))


def test_a_worker_that_starts_late_is_told_when_the_work_is_done():
    engine = Engine({"a": [FINE]})
    starting, told = threading.Event(), threading.Event()

    def start(slot, is_wanted):
        if slot == 0:
            starting.wait(60)
            return engine.start(slot, is_wanted)
        starting.set()
        while is_wanted():
            time.sleep(0.01)
        told.set()
        return None

    assert len(list(dispatch.run(["a"], start, 2))) == 1
    assert told.is_set()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_leaving_ends_workers_in_the_middle_of_a_job(error):
    class Stuck(Worker):
        def run(self, job):
            self.closed.wait(60)
            raise dispatch.WorkerLost("ended")

    workers = []

    def start(slot, is_wanted):
        if slot == 0:
            return Worker({"a": [FINE], "b": [FINE]}, [])
        workers.append(Stuck({}, []))
        return workers[-1]

    began = time.monotonic()
    outcomes = dispatch.run(["a", "b"], start, 2)
    with pytest.raises(error):
        try:
            next(outcomes)
            raise error
        finally:
            outcomes.close()
    assert all(worker.closed.is_set() for worker in workers)
    assert time.monotonic() - began < 30
