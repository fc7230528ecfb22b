"""What the page Cells remembers of a visitor: the job in line, cells made here or recorded."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from explorer import cell_exports, cell_models, cell_places, cell_reference, cell_runs
from explorer.cell_params import FAMILIES, MODELS, Params
from explorer.cell_reference import Reference
from explorer.cell_runs import Made
from explorer.jobs import State, Tick, View, Work
from explorer.waiting import Place, line_words

RECORDED = Path(__file__).parents[1] / "assets" / "cells"
REFERENCE = "reference.safetensors.gz"
PLACE = Place("cells_")
Results = Mapping[str, Made]


# -- what the page asks ----------------------------------------------------------------------------


def reference() -> Reference:
    """The statistics of real cells that ship with the app."""
    path = RECORDED / REFERENCE
    return _reference(str(path), path.stat().st_mtime)


@st.cache_resource(max_entries=2, show_spinner=False)
def _reference(path: str, stamp: float) -> Reference:
    return cell_reference.read(Path(path))


def recorded(family: str) -> Made | None:
    """What was made beforehand by a family, or None where it is not there."""
    path = RECORDED / f"{family}.safetensors.gz"
    return _recorded(str(path), path.stat().st_mtime) if path.is_file() else None


@st.cache_resource(max_entries=4, show_spinner=False)
def _recorded(path: str, stamp: float) -> Made:
    return cell_exports.untape(Path(path).read_bytes(), reference())


def live(family: str) -> Made | None:
    """What was made here by a family, or None."""
    return st.session_state.get("cells_results", {}).get(family)


def shown(params: Params) -> dict[str, Made]:
    """The cells of each family that is asked for: made here, else recorded."""
    found = {family: live(family) or recorded(family) for family in params.families}
    return {family: made for family, made in found.items() if made is not None}


def is_live(made: Made) -> bool:
    """Whether these cells were made here."""
    return live(made.family) is made


def changed(params: Params) -> bool:
    """Whether the settings are no longer those of what was made here."""
    if PLACE.busy():
        return False
    made = [live(family) for family in params.families]
    there = [one for one in made if one is not None]
    return bool(there) and any(
        one is None or one.params.said(family) != params.said(family)
        for family, one in zip(params.families, made, strict=True)
    )


def words(view: View) -> str:
    """How a job stands, for people."""
    if view.state is State.WAITING:
        return line_words(view)
    if PLACE.busy("make"):
        return f"Drawing {drawn()}: {100 * view.fraction:.0f} %"
    if PLACE.busy("place"):
        return "Placing the new cells by UMAP"
    seconds = cell_places.fitting(reference()).seconds
    return f"Fitting UMAP, once while this app runs: {seconds:.0f} s. PCA until then."


def drawn() -> str:
    """What the running job draws."""
    return st.session_state.get("cells_drawn", "cells")


def link_note(params: Params) -> str:
    """A word of warning where a link was made with other weights than those that are here."""
    asked = st.query_params.get("sha", "")
    shas = [cell_models.sha(family) for family in params.families]
    known = any(not sha or sha.startswith(asked) for sha in shas)
    if known or len(asked) != 8 or not set(asked) <= set("0123456789abcdef"):
        return ""
    return "This link was made with another version of the model; its cells may differ."


# -- what a visitor does ---------------------------------------------------------------------------


def start(params: Params) -> None:
    """Put new cells of the families that are asked for in line."""
    for key in ("cells_ignored", "cells_stay"):
        st.session_state.pop(key, None)
    names = " and ".join(FAMILIES[family] for family in params.families)
    st.session_state["cells_drawn"] = f"{params.n:,} cells by {names}"

    def work() -> Work:
        models = {family: (cell_models.load(family), cell_models.sha(family))
                  for family in params.families}  # fmt: skip
        return partial(_draw, models, params, reference())

    PLACE.submit(work, "make")


def unplaced() -> dict[str, Made]:
    """Cells made here that are not on the UMAP yet."""
    made = {family: live(family) for family in MODELS}
    return {family: one for family, one in made.items() if one is not None and one.layout is None}


def placing(params: Params) -> bool:
    """Whether cells are on their way to the UMAP."""
    wanted = params.map == "umap" and cell_places.there() and not PLACE.busy("make")
    return wanted and bool(unplaced()) and not st.session_state.get("cells_stay", False)


def stay() -> None:
    """Leave the cells where PCA has them; the fit goes on and serves the next ones."""
    PLACE.stop()
    st.session_state["cells_stay"] = True


def stop() -> None:
    """End the job; what was shown stays."""
    PLACE.stop()


def look() -> View | None:
    """Ask how the job stands; when it is over, keep what it gave and return None."""
    return PLACE.look(_keep)


def look_at_umap() -> View | None:
    """How far the cells are on their way to the UMAP; None when they are there or stay by PCA.

    The fit is no job of the line, which others wait in; placing cells by it is one.
    """
    if PLACE.busy("place"):
        view = PLACE.look(_keep)
        if view is None and unplaced():
            st.session_state["cells_stay"] = True  # the note says why
        return view
    fit, waiting = cell_places.fitting(reference()), unplaced()
    if fit.over.is_set() and waiting:
        PLACE.submit(lambda: partial(_place, waiting, reference()), "place")
    return View(State.RUNNING, fit.share)


def _keep(found: dict[str, Any]) -> None:
    st.session_state["cells_results"] = st.session_state.get("cells_results", {}) | found


# -- the jobs --------------------------------------------------------------------------------------


def _draw(models: Mapping[str, Any], params: Params, found: Reference, tick: Tick) -> Results:
    """Cells of one or both families."""
    made = dict[str, Made]()
    for done, (family, (model, sha)) in enumerate(models.items()):
        part = _part(tick, done, len(models))
        made[family] = cell_runs.draw(model, params, found, part, family=family, sha=sha)
        if cell_places.is_fitted(found):
            made[family] = cell_runs.placed(made[family], found, lambda share: None)
    return made


def _place(waiting: Results, found: Reference, tick: Tick) -> Results:
    """The same cells on the UMAP."""
    return {
        family: cell_runs.placed(made, found, _part(tick, done, len(waiting)))
        for done, (family, made) in enumerate(waiting.items())
    }


def _part(tick: Tick, done: int, whole: int) -> Callable[[float], None]:
    return lambda share: tick((done + share) / whole)
