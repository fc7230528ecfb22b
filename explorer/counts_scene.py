"""Scenes of counts: a sample that dies unit by unit, and one that is born, as data for the player.

A scene is a dict of JSON values. Its time line has two parts, as the method has: `deaths["n"]`
forward steps, then `births["n"]` reverse steps. Bytes are base64 text of rows of `dim` numbers.

    format, version, id   "sed-counts", 1, a hash of everything below
    title, recipe         words; the stamp of the run
    side, dim, names      a picture of side x side counts, or (side 0) `dim` named bars
    cell, largest         what an entry is called; the count at the darkest colour or the axis' top
    bytes                 1 or 2: of each whole number below
    start                 the position at which everything is dead and nothing is born yet
    deaths                {"n", "x": n + 1 states, "t", "p": n + 1 numbers each}
    births                {"n", "x": n + 1 states, "died": n rows of what died again, or null,
                           "rate": n rows of round(256 rate) in two bytes, one for each state but
                           the last, "expected": n totals of the rate, "t", "p": n + 1 each}
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sed_core.stream import Step

FORMAT = "sed-counts"
VERSION = 1
FINE = 256  # a rate is kept to so many parts of a unit
WIDEST = 65535  # what two bytes hold

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Life:
    """What the player shows of counts: one row dying, and one row being born.

    `deaths` are the states at `times`, the edges from 0 (the data) to 1 (nothing), and `survival`
    is p at each of them. `births` are the reverse steps of one row, as `CountsDiff.stream` gives
    them; p at their times is read off `survival`, straight between the edges.
    """

    title: str
    names: tuple[str, ...] = ()  # of the dimensions; none for a picture
    side: int = 0  # of a picture; 0 for bars
    largest: int  # the count at the darkest colour, or at the top of the axis
    deaths: Sequence[Tensor]
    times: Sequence[float]
    survival: Sequence[float]
    births: Sequence[Step[Any]]
    ident: str  # the stamp of the recipe


def scene(life: Life) -> dict[str, Any]:
    """Everything the counts player needs, as JSON values (see the module's head).

    Raises:
        ValueError: where the states are not those of one thinned row and one row being born.
    """
    dying, born, died, rate = _dying(life), *_born(life)
    dim = _check(life, dying, born, died)
    size = 1 if max(int(part.max()) for part in (dying, born, died)) <= 255 else 2
    times = [1.0, *(float(step.t) for step in life.births)]
    data = {
        "title": life.title, "recipe": life.ident, "names": list(life.names),
        "side": life.side, "dim": dim, "cell": "pixel" if life.side else "count",
        "largest": max(1, life.largest), "bytes": size, "start": len(dying),
        "deaths": {
            "n": len(dying) - 1, "x": _bytes(dying, size),
            "t": _short(life.times), "p": _short(life.survival),
        },
        "births": {
            "n": len(born) - 1, "x": _bytes(born, size),
            "died": _bytes(died, size) if died.any() else None,
            "rate": _bytes(np.rint(FINE * rate).clip(0, WIDEST), 2),
            "expected": _short(rate.sum(1)),
            "t": _short(times), "p": _short(_survival(life, times)),
        },
    }  # fmt: skip
    name = hashlib.blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=8).hexdigest()
    return {"format": FORMAT, "version": VERSION, "id": name, **data}


def length(scene: Mapping[str, Any]) -> int:
    """The last position of the time line."""
    return scene["start"] + scene["births"]["n"]


def place(scene: Mapping[str, Any], position: int) -> tuple[str, int]:
    """Stage and step at a position of the time line (the player's state value `step`)."""
    if position < scene["start"]:
        return "deaths", max(0, position)
    return "births", min(position - scene["start"], scene["births"]["n"])


# -- the two parts -------------------------------------------------------------------------------


def _dying(life: Life) -> Array:
    """The states of the first part, the data first."""
    if len(life.deaths) < 2 or not len(life.deaths) == len(life.times) == len(life.survival):
        raise ValueError(
            "deaths, times and survival are told at the same edges, two at least; got "
            f"{len(life.deaths)} states, {len(life.times)} times, {len(life.survival)} shares"
        )
    return np.stack([_row(state, np.int64) for state in life.deaths])


def _born(life: Life) -> tuple[Array, Array, Array]:
    """The states of the second part, nothing first; what died in each step; the rate before it."""
    if not life.births:
        raise ValueError("a scene of counts needs reverse steps, got none; sample with steps=1 up")
    missing = {"births", "deaths", "rate"} - set(life.births[0].aux)
    if missing:
        raise ValueError(
            "a scene of counts needs births, deaths and rate of each step, got steps without "
            f"{', '.join(sorted(missing))}; record the stream of CountsDiff"
        )
    after = np.stack([_row(step.x, np.int64) for step in life.births])
    died, born = (
        np.stack([_row(step.aux[name], np.int64) for step in life.births])
        for name in ("deaths", "births")
    )
    rate = np.stack([_row(step.aux["rate"], np.float64) for step in life.births])
    states = np.concatenate([(after[0] - born[0] + died[0])[None], after])
    if not np.array_equal(np.diff(states, axis=0), born - died):
        raise ValueError("a step's births less its deaths are what changed; these steps skip some")
    return states, died, rate


def _row(state: Any, dtype: Any) -> Array:
    """One row of numbers, given as (D,) or (1, D)."""
    array = state.detach().cpu().numpy() if isinstance(state, Tensor) else np.asarray(state)
    if array.ndim == 2 and len(array) != 1:
        raise ValueError(f"a scene of counts shows one row, got {len(array)}; take one of them")
    return array.reshape(-1).astype(dtype)


def _check(life: Life, dying: Array, born: Array, died: Array) -> int:
    """The dimension, where both parts have it and hold what counts can be."""
    dim = dying.shape[1]
    if born.shape[1] != dim:
        raise ValueError(f"{dim} counts die but {born.shape[1]} are born; they must be as many")
    if (life.side or dim) * (life.side or 1) != dim or len(life.names) != (0 if life.side else dim):
        raise ValueError(
            f"{dim} counts are a picture whose side squared is {dim}, or bars with {dim} names; "
            f"got side {life.side} and {len(life.names)} names"
        )
    if (np.diff(dying, axis=0) > 0).any():
        raise ValueError("counts only fall while they die; one of these states rises")
    everything = np.concatenate([dying, born, died])
    least, most = int(everything.min()), int(everything.max())
    if least < 0 or most > WIDEST:
        raise ValueError(f"a scene holds counts from 0 to {WIDEST}, got {least} to {most}")
    return dim


def _survival(life: Life, times: Sequence[float]) -> Array:
    """p at other times than the edges."""
    order = np.argsort(life.times)
    return np.interp(times, np.asarray(life.times)[order], np.asarray(life.survival)[order])


# -- small change --------------------------------------------------------------------------------


def _short(numbers: Sequence[float] | Array) -> list[float]:
    """Five digits that count: what a reader sees, no more to send."""
    return [float(f"{number:.5g}") for number in np.asarray(numbers, dtype=float)]


def _bytes(array: Array, size: int) -> str:
    return base64.b64encode(array.astype(f"<u{size}").tobytes()).decode()
