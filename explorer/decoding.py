"""What the Decode page remembers of a visitor: job in line, last result, its fork, a note."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st

from explorer import exports, models, recorded
from explorer.controls import Params
from explorer.jobs import State, Tick, View, Work
from explorer.models import Loaded
from explorer.recorded import Recorded
from explorer.runs import GUESSES, Run, Shown, fork, generate, shown, stage
from explorer.waiting import Place, line_words, queue

__all__ = ["queue"]
PLACE = Place()


# -- what the page asks --------------------------------------------------------------------------


def current() -> Shown | None:
    """The last finished sample."""
    return st.session_state.get("shown")


def forked() -> Shown | None:
    """Its other continuation, where the visitor chose another pixel."""
    return st.session_state.get("forked")


def busy() -> bool:
    """Whether this visitor has a job in line."""
    return PLACE.busy()


def note() -> str:
    """What to tell the visitor about the last job, if it gave no result."""
    return PLACE.note()


def words(view: View) -> str:
    """How a job stands, for people."""
    return line_words(view) if view.state is State.WAITING else stage(view.fraction)


def live_words(run: Run, other: Run | None) -> str:
    """What is shown and how long it took, measured."""
    p = run.params
    text = (
        f"Live: {p.model}, {run.kind.what(p.label)}, guidance {p.guidance:g}, "
        f"{p.steps} steps, seed {p.seed}. "
        f"Measured here: latent {run.latent_seconds:.2f} s, pairs {run.pairs_seconds:.2f} s "
        f"({run.device}).{recorded.guess_words(min(GUESSES, p.steps), p.steps)}"
    )
    if other is None:
        return text
    at, index = other.forks[-1]
    return f"{text} Beside it: the same up to pair {at}, then {pixel(index, run)} instead."


def pixel(index: int, run: Run) -> str:
    """A pixel's name as the player says it, or stop."""
    if index == run.sample.dim:
        return "stop"
    row, column = divmod(index, run.kind.side)
    return f"row {row}, column {column}"


def link_note(params: Params) -> str:
    """A word of warning where a link was made with other weights than those that are here."""
    asked = st.query_params.get("sha", "")
    card = next((card for card in models.generators() if card.name == params.model), None)
    if card is None or not re.fullmatch(r"[0-9a-f]{8}", asked) or models.fault(card):
        return ""
    if models.sha(card.folder).startswith(asked):
        return ""
    return f"This link was made with another version of {card.name}; its result may differ."


def page_url() -> str:
    """This page's address without its query."""
    return str(st.context.url or "").split("?")[0]


# -- what a visitor does -------------------------------------------------------------------------


def start(params: Params) -> None:
    """Put a new sample in line."""
    st.session_state.pop("ignored", None)
    _submit(lambda loaded: partial(_sample, loaded, params), params.model)


def follow(event: Any) -> None:
    """Do what the visitor asked of the player: continue from another pixel."""
    asked = getattr(event, "fork", None)
    if not asked:
        return
    at, index = int(asked["at"]), int(asked["index"])
    base = forked() if asked.get("scene") == 1 else current()
    if base is None:
        start = recorded.start()
        _submit(
            lambda loaded: partial(_fork_recorded, loaded, start, at, index), start.params.model
        )
    else:
        run = base.run
        _submit(lambda loaded: partial(_fork, loaded, run, at, index), run.params.model)
    st.rerun()


def stop() -> None:
    """End the job; what was shown stays."""
    PLACE.stop()


def look() -> View | None:
    """Ask how the job stands; when it is over, keep what it gave and return None."""
    return PLACE.look(st.session_state.update)


def _submit(job: Callable[[Loaded], Work], model: str) -> None:
    """Load the model and put the job in line, or say in one sentence why not."""
    PLACE.submit(lambda: job(models.load(model)))


# -- the jobs: what they return goes into the visitor's session ----------------------------------


def _sample(loaded: Loaded, params: Params, tick: Tick) -> dict[str, Shown | None]:
    run = generate(loaded.model, params, loaded.sha, tick, loaded.kind)
    return {"shown": _shown(run, loaded), "forked": None}


def _fork(loaded: Loaded, run: Run, at: int, index: int, tick: Tick) -> dict[str, Shown | None]:
    if loaded.sha != run.sha:
        raise ValueError(
            "The checkpoint has changed since this sample was made; generate it again."
        )
    return {"forked": _shown(fork(loaded.model, run, at, index, tick), loaded)}


def _fork_recorded(
    loaded: Loaded, start: Recorded, at: int, index: int, tick: Tick
) -> dict[str, Shown | None]:
    """Make the recorded sample again, make sure that it is the same, and fork it."""
    run = generate(loaded.model, start.params, loaded.sha, tick, loaded.kind)
    if run.sample.pairs(0)[0].tolist() != start.scene["pairs"]["index"]:
        raise ValueError("This recording was made with another checkpoint; press Generate first.")
    return {"shown": Shown(run, start.scene), **_fork(loaded, run, at, index, tick)}


def _shown(run: Run, loaded: Loaded) -> Shown:
    return shown(run, exports.recipe(run), loaded.cloud)
