"""What changes a result of the page Cells: parameters <-> widgets <-> URL <-> recipe.

One `Params` in the visitor's session is what counts, as on the page Counts; keys of the URL are
the names of the fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from explorer import controls
from explorer.controls import named, one_of, whole, write

VIEWS = {"make": "Generate cells", "own": "Your own file"}
FAMILIES = {"sed": "SED", "counts": "CountsDiff", "both": "Side by side"}
MODELS = {"sed": "sed-pbmc3k", "counts": "counts-pbmc3k"}
SIZES, STEPS = (100, 500, 1_000), (10, 25, 50, 100)
MAPS = {"umap": "UMAP", "pca": "PCA"}
TASKS = {"impute": "Hide and fill in", "train": "Train and generate"}
SHARES, DRAWS, ROWS = (10, 25, 50), (4, 8, 16), (50, 100, 200)
TRAINED = {"counts": "CountsDiff", "sed": "SED"}
KEPT = ("view", "gene", "map")  # change what is looked at, not what is made


@dataclass(frozen=True)
class Params:
    """Everything that changes a result; `label` None is every type, mixed as in the real cells."""

    view: str = "make"
    family: str = "sed"
    label: str | None = None
    n: int = 100
    guidance: float = 1.0
    steps: int = 50
    seed: int = 7
    gene: str = "LYZ"
    map: str = "umap"
    task: str = "impute"
    share: int = 25  # percent of a file's entries that are hidden
    draws: int = 8
    rows: int = 50  # cells of the file that are filled in
    learner: str = "counts"

    @property
    def families(self) -> tuple[str, ...]:
        """The families that are asked for."""
        return tuple(MODELS) if self.family == "both" else (self.family,)

    def said(self, family: str) -> dict[str, Any]:
        """The parameters that make the cells of one family."""
        keys = ("label", "n", "guidance", "steps", "seed")
        return {"family": family} | {key: getattr(self, key) for key in keys}

    def said_of_file(self) -> dict[str, Any]:
        """The parameters of what is done with a visitor's file."""
        keys = {"impute": ("share", "draws", "rows"), "train": ("learner", "n")}[self.task]
        return {key: getattr(self, key) for key in ("task", "steps", "seed", *keys)}

    def stamp(self, family: str, sha: str) -> str:
        """The name of the cells of one family."""
        return named({**self.said(family), "sha": sha})

    def link(self, page: str, sha: str) -> str:
        """A link that says everything, so that it means the same when a default changes."""
        keys = ("family", "label", "n", "guidance", "steps", "seed", "gene", "map")
        said = {key: write(getattr(self, key)) for key in keys}
        return f"{page}?{urlencode({**said, 'sha': sha[:8]})}"


DEFAULTS = Params()
KEYS = tuple(field.name for field in fields(Params))
OF_VIEW: Mapping[str, tuple[str, ...]] = {
    "make": ("family", "label", "n", "guidance", "steps", "seed", "gene", "map"),
    "own": ("view", "task", "steps", "seed", "share", "draws", "rows", "learner", "n"),
}


# -- what a link says ------------------------------------------------------------------------------


def read(
    values: Mapping[str, str], types: Sequence[str], genes: Sequence[str]
) -> tuple[Params, list[str]]:
    """Parameters from what a link says; what does not belong is named and left out."""
    kept, ignored = {}, []
    for key in (key for key in KEYS if key in values):
        try:
            kept[key] = _read(key, values[key], types, genes)
        except (ValueError, OverflowError):
            ignored.append(f"{key}={values[key][:40]}")
    return _with_gene(Params(**kept), genes), ignored


def _read(key: str, text: str, types: Sequence[str], genes: Sequence[str]) -> Any:
    choices: dict[str, Sequence[str]] = {
        "view": [*VIEWS], "family": [*FAMILIES], "gene": genes, "map": [*MAPS], "task": [*TASKS],
        "learner": [*TRAINED],
    }  # fmt: skip
    numbers = {"n": SIZES, "steps": STEPS, "share": SHARES, "draws": DRAWS, "rows": ROWS}
    if key in choices:
        return one_of(text, choices[key])
    if key in numbers:
        return int(one_of(text, [str(number) for number in numbers[key]]))
    if key == "guidance":
        return float(one_of(text, [f"{stop:g}" for stop in controls.STOPS]))
    if key == "label":
        return None if text == "any" else one_of(text, types)
    return whole(text, controls.LARGEST_SEED)


def _with_gene(params: Params, genes: Sequence[str]) -> Params:
    """The gene asked for, else the first there is."""
    if params.gene in genes or not genes:
        return params
    return replace(params, gene=genes[0])


# -- the session and the URL -----------------------------------------------------------------------


def asked(types: Sequence[str], genes: Sequence[str]) -> Params:
    """What this visitor asks for; at first what the link says."""
    state = st.session_state
    if "cells_params" not in state:
        given = {key: st.query_params[key] for key in KEYS if key in st.query_params}
        state["cells_params"], state["cells_ignored"] = read(given, types, genes)
    return state["cells_params"]


def of_session() -> Params:
    """What this visitor asks for, once the page was drawn."""
    return st.session_state.get("cells_params", DEFAULTS)


def ignored() -> list[str]:
    """What the link said that this page can't mean."""
    return st.session_state.get("cells_ignored", [])


def change(**values: Any) -> None:
    """Ask for something else."""
    st.session_state["cells_params"] = replace(st.session_state["cells_params"], **values)


def write_url(params: Params) -> None:
    """Say in the URL what is not as usual and matters here."""
    query, usual = st.query_params, asdict(DEFAULTS)
    for key, value in asdict(params).items():
        if key in OF_VIEW[params.view] and value != usual[key]:
            query[key] = write(value)
        elif key in query:
            del query[key]
