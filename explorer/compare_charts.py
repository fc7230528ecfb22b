"""The figures of Compare on the page: what is measured, when and where, and where it is missing."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import streamlit as st

from explorer import charts, compare_files, compared
from explorer.compare_files import Compared
from explorer.compared import NAMES
from explorer.figures import compare as figures
from explorer.kinds import Kind
from explorer.results import measured_words, result
from explorer.sharing import Files

MISSING = "Not measured yet for {}: `{}` makes it."
SPANS = {"1,000 of them active": 1000, "50 active": 50}
WHATS = {"a sample": "sample_ms", "a training step": "step_ms"}


def zeros(found: Compared) -> None:
    """Histograms of the zeros of every column against real ones."""
    methods, real = _zeros(found), found.recording.real
    dim, kind = found.recording.kind.dim, found.recording.kind
    label = "" if found.label is None else f" The real {kind.things} are of every class."
    charts.show(
        figures.zeros(methods, real, dim, cell=kind.cell),
        alt=figures.zeros_words(methods, real, dim), key="figure-zeros",
        caption=f"Grey: {len(real):,} real {kind.things} that no model saw; line: "
        f"{_counted(len(found.rows))}. A good model's line runs along the grey. “Off by” is the "
        f"mean distance between the two (W1).{label}",
    )  # fmt: skip


def _counted(n: int) -> str:
    return "one sample" if n == 1 else f"{n} samples"


def _zeros(found: Compared) -> list[figures.Zeros]:
    counted = [(k, compared.zeros(found.recording, k, found.rows, found.tau))
               for k in found.recording.columns]  # fmt: skip
    real = found.recording.real
    return [figures.Zeros(k, NAMES[k], counts, compared.gap(counts, real)) for k, counts in counted]


def costs(kind: Kind) -> None:
    """Bars of time and multiply-adds."""
    st.header("What a sample costs", anchor=False)
    found = result(f"compare-{kind.data}")
    if found is None or not figures.costed(found):
        st.markdown(MISSING.format(kind.title, f"python -m benchmarks.compare {kind.data}"))
        return
    charts.show(
        figures.costs(found), alt=figures.costs_words(found), key="figure-costs",
        caption=f"{measured_words(found)} 64 samples at once; multiply-adds are counted while "
        "they run. Scales of equal ratios: each line is ten times the one before.",
    )  # fmt: skip


def scaling(own: Mapping[str, Any] | None) -> None:
    """Time against dimensions, with what was measured here."""
    st.header("When the data grow", anchor=False)
    found = result("scaling")
    if found is None and own is None:
        st.markdown(MISSING.format("this repository", "python -m benchmarks.scaling"))
        return
    found = found or {"methods": [], "runs": [], "fits": []}
    with st.container(horizontal=True, gap="medium"):
        what = st.segmented_control("Time for", list(WHATS), default="a sample", required=True,
                                    key="scale-what")  # fmt: skip
        first = "50 active" if own else "1,000 of them active"
        span = st.segmented_control("Dimensions", list(SPANS), default=first, required=True,
                                    key="scale-span")  # fmt: skip
    figure, active = WHATS[what], SPANS[span]
    fig = figures.scaling(found, figure=figure, active=active, own=own)
    said = measured_words(found) if "setting" in found else ""
    charts.show(
        fig, alt=figures.scaling_words(found, figure=figure, active=active, own=own),
        key="figure-scaling",
        caption=f"{said} Everything beyond the active dimensions is always zero. A dense model "
        "computes on all of it (power 1); SED with the nested head, blocks "
        "of blocks of dimensions, hardly notices (power 0).",
    )  # fmt: skip


def rate(kind: Kind) -> None:
    """Bits of zeros and of the others."""
    st.header("Where a dense model's bits go", anchor=False)
    found = result(f"rate-{kind.data}")
    if found is None:
        name = kind.data.removesuffix("_mnist")
        st.markdown(MISSING.format(kind.title, f"python -m benchmarks.rate ddpm-{name}"))
        return
    charts.show(
        figures.rate(found), alt=figures.rate_words(found), key="figure-rate",
        caption=f"{measured_words(found)} {figures.rate_words(found)} The dense network computes "
        "on them in every step all the same.",
    )  # fmt: skip


def files(found: Compared, sample: int, own: Mapping[str, Any] | None) -> Files:
    """What can be downloaded; a file is made when its button is pressed."""
    made = {
        "Pictures (PNG)": ("png", partial(compare_files.png, found, sample)),
        "Figures (HTML)": ("html", partial(page, found, own)),
        "Numbers (CSV)": ("csv", partial(compare_files.numbers_csv, found)),
        "Table (Markdown)": ("md", partial(compare_files.report, found)),
        "Samples (npz)": ("npz", partial(compare_files.npz, found)),
        "Recipe (JSON)": ("json", partial(compare_files.recipe_json, found)),
    }
    return {
        words: (compare_files.name(found, ending), make) for words, (ending, make) in made.items()
    }


def page(found: Compared, own: Mapping[str, Any] | None) -> str:
    """All figures as one page that needs no network."""
    kind, methods = found.recording.kind, _zeros(found)
    real, dim = found.recording.real, kind.dim
    shown = {"How many zeros": figures.zeros(methods, real, dim, cell=kind.cell)}
    if (costs := result(f"compare-{kind.data}")) and figures.costed(costs):
        shown["What a sample costs"] = figures.costs(costs)
    if grown := result("scaling"):
        shown["When the data grow: 1,000 active dimensions"] = figures.scaling(grown)
        shown["When the data grow: 50 active dimensions"] = figures.scaling(
            grown, active=50, own=own
        )
    if bits := result(f"rate-{kind.data}"):
        shown["Where a dense model's bits go"] = figures.rate(bits)
    return charts.html(shown, title=f"{kind.title}: sparse and dense, recipe {found.stamp}")
