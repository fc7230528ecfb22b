"""Results of the page Counts as a reader sees them: players, pictures, figures, files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import streamlit as st

from explorer import (
    charts,
    count_bench,
    count_exports,
    count_fill,
    count_runs,
    counting,
    decoding,
    models,
    sharing,
)
from explorer.count_bench import EXACT, MEASURES, METHODS, Measured, Trained
from explorer.count_exports import CONTENTS, Result
from explorer.count_fill import Filled
from explorer.count_params import DEFAULTS, SOURCES, Params
from explorer.count_runs import Strip
from explorer.counting import Shown
from explorer.counts_player import counts_player
from explorer.eraser import eraser, pack
from explorer.figures import counts as figures
from explorer.figures.counts import Tile
from sed_core.domains.toy import TOY
from sed_core.metrics.counts import variance_table

TILE = 169  # pixels on the page: four in a line, two on a phone


# -- watch -----------------------------------------------------------------------------------------


def life(params: Params) -> None:
    """The player with what was made here, or with what was recorded."""
    live: Shown | None = counting.result(params.data)
    shown = live or counting.recorded(params.data)
    if shown is None:
        st.info("Nothing is recorded here yet. Press Generate.")
        return
    counts_player(shown.scene, key=f"counts-{params.data}", autoplay=True)
    st.caption(_life_words(shown, live is not None))
    if live is not None:
        carry(live.run)


def _life_words(shown: Shown, live: bool) -> str:
    run, p = shown.run, shown.run.params
    what = _what(p)
    dies = (
        "First another sample of the same seed dies, unit by unit; then this one is born."
        if p.data == "digit" else
        "First a row of the exact law dies, unit by unit; then another one is born."
    )  # fmt: skip
    if not live:
        return (
            f"Recorded, not live: {p.model}, {what}, {_how(p)}, recipe "
            f"{run.stamp}. {dies} Press Generate to make one here, with your settings."
        )
    return (
        f"Live: {p.model}, {what}, {_how(p)}. {dies} "
        f"Measured here: {run.seconds:.2f} s for the births ({run.device})."
    )


def _what(p: Params) -> str:
    if p.data == "ten":
        return "ten counts"
    return f"{'any digit' if p.label is None else f'digit {p.label}'}, guidance {p.guidance:g}"


def _how(p: Params) -> str:
    """Steps, seed, and how the sampler went as far as it is not the usual way."""
    usual, said = asdict(DEFAULTS), [f"{p.steps} steps"]
    for key in ("schedule", "spacing", "attrition", "births"):
        value = getattr(p, key)
        much = f" {p.strength:g}" if key == "attrition" and "strength" in p.said() else ""
        said += [] if value == usual[key] else [f"{key} {value.replace('_', '-')}{much}"]
    return ", ".join([*said, f"seed {p.seed}"])


def schedule(params: Params) -> None:
    """The schedule that is chosen, and where its steps fall."""
    st.header("When units die, and where the steps fall", anchor=False)
    own = models.own_schedule(params.model)
    curve = count_runs.curve(params, own)
    name = own if params.schedule == "own" else params.schedule
    charts.show(
        figures.schedule(curve), alt=figures.schedule_words(curve), key="counts-schedule",
        caption=f"Schedule {name}: at time t a unit is alive with probability p(t). Log-odds, "
        "log p / (1 - p), are to counts what the log signal-to-noise ratio is to Gaussian noise: "
        f"all that the network is told of time. {figures.late_words(curve)}",
    )  # fmt: skip


def strip(params: Params) -> None:
    """Rows of pictures, one a value of guidance and of attrition."""
    st.header("What each value does", anchor=False)
    if params.data != "digit":
        st.caption("Shown on pictures only: choose Digit.")
        return
    st.button("Draw every value", key="counts-strip", on_click=counting.strip, args=(params,),
              disabled=counting.PLACE.busy("strip"))  # fmt: skip
    found: Strip | None = counting.result("strip")
    if found is None:
        st.caption("Draws the same seed and digit with each guidance, and with each attrition.")
        return
    p = found.params
    if p.said() != params.said():
        st.caption("Settings changed. Draw every value to update.")
    for words, part in (("Guidance", found.guidance), ("Attrition", found.attrition)):
        st.markdown(f"**{words}**")
        row([Tile(value, figures.digit(counts, zoom=5), marked) for value, counts, marked in part])
    st.caption(
        f"{p.model}, {_what(p)}, {_how(p)}. Each row changes one thing only; "
        f"“as set” marks your value. All in {found.seconds:.1f} s, measured here."
    )


def row(tiles: Sequence[Tile], width: int = 141) -> None:
    """Pictures beside each other, as many as fit in a line."""
    with st.container(horizontal=True, gap="small"):
        for tile in tiles:
            words = f"{tile.words} (as set)" if tile.marked else tile.words
            image = figures.outlined(tile.image) if tile.marked else tile.image
            st.image(image, caption=words, width=width, alt=words)


# -- the toy's bench -------------------------------------------------------------------------------


def bench() -> None:
    """What was measured here, or beforehand."""
    live: Measured | None = counting.result("bench")
    found = live or counting.recorded("bench")
    if found is None:
        st.info("Nothing is recorded here yet. Press Measure.")
        return
    p = found.params
    st.caption(
        f"{'Measured here' if live else 'Recorded, not live'}: {p.n:,} samples of each method, "
        f"{_how(p)}, recipe {found.stamp}. "
        "The exact law is known: ten negative binomial counts that share a size factor."
    )
    distances(found)
    variances(found)
    histograms(found)
    if live is not None:
        carry(live)


def distances(found: Measured) -> None:
    """The table of distances, the floor below it."""
    lines = [_line(words, found, key) for key, words in count_exports.methods(found).items()]
    st.dataframe([*lines, _line("Exact law itself", found, EXACT)], hide_index=True,
                 width="stretch")  # fmt: skip
    st.caption(
        "Distances to as many draws of the exact law, smaller is nearer. The last line is the "
        "floor: the exact law against itself. Worst variance: how far the variance is off, of the "
        "dimensions whose mean is above 0.2. Attrition, births and schedule are CountsDiff's; the "
        "others take as many steps in their own way."
    )


def _line(words: str, found: Measured, key: str) -> dict[str, Any]:
    figures_of = found.figures[key]
    line = {"method": words} | {
        title: f"{figures_of[name]:.0%}" if name == "variance" else f"{figures_of[name]:.3g}"
        for name, title in MEASURES.items()
    }
    return line | {"time": f"{found.seconds[key]:.1f} s" if key in found.seconds else ""}


def variances(found: Measured) -> None:
    """Bars of the variance of each dimension."""
    st.header("Variance of each dimension", anchor=False)
    table, exact = _variances(found), TOY.variance.tolist()
    charts.show(
        figures.variances(table, exact), alt=figures.variance_words(table, exact),
        key="counts-variances",
        caption="As a share of the exact variance: 1, the dotted line, is right. The grey bars are "
        "as many draws of the exact law, and show how far chance alone goes.",
    )  # fmt: skip


def _variances(found: Measured) -> dict[str, tuple[str, list[float]]]:
    """Of every method and of the exact law's draws, by key: its name, and each dimension's."""
    named = {**count_exports.methods(found), EXACT: "exact law, drawn"}
    every = variance_table({key: found.samples[key] for key in named})
    return {key: (words, every[key]) for key, words in named.items()}


def histograms(found: Measured) -> None:
    """Histograms of one dimension, chosen by the reader."""
    st.header("Every count by itself", anchor=False)
    place = st.segmented_control(
        "Dimension", list(range(len(TOY.mean))), default=_telling(), required=True, wrap=True,
        format_func=lambda j: str(j + 1), key="counts_dimension",
    )  # fmt: skip
    law = TOY.pmf(200)[place].numpy()
    columns = {
        key: (words, found.samples[key][:, place].numpy())
        for key, words in count_exports.methods(found).items()
    }
    title = f"count of dimension {place + 1} (mean {TOY.mean[place]:.2g})"
    charts.show(
        figures.histograms(columns, law, title=title),
        alt=figures.histogram_words(columns, law, title), key="counts-histograms",
        caption="Bars: samples. Dashes: the exact law. Zero has its own bar, and the last bar "
        "takes all that is larger.",
    )  # fmt: skip


def _telling() -> int:
    """A dimension of a mean at which all methods have something to get wrong."""
    return int((TOY.mean - 1.5).abs().argmin())


def training(params: Params) -> None:
    """Train the toy's CountsDiff here, and the loss of the last training."""
    st.header("Train it here", anchor=False)
    st.button("Train here", key="counts-train", on_click=counting.train, args=(params,),
              disabled=counting.PLACE.busy("train"))  # fmt: skip
    found: Trained | None = counting.result("trained")
    if counting.PLACE.busy("train"):
        return  # the progress shows the curve
    if found is None:
        st.caption(
            f"Trains CountsDiff on 20,000 rows of the toy, {count_bench.TRAINING:,} steps, from "
            "your seed: about half a minute. What comes out takes part in the next Measure."
        )
        return
    loss_curve(list(found.losses))
    st.caption(
        f"Trained here from seed {found.seed} in {found.seconds:.0f} s. It takes part in the next "
        f"Measure as “{METHODS['own']}”, for as long as this page is open. From a shell: "
        f"`{found.command}`, which rounds the weights when it stores them."
    )


