"""What the page Counts remembers of a visitor: the job in line, results made here or recorded.

A result has a slot: "digit" and "ten" to watch, "strip", "bench", "trained", "truth" and "fill".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from explorer import count_bench, count_exports, count_fill, count_params, count_runs, models
from explorer.count_bench import Trained
from explorer.count_fill import Filled, Truth
from explorer.count_params import HAND, Params
from explorer.count_runs import Watched
from explorer.jobs import State, Tick, View, Work
from explorer.waiting import Place, line_words

RECORDED = Path(__file__).parents[1] / "assets" / "counts"
PLACE = Place("counts_")
PEERS = {"counts": "counts-toy", "gauss": "gauss-toy", "masked": "masked-toy"}


@dataclass(frozen=True)
class Shown:
    """A life as the page keeps it: the run and the scene that the player plays."""

    run: Watched
    scene: dict[str, Any]


# -- what the page asks ----------------------------------------------------------------------------


def result(slot: str) -> Any:
    """What was made here for a slot, or None."""
    return st.session_state.get("counts_results", {}).get(slot)


def recorded(slot: str) -> Any:
    """What was made beforehand for a slot, or None where it is not there."""
    path = RECORDED / f"{slot}.safetensors"
    return _recorded(str(path), path.stat().st_mtime) if path.is_file() else None


@st.cache_resource(max_entries=8, show_spinner=False)
def _recorded(path: str, stamp: float) -> Any:
    found = count_exports.read(Path(path).read_bytes())
    return Shown(found, count_runs.life(found)) if isinstance(found, Watched) else found


def changed(params: Params, slot: str) -> bool:
    """Whether the settings are no longer those of what was made here."""
    found = result(slot)
    if found is None or PLACE.busy():
        return False
    run = found.run if isinstance(found, Shown) else found
    return run.params.said() != params.said()


def slot(params: Params) -> str:
    """Where the main result of a view lies."""
    return params.data if params.view == "watch" else params.view


def truth(params: Params) -> tuple[Truth | None, bool]:
    """The digit to erase a part of, and whether it is the one that is asked for."""
    if params.source == "test" and (found := tests()) is not None:
        return count_fill.test_truth(params, found), True
    filled = recorded("fill")
    key = count_fill.truth_key(params, models.counts_sha(params.model))
    known = [result("truth"), filled.truth if filled else None]
    fitting = [one for one in known if one is not None and one.key == key]
    there = [one for one in known if one is not None]
    return (fitting[0], True) if fitting else (next(iter(there), None), False)


@st.cache_resource(max_entries=1, show_spinner=False)
def tests() -> Any:
    """Real digits, where they are on this machine."""
    return count_fill.test_digits()


def losses() -> list[tuple[int, float]]:
    """The curve of the training that runs or was the last to run."""
    return st.session_state.get("counts_losses", [])


def words(view: View) -> str:
    """How a job stands, for people."""
    if view.state is State.WAITING:
        return line_words(view)
    share = f"{100 * view.fraction:.0f} %"
    if PLACE.job == "bench":
        return _bench_words(view.fraction)
    if PLACE.job == "train":
        return (
            f"Training: step {round(view.fraction * count_bench.TRAINING):,} of "
            f"{count_bench.TRAINING:,}"
        )
    doing = {"strip": "Drawing every value", "fill": "Filling in", "truth": "Drawing the digit"}
    return f"{doing.get(PLACE.job, 'Drawing')}: {share}"


def _bench_words(fraction: float) -> str:
    names = st.session_state.get("counts_methods", ["samples"])
    if fraction >= count_bench.DRAWN:
        return "Comparing with the exact law"
    place = min(int(fraction / count_bench.DRAWN * len(names)), len(names) - 1)
    return f"Drawing with {names[place]}: {100 * fraction:.0f} % of all"


def link_note(params: Params) -> str:
    """A word of warning where a link was made with other weights than those that are here."""
    asked = st.query_params.get("sha", "")
    here = models.counts_sha(params.model)
    known = params.view == "bench" or not here or here.startswith(asked)
    if known or len(asked) != 8 or not set(asked) <= set("0123456789abcdef"):
        return ""
    return f"This link was made with another version of {params.model}; its result may differ."


# -- what a visitor does ---------------------------------------------------------------------------


def start(params: Params) -> None:
    """Put what the view makes in line."""
    {"watch": _watch, "bench": _measure, "fill": _fill}[params.view](params)


def strip(params: Params) -> None:
    """Put the rows of values in line."""
    own = models.own_schedule(params.model)
    _submit("strip", lambda: partial(_one, "strip", count_runs.strip, _peer(params), params, own))


def train(params: Params) -> None:
    """Put a training of the toy's CountsDiff in line."""
    curve: list[tuple[int, float]] = []
    _submit("train", lambda: partial(_one, "trained", count_bench.train, params.seed, curve))
    st.session_state["counts_losses"] = curve


