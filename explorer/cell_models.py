"""Checkpoints of cells for the page Cells: loaded once a process, shared by all."""

import streamlit as st

from explorer import models
from explorer.cell_params import MODELS
from sed_core.cell_model import CellModel
from sed_core.hub import CheckpointError
from sed_core.store import MANIFEST


def sha(family: str) -> str:
    """sha256 of what makes the samples of a family's checkpoint; empty where it is not here."""
    name = MODELS[family]
    found = [card for card in models.cards() if card.name == name]
    there = bool(found) and (found[0].folder / MANIFEST).is_file()
    return models.sha(found[0].folder) if there else ""


def missing(families: tuple[str, ...]) -> str:
    """A sentence about the checkpoints of these families that are not here; empty if all are."""
    gone = [MODELS[family] for family in families if not sha(family)]
    if not gone:
        return ""
    what = f"The checkpoint {gone[0]} is" if len(gone) == 1 else f"{' and '.join(gone)} are"
    return (
        f"{what} not here, so nothing can be made live; fetch the repository's checkpoints folder "
        "again, or train with 'sed-core train'."
    )


def load(family: str) -> CellModel:
    """The checkpoint of a family with its genes and labels.

    Raises:
        CheckpointError: where it is not here, or can't be read.
    """
    found = sha(family)
    if not found:
        raise CheckpointError(missing((family,)))
    return _load(MODELS[family], found)


@st.cache_resource(max_entries=2, show_spinner=False)
def _load(name: str, sha: str) -> CellModel:
    return CellModel.load(name, device="auto")
