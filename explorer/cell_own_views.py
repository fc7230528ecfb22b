"""A visitor's own cells as the page shows them: what was found, filled in, trained, made."""

from functools import partial
from urllib.parse import urlencode

import streamlit as st

from explorer import (
    cell_exports,
    cell_own,
    cell_own_state,
    cell_panel,
    cell_views,
    charts,
    decoding,
    sharing,
)
from explorer.cell_own import Filled, Own, Point, Trained
from explorer.cell_params import MODELS, TRAINED, Params
from explorer.cell_state import PLACE
from explorer.figures import cells as figures

GO = {"impute": "Fill in", "train": "Train"}
FEW = 50  # genes that match: below it filling in says little
PROMISE = (
    "An h5ad file with raw counts in X, up to 50 MB. It is read by a process of its own and kept "
    "in memory while this page is open; nothing of it is stored or sent."
)


def settings(params: Params) -> None:
    """The uploader, what was found, and what to do with it."""
    file = st.file_uploader("Your cells", type=["h5ad"], key="cells_file", help=PROMISE)
    cell_own_state.take(file)
    if words := cell_own_state.refusal():
        st.error(words)
    found = cell_own_state.own()
    if found is None:
        return
    cell_panel.own_task()
    if params.task == "impute":
        cell_panel.impute_panel()
    else:
        cell_panel.train_panel()
    why = obstacle(found, params)
    st.button(GO[params.task], type="primary", width="stretch", key="cells_own_go",
              disabled=bool(why), on_click=cell_own_state.start, args=(params,))  # fmt: skip
    if why:
        st.caption(why)
    elif cell_own_state.changed(params):
        st.caption(f"Settings changed. {GO[params.task]} to update.")


def obstacle(found: Own, params: Params) -> str:
    """Why nothing can be made of the file, in a sentence; empty where all is well."""
    if params.task == "train":
        return ""
    if gone := cell_own_state.fault():
        return gone
    genes = cell_own_state.genes_known()
    n = found.matched(genes)
    if n:
        return ""
    return (
        f"None of the {len(genes):,} genes of {MODELS['counts']} is in this file; its names are "
        f"like {genes[0]}, those of the file like {found.genes[0][:40]}. Train on it instead."
    )


def progress_more() -> None:
    """The loss so far, while a training runs."""
    if PLACE.job == "train":
        loss_curve(cell_own_state.losses())


def show(params: Params) -> None:
    """What was found in the file, and what was made of it."""
    found = cell_own_state.own()
    if found is None:
        st.markdown(PROMISE)
        st.markdown(
            f"- **Hide and fill in**: a share of its entries is hidden, and {MODELS['counts']} "
            "draws them again, so that you see how near it comes on your cells.\n"
            "- **Train and generate**: a small model learns from your cells here, in a minute or "
            "two, and makes new ones."
        )
        return
    summary(found)
    if params.task == "impute":
        filled(cell_own_state.result("impute"))
    else:
        trained(cell_own_state.result("train"))


def summary(found: Own) -> None:
    """What was found: counts, zeros, genes, names that match."""
    st.text(found.name)
    columns = st.columns(4)
    columns[0].metric("Cells", f"{len(found.cells):,}")
    columns[1].metric("Genes", f"{len(found.genes):,}")
    columns[2].metric("Exact zeros", f"{found.zeros:.1%}")
    columns[3].metric("Counts in all", f"{int(found.counts.sum()):,}")
    genes = cell_own_state.genes_known()
    n = found.matched(genes)
    known = (
        f" {n:,} of the {len(genes):,} genes of {MODELS['counts']} are in it, by name."
        if genes
        else ""
    )
    few = " So few say little of how well it fills in." if genes and 0 < n < FEW else ""
    st.caption(
        f"X holds raw counts: whole numbers, none negative.{known}{few} Only counts and names are "
        "read, so labels of cells play no part here."
    )


# -- filling in ------------------------------------------------------------------------------------


