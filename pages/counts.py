"""Counts: units of whole numbers die one by one, and a model brings them back."""

import streamlit as st

from explorer import count_panel, count_params, count_views, counting, frame, models
from explorer.count_params import Params

GO = {"watch": "Generate", "bench": "Measure", "fill": "Fill in"}
PURPOSE = {
    "watch": "See every unit die, and new ones be born where the network expects them.",
    "bench": "Ten counts whose law is known: how near does each method come to it?",
    "fill": "Erase a part of a digit; several draws of what is missing say how sure the model is.",
}


def settings(params: Params) -> None:
    """The left column: what to make, and the one button that makes it."""
    for note in count_params.ignored():
        st.text(f"Ignored: {note}")
    with st.container(gap="small"):
        if params.view == "watch":
            count_panel.watch_panel(params)
        elif params.view == "bench":
            count_panel.bench_panel()
        else:
            count_panel.fill_panel(len(counting.tests() or ()))
            draw_digit(params)
            count_panel.fill_how()
        count_panel.more(params, kinds, models.own_schedule(params.model))
        count_views.method_words(params)
    if note := counting.link_note(params):
        st.caption(note)
    go = GO[params.view]
    st.button(go, type="primary", width="stretch", key="counts_go", on_click=counting.start,
              args=(params,))  # fmt: skip
    if counting.changed(params, counting.slot(params)):
        st.caption(f"Settings changed. {go} to update.")


def draw_digit(params: Params) -> None:
    """The digit to erase a part of, made only when it is asked for."""
    if params.source == "sample":
        _, fits = counting.truth(params)
        st.button("Draw this digit", width="stretch", key="counts_draw", disabled=fits,
                  on_click=counting.draw_truth, args=(params,))  # fmt: skip


def progress() -> None:
    """Place in line, how far the run is, and a Stop button; asks the queue twice a second."""
    with frame.boundary():
        view = counting.look()
        if view is None:
            st.rerun()
        else:
            st.progress(view.fraction, text=counting.words(view))
            st.button("Stop", width="stretch", key="counts_stop", on_click=counting.stop)
            if counting.PLACE.job == "train":
                count_views.loss_curve(counting.losses())


def wait(*jobs: str) -> None:
    """The progress of this visitor's job of one of these kinds, or why it gave no result."""
    if counting.PLACE.busy(*jobs):
        st.fragment(progress, run_every=1.0 if counting.PLACE.busy("train") else 0.5)()
    elif note := counting.PLACE.note(*jobs):
        st.warning(note)


def watch(params: Params) -> None:
    """A life, its schedule, and what the settings do to it."""
    count_views.life(params)
    count_views.schedule(params)
    count_views.strip(params)
    wait("strip")


def bench(params: Params) -> None:
    """The methods beside the exact law, and one that is trained here."""
    count_views.bench()
    count_views.training(params)
    wait("train")


def fill(params: Params) -> None:
    """A digit to erase a part of, and what the model makes of the rest."""
    count_panel.mask_kind()
    count_views.canvas(params)
    count_views.filled()


frame.heading("Counts", "Counts die one by one; a model brings them back as whole numbers.")
kinds = models.counts_models()
asked = count_params.asked(kinds, count_views.sources())
count_panel.view()
st.caption(PURPOSE[asked.view])
left, right = st.columns([3, 9], gap="large")
with left:
    settings(asked)
    wait("watch", "bench", "fill", "truth")
with right:
    {"watch": watch, "bench": bench, "fill": fill}[asked.view](asked)
count_params.write_url(asked, kinds)