def loss_curve(points: Sequence[tuple[int, float]]) -> None:
    """The loss so far."""
    charts.show(figures.losses(points, count_bench.TRAINING), alt=figures.losses_words(points),
                key="counts-losses")  # fmt: skip


# -- filling in ------------------------------------------------------------------------------------


def canvas(params: Params) -> None:
    """The digit to erase a part of."""
    digit, fits = counting.truth(params)
    if digit is None:
        st.info("Press Draw this digit, then erase a part of it.")
        return
    mask = pack(count_fill.seen(params))
    eraser(digit.counts.tolist(), count_runs.SIDE, mask, key="counts_eraser",
           on_mask=counting.erase)  # fmt: skip
    st.caption(f"{digit.words}.")
    if not fits:
        st.caption("Another digit is asked for: Draw this digit, or Fill in, makes it.")


def filled() -> None:
    """Truth, draws, their mean and spread, and how near they come."""
    live: Filled | None = counting.result("fill")
    found = live or counting.recorded("fill")
    if found is None:
        return
    p, told = found.params, count_fill.scores(found)
    where = "Live" if live else "Recorded, not live"
    known = "told which digit" if p.known == "class" and p.label is not None else "not told which"
    st.header("Filled in", anchor=False)
    row(count_exports.tiles(found, zoom=6), TILE)
    st.caption(
        f"{where}: {p.model}, {len(found.draws)} draws, {_how(p)}, {known}, "
        f"method {p.method}; {found.erased} of {len(found.observed)} pixels erased"
        + (f". Measured here: {found.seconds:.1f} s ({found.device})." if live else ".")
    )
    if told is None:
        st.info("Nothing was erased, so every draw is the digit itself and there is no score.")
    else:
        _scores(told, found)
    if live is not None:
        carry(live)


