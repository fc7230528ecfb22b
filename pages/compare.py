"""Compare: the same seed, several ways to get zeros. Guess first, then see."""

import streamlit as st

from explorer import compare, compare_files, compared, comparing, controls, frame, sharing
from explorer.compared import NAMES, Recording
from explorer.comparing import SHOW
from explorer.kinds import Kind

EXPLAIN = """
A dense model gives every place a number, so its zeros come from clipping or from a cut. One cut
must serve all places: low, and specks stay; high, and faint strokes go. Sparsity Bits learns a
bit beside every number, at the price of a dense network. SED writes the places that are not zero,
one by one. All others it never touches.
"""


def choose(kinds: list[Kind]) -> tuple[Recording, int, int | None]:
    """What is compared, how many samples count, of which class."""
    with st.container(horizontal=True, gap="medium"):
        names = [kind.name for kind in kinds]
        name = st.segmented_control("Data set", names, default=names[0], required=True,
                                    key="data", bind="query-params")  # fmt: skip
        kind = kinds[names.index(name)]
        classes = ["any", *kind.classes]
        label = st.selectbox("Class", classes, key="class", bind="query-params", width=180)
        n = st.segmented_control("Samples", comparing.COUNTS, default=comparing.COUNTS[-1],
                                 required=True, key="n", bind="query-params")  # fmt: skip
    return compared.recording(kind.data), n, None if label == "any" else kind.classes.index(label)


def question(recording: Recording) -> None:
    """The guess, before any number is shown."""
    guess = st.radio("Which keeps the right number of zeros?", recording.columns, index=None,
                     format_func=NAMES.__getitem__, key="guess", horizontal=True)  # fmt: skip
    with st.container(horizontal=True):
        st.button("Lock in", type="primary", disabled=guess is None, key="lock",
                  on_click=comparing.reveal, args=(guess,))  # fmt: skip
        st.button("Just show me", key="show", on_click=comparing.reveal, args=(SHOW,))


@st.fragment
def samples(recording: Recording, n: int, label: int | None) -> None:
    """The columns, and what follows from the threshold: verdict, figure, files."""
    hidden, rows = not comparing.answer(), recording.rows(label, n)
    at, said = comparing.place(recording), st.container()
    event = compare.columns(
        compare.payload(recording, rows, at=at, sample=comparing.sample(), hidden=hidden,
                        live=comparing.shown_lives(recording)),
        key="columns",
    )  # fmt: skip
    comparing.follow(event, recording)
    at = comparing.place(recording)
    if hidden:
        st.caption(f"Drawn in shades of grey, as any viewer would. {recording.words}")
        return
    said.markdown(comparing.verdict(recording, at))
    st.caption("  \n".join([recording.words, comparing.live_words(recording)]))
    found = compare_files.Compared(recording, rows, at, label, comparing.lives(recording))
    carry(found, comparing.link(recording, comparing.settings(label), n, label))
    st.header("How many zeros", anchor=False)
    from explorer.compare_charts import zeros  # plotly is not needed before the guess

    zeros(found)
    st.dataframe(compare_files.table(found), hide_index=True, width="stretch")


def carry(found: compare_files.Compared, link: str) -> None:
    """Explanation, recipe, link and files."""
    from explorer.compare_charts import files

    with st.container(horizontal=True, gap="small"):
        with st.popover("Explain"):
            st.markdown(EXPLAIN)
        sharing.carry(
            found.stamp, command=found.recording.about["command"], link=link,
            recipe=compare_files.recipe(found), what="these samples",
            files=files(found, comparing.sample(), comparing.own()),
        )  # fmt: skip
        st.button("Ask me again", key="again", on_click=comparing.ask_again)


def live(recording: Recording, n: int, label: int | None) -> None:
    """Draw with any of the peers, here and now, beside what was recorded."""
    st.header("Make your own", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        name = st.selectbox("Method", comparing.live_options(recording), key="live",
                            bind="query-params", width=200)  # fmt: skip
        with st.container(width=330):
            controls.seed()
        st.button("Generate", type="primary", key="generate", on_click=comparing.generate,
                  args=(recording, name, n, label))  # fmt: skip
    with st.expander("More settings", key="more"):
        controls.guidance_stops()
        controls.guidance_field()
        controls.steps()
        controls.sampler()
    st.caption(comparing.live_plan(recording, name, n, label))
    wait("live")


def wait(job: str) -> None:
    """The progress of a job of that name, if this visitor has one in line, or why it failed."""
    if comparing.busy(job):
        st.fragment(progress, run_every=0.5)(job)
    elif note := comparing.note(job):
        st.warning(note)


def progress(job: str) -> None:
    """Place in line, how far the run is, and a Stop button; asks the queue twice a second."""
    with frame.boundary():
        view = comparing.look()
        if view is None:
            st.rerun()
        else:
            st.progress(view.fraction, text=comparing.words(view))
            st.button("Stop", key=f"stop-{job}", on_click=comparing.stop)


def figures(recording: Recording) -> None:
    """What a sample costs, how that grows, and where a dense model's bits go."""
    from explorer import compare_charts

    compare_charts.costs(recording.kind)
    compare_charts.scaling(comparing.own())
    st.button("Measure on this machine", key="measure", on_click=comparing.measure_here,
              disabled=comparing.busy("own"))  # fmt: skip
    wait("own")
    compare_charts.rate(recording.kind)


frame.heading(
    "Compare",
    "Same seed, several ways to get zeros. Samples of sparse and of dense models, side by side.",
)
if not (kinds := compared.available()):
    st.warning("No recorded samples are here. Fetch the repository's assets folder again.")
    st.stop()
for note in comparing.refuse_bad_link(kinds):
    st.text(f"Ignored: {note}")
recording, n, label = choose(kinds)
above, below = st.container(), st.container()
if comparing.answer():
    with below:
        live(recording, n, label)  # its controls are read by what stands above
with above:
    if not comparing.answer():
        question(recording)
    samples(recording, n, label)
if comparing.answer():
    figures(recording)
