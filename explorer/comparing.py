"""What the Compare page remembers of a visitor: the choice, the prediction, the runs made here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from explorer import compared, controls, decoding, measuring
from explorer.compared import NAMES, Recording
from explorer.controls import Params
from explorer.drawing import Live, draw_each, peers, stage
from explorer.jobs import State, View
from explorer.kinds import Kind
from explorer.waiting import Place, line_words

PLACE = Place("compare_")
COUNTS = (1, 100, 500)
LIVE = 100  # samples a live run makes at most; more are recorded
SHOW = "show"  # the answer of who does not want to guess
EVERY = "All of them"
SHARED = ("guidance", "steps", "sampler", "seed")  # keys that mean the same on Decode


# -- the link --------------------------------------------------------------------------------------


def refuse_bad_link(recordings: Sequence[Kind]) -> list[str]:
    """Take values that do not belong out of the URL before a widget reads them; say which."""
    given, state = dict(st.query_params), st.session_state
    ignored = unknown(given, recordings)
    for note in ignored:
        del st.query_params[note.split("=")[0]]
    if ignored:
        state["compare_ignored"] = ignored
    return state.get("compare_ignored", [])


def unknown(given: Mapping[str, str], recordings: Sequence[Kind]) -> list[str]:
    """What a link says that this page can't mean."""
    shared = {key: given[key] for key in SHARED if key in given}
    ignored = controls.read(shared, [])[1]
    kind = next((k for k in recordings if k.name == given.get("data")), recordings[0])
    recording = compared.recording(kind.data)
    known = {
        "data": [k.name for k in recordings],
        "class": ["any", *kind.classes],
        "n": [str(n) for n in COUNTS],
        "reveal": [*recording.columns, SHOW],
        "live": live_options(recording),
    }
    bad = [key for key, values in known.items() if key in given and given[key] not in values]
    if "thr" in given and _place(given["thr"], recording) is None:
        bad.append("thr")
    return ignored + [f"{key}={given[key][:40]}" for key in bad]


def _place(text: str, recording: Recording) -> int | None:
    """The place on the grid of a threshold in the link, which is in the unit that people read."""
    try:
        tau = float(text) / recording.kind.scale
    except ValueError:
        return None
    if not recording.about["curve"]:
        return None
    grid = recording.curve["tau"]
    known = math.isfinite(tau) and 0 <= tau <= grid[-1] * 1.001
    return compared.nearest(grid, tau) if known else None


def place(recording: Recording) -> int:
    """Where the threshold stands: where the reader left it, as the link says, or as fitted."""
    if not recording.about["curve"]:
        return 0
    places = st.session_state.setdefault("compare_at", {})
    data = recording.kind.data
    if data not in places:
        asked = _place(st.query_params.get("thr", ""), recording)
        places[data] = fitted(recording) if asked is None else asked
    return places[data]


def fitted(recording: Recording) -> int:
    """Where the rule that matches the training data's zeros puts the threshold."""
    return compared.nearest(recording.curve["tau"], recording.curve["rules"]["match"])


def follow(event: Any, recording: Recording) -> None:
    """Remember where the reader stopped, and write it into the link."""
    view = getattr(event, "view", None)
    if view and view.get("data") == recording.kind.data:
        grid = recording.curve["tau"] if recording.about["curve"] else [0.0]
        st.session_state["compare_at"][recording.kind.data] = min(int(view["at"]), len(grid) - 1)
        st.session_state["compare_sample"] = int(view["sample"])
    write_link(recording)


def write_link(recording: Recording) -> None:
    """Put the prediction and the threshold into the URL; the widgets write themselves."""
    at, said = place(recording), {"reveal": answer()}
    if recording.about["curve"] and at != fitted(recording) and answer():
        said["thr"] = f"{recording.curve['tau'][at] * recording.kind.scale:.4g}"
    for key in ("reveal", "thr"):
        if said.get(key):
            st.query_params[key] = said[key]
        elif key in st.query_params:
            del st.query_params[key]


def link(recording: Recording, params: Params, n: int, label: int | None) -> str:
    """A link that says everything."""
    at, kind = place(recording), recording.kind
    said = {"data": kind.name, "n": str(n), "reveal": answer() or SHOW}
    said |= {"class": "any" if label is None else kind.classes[label]}
    if recording.about["curve"]:
        said["thr"] = f"{recording.curve['tau'][at] * kind.scale:.4g}"
    said |= {key: value for key, value in params.query().items() if key in SHARED}
    return f"{decoding.page_url()}?{urlencode(said)}"


# -- the prediction --------------------------------------------------------------------------------


def answer() -> str:
    """What the reader guessed, `show`, or nothing yet."""
    return st.session_state.setdefault("compare_reveal", st.query_params.get("reveal", ""))


def reveal(guess: str | None) -> None:
    """Take the guess and show the numbers."""
    if guess:
        st.session_state["compare_reveal"] = guess
        st.session_state.pop("compare_ignored", None)


def ask_again() -> None:
    """Hide the numbers again."""
    st.session_state["compare_reveal"] = ""


