"""Columns of samples that differ only in the model that drew them, and a threshold to try."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from explorer import compared
from explorer.compared import CUT, NAMES, Array, Recording
from explorer.figures.colours import COLOURS, table
from explorer.figures.looks import LOOKS

HERE = Path(__file__).parent
WINDOW = 24  # samples that the reader can leaf through; more are in the figures and the files
RULES = {"match": "Match the data's zeros", "half_min": "Half the smallest value"}


def columns(
    payload: Mapping[str, Any], *, key: str, on_view: Callable[[], None] | None = None
) -> Any:
    """Show the columns in a Streamlit page.

    Returns:
        the component's result: `.view`, where the reader last stopped: {"at", "sample"} or None.
    """
    return _component()(key=key, data=dict(payload), on_view_change=on_view or _nothing)


def payload(
    recording: Recording,
    rows: Array,
    *,
    at: int,
    sample: int = 0,
    hidden: bool = False,
    live: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """What compare.js takes as `data`; without a single number of the answer while it is hidden.

    Args:
        rows: recorded samples that count.
        at: place of the threshold in the recording's grid.
        live: samples made here by column: `values`, `seed`, `recipe`.
    """
    kind = recording.kind
    shown = [_column(recording, key, rows, hidden, live or {}) for key in recording.columns]
    labels = recording.labels[rows[:WINDOW]]
    data = {
        "data": kind.data, "width": kind.side, "height": kind.side, "dim": kind.dim,
        "unit": kind.unit, "cell": kind.cell, "scale": kind.scale,
        "low": kind.low, "top": kind.top, "tone": kind.tone, "hidden": hidden,
        "names": [kind.what(int(label)) for label in labels],
        "columns": shown, "curve": None if hidden else _curve(recording, rows),
        "colours": COLOURS | {"table": base64.b64encode(table().tobytes()).decode()},
    }  # fmt: skip
    name = hashlib.blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=8).hexdigest()
    return {"id": name, **data, "at": at, "sample": sample}


def _column(
    recording: Recording,
    key: str,
    rows: Array,
    hidden: bool,
    live: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    method, look = recording.method(key), LOOKS[key]
    column = {
        "key": key, "name": NAMES[key], "cut": key == CUT, "colour": look.colour,
        "symbol": look.symbol, "values": _bytes(method.values[rows[:WINDOW]]), "live": None,
    }  # fmt: skip
    if hidden:
        return column
    made = live.get("ddpm" if key == CUT else key)
    return column | {
        "seed": recording.about["seed"], "recipe": method.recipe, "of": len(rows),
        "share": float(method.zeros[rows].mean() / recording.kind.dim),
        "live": None if made is None else _live(recording, key, made),
    }  # fmt: skip


def _live(recording: Recording, key: str, made: Mapping[str, Any]) -> dict[str, Any]:
    values = made["values"]
    found = {
        "seed": made["seed"], "recipe": made["recipe"], "of": len(values),
        "count": min(WINDOW, len(values)), "values": _bytes(values[:WINDOW]),
        "share": float((values == 0).mean()),
    }  # fmt: skip
    return found | ({"shares": shares(values, recording.curve["tau"])} if key == CUT else {})


def _curve(recording: Recording, rows: Array) -> dict[str, Any] | None:
    """The way of the threshold through share of zeros and quality, and where the others stand."""
    if not recording.about["curve"]:
        return None
    curve, about = recording.curve, recording.about
    first, *more = about["quality"]
    y, counts = curve["quality"][first["key"]], recording.real
    real, dim = float(counts.mean()), recording.kind.dim
    spread = 1.96 * float(counts.std()) / recording.count**0.5
    points = [_point(recording, m.key, first["key"]) for m in recording.methods]
    most = _most(curve["zeros"], y, real / dim, [p["y"] for p in points])
    sed = next((p["y"] for p in points if p["key"] == "sed"), None)
    things = recording.kind.things
    return {
        "tau": curve["tau"], "zeros": curve["zeros"], "y": y,
        "shares": shares(recording.method(CUT).values[rows], curve["tau"]),
        "label": first["short"], "unit": first["unit"], "better": first["better"],
        "floor": first["real"], "floorName": f"as many real {things} get",
        "real": real / dim, "band": [(real - spread) / dim, (real + spread) / dim],
        "realName": f"real {things}", "from": _from(curve["zeros"], points), "most": most,
        "points": points, "others": _others(sed, first),
        "rules": [{"name": RULES[rule], "at": compared.nearest(curve["tau"], tau)}
                  for rule, tau in curve["rules"].items()],
        "second": None if not more else {
            "label": more[0]["short"], "unit": more[0]["unit"],
            "y": curve["quality"][more[0]["key"]]},
    }  # fmt: skip


def _point(recording: Recording, key: str, quality: str) -> dict[str, Any]:
    method, look = recording.method(key), LOOKS[key]
    share = float(method.zeros.mean()) / recording.kind.dim
    return {
        "key": key, "name": NAMES[key], "colour": look.colour, "symbol": look.symbol,
        "zeros": share, "y": method.quality[quality],
    }  # fmt: skip


def _others(sed: float | None, quality: Mapping[str, Any]) -> str:
    unit = f" {quality['unit']}" if quality["unit"] not in ("", "share") else ""
    parts = [] if sed is None else [f"SED: {sed:.3g}{unit}"]
    return "; ".join([*parts, f"as many real ones: {quality['real']:.3g}{unit}"])


def _most(zeros: list[float], y: list[float], real: float, points: list[float]) -> float:
    """The top of the quality axis: what matters fits, the blank end of the way may leave it."""
    near = [value for share, value in zip(zeros, y, strict=True) if share <= (1 + real) / 2]
    return 1.1 * max([*near, *points])


def _from(zeros: list[float], points: list[dict[str, Any]]) -> float:
    """Where the axis of shares begins."""
    least = min([*zeros, *(point["zeros"] for point in points)])
    return max(0.0, np.floor(20 * least - 0.2) / 20)


def shares(values: Array, taus: list[float]) -> list[float]:
    """Share of exact zeros after each threshold."""
    sizes = np.sort(np.abs(values.astype(np.float64)).ravel())
    found = np.searchsorted(sizes, np.asarray(taus), side="right") / max(1, len(sizes))
    return [round(float(share), 6) for share in found]


def _bytes(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f2").tobytes()).decode()


def source(name: str) -> str:
    """The text of compare.js or compare.css."""
    return (HERE / name).read_text(encoding="utf-8")


@cache
def _component() -> Any:
    from streamlit.components.v2 import component

    return component("sed_compare", js=source("compare.js"), css=source("compare.css"))


def _nothing() -> None:
    """Streamlit reports a value only where a callback stands."""
