"""The colour rules, once: an exact zero is white, every other value is darker the larger it is."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Tone = Literal["linear", "log"]
COLOURS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "player" / "colours.json").read_text(encoding="utf-8")
)


def shade(
    value: NDArray[np.floating[Any]], *, low: float, top: float, tone: Tone = "linear"
) -> NDArray[np.uint8]:
    """Rows of the colour table: 0 for an exact zero and only for it, 1 at `low`, 255 at `top`."""
    if tone == "log":
        size = np.log(np.maximum(value, low) / low) / max(np.log(top / low), 1e-9)
    else:
        size = (value - low) / max(top - low, 1e-9)
    rows = 1 + np.rint(254 * np.clip(size, 0, 1))
    return np.where(value == 0, 0, rows).astype(np.uint8)


@cache
def table() -> NDArray[np.uint8]:
    """The 256 x 3 colour table: row 0 is the exact zero, rows 1 to 255 small to large values."""
    anchors = np.array([rgb(colour) for colour in COLOURS["value"]], dtype=float)
    at = np.linspace(0, len(anchors) - 1, 255)
    columns = [np.interp(at, np.arange(len(anchors)), channel) for channel in anchors.T]
    rows = np.rint(np.stack(columns, axis=1))
    return np.vstack([[rgb(COLOURS["zero"])], rows]).astype(np.uint8)


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as three numbers."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
