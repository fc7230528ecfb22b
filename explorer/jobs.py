"""One bounded line of model runs for the whole process. It knows nothing of pages or of models.

First come, first served; one slot a visitor (a new click takes the old one's place); a job ends
within one `tick` of being stopped, replaced, or left by its visitor. Work is a function of `tick`
and nothing else.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Any

from explorer import faults

Tick = Callable[[float], None]
Work = Callable[[Tick], Any]


class Cancelled(BaseException):
    """Raised by `tick` when nobody wants the result any more; passes through `except Exception`."""


class Busy(RuntimeError):
    """Every place in line is taken; the message says when to come back."""


class State(StrEnum):
    """Where a job is; the last four are final."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GONE = "gone"


@dataclass(frozen=True)
class View:
    """What the page shows of a job: `ahead` others first, `wait` seconds by the measured mean."""

    state: State
    fraction: float = 0.0
    ahead: int = 0
    wait: float = 0.0
    result: Any = None
    sentence: str = ""


@dataclass(eq=False)
class _Job:
    number: int
    visitor: str
    work: Work
    seen: float
    state: State = State.WAITING
    wanted: bool = True
    fraction: float = 0.0
    started: float = 0.0
    result: Any = None
    sentence: str = ""


@dataclass
class _Pace:
    """Mean seconds of the last jobs, a cautious guess before the first."""

    seconds: deque[float] = field(default_factory=lambda: deque([3.0], maxlen=20))

    def __call__(self) -> float:
        return sum(self.seconds) / len(self.seconds)


class JobQueue:
    """A line of jobs before a few worker threads.

    `depth` jobs may wait; a job not looked at for `heartbeat` seconds is ended; `limit` ends one
    that runs longer (None: never); a finished result is kept for `keep` seconds.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        depth: int = 60,
        heartbeat: float = 5.0,
        limit: float | None = None,
        keep: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.depth, self.heartbeat, self.limit, self.keep = depth, heartbeat, limit, keep
        self._clock, self._pace, self._numbers = clock, _Pace(), count(1)
        self._jobs: dict[int, _Job] = {}
        self._line: list[_Job] = []
        self._running: list[_Job] = []
        self._open = True
        self._changed = threading.Condition()
        names = [f"job-worker-{k}" for k in range(workers)]
        self._workers = [threading.Thread(target=self._serve, name=n, daemon=True) for n in names]
        for worker in self._workers:
            worker.start()

    def submit(self, visitor: str, work: Work) -> int:
        """Put work in line for a visitor and return its ticket; `Busy` when the line is full."""
        with self._changed:
            if not self._open:
                raise Busy("The server is stopping. Please start it again.")
            self._sweep()
            if len(self._line) >= self.depth and not any(j.visitor == visitor for j in self._line):
                raise Busy(self._come_back())
            place = self._give_up(visitor)
            job = _Job(next(self._numbers), visitor, work, self._clock())
            self._jobs[job.number] = job
            self._line.insert(len(self._line) if place is None else place, job)
            self._changed.notify()
            return job.number

    def look(self, ticket: int) -> View:
        """How a job stands; looking is also the visitor's sign of life."""
        with self._changed:
            job = self._jobs.get(ticket)
            if job is not None:
                job.seen = self._clock()
            self._sweep()
            if job is None:
                return View(State.GONE, sentence="This run was given up because its page was away.")
            ahead = self._ahead(job)
            return View(job.state, job.fraction, ahead, self._wait(ahead), job.result, job.sentence)

    def cancel(self, ticket: int) -> None:
        """End a job: at once if it waits, at its next tick if it runs."""
        with self._changed:
            if job := self._jobs.get(ticket):
                self._drop(job)

    def close(self, timeout: float = 5.0) -> None:
        """Refuse new work, end what waits and runs, and wait for the workers."""
        with self._changed:
            self._open = False
            for job in list(self._jobs.values()):
                self._drop(job)
            self._changed.notify_all()
        for worker in self._workers:
            worker.join(timeout)

    def _serve(self) -> None:
        """A worker's life: take the first in line, run it, report; until the queue closes."""
        while (job := self._take()) is not None:
            self._run(job)

    def _take(self) -> _Job | None:
        with self._changed:
            while self._open:
                self._sweep()
                if self._line:
                    job = self._line.pop(0)
                    job.state, job.started = State.RUNNING, self._clock()
                    self._running.append(job)
                    return job
                self._changed.wait()
        return None

    def _run(self, job: _Job) -> None:
        try:
            self._end(job, State.DONE, result=job.work(lambda fraction: self._tick(job, fraction)))
        except Cancelled as reason:
            self._end(job, State.CANCELLED, sentence=str(reason))
        except Exception as error:
            self._end(job, State.FAILED, sentence=faults.sentence(error))

    def _tick(self, job: _Job, fraction: float) -> None:
        """Note progress; raise `Cancelled` if nobody wants the job or its time is up."""
        now = self._clock()
        job.fraction = fraction
        if not job.wanted:
            raise Cancelled("Stopped.")
        if now - job.seen > self.heartbeat:
            raise Cancelled("This run was given up because its page was away.")
        if self.limit is not None and now - job.started > self.limit:
            raise Cancelled(
                f"This run took longer than {self.limit:.0f} seconds and was stopped; "
                "ask for fewer steps."
            )

    def _end(self, job: _Job, state: State, *, result: Any = None, sentence: str = "") -> None:
        with self._changed:
            self._running.remove(job)
            if state is State.DONE and not job.wanted:
                state, result, sentence = State.CANCELLED, None, "Stopped."
            if state is State.DONE:
                self._pace.seconds.append(self._clock() - job.started)
            job.state, job.result, job.sentence = state, result, sentence
            job.work = _nothing

    def _drop(self, job: _Job) -> None:
        """Mark a job unwanted, and take it out of the line if it still waits."""
        job.wanted = False
        if job in self._line:
            self._line.remove(job)
            job.state, job.sentence, job.work = State.CANCELLED, "Stopped.", _nothing

    def _give_up(self, visitor: str) -> int | None:
        """Drop a visitor's earlier jobs; return the place in line that one of them held."""
        place = None
        for job in [j for j in self._jobs.values() if j.visitor == visitor]:
            place = self._line.index(job) if job in self._line else place
            self._drop(job)
            del self._jobs[job.number]
        return place

    def _sweep(self) -> None:
        """Forget waiting jobs of absent visitors, and finished ones nobody fetched."""
        now = self._clock()
        for job in list(self._jobs.values()):
            patience = self.heartbeat if job.state is State.WAITING else self.keep
            if job.state is not State.RUNNING and now - job.seen > patience:
                self._drop(job)
                del self._jobs[job.number]

    def _ahead(self, job: _Job) -> int:
        return len(self._running) + self._line.index(job) if job in self._line else 0

    def _wait(self, ahead: int) -> float:
        return ahead * self._pace() / max(1, len(self._workers))

    def _come_back(self) -> str:
        minutes = max(1, round(self._wait(len(self._line) + 1) / 60))
        after = "1 minute" if minutes == 1 else f"{minutes} minutes"
        return f"All {self.depth} places in line are taken. Please come back in about {after}."


def _nothing(tick: Tick) -> None:
    """What a finished job keeps in place of its work, so that nothing it held stays in memory."""
