"""The controls of the page Cells: they show the visitor's `Params` and write them back."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from explorer import controls
from explorer.cell_params import (
    DEFAULTS,
    DRAWS,
    FAMILIES,
    MAPS,
    ROWS,
    SHARES,
    SIZES,
    STEPS,
    TASKS,
    TRAINED,
    VIEWS,
    Params,
    change,
)

ANY = "any"


mirror = partial(controls.mirror, "cells_", change)


def choice(label: str, field: str, options: Mapping[Any, str] | Sequence[Any], **more: Any) -> None:
    """One of a few, side by side."""
    words = options if isinstance(options, Mapping) else {one: f"{one:,}" for one in options}
    st.segmented_control(
        label, list(words), format_func=words.__getitem__, required=True, wrap=True,
        **mirror(field, getattr(_params(), field)), **more,
    )  # fmt: skip


def view() -> None:
    """The two parts of the page."""
    choice("View", "view", VIEWS, label_visibility="collapsed")


def make_panel(types: Sequence[str]) -> None:
    """Which cells to make, and how many."""
    choice("Model", "family", FAMILIES, help="SED writes (gene, count) pairs one by one and leaves "
           "the rest exactly zero; CountsDiff lets counts be born unit by unit.")  # fmt: skip
    kind(types)
    choice("Number of cells", "n", SIZES)
    choice("Guidance", "guidance", controls.STOPS, help="How strongly to push towards the type. 0 "
           "ignores it, 1 follows it, more exaggerates it.")  # fmt: skip
    steps()
    seed()


def kind(types: Sequence[str]) -> None:
    """One type, or all of them."""
    words = {ANY: "any, mixed as in the real cells", **{name: name for name in types}}
    st.selectbox(
        "Cell type", list(words), format_func=words.__getitem__,
        **mirror("label", _params().label or ANY, lambda name: None if name == ANY else name),
    )  # fmt: skip


def steps() -> None:
    """Steps of the sampler."""
    choice("Steps", "steps", STEPS, help="How many times the network is asked.")


def seed() -> None:
    """Where chance starts, and dice for another start."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.number_input(
            "Seed", 0, controls.LARGEST_SEED, step=1,
            help="The same seed and settings give the same cells, here and on any machine.",
            **mirror("seed", _params().seed),
        )  # fmt: skip
        st.button("New seed", icon=":material/casino:", on_click=_roll, key="cells_dice")


def reset() -> None:
    """Back to how the page begins."""
    st.button("Reset all settings", on_click=_reset, key="cells_reset")


def gene(genes: Sequence[str]) -> None:
    """Any gene, found by typing."""
    here = _params().gene if _params().gene in genes else genes[0]
    st.selectbox("Gene", list(genes), help="Type to find one.", **mirror("gene", here))


def place() -> None:
    """Which map."""
    choice("Map", "map", MAPS, help="UMAP keeps neighbours together; PCA keeps directions of "
           "largest variance, and distances along them.")  # fmt: skip


def own_task() -> None:
    """What to do with a visitor's file."""
    choice("What to do", "task", TASKS)


def impute_panel() -> None:
    """How much to hide, and how to fill it in."""
    choice("Hidden entries", "share", {share: f"{share} %" for share in SHARES})
    choice("Cells", "rows", ROWS, help="The first of the file.")
    choice("Draws", "draws", DRAWS, help="Several draws say how sure the model is.")
    steps()
    seed()


def train_panel() -> None:
    """What to train, and how many cells to make with it."""
    choice("Model", "learner", TRAINED)
    choice("Number of cells", "n", SIZES)
    steps()
    seed()


def _params() -> Params:
    return st.session_state["cells_params"]


def _roll() -> None:
    change(seed=secrets.randbelow(10_000))


def _reset() -> None:
    st.session_state["cells_params"] = replace(DEFAULTS, view=_params().view)