def gaps(recording: Recording, at: int) -> list[tuple[str, float]]:
    """Columns by how many zeros a sample is off on the average, the best first."""
    rows = recording.rows(None, recording.count)
    tau = recording.curve["tau"][at] if recording.about["curve"] else 0.0
    found = [
        (key, compared.gap(compared.zeros(recording, key, rows, tau), recording.real))
        for key in recording.columns
    ]
    return sorted(found, key=lambda one: one[1])


def verdict(recording: Recording, at: int) -> str:
    """What the reader said, and what was measured."""
    order, cell = gaps(recording, at), recording.kind.cell
    said = answer()
    mine = "" if said not in NAMES else f"You said {NAMES[said]}. "
    (best, least), *rest = order
    others = ", ".join(f"{NAMES[key]} {_off(value)}" for key, value in rest)
    return (
        f"{mine}Nearest to the zeros of real {recording.kind.things}: **{NAMES[best]}**, off by "
        f"{_off(least)} {cell}s a sample. Then {others}. As many other real ones are off by "
        f"{_off(compared.gap(recording.floor, recording.real))}. {_best(recording, at)}"
    )


def _best(recording: Recording, at: int) -> str:
    """Which column is best by the first measure of quality: zeros are not all there is."""
    first = recording.about["quality"][0]
    sign = 1 if first["better"] == "lower" else -1
    found = {key: compared.quality(recording, key, first["key"], at) for key in recording.columns}
    best = min(found, key=lambda key: sign * found[key])
    real = compared.said(first["real"], first)
    return (
        f"Best by {first['short']}: **{NAMES[best]}**, {compared.said(found[best], first)} "
        f"(as many real ones: {real})."
    )


def _off(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


# -- runs made here --------------------------------------------------------------------------------


def live_options(recording: Recording) -> list[str]:
    """What can be generated here."""
    return [EVERY, *(method.name for method in recording.methods)]


def lives(recording: Recording) -> dict[str, Live]:
    """What was generated here for a set of data, by column."""
    return st.session_state.get("compare_live", {}).get(recording.kind.data, {})


def shown_lives(recording: Recording) -> dict[str, dict[str, Any]]:
    """The same as the columns take it, in half precision."""
    return {
        key: {
            "values": compared.halved(live.values), "seed": live.params.seed,
            "recipe": live.recipe,
        }
        for key, live in lives(recording).items()
    }  # fmt: skip


def settings(label: int | None) -> Params:
    """What the shared controls say; the model is chosen when it runs."""
    keys = [key for key in SHARED if st.session_state.get(key) is not None]
    params, _ = controls.read({key: st.session_state[key] for key in keys}, [])
    return replace(params, label=label)


def generate(recording: Recording, name: str, n: int, label: int | None) -> None:
    """Put a live run in line: one method, or every one that there is."""
    st.session_state.pop("compare_ignored", None)
    params = settings(label)
    data, wanted = recording.kind.data, {
        method.key: method.checkpoint for method in recording.methods
        if name in (EVERY, method.name)
    }  # fmt: skip
    st.session_state["compare_methods"] = [NAMES[key] for key in wanted]
    PLACE.submit(lambda: partial(draw_each, data, peers(wanted, params), min(n, LIVE)), "live")


def measure_here() -> None:
    """Put the short scaling run in line."""
    PLACE.submit(lambda: measuring.measure, "own")


def own() -> dict[str, Any] | None:
    """What was measured on this machine."""
    return st.session_state.get("compare_own")


def busy(job: str) -> bool:
    """Whether this visitor has a job of that name in line."""
    return PLACE.busy(job)


def note(job: str) -> str:
    """What to tell the visitor about the last job of that name, if it gave no result."""
    return PLACE.note(job)


def stop() -> None:
    """End the job; what was shown stays."""
    PLACE.stop()


def look() -> View | None:
    """Ask how the job stands; when it is over, keep what it gave and return None."""
    return PLACE.look(_keep)


def _keep(result: Any) -> None:
    if PLACE.job == "own":
        st.session_state["compare_own"] = result
        return
    data, made = result
    every = st.session_state.setdefault("compare_live", {})
    every[data] = {**every.get(data, {}), **made}


def words(view: View) -> str:
    """How a job stands, for people."""
    if view.state is State.WAITING:
        return line_words(view)
    if PLACE.job == "own":
        return measuring.stage(view.fraction)
    return stage(view.fraction, st.session_state["compare_methods"])


def live_plan(recording: Recording, name: str, n: int, label: int | None) -> str:
    """What Generate will do."""
    count, kind = min(n, LIVE), recording.kind
    what = "one sample" if count == 1 else f"{count} samples"
    limit = f" More than {LIVE} are recorded only." if n > LIVE else ""
    who = "each method" if name == EVERY else name
    return f"Draws {what} ({kind.what(label)}) with {who}, one seed for all.{limit}"


def sample() -> int:
    """Which of the samples the reader looks at, from 0."""
    return st.session_state.get("compare_sample", 0)


def live_words(recording: Recording) -> str:
    """What was made here and how long it took, measured."""
    made = lives(recording).values()
    parts = [
        f"{NAMES[live.key]} ({len(live.values)} of seed {live.params.seed}, "
        f"{recording.kind.what(live.params.label)}) {live.seconds / len(live.values):.2g} s each"
        for live in made
    ]
    return f"Live, measured here: {'; '.join(parts)}." if parts else ""
