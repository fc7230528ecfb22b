"""The samples that were made beforehand, so that something moves before any model is loaded."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import streamlit as st

from explorer.controls import Params

START = Path(__file__).parents[1] / "assets" / "start.json"


@dataclass(frozen=True)
class Recorded:
    """One recorded sample: the scene for the player and where it came from."""

    scene: dict[str, Any]
    recipe: dict[str, Any]
    pairs: int
    dim: int

    @property
    def zeros(self) -> int:
        """Dimensions that were never chosen."""
        return self.dim - self.pairs

    @cached_property
    def params(self) -> Params:
        """The settings it was made with."""
        return Params(**self.recipe["parameters"])

    @property
    def words(self) -> str:
        """What it is, honestly."""
        p = self.params
        what = "any digit" if p.label is None else f"digit {p.label}"
        return (
            f"Recorded, not live: {p.model}, {what}, guidance {p.guidance:g}, {p.steps} steps, "
            f"seed {p.seed}, recipe {self.recipe['recipe']}."
            f"{guess_words(self.recipe['guesses_decoded'], p.steps)}"
        )


def guess_words(decoded: int, steps: int) -> str:
    """Says so where not every guess on the way has its own picture."""
    if decoded >= steps:
        return ""
    return f" {decoded} of the {steps} guesses on the way are decoded; each stays until the next."


@st.cache_data(max_entries=4)
def _read(path: str, stamp: float) -> dict[str, Any]:
    return json.loads(Path(path).read_text())


def start() -> Recorded:
    """The sample of the Start page."""
    return Recorded(**_read(str(START), START.stat().st_mtime))
