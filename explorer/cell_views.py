"""Cells as a reader sees them: map, gene, figures, recipe, link and files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from explorer import (
    cell_exports,
    cell_models,
    cell_panel,
    cell_params,
    cell_places,
    cell_reference,
    cell_state,
    charts,
    decoding,
    sharing,
)
from explorer.cell_params import FAMILIES, Params
from explorer.cell_reference import Array, Reference
from explorer.cell_runs import Made
from explorer.figures import cells as figures
from explorer.figures.cells import Cloud, Sample

LASSO = {**charts.CONFIG, "modeBarButtonsToRemove": ["autoScale2d", "zoomIn2d", "zoomOut2d"]}
Shown = Mapping[str, Made]
POISSON = " On the dotted line, chance is all."
CHOSEN = " These genes were chosen because they vary in the real cells, which lifts the grey line."


# -- maps and the gene they are linked to ----------------------------------------------------------


@st.fragment
def explore(found: Reference, shown: Shown, *, prefix: str = "") -> None:
    """The maps, and beside them one gene of the cells that are chosen there."""
    params = cell_params.of_session()
    if len(shown) > 1 and not prefix:
        cell_panel.place()
    if len(shown) == 1:
        left, right = st.columns([5, 4], gap="medium")
        with left:
            if not prefix:
                cell_panel.place()
            chosen = {
                family: one_map(found, made, params, prefix) for family, made in shown.items()
            }
    else:
        columns, right = st.columns(len(shown), gap="medium"), st.container()
        chosen = {}
        for column, (family, made) in zip(columns, shown.items(), strict=True):
            with column:
                st.markdown(f"**{FAMILIES[family]}**")
                chosen[family] = one_map(found, made, params, prefix)
    with right:
        gene(found, shown, chosen, prefix)
    cell_params.write_url(params)


def one_map(found: Reference, made: Made, params: Params, prefix: str) -> list[int] | None:
    """Real and made cells; the numbers of the made ones inside the loop, None if there is none."""
    by_umap = params.map == "umap" and made.layout is not None
    real = Cloud(made.layout[0] if by_umap and made.layout else found.pcs[:, :2], _types(found))
    new = Cloud(made.layout[1] if by_umap and made.layout else made.pcs[:, :2], made.types)
    how = "UMAP" if by_umap else "The first two principal axes"
    event: Any = st.plotly_chart(
        figures.cells_map(
            real, new, found.types[:-1], asked=params_label(made), named=by_umap
        ), width="stretch", theme=None, config=LASSO,
        alt=figures.map_words(real, new, FAMILIES[made.family], how),
        key=f"cells-map-{prefix}{made.family}-{made.stamp}-{int(by_umap)}-{_nonce()}",
        on_select="rerun", selection_mode=["lasso", "box"],
    )  # fmt: skip
    st.caption(map_caption(found, made, params, by_umap))
    return inside(event)


def params_label(made: Made) -> str | None:
    """The one type that was asked for."""
    return made.params.label if made.labels else None


def inside(event: Any) -> list[int] | None:
    """Numbers of the made cells in a loop, None where no loop was drawn."""
    points = event.selection["points"] if event else []
    rows = [_number(point.get("customdata", -1)) for point in points]
    return sorted({row for row in rows if row >= 0}) if rows else None


def _number(data: Any) -> int:
    return int(data[0] if isinstance(data, list | tuple) else data)


def map_caption(found: Reference, made: Made, params: Params, by_umap: bool) -> str:
    """What the map shows, and what it simplifies."""
    base = (
        f"Grey: {found.name}. Draw a loop around cells to look at only these; a double click "
        "ends it. "
    )
    if by_umap:
        return base + ("UMAP of the real cells; generated ones are placed by its transform. "
                       "Distances between groups mean little.")  # fmt: skip
    if params.map == "pca" or found.layout is None:
        return base + "The two principal axes along which real cells vary most."
    if not cell_places.there():
        return base + "PCA, because umap-learn is not installed here."
    return base + "PCA, because UMAP has not placed these cells yet."


def gene(
    found: Reference, shown: Shown, drawn: Mapping[str, Sequence[int] | None], prefix: str
) -> None:
    """One gene of the cells that are chosen, or of all, beside real cells of the same types."""
    chosen = {family: rows or [] for family, rows in drawn.items()}
    n, looped = sum(map(len, chosen.values())), any(rows is not None for rows in drawn.values())
    rows = {family: list(chosen[family]) if n else list(range(len(made)))
            for family, made in shown.items()}  # fmt: skip
    whole = sum(map(len, shown.values()))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(selected_words(n, whole, looped))
        if looped:
            st.button("Clear", on_click=_clear, key=f"cells-{prefix}clear")
    cell_panel.gene(found.genes)
    name = cell_params.of_session().gene
    name = name if name in found.place else found.genes[0]
    k = found.place[name]
    mix = found.mix([shown[family].types[row] for family in shown for row in rows[family]])
    real = found.histogram(k, mix)
    samples = [Sample(family, FAMILIES[family], _column(made, k, rows[family]))
               for family, made in shown.items() if rows[family]]  # fmt: skip
    title = f"counts of {name}"
    charts.show(
        figures.gene(real, samples, title), alt=figures.gene_words(real, samples, title),
        key=f"cells-{prefix}gene", caption=gene_caption(found, samples, real),
    )  # fmt: skip
    if n:
        some = [family for family in shown if rows[family]]
        st.download_button(
            "Download selection (CSV)", key=f"cells-{prefix}selection", on_click="ignore",
            data=partial(cell_exports.selection, [shown[one] for one in some],
                         [rows[one] for one in some], found.genes),
            file_name=f"sed_cells_{'_'.join(shown[one].stamp for one in some)}_selection.csv",
            mime="text/csv",
        )  # fmt: skip


def selected_words(n: int, whole: int, looped: bool) -> str:
    """How many made cells are looked at."""
    if n:
        return f"**{n:,} selected** of {whole:,}"
    if looped:
        return f"**Only real cells** in the loop: all {whole:,} generated"
    return f"**None selected**: all {whole:,}"


def gene_caption(found: Reference, samples: Sequence[Sample], real: Array) -> str:
    """How many cells the bars count, and how often they are zero."""
    parts = [f"{one.name}: n = {len(one.values):,}, {np.mean(one.values == 0):.1%} exactly zero"
             for one in samples]  # fmt: skip
    mixed = ", types mixed as in these cells" if len(found.types) > 1 else ""
    return f"{'; '.join(parts)}; real: {real[0]:.1%} ({found.name}{mixed}). Hatched: exact zeros."


def _column(made: Made, k: int, rows: Sequence[int]) -> Array:
    return np.asarray(made.panel[list(rows), k].toarray()).ravel().astype(np.int64)


@st.cache_data(max_entries=4, show_spinner=False)
def _names(types: tuple[str, ...], kind: bytes) -> list[str]:
    return [types[k] for k in np.frombuffer(kind, np.uint8)]


def _types(found: Reference) -> list[str]:
    return _names(found.types, found.kind.tobytes())


def _nonce() -> int:
    return st.session_state.get("cells_nonce", 0)


def _clear() -> None:
    st.session_state["cells_nonce"] = _nonce() + 1


# -- what was made ---------------------------------------------------------------------------------


def made_words(made: Made, live: bool) -> str:
    """What these cells are, honestly."""
    p = made.params
    what = "any type, mixed as in the real cells" if p.label is None else p.label
    how = f"{len(made):,} cells, {what}, guidance {p.guidance:g}, {p.steps} steps, seed {p.seed}"
    if live:
        return (
            f"Live: {made.model}, {how}; {made.zeros:.1%} of {len(made.genes):,} genes are exactly "
            f"zero in a cell. Measured here: {made.seconds:.1f} s ({made.device})."
        )
    return (
        f"Recorded, not live: {made.model}, {how}, recipe {made.stamp}. Press Generate to make "
        "some here, with your settings."
    )


def nearness_words(made: Made) -> str:
    """Whether cells were learned by heart, in a sentence."""
    near = made.near
    if near is None:
        return ""
    return (
        f"Memorisation, {FAMILIES[made.family]}: the nearest training cell is {near.made:.1f} away "
        f"(median), {near.held:.1f} for {near.held_out} held-out real cells. A generated cell is "
        f"nearer than a held-out one in {near.closer:.0%} of pairs (50 % expected), and "
        f"{near.copies:.1%} are nearer than 99 % of the held-out ones (1 % expected). Distances "
        f"are along {made.pcs.shape[1]} principal axes; cells that vary too little are near to all."
    )


# -- all genes -------------------------------------------------------------------------------------


def compare(found: Reference, shown: Shown, *, prefix: str = "") -> None:
    """Four figures of all cells: zeros, means and variances, libraries, pairs of genes."""
    st.header("Do they follow the laws of real cells?", anchor=False)
    parts = all_figures(found, shown)
    columns = st.columns(2, gap="medium")
    for place, (title, (fig, alt, caption)) in enumerate(parts.items()):
        with columns[place % 2]:
            st.markdown(f"**{title}**")
            charts.show(fig, alt=alt, key=f"cells-{prefix}{place}", caption=caption)
    mixed = ", their types mixed as in the generated cells" if len(found.types) > 1 else ""
    st.caption(f"Real: {found.name}{mixed}; {len(found.genes):,} genes.")


Figure = tuple[Any, str, str]


def all_figures(found: Reference, shown: Shown) -> dict[str, Figure]:
    """Title -> figure, its words for assistive tools, its caption."""
    first = next(iter(shown.values()))
    mix = found.mix(first.types)
    mean, variance, zero = found.moments(mix)
    every = {key: _moments(made) for key, made in shown.items()}
    zeros = [Sample(key, FAMILIES[key], part[2]) for key, part in every.items()]
    spreads = [Sample(key, FAMILIES[key], part[:2]) for key, part in every.items()]
    totals = [Sample(key, FAMILIES[key], np.asarray(made.panel.sum(1)).ravel())
              for key, made in shown.items()]  # fmt: skip
    weights, chosen = found.weights(mix), CHOSEN if len(found.held) else ""
    parts: dict[str, Figure] = {
        "Zeros of each gene": (
            figures.zeros(zero, zeros, found.genes), figures.zero_words(zero, zeros),
            f"{figures.zero_words(zero, zeros)} On the dotted line both agree.",
        ),
        "Variance against mean": (
            figures.spreads((mean, variance), spreads),
            figures.spread_words((mean, variance), spreads),
            figures.spread_words((mean, variance), spreads) + POISSON + chosen,
        ),
        "Counts of a cell": (
            figures.libraries(found.library, weights, totals),
            figures.library_words(found.library, weights, totals),
            f"{figures.library_words(found.library, weights, totals)} The last step: all beyond.",
        ),
    }  # fmt: skip
    names = [found.genes[k] for k in found.variable]
    real = found.correlations(mix)
    pairs = [Sample(key, FAMILIES[key], _correlations(found, made)) for key, made in shown.items()]
    for one in pairs:
        chance = np.sqrt(1 / len(shown[one.key]) + weights @ weights)
        title = "Genes that go together" + (f", {one.name}" if len(pairs) > 1 else "")
        words = figures.pair_words(real, [one])
        parts[title] = (
            figures.pairs(real, one, names), words,
            f"{words} Chance alone makes about {chance:.3f} of so few cells.",
        )  # fmt: skip
    return parts


def _moments(made: Made) -> tuple[Array, Array, Array]:
    """Mean, variance and share of zeros of each gene."""
    n = max(1, len(made))
    panel = made.panel.astype(np.float64)
    mean = np.asarray(panel.mean(0)).ravel()
    square = np.asarray(panel.power(2).mean(0)).ravel()
    return mean, square - mean**2, 1 - np.asarray(panel.getnnz(axis=0)).ravel() / n


def _correlations(found: Reference, made: Made) -> Array:
    values = cell_reference.normalised(made.panel, found.variable)
    return cell_reference.correlated(values.mean(0), values.T @ values / max(1, len(values)))


# -- files -----------------------------------------------------------------------------------------


def carry(found: Reference, made: Made, params: Params) -> None:
    """Recipe, link and files of what was made here; a file is made when its button is pressed."""
    with st.container(horizontal=True, gap="small"):
        sharing.carry(
            made.stamp, command=cell_exports.command(made), recipe=cell_exports.recipe(made),
            link=link(made, params), what="these cells", key=f"cells-{made.family}",
            about_files=f"The h5ad holds {len(made):,} cells x {len(made.genes):,} genes as counts "
            "(X and layers/counts, CSR), their types, and the recipe in uns; scanpy opens it.",
            files={
                "Cells (h5ad)": (cell_exports.name(made, "h5ad"), partial(cell_exports.h5ad, made)),
                "Figures (HTML)": (cell_exports.name(made, "html"), partial(page, found, made)),
            },
        )  # fmt: skip


def link(made: Made, params: Params) -> str:
    """The cells that are shown, with the gene and the map that are chosen now."""
    said = replace(made.params, family=made.family, gene=params.gene, map=params.map)
    return said.link(decoding.page_url(), made.sha)


def page(found: Reference, made: Made) -> str:
    """The map and all figures of one result as one page that needs no network."""
    by_umap = made.layout is not None
    real = Cloud(made.layout[0] if made.layout else found.pcs[:, :2], _types(found))
    new = Cloud(made.layout[1] if made.layout else made.pcs[:, :2], made.types)
    shown = {"UMAP" if by_umap else "First two principal axes":
             figures.cells_map(real, new, found.types[:-1], asked=params_label(made),
                               named=by_umap)}  # fmt: skip
    shown |= {title: fig for title, (fig, _, _) in all_figures(found, {made.family: made}).items()}
    return charts.html(shown, title=f"Cells of {made.model}, recipe {made.stamp}")


def missing(params: Params) -> str:
    """What can't be made live here, and why; empty where all can."""
    return cell_models.missing(params.families)


def nothing() -> None:
    """Words where there are neither live nor recorded cells."""
    st.info("No cells are recorded here yet. Press Generate.")


def notes(found: Reference, shown: Shown, params: Params) -> None:
    """Under the maps: what the cells are, memorisation, files."""
    for made in shown.values():
        live = cell_state.is_live(made)
        st.caption(made_words(made, live))
        if words := nearness_words(made):
            st.caption(words)
        if live:
            carry(found, made, params)
