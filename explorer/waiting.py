"""A visitor's place in the one line of jobs of this process, as the pages use it."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from explorer import faults
from explorer.jobs import Busy, JobQueue, State, View, Work


@st.cache_resource(on_release=JobQueue.close)
def queue() -> JobQueue:
    """The one line of jobs of this process: one worker, one thread."""
    return JobQueue(workers=1)


@dataclass(frozen=True)
class Place:
    """Ticket, kind of job and last note of a visitor; `prefix` tells pages apart."""

    prefix: str = ""

    def submit(self, work: Callable[[], Work], job: str = "") -> None:
        """Make the work ready and put it in line, or say in one sentence why not."""
        state = st.session_state
        state[f"{self.prefix}note"], state[f"{self.prefix}job"] = "", job
        visitor = state.setdefault("visitor", uuid.uuid4().hex)
        try:
            state[f"{self.prefix}ticket"] = queue().submit(visitor, work())
        except Busy as full:
            state[f"{self.prefix}note"] = str(full)
        except Exception as error:
            state[f"{self.prefix}note"] = faults.sentence(error)

    @property
    def job(self) -> str:
        """What kind of job was put in line last."""
        return st.session_state.get(f"{self.prefix}job", "")

    def busy(self, *jobs: str) -> bool:
        """Whether this visitor has a job in line, of one of these kinds if any are named."""
        return f"{self.prefix}ticket" in st.session_state and (not jobs or self.job in jobs)

    def note(self, *jobs: str) -> str:
        """What to tell about the last job, if it gave no result and is of one of these kinds."""
        return (
            st.session_state.get(f"{self.prefix}note", "") if not jobs or self.job in jobs else ""
        )

    def stop(self) -> None:
        """End the job; what was shown stays."""
        if ticket := st.session_state.pop(f"{self.prefix}ticket", None):
            queue().cancel(ticket)

    def look(self, keep: Callable[[Any], None]) -> View | None:
        """How the job stands; when it is over, keep what it gave and return None."""
        ticket = st.session_state.get(f"{self.prefix}ticket")
        if ticket is None:
            return None
        view = queue().look(ticket)
        if view.state in (State.WAITING, State.RUNNING):
            return view
        del st.session_state[f"{self.prefix}ticket"]
        st.session_state[f"{self.prefix}note"] = view.sentence
        if view.state is State.DONE:
            keep(view.result)
        return None


def line_words(view: View) -> str:
    """How long the line is, for people."""
    others = "1 run" if view.ahead == 1 else f"{view.ahead} runs"
    return f"In line: {others} ahead of you, about {max(1, round(view.wait))} s"