def filled(found: Filled | None) -> None:
    """What was hidden, what was drawn, and how near it comes."""
    if found is None:
        st.caption("Fill in hides a share of the entries, draws them again, and compares.")
        return
    told = cell_own.scores(found)
    st.header("Hidden, and filled in", anchor=False)
    p = found.params
    st.caption(
        f"Live: {MODELS['counts']}, {len(found.truth)} cells, {len(found.genes):,} genes that "
        f"match, {p.share} % of the entries hidden at random, {len(found.draws)} draws, {p.steps} "
        f"steps, seed {p.seed}. Measured here: {found.seconds:.1f} s ({found.device})."
    )
    if told is None:
        st.info("Nothing was hidden, so there is nothing to compare.")
        return
    columns = st.columns(4)
    columns[0].metric("Error of the mean (RMSE)", f"{told.rmse:.3f}")
    columns[1].metric("Filling with gene means", f"{told.rmse_genes:.3f}")
    columns[2].metric("Filling with zeros", f"{told.rmse_zeros:.3f}")
    columns[3].metric("Inside the 90 % interval", f"{told.inside:.0%}")
    st.caption(
        f"Over {told.entries:,} hidden entries, in counts. The interval is between the 5 % and the "
        f"95 % quantile of {len(found.draws)} draws; of so few, an ideal model's would hold about "
        f"{told.ideal:.0%} of the truth, and more where draws and truth agree on zero."
    )
    truth, mean = found.truth[found.hidden], found.draws[:, found.hidden].mean(0)
    zero = (found.draws[:, found.hidden] == 0).mean(0)
    charts.show(
        figures.filled(truth, mean, zero), alt=figures.filled_words(truth, mean),
        key="cells-filled",
        caption="Points: means over the hidden entries of that count; whiskers: the middle 80 %. "
        "A mean that grows with the count means that the other genes tell something of it.",
    )  # fmt: skip
    carry_filled(found)


def carry_filled(found: Filled) -> None:
    """Recipe, link and files of what was filled in."""
    p = found.params
    lines = (
        "from sed_core.cell_model import CellModel\n\n"
        f'model = CellModel.load("{MODELS["counts"]}")\n'
        f'model.impute("your.h5ad", draws={p.draws}, steps={p.steps}, seed={p.seed})  '
        "# fills all zeros; hidden= says which entries"
    )
    with st.container(horizontal=True, gap="small"):
        sharing.carry(
            found.stamp, command=lines, recipe=cell_own.filled_recipe(found),
            link=own_link(p), what="it of the same file", key="cells-own",
            about_files="X holds what was seen as it is and one draw of what was hidden; layers "
            "mean and sd are over all draws, hidden and truth say what was hidden.",
            files={"Filled cells (h5ad)":
                   (f"sed_cells_filled_{found.stamp}.h5ad", partial(cell_own.filled_h5ad, found))},
        )  # fmt: skip


def own_link(params: Params) -> str:
    """This page with these settings; the file has to be brought again."""
    said = {"view": "own", **params.said_of_file()}
    return f"{decoding.page_url()}?{urlencode(said)}"


# -- training --------------------------------------------------------------------------------------


def trained(found: Trained | None) -> None:
    """The loss, new cells beside those of the file, files."""
    if PLACE.busy("train"):
        return  # the progress shows the curve
    if found is None:
        st.caption(
            f"Train makes a small {TRAINED['counts']} or {TRAINED['sed']} of at most "
            f"{cell_own.MOST_GENES:,} genes and {cell_own.MOST_CELLS:,} cells, in a minute or two, "
            "and draws new cells with it. A model worth using takes longer: `sed-core train`."
        )
        return
    st.header("Trained here", anchor=False)
    loss_curve(list(found.losses))
    st.caption(
        f"Live: trained on {found.cells:,} cells x {len(found.reference.genes):,} genes in "
        f"{found.seconds:.0f} s, a short training; then {len(found.made):,} cells were drawn in "
        f"{found.made.seconds:.1f} s ({found.made.device}), {found.made.zeros:.1%} of their genes "
        "exactly zero."
    )
    shown = {found.made.family: found.made}
    cell_views.explore(found.reference, shown, prefix="own-")
    carry_trained(found)
    cell_views.compare(found.reference, shown, prefix="own-")


def carry_trained(found: Trained) -> None:
    """Recipe, link and files of cells of a model that was trained here."""
    made = found.made
    with st.container(horizontal=True, gap="small"):
        sharing.carry(
            made.stamp, command=cell_exports.command(made), recipe=cell_exports.recipe(made),
            link=own_link(found.asked), what="them of the same file", key="cells-own",
            about_files=f"{len(made):,} new cells as counts (X and layers/counts, CSR), the recipe "
            "in uns.",
            files={
                "Cells (h5ad)": (cell_exports.name(made, "h5ad"), partial(cell_exports.h5ad, made)),
                "Figures (HTML)": (cell_exports.name(made, "html"),
                                   partial(cell_views.page, found.reference, made)),
            },
        )  # fmt: skip


def loss_curve(points: list[Point]) -> None:
    """The loss of the stage that runs, or of the last one."""
    if not points:
        return
    stage, _, steps, _ = points[-1]
    some = [(step, loss) for name, step, _, loss in points if name == stage]
    words = f"The loss of stage {stage} goes from {some[0][1]:.3g} to {some[-1][1]:.3g}."
    charts.show(figures.losses(some, steps), alt=words, key="cells-losses", caption=words)
