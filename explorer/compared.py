"""Recorded samples of SED and its dense peers, side by side: what Compare shows before any model.

`assets/compare/<data>.json` says what was drawn, by which checkpoints and with which command, and
what was measured; `<data>.safetensors` holds the samples: dense peers in half precision as
`<key>` (n, D), SED as pairs `<key>.index`, `.value`, `.offset`. Neither needs torch.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from safetensors.numpy import load

from explorer.kinds import KINDS, Kind, kind

FORMAT, VERSION = "sed-recorded", 1
NAMES: Mapping[str, str] = {
    "sed": "SED", "ddpm": "DDPM", "cut": "DDPM + threshold", "ldm": "LDM", "bits": "Sparsity Bits",
}  # fmt: skip
TINY = np.float16(6e-8)  # the smallest half-precision number
CUT = "cut"  # the column that the reader's threshold cuts; it has no checkpoint of its own
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Method:
    """One model's recorded samples and how they were made."""

    key: str
    checkpoint: str
    sha: str
    recipe: str
    params: dict[str, Any]
    quality: dict[str, float]
    values: Array  # (n, D) in data units, as stored
    seconds: float

    @property
    def name(self) -> str:
        """What people call it."""
        return NAMES[self.key]

    @cached_property
    def zeros(self) -> Array:
        """Exact zeros of each sample."""
        return (self.values == 0).sum(1)


@dataclass(frozen=True, eq=False)
class Recording:
    """Everything Compare knows of one set of data without running a model."""

    about: dict[str, Any]
    methods: tuple[Method, ...]

    @property
    def kind(self) -> Kind:
        """How its samples are drawn and called."""
        return kind(self.about["data"])

    @property
    def count(self) -> int:
        """Samples of each method."""
        return int(self.about["samples"])

    @cached_property
    def labels(self) -> Array:
        """The class that each sample was asked for."""
        return np.asarray(self.about["labels"])

    @cached_property
    def real(self) -> Array:
        """Exact zeros of real samples that no model was trained on."""
        return np.asarray(self.about["real"]["zeros"])

    @cached_property
    def floor(self) -> Array:
        """Exact zeros of as many real training samples: what a perfect model would get."""
        return np.asarray(self.about["real"]["floor"])

    @property
    def curve(self) -> dict[str, Any]:
        """What the thresholds of a grid do to the samples of the peer that is cut."""
        return self.about["curve"]

    @property
    def columns(self) -> tuple[str, ...]:
        """Keys of what is compared, in the order of the page."""
        keys = [method.key for method in self.methods]
        return tuple(key for key in NAMES if key in keys or (key == CUT and "ddpm" in keys))

    def method(self, key: str) -> Method:
        """The method behind a column."""
        wanted = "ddpm" if key == CUT else key
        return next(method for method in self.methods if method.key == wanted)

    def rows(self, label: int | None, n: int) -> Array:
        """The first n recorded samples of a class, or of any."""
        every = np.arange(self.count)
        return (every if label is None else every[self.labels == label])[:n]

    @property
    def words(self) -> str:
        """What the samples are, honestly."""
        about = self.about
        names = ", ".join(f"{m.checkpoint} ({m.sha[:8]})" for m in self.methods)
        return (
            f"Recorded, not live: {self.count} samples of each, seed {about['seed']}, guidance "
            f"{about['guidance']:g}, {about['steps']} steps, on {about['made'][:10]} with {names}."
        )


def folder() -> Path:
    """Where the recordings lie: SED_RECORDED, else beside the package."""
    named = os.environ.get("SED_RECORDED")
    return Path(named) if named else Path(__file__).parents[1] / "assets" / "compare"


def available() -> list[Kind]:
    """The sets of data that were recorded."""
    return [kind for kind in KINDS.values() if (folder() / f"{kind.data}.json").is_file()]


def recording(data: str) -> Recording:
    """What was recorded for a set of data."""
    path = folder() / f"{data}.json"
    return _read(str(path), path.stat().st_mtime)


@st.cache_resource(max_entries=4, show_spinner=False)
def _read(path: str, stamp: float) -> Recording:
    about = json.loads(Path(path).read_text(encoding="utf-8"))
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        raise ValueError(
            f"{Path(path).name} is no recording of this version; fetch assets/compare again"
        )
    data = Path(path).with_suffix(".safetensors").read_bytes()
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise ValueError(
            f"the samples beside {Path(path).name} are not those it names; fetch them again"
        )
    tensors, dim = load(data), kind(about["data"]).dim
    return Recording(about, tuple(_method(one, tensors, dim) for one in about["methods"]))


def _method(about: Mapping[str, Any], tensors: Mapping[str, Array], dim: int) -> Method:
    key = about["key"]
    values = _dense(tensors, key, dim) if f"{key}.index" in tensors else tensors[key]
    names = ("checkpoint", "sha", "recipe", "params", "quality", "seconds")
    return Method(key=key, values=values, **{name: about[name] for name in names})


def _dense(tensors: Mapping[str, Array], key: str, dim: int) -> Array:
    """Rows of pairs with all their zeros."""
    index, value, offset = (tensors[f"{key}.{part}"] for part in ("index", "value", "offset"))
    dense = np.zeros((len(offset) - 1, dim), dtype=value.dtype)
    dense[np.arange(len(dense)).repeat(np.diff(offset)), index] = value
    return dense


def halved(values: Array) -> Array:
    """Half precision in which only an exact zero is zero."""
    half = values.astype(np.float16)
    lost = (half == 0) & (values != 0)
    return np.where(lost, np.copysign(TINY, values).astype(np.float16), half)


def quality(recording: Recording, key: str, name: str, at: int) -> float:
    """How good all samples of a column are by one measure, with the threshold where it has one."""
    if key == CUT:
        return recording.curve["quality"][name][at]
    return recording.method(key).quality[name]


def said(value: float, quality: Mapping[str, Any]) -> str:
    """A measure of quality in words."""
    if quality["unit"] == "share":
        return f"{value:.1%}"
    return f"{value:.3g} {quality['unit']}".strip()


# -- thresholds and zeros --------------------------------------------------------------------------


def cut(values: Array, tau: float) -> Array:
    """Values whose size is above tau, exactly zero elsewhere."""
    return np.where(np.abs(values.astype(np.float64)) > tau, values, 0).astype(values.dtype)


def nearest(grid: Sequence[float], tau: float) -> int:
    """Place of the grid's threshold nearest to tau."""
    return int(np.abs(np.asarray(grid) - tau).argmin())


def zeros(recording: Recording, key: str, rows: Array, tau: float) -> Array:
    """Exact zeros of the chosen samples of a column."""
    method = recording.method(key)
    if key != CUT:
        return method.zeros[rows]
    return (cut(method.values[rows], tau) == 0).sum(1)


def gap(counts: Array, real: Array) -> float:
    """W1 distance between two sets of counts: how many zeros a sample is off, on the average."""
    most = int(max(counts.max(), real.max())) + 1
    below, wanted = (np.bincount(c, minlength=most).cumsum() / len(c) for c in (counts, real))
    return float(np.abs(below - wanted).sum())
