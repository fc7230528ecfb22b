"""The controls of the page Counts: they show the visitor's `Params` and write them back."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from explorer import controls
from explorer.controls import write
from explorer.count_params import (
    ATTRITIONS,
    BIRTHS,
    DATA,
    DEFAULTS,
    DRAWS,
    HAND,
    KINDS,
    KNOWN,
    LONGEST_JUMP,
    METHODS,
    MOST_ROUNDS,
    OWN,
    SIZES,
    SOURCES,
    STEPS,
    VIEWS,
    WITHOUT_STRENGTH,
    Models,
    Params,
    change,
    largest_strength,
)
from sed_core.thinning import SURVIVAL

mirror = partial(controls.mirror, "counts_", change)


def choice(label: str, field: str, options: Mapping[Any, str] | Sequence[Any], **more: Any) -> None:
    """One of a few, side by side."""
    words = options if isinstance(options, Mapping) else {one: str(one) for one in options}
    st.segmented_control(
        label, list(words), format_func=words.__getitem__, required=True, wrap=True,
        **mirror(field, getattr(st.session_state["counts_params"], field)), **more,
    )  # fmt: skip


def view() -> None:
    """The three parts of the page."""
    choice("View", "view", VIEWS, label_visibility="collapsed")


def digit(help_words: str) -> None:
    """A class, or any."""
    st.segmented_control(
        "Digit", ["any", *"0123456789"], required=True, wrap=True, help=help_words,
        **mirror("label", write(st.session_state["counts_params"].label),
                 lambda text: None if text == "any" else int(text)),
    )  # fmt: skip


def watch_panel(params: Params) -> None:
    """What to watch."""
    choice("Data", "data", DATA, help="Grey levels of a digit, or ten counts whose law is known.")
    if params.data == "digit":
        digit("The class the model is asked for; any: it may draw what it likes.")
        choice("Guidance", "guidance", controls.STOPS,
               help="0 ignores the class, 1 follows it, more exaggerates it.")  # fmt: skip
    _steps()
    seed()


def bench_panel() -> None:
    """What to measure."""
    choice("Samples of each", "n", {size: f"{size:,}" for size in SIZES})
    _steps()
    seed()


def fill_panel(test_digits: int) -> None:
    """What to erase, and how to fill it in."""
    params: Params = st.session_state["counts_params"]
    if test_digits:
        choice("The truth", "source", SOURCES)
    if params.source == "sample":
        digit("The digit to erase a part of is drawn by the model; its class.")
    is_test = params.source == "test"
    st.number_input(
        "Test digit" if is_test else "Seed of the digit", 0,
        test_digits - 1 if is_test else controls.LARGEST_SEED, step=1,
        **mirror("number", params.number),
    )  # fmt: skip


def fill_how() -> None:
    """How to fill in."""
    choice("Draws", "draws", DRAWS, help="Several draws say how sure the model is.")
    _steps()
    seed("Seed of the draws")


def mask_kind() -> None:
    """Which part is erased."""
    params: Params = st.session_state["counts_params"]
    there = {key: words for key, words in KINDS.items() if key != HAND or params.mask}
    choice("Erase", "kind", there, help="Or erase by hand: with the mouse, a finger or the keys.")


def _steps() -> None:
    choice("Steps", "steps", STEPS, help="How many times the network is asked what is missing.")


def seed(label: str = "Seed") -> None:
    """Where chance starts, and dice for another start."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.number_input(
            label, 0, controls.LARGEST_SEED, step=1,
            help="The same seed and settings give the same result, here and on any machine.",
            **mirror("seed", st.session_state["counts_params"].seed),
        )  # fmt: skip
        st.button("New seed", icon=":material/casino:", on_click=_roll, key="counts_dice")


def more(params: Params, models: Models, own: str) -> None:
    """The controls a second look needs.

    Args:
        own: the schedule that the chosen model comes with.
    """
    with st.expander("More settings", key="counts_more"):
        if params.view == "fill":
            _method(params)
        schedules = {OWN: f"the model's own ({own})", **{name: name for name in SURVIVAL}}
        _select("Schedule", "schedule", schedules,
                help="How many of the units live at time t. The network sees only the log-odds, "
                "so any will do.")  # fmt: skip
        choice("Spacing of the steps", "spacing", {"t": "time", "log_odds": "log-odds"})
        _select("Attrition", "attrition", {one: one for one in ATTRITIONS},
                help="How many living units die again in each step: rescaled by a share of the "
                "most the law allows, by a rate in time, or capped at a probability.")  # fmt: skip
        st.number_input(
            "Strength of attrition", 0.0, largest_strength(params.attrition), step=0.01,
            disabled=params.attrition in WITHOUT_STRENGTH, format="%.4g",
            **mirror("strength", params.strength),
        )  # fmt: skip
        choice("Births", "births", BIRTHS,
               help="How a rate becomes a whole number: rounded at random and thinned, binomial, "
               "or Poisson, which is better below about 100 steps.")  # fmt: skip
        if params.view != "bench" and (names := list(models.get(params.subject, ()))):
            _select("Model", "model", {name: name for name in names})
        st.button("Reset all settings", on_click=_reset, key="counts_reset")


def _method(params: Params) -> None:
    """How the seen part speaks to the rest."""
    choice("Method", "method", METHODS,
           help="conditional: the network sees the seen pixels clean. replace: they are put back "
           "with noise at every step (RePaint); their pull on the rest is too weak.")  # fmt: skip
    choice("Class of the digit", "known", KNOWN, help="Whether the model is told which digit.")
    if params.method == "replace":
        for words, field, most in (("Rounds", "rounds", MOST_ROUNDS),
                                   ("Steps of a jump", "jump", LONGEST_JUMP)):  # fmt: skip
            st.number_input(words, 1, most, step=1, **mirror(field, getattr(params, field)))


def _select(label: str, field: str, options: Mapping[str, str], **more: Any) -> None:
    """One of many."""
    shown = mirror(field, getattr(st.session_state["counts_params"], field))
    st.selectbox(label, list(options), format_func=options.__getitem__, **shown, **more)


def _roll() -> None:
    change(seed=secrets.randbelow(10_000))


def _reset() -> None:
    params: Params = st.session_state["counts_params"]
    st.session_state["counts_params"] = replace(DEFAULTS, view=params.view, data=params.data)
