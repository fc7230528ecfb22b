"""What the page Cells remembers of a visitor's own file: its counts, and what was made of them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from explorer import cell_models, cell_own, faults
from explorer.cell_own import Filled, Own, Point, Trained
from explorer.cell_params import Params
from explorer.cell_state import PLACE
from explorer.jobs import State, Tick, View, Work
from explorer.waiting import line_words
from sed_core.hub import CheckpointError

JOBS = ("impute", "train")


def own() -> Own | None:
    """The counts of this visitor's file."""
    return st.session_state.get("cells_own")


def refusal() -> str:
    """Why the last file was not taken, in one sentence."""
    return st.session_state.get("cells_refused", "")


def result(task: str) -> Any:
    """What was made of the file: Filled of "impute", Trained of "train", or None."""
    return st.session_state.get("cells_own_results", {}).get(task)


def losses() -> list[Point]:
    """The curve of the training that runs or was the last to run."""
    return st.session_state.get("cells_losses", [])


def take(file: Any) -> None:
    """Read the file that stands in the uploader, once; forget it when it is taken away."""
    state = st.session_state
    seen = getattr(file, "file_id", None)
    if seen == state.get("cells_file_id"):
        return
    state["cells_file_id"] = seen
    for key in ("cells_own", "cells_refused", "cells_own_results"):
        state.pop(key, None)
    if file is None:
        return
    try:
        with st.spinner("Reading the file"):
            state["cells_own"] = cell_own.read(file.name, file.getvalue())
    except Exception as error:
        state["cells_refused"] = faults.sentence(error)


def changed(params: Params) -> bool:
    """Whether the settings are no longer those of what was made of the file."""
    found = result(params.task)
    if found is None or PLACE.busy():
        return False
    made = found.params if isinstance(found, Filled) else found.asked
    return made.said_of_file() != params.said_of_file()


def words(view: View) -> str:
    """How a job stands, for people."""
    if view.state is State.WAITING:
        return line_words(view)
    share = f"{100 * view.fraction:.0f} %"
    if PLACE.job == "impute":
        return f"Filling in: {share}"
    if curve := losses():
        stage, step, steps, _ = curve[-1]
        if step < steps or view.fraction < cell_own.TRAINED_BY:
            return f"Training, {stage}: step {step:,} of {steps:,}"
        return f"Drawing new cells: {share}"
    return "Looking at the file"


def start(params: Params) -> None:
    """Put what is asked for in line."""
    found = own()
    if found is None:
        return
    st.session_state.pop("cells_ignored", None)
    if params.task == "impute":
        PLACE.submit(lambda: _impute(found, params), "impute")
        return
    curve: list[Point] = []
    PLACE.submit(lambda: partial(_train, found, params, curve), "train")
    st.session_state["cells_losses"] = curve


def stop() -> None:
    """End the job; what was shown stays."""
    PLACE.stop()
    kept: Trained | None = result("train")
    st.session_state["cells_losses"] = list(kept.losses) if kept else []


def look() -> View | None:
    """Ask how the job stands; when it is over, keep what it gave and return None."""
    return PLACE.look(_keep)


def _keep(found: dict[str, Any]) -> None:
    state = st.session_state
    state["cells_own_results"] = state.get("cells_own_results", {}) | found


def genes_known() -> Sequence[str]:
    """The genes of the model that fills in; none where its checkpoint can't be used."""
    return () if fault() else cell_models.load("counts").genes


def fault() -> str:
    """Why the model that fills in can't be used, in one sentence; empty if it can."""
    try:
        cell_models.load("counts")
    except CheckpointError as error:
        return str(error)
    return ""


def _impute(found: Own, params: Params) -> Work:
    model, sha = cell_models.load("counts"), cell_models.sha("counts")

    def work(tick: Tick) -> dict[str, Any]:
        return {"impute": cell_own.fill(model, sha, found, params, tick)}

    return work


def _train(found: Own, params: Params, curve: list[Point], tick: Tick) -> dict[str, Any]:
    return {"train": cell_own.train(found, params, curve, tick)}