def draw_truth(params: Params) -> None:
    """Put the digit to erase a part of in line."""
    _submit("truth", lambda: partial(_one, "truth", count_fill.draw_truth, _peer(params), params))


def erase() -> None:
    """Take what the reader erased by hand."""
    mask = getattr(st.session_state.get("counts_eraser"), "mask", None)
    if mask is not None:
        count_params.change(kind=HAND, mask=mask)


def stop() -> None:
    """End the job; what was shown stays."""
    PLACE.stop()
    if PLACE.job == "train" and (kept := result("trained")):
        st.session_state["counts_losses"] = list(kept.losses)
    elif PLACE.job == "train":
        st.session_state.pop("counts_losses", None)


def look() -> View | None:
    """Ask how the job stands; when it is over, keep what it gave and return None."""
    return PLACE.look(_keep)


def _keep(found: dict[str, Any]) -> None:
    st.session_state["counts_results"] = st.session_state.get("counts_results", {}) | found


def _submit(job: str, work: Callable[[], Work]) -> None:
    st.session_state.pop("counts_ignored", None)
    PLACE.submit(work, job)


def _peer(params: Params) -> models.Peer:
    return models.counts(params.model)


def _watch(params: Params) -> None:
    own = models.own_schedule(params.model)
    _submit("watch", lambda: partial(_live, _peer(params), params, own))


def _measure(params: Params) -> None:
    trained: Trained | None = result("trained")

    def work() -> Work:
        peers = {key: models.counts(name) for key, name in PEERS.items()}
        if trained is not None:
            peers = {"counts": peers["counts"], "own": trained.peer, **peers}
        st.session_state["counts_methods"] = [count_bench.METHODS[key] for key in peers]
        command = trained.command if trained else ""
        return partial(_one, "bench", count_bench.measure, peers, params, command)

    _submit("bench", work)


def _fill(params: Params) -> None:
    digit, fits = truth(params)
    _submit("fill", lambda: partial(_filled, _peer(params), params, digit if fits else None))


# -- the jobs: what they return goes into the visitor's session ------------------------------------


def _one(slot: str, work: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """A job of one result; its last argument is the tick."""
    return {slot: work(*args)}


def _live(peer: models.Peer, params: Params, own: str, tick: Tick) -> dict[str, Shown]:
    run = count_runs.watch(peer, params, own, tick)
    return {params.data: Shown(run, count_runs.life(run))}


def _filled(
    peer: models.Peer, params: Params, digit: Truth | None, tick: Tick
) -> dict[str, Truth | Filled]:
    """Draw the digit first where it is not there yet."""
    if digit is None:
        digit = count_fill.draw_truth(peer, params, lambda share: tick(0.2 * share))
    found = count_fill.fill(peer, params, digit, lambda share: tick(0.2 + 0.8 * share))
    return {"truth": digit, "fill": found}