def _scores(told: count_fill.Scores, found: Filled) -> None:
    columns = st.columns(3)
    columns[0].metric("Error of the mean (RMSE)", f"{told.rmse:.1f} grey levels")
    columns[1].metric("Error of filling with zeros", f"{told.rmse_zeros:.1f} grey levels")
    columns[2].metric("Truth inside the 90 % interval", f"{told.inside:.0%}")
    all_gone = " All was erased, so nothing of the digit was seen." \
        if found.erased == len(found.observed) else ""  # fmt: skip
    st.caption(
        f"Over the erased pixels.{all_gone} The interval is between the 5 % and the 95 % quantile "
        f"of {len(found.draws)} draws; of so few, an ideal model's would hold about "
        f"{told.ideal:.0%} of the truth, and more where draws and truth agree on zero."
    )


def method_words(params: Params) -> None:
    """What to know of a method before it runs."""
    if params.method == "replace":
        st.caption(
            "replace pulls too weakly: on the toy, where the answer is known, what is filled in "
            "follows what is seen at a slope of 0.7, where 1 is right. conditional does better."
        )
        if params.rounds > 1 and params.jump >= params.steps:
            st.caption(
                f"A jump of {params.jump} over {params.steps} steps goes back to nothing, so only "
                "the last round counts; take a shorter jump."
            )


# -- files -----------------------------------------------------------------------------------------


def carry(found: Result) -> None:
    """Recipe, link and files of a result; a file is made when its button is pressed."""
    with st.container(horizontal=True, gap="small"):
        sharing.carry(
            found.stamp, command=count_exports.command(found), recipe=count_exports.recipe(found),
            link=found.params.link(decoding.page_url(), found.sha), what="this result",
            about_files=f"The npz holds, as whole numbers, {CONTENTS[found.params.view]}.",
            files={words: (count_exports.name(found, ending), make)
                   for words, (ending, make) in files(found).items()},
        )  # fmt: skip


def files(found: Result) -> Mapping[str, tuple[str, Any]]:
    """What can be downloaded: words of a button -> ending, and what makes the file."""
    made: dict[str, tuple[str, Any]] = {}
    if not isinstance(found, Measured):
        made["Picture (PNG)"] = ("png", partial(count_exports.png, found))
        if found.params.subject == "digit":
            made["Animation (GIF)"] = ("gif", partial(count_exports.gif, found))
    else:
        made["Figures (HTML)"] = ("html", partial(page, found))
    made["Counts (npz)"] = ("npz", partial(count_exports.npz, found))
    made["Counts (CSV)"] = ("csv", partial(count_exports.table, found))
    if not isinstance(found, Measured):
        made["Trace (JSON)"] = ("json", partial(count_exports.trace_json, found))
    return made


def page(found: Measured) -> str:
    """All figures of a bench as one page that needs no network."""
    named, law = count_exports.methods(found), TOY.pmf(200)
    exact = TOY.variance.tolist()
    shown = {"Variance of each dimension": figures.variances(_variances(found), exact)}
    for j in range(len(TOY.mean)):
        columns = {key: (words, found.samples[key][:, j].numpy()) for key, words in named.items()}
        title = f"count of dimension {j + 1}"
        shown[f"Dimension {j + 1}"] = figures.histograms(columns, law[j].numpy(), title=title)
    return charts.html(shown, title=f"Ten counts whose law is known, recipe {found.stamp}")


def sources() -> list[str]:
    """Where a digit to erase a part of can come from on this machine."""
    return [source for source in SOURCES if source != "test" or counting.tests() is not None]
