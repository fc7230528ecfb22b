"""How each compared method looks wherever it is drawn: a colour, and a second sign beside it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """Colour (3:1 on white at least), line and symbol of a method."""

    colour: str
    dash: str
    symbol: str


LOOKS: Mapping[str, Look] = {
    "sed": Look("#0072b2", "solid", "diamond"),
    "sed_flat": Look("#3d94c4", "dashdot", "diamond-open"),
    "ddpm": Look("#d55e00", "dash", "circle"),
    "cut": Look("#a8437c", "dot", "cross"),
    "ldm": Look("#007a5a", "longdash", "triangle-up"),
    "bits": Look("#5b5b5b", "dashdot", "square"),
    "sarm": Look("#8c6d31", "longdashdot", "x"),
}
DATA = "#b3b9c3"  # real samples: a grey band behind everything
INK, QUIET, GRID = "#14171c", "#555b66", "#e1e4e9"
