"""Cells: single cells as whole counts, beside real ones; and what the models make of your own."""

from types import ModuleType

import streamlit as st

from explorer import (
    cell_own_state,
    cell_own_views,
    cell_panel,
    cell_params,
    cell_state,
    cell_views,
    frame,
)
from explorer.cell_params import Params

PURPOSE = {
    "make": "Make cells of any type, and see beside real ones which genes are zero, and why.",
    "own": "Bring an h5ad file: fill in what is missing, or train a model on it here.",
}


def settings(params: Params) -> None:
    """The left column: what to make, and the one button that makes it."""
    for note in cell_params.ignored():
        st.text(f"Ignored: {note}")
    gone = cell_views.missing(params)
    with st.container(gap="small"):
        cell_panel.make_panel(found.types[:-1])
    if note := cell_state.link_note(params):
        st.caption(note)
    st.button("Generate", type="primary", width="stretch", key="cells_go", disabled=bool(gone),
              on_click=cell_state.start, args=(params,))  # fmt: skip
    if gone:
        st.caption(gone)
    elif cell_state.changed(params):
        st.caption("Settings changed. Generate to update.")
    cell_panel.reset()


def progress(of: ModuleType) -> None:
    """Place in line, how far the run is, and a Stop button; asks the queue twice a second."""
    with frame.boundary():
        view = of.look()
        if view is None:
            st.rerun()
        else:
            st.progress(view.fraction, text=of.words(view))
            st.button("Stop", width="stretch", key="cells_stop", on_click=of.stop)
            if of is cell_own_state:
                cell_own_views.progress_more()


def wait(of: ModuleType, *jobs: str) -> None:
    """The progress of this visitor's job of one of these kinds, or why it gave no result."""
    if cell_state.PLACE.busy(*jobs):
        st.fragment(progress, run_every=1.0 if cell_state.PLACE.busy("train") else 0.5)(of)
    elif note := cell_state.PLACE.note(*jobs):
        st.warning(note)


def umap_progress() -> None:
    """How far UMAP is; asks once a second, so that the page stays quick while it works."""
    with frame.boundary():
        view = cell_state.look_at_umap()
        if view is None:
            st.rerun()
        else:
            st.progress(view.fraction, text=cell_state.words(view))
            st.button("Stop", width="stretch", key="cells_stop", on_click=cell_state.stay)


def make(params: Params) -> None:
    """Cells beside real ones."""
    shown = cell_state.shown(params)
    if not shown:
        cell_views.nothing()
        return
    cell_views.explore(found, shown)
    cell_views.notes(found, shown, params)
    cell_views.compare(found, shown)


frame.heading("Cells", "Generated cells are counts, not smoothed values.")
found = cell_state.reference()
asked = cell_params.asked(found.types[:-1], found.genes)
cell_panel.view()
st.caption(PURPOSE[asked.view])
left, right = st.columns([3, 9], gap="large")
with left:
    if asked.view == "make":
        settings(asked)
        if cell_state.placing(asked):
            st.fragment(umap_progress, run_every=1.0)()
        else:
            wait(cell_state, "make", "place")
    else:
        cell_own_views.settings(asked)
        wait(cell_own_state, *cell_own_state.JOBS)
with right:
    make(asked) if asked.view == "make" else cell_own_views.show(asked)
cell_params.write_url(asked)
