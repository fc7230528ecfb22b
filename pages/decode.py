"""Decode: watch noise become a latent and the latent become pixels, one pair at a time."""

from functools import partial

import streamlit as st

from explorer import controls, decoding, exports, frame, models, recorded, sharing
from explorer.kinds import MNIST
from explorer.player import player
from explorer.runs import Run, Shown


def settings() -> controls.Params:
    """The left column: what to make, and the one button that makes it."""
    kinds = models.kinds() or {controls.DEFAULTS.model: MNIST}
    for note in controls.refuse_bad_link(kinds):
        st.text(f"Ignored: {note}")
    params = controls.panel(kinds)
    if note := decoding.link_note(params):
        st.caption(note)
    st.button(
        "Generate", type="primary", width="stretch", key="generate",
        on_click=decoding.start, args=(params,),
    )  # fmt: skip
    shown = decoding.current()
    if shown is not None and shown.run.params != params and not decoding.busy():
        st.caption("Settings changed. Generate to update.")
    return params


def progress() -> None:
    """Place in line, how far the run is, and a Stop button; asks the queue twice a second."""
    with frame.boundary():
        view = decoding.look()
        if view is None:
            st.rerun()
        else:
            st.progress(view.fraction, text=decoding.words(view))
            st.button("Stop", width="stretch", key="stop", on_click=decoding.stop)


def result() -> None:
    """The right column: the last result, or the recorded sample before there is one."""
    if note := decoding.note():
        st.warning(note)
    shown, forked = decoding.current(), decoding.forked()
    if shown is None:
        start = recorded.start()
        event = player([start.scene], key="decode", autoplay=True)
        st.caption(f"{start.words} Press Generate to make one here, with your settings.")
        decoding.follow(event)
        return
    scenes = [shown.scene] if forked is None else [shown.scene, forked.scene]
    event = player(scenes, key="decode", autoplay=True)
    st.caption(decoding.live_words(shown.run, forked.run if forked else None))
    decoding.follow(event)
    numbers(shown.run)
    carry(forked or shown)


def numbers(run: Run) -> None:
    """What was written, beside what a dense model would have written."""
    pairs, dim, steps = int(run.sample.nnz[0]), run.sample.dim, run.params.steps
    latent = run.latent_steps[-1].x.shape[1]
    columns = st.columns(3)
    columns[0].metric("Pairs written", f"{pairs:,}")
    columns[1].metric("Exact zeros", f"{dim - pairs:,} of {dim:,}")
    columns[2].metric("A dense model would write", f"{dim * steps:,} values")
    st.caption(
        f"A diffusion model that works on the {run.kind.cell}s rewrites all {dim} of them in each "
        f"of {steps} steps. This one rewrites {latent} latent numbers in each step "
        f"({latent * steps:,} in all), then writes {pairs} pairs. These are numbers written, "
        "not time."
    )


def carry(shown: Shown) -> None:
    """Recipe, link and files of a result; a file is made when its button is pressed."""
    run = shown.run
    if run.forks:
        st.caption(
            "Recipe and files are of your choice. The command and the link make the original; "
            "the recipe and the notebook hold the choice too."
        )
    made = {
        "Picture (PNG)": ("png", partial(exports.png, shown)),
        "Animation (GIF)": ("gif", partial(exports.gif, shown)),
        "Sparse matrix (npz)": ("npz", partial(exports.npz, run)),
        "Pairs (CSV)": ("csv", partial(exports.pairs_csv, run)),
        "Trace (JSON)": ("json", partial(exports.trace_json, run)),
        "Notebook (ipynb)": ("ipynb", partial(exports.notebook, run)),
    }
    with st.container(horizontal=True, gap="small"):
        sharing.carry(
            run.stamp, command=run.params.command(), recipe=exports.recipe(run),
            link=run.params.link(decoding.page_url(), run.sha), what="this sample",
            files={words: (exports.name(run, ending), make)
                   for words, (ending, make) in made.items()},
        )  # fmt: skip


frame.heading(
    "Decode",
    "Watch noise become a latent, and the latent become pixels, one (place, value) pair at a time.",
)
left, right = st.columns([3, 9], gap="large")
with left:
    settings()
    if decoding.busy():
        st.fragment(progress, run_every=0.5)()
with right:
    result()
