"""Measured results that ship with the repository: read, never made, by the pages."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st


def folder() -> Path:
    """Where results lie: SED_RESULTS, else beside the package."""
    named = os.environ.get("SED_RESULTS")
    return Path(named) if named else Path(__file__).parents[1] / "benchmarks" / "results"


def result(name: str) -> dict[str, Any] | None:
    """What benchmarks/results/<name>.json holds, or None where it is not there yet."""
    path = folder() / f"{name}.json"
    return _read(str(path), path.stat().st_mtime) if path.is_file() else None


@st.cache_data(max_entries=16, show_spinner=False)
def _read(path: str, stamp: float) -> dict[str, Any]:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def measured_words(found: Mapping[str, Any]) -> str:
    """When and where a result was measured."""
    setting = found["setting"]
    return f"Measured {setting['date']}, {setting['device']}, seed {setting['seed']}."
