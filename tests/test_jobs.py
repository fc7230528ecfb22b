"""The job queue: fair, bounded, one job a visitor, ended within a tick, and no tracebacks."""

import queue
import threading
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from explorer.jobs import Busy, JobQueue, State

PATIENCE = 10.0  # a handshake that takes longer is a failure, not a slow machine


class Clock:
    """A clock that moves only when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Script:
    """Work that does what it is told: one order, one answer."""

    def __init__(self):
        self.orders, self.answers, self.started = queue.Queue(), queue.Queue(), threading.Event()

    def __call__(self, tick):
        self.started.set()
        while True:
            order, value = self.orders.get(timeout=PATIENCE)
            if order == "finish":
                return value
            if order == "fail":
                raise RuntimeError(value)
            try:
                tick(value)
            except BaseException:
                self.answers.put("ended")
                raise
            self.answers.put("went on")

    def tell(self, order, value=None):
        self.orders.put((order, value))
        return self.answers.get(timeout=PATIENCE) if order == "tick" else None


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def jobs(clock):
    jobs = JobQueue(clock=clock, depth=3)
    yield jobs
    jobs.close()


def settle(jobs, ticket):
    """Wait until a job is final and return its view."""
    end = time.monotonic() + PATIENCE
    while (view := jobs.look(ticket)).state in (State.WAITING, State.RUNNING):
        assert time.monotonic() < end
        time.sleep(0.002)
    return view


def start(jobs, visitor):
    """Submit a script and wait until it runs."""
    script = Script()
    ticket = jobs.submit(visitor, script)
    assert script.started.wait(PATIENCE)
    return script, ticket


def test_result_and_progress_reach_the_page(jobs):
    script, ticket = start(jobs, "ada")
    assert script.tell("tick", 0.25) == "went on"
    assert jobs.look(ticket).fraction == 0.25
    script.tell("finish", "sample")
    assert settle(jobs, ticket).result == "sample"


def test_stop_ends_a_running_job_at_its_next_tick(jobs):
    script, ticket = start(jobs, "ada")
    jobs.cancel(ticket)
    assert script.tell("tick", 0.5) == "ended"
    assert settle(jobs, ticket).state is State.CANCELLED


def test_a_job_stopped_after_its_last_tick_gives_no_result(jobs):
    script, ticket = start(jobs, "ada")
    jobs.cancel(ticket)
    script.tell("finish", "too late")
    assert settle(jobs, ticket).result is None


def test_a_waiting_job_stops_at_once(jobs):
    script, _ = start(jobs, "ada")
    ticket = jobs.submit("bob", Script())
    jobs.cancel(ticket)
    assert jobs.look(ticket).state is State.CANCELLED
    script.tell("finish")


def test_an_absent_visitors_job_ends(jobs, clock):
    script, ticket = start(jobs, "ada")
    clock.now += 4.9
    assert script.tell("tick", 0.1) == "went on"
    jobs.look(ticket)
    clock.now += 4.9
    assert script.tell("tick", 0.2) == "went on"
    clock.now += 0.2
    assert script.tell("tick", 0.3) == "ended"


def test_an_absent_visitors_place_in_line_is_freed(jobs, clock):
    script, first = start(jobs, "ada")
    gone, here = jobs.submit("bob", Script()), jobs.submit("cy", Script())
    assert jobs.look(here).ahead == 2
    clock.now += 4
    jobs.look(first), jobs.look(here)
    clock.now += 4
    assert jobs.look(here).ahead == 1
    assert jobs.look(gone).state is State.GONE
    script.tell("finish")


def test_a_new_click_replaces_a_running_job_and_queues_behind(jobs):
    old, _ = start(jobs, "ada")
    new = Script()
    ticket = jobs.submit("ada", new)
    assert jobs.look(ticket).ahead == 1
    assert old.tell("tick", 0.5) == "ended"
    assert new.started.wait(PATIENCE)
    new.tell("finish", 1)
    assert settle(jobs, ticket).result == 1


def test_a_new_click_keeps_the_place_of_a_waiting_job(jobs):
    script, _ = start(jobs, "ada")
    jobs.submit("bob", Script())
    later = jobs.submit("cy", Script())
    again = jobs.submit("bob", Script())
    assert (jobs.look(again).ahead, jobs.look(later).ahead) == (1, 2)
    script.tell("finish")


def test_a_full_line_answers_at_once_with_minutes(jobs):
    script, _ = start(jobs, "ada")
    for visitor in "bcd":
        jobs.submit(visitor, Script())
    begun = time.perf_counter()
    with pytest.raises(Busy, match=r"All 3 places in line are taken.*1 minute\."):
        jobs.submit("e", Script())
    assert time.perf_counter() - begun < 0.3
    jobs.submit("b", Script())  # whoever waits may change their mind
    script.tell("finish")


def test_a_refused_click_leaves_the_visitors_running_job_alone(jobs):
    script, ticket = start(jobs, "ada")
    for visitor in "bcd":
        jobs.submit(visitor, Script())
    with pytest.raises(Busy):
        jobs.submit("ada", Script())
    assert script.tell("tick", 0.5) == "went on"
    script.tell("finish", 1)
    assert settle(jobs, ticket).result == 1


def test_an_unexpected_error_becomes_a_sentence_with_a_code(jobs, caplog):
    script, ticket = start(jobs, "ada")
    script.tell("fail", "secret /srv/path")
    view = settle(jobs, ticket)
    assert view.state is State.FAILED and "secret" not in view.sentence and "code" in view.sentence
    code = view.sentence.split("code ")[1][:6]
    assert code in caplog.text


def test_our_own_errors_keep_their_words(jobs):
    def work(tick):
        from sed_core.chance import split

        raise_from_ours = split  # an error raised inside sed_core is worded for people
        return raise_from_ours([], 3)

    ticket = jobs.submit("ada", work)
    view = settle(jobs, ticket)
    assert view.state is State.FAILED and "code" not in view.sentence


def test_a_worker_survives_an_error(jobs):
    script, ticket = start(jobs, "ada")
    script.tell("fail", "x")
    settle(jobs, ticket)
    script, ticket = start(jobs, "ada")
    script.tell("finish", 2)
    assert settle(jobs, ticket).result == 2


def test_a_job_over_its_limit_is_ended(clock):
    jobs = JobQueue(clock=clock, limit=20, heartbeat=100)
    script, ticket = start(jobs, "ada")
    clock.now += 21
    assert script.tell("tick", 0.9) == "ended"
    assert "20 seconds" in settle(jobs, ticket).sentence
    jobs.close()


def test_finished_work_and_unfetched_results_are_let_go(jobs, clock):
    script, ticket = start(jobs, "ada")
    script.tell("finish", "big")
    settle(jobs, ticket)
    assert jobs._jobs[ticket].work is not script
    clock.now += 61
    jobs.look(-1)
    assert not jobs._jobs


def test_close_ends_everything_and_refuses_more():
    jobs = JobQueue(workers=2)
    script, _ = start(jobs, "ada")
    waiter = threading.Thread(target=jobs.close)
    waiter.start()
    script.orders.put(("tick", 0.5))
    waiter.join(PATIENCE)
    assert not any(worker.is_alive() for worker in jobs._workers)
    with pytest.raises(Busy):
        jobs.submit("bob", Script())


def test_two_visitors_never_get_each_others_result(clock):
    jobs = JobQueue(workers=2, clock=clock)
    tickets = {v: jobs.submit(v, lambda tick, v=v: (tick(1.0), v)[1]) for v in map(str, range(40))}
    assert all(settle(jobs, ticket).result == visitor for visitor, ticket in tickets.items())
    jobs.close()


VISITORS = st.sampled_from(["ada", "bob", "cy", "dee"])


class Line(RuleBasedStateMachine):
    """The queue against a model of it: a list of who waits, who runs, who was last seen when."""

    DEPTH, HEARTBEAT = 2, 5.0

    @initialize()
    def open(self):
        self.clock = Clock()
        self.jobs = JobQueue(clock=self.clock, depth=self.DEPTH, heartbeat=self.HEARTBEAT)
        self.waiting, self.running, self.final = [], None, {}
        self.seen, self.scripts, self.owner, self.wanted = {}, {}, {}, {}

    def teardown(self):
        for script in getattr(self, "scripts", {}).values():
            script.orders.put(("finish", None))
        self.jobs.close()

    def away(self, ticket):
        return self.clock.now - self.seen[ticket] > self.HEARTBEAT

    def prune(self):
        """What every submit, look and hand-over forgets: waiting jobs of absent visitors."""
        for ticket in [t for t in self.waiting if self.away(t)]:
            self.waiting.remove(ticket)
            self.final[ticket] = State.GONE

    def serve(self):
        """The worker is free: the first in line must start."""
        if self.running is None:
            self.prune()
            if self.waiting:
                self.running = self.waiting.pop(0)
                assert self.scripts[self.running].started.wait(PATIENCE)

    def finished(self, state):
        ticket, self.running = self.running, None
        settle_final(self.jobs, ticket)
        if self.final.get(ticket) is not State.GONE:
            self.final[ticket] = state
        self.serve()

    @rule(visitor=VISITORS)
    def submit(self, visitor):
        self.prune()
        mine = [t for t in self.waiting if self.owner[t] == visitor]
        script = Script()
        if not mine and len(self.waiting) >= self.DEPTH:
            with pytest.raises(Busy):
                self.jobs.submit(visitor, script)
            return
        ticket = self.jobs.submit(visitor, script)
        place = self.waiting.index(mine[0]) if mine else len(self.waiting)
        self.waiting = [t for t in self.waiting if t not in mine]
        self.waiting.insert(place, ticket)
        for old in [t for t, v in self.owner.items() if v == visitor]:
            self.final[old], self.wanted[old] = State.GONE, False
        self.scripts[ticket], self.owner[ticket] = script, visitor
        self.seen[ticket], self.wanted[ticket] = self.clock.now, True
        self.serve()

    @rule(seconds=st.sampled_from([0.5, 2.0, 4.0, 6.0]))
    def wait(self, seconds):
        self.clock.now += seconds

    @precondition(lambda self: self.running)
    @rule(fraction=st.floats(0, 1))
    def tick(self, fraction):
        ended = not self.wanted[self.running] or self.away(self.running)
        answer = self.scripts[self.running].tell("tick", fraction)
        assert answer == ("ended" if ended else "went on")
        if ended:
            self.finished(State.CANCELLED)

    @precondition(lambda self: self.running)
    @rule()
    def finish(self):
        self.scripts[self.running].tell("finish", self.running)
        self.finished(State.DONE if self.wanted[self.running] else State.CANCELLED)

    @precondition(lambda self: self.running)
    @rule()
    def fail(self):
        self.scripts[self.running].tell("fail", "broken")
        self.finished(State.FAILED)

    @precondition(lambda self: self.owner)
    @rule(data=st.data())
    def cancel(self, data):
        ticket = data.draw(st.sampled_from(sorted(self.owner)))
        self.jobs.cancel(ticket)
        self.wanted[ticket] = False
        if ticket in self.waiting:
            self.waiting.remove(ticket)
            self.final[ticket] = State.CANCELLED

    @precondition(lambda self: self.owner)
    @rule(data=st.data())
    def look(self, data):
        ticket = data.draw(st.sampled_from(sorted(self.owner)))
        late = self.clock.now - self.seen[ticket] > 60
        if not late and self.final.get(ticket) is not State.GONE:
            self.seen[ticket] = self.clock.now
        self.prune()
        view = self.jobs.look(ticket)
        if ticket in self.waiting:
            assert view.state is State.WAITING
            assert view.ahead == self.waiting.index(ticket) + (self.running is not None)
        elif ticket == self.running and self.final.get(ticket) is not State.GONE:
            assert view.state is State.RUNNING
        elif not late:
            assert view.state is self.final[ticket]
            assert (view.result == ticket) == (view.state is State.DONE)

    @invariant()
    def bounded(self):
        if hasattr(self, "jobs"):
            assert len(self.jobs._line) <= self.DEPTH
            assert len(self.jobs._running) <= 1


def settle_final(jobs, ticket):
    """Wait until the worker has let go of a job, without looking (looking is a sign of life)."""
    end = time.monotonic() + PATIENCE
    while any(job.number == ticket for job in jobs._running):
        assert time.monotonic() < end
        time.sleep(0.0005)


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
