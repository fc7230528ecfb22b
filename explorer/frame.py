"""What every page has in common: its width, its words when something fails, its footer."""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path

import streamlit as st

from explorer import faults

ASSETS = Path(__file__).parents[1] / "assets"
ICON, LOGO = str(ASSETS / "icon.png"), str(ASSETS / "logo.svg")
WIDTH = 1240


PAGES = {
    "home": "Start", "decode": "Decode", "compare": "Compare", "counts": "Counts",
    "cells": "Cells", "models": "Models", "about": "About",
}  # fmt: skip
_framed: ContextVar[bool] = ContextVar("framed", default=False)


def pages() -> list[st.Page]:
    """The pages of the app, in the order of its menu; the first is where one starts."""
    return [
        st.Page(f"pages/{name}.py", title=title, url_path=name, default=name == "home")
        for name, title in PAGES.items()
    ]


@contextmanager
def body() -> Iterator[None]:
    """A column in the middle of the page, as wide as reading and the player want it."""
    _framed.set(True)
    with (
        st.container(horizontal_alignment="center"),
        st.container(width=WIDTH, key="body"),
    ):
        yield


@contextmanager
def boundary() -> Iterator[None]:
    """One plain sentence in place of a traceback; the log gets the rest."""
    try:
        yield
    except Exception as error:
        st.error(faults.sentence(error))


def heading(title: str, purpose: str) -> None:
    """A page's title and the one sentence that says what it is for."""
    _enter_through_app()
    st.title(title, anchor=False)
    st.markdown(purpose)


def _enter_through_app() -> None:
    """Start again through app.py where Streamlit ran a page by itself.

    Until the first `st.navigation` of a server's life, Streamlit takes a folder named pages/ for
    its older kind of app, and a first visitor who asks for /decode gets the page without its frame.
    """
    if not _framed.get() and not st.session_state.get("entered"):
        st.session_state["entered"] = True
        st.navigation(pages(), position="top")
        st.rerun()


def footer() -> None:
    """The line under every page."""
    with st.container(horizontal_alignment="center"), st.container(width=WIDTH):
        st.space("large")
        st.caption(
            "Sparse Diffusion Explorer · Apache-2.0 · works offline: nothing leaves this machine"
        )


@st.cache_resource
def warm() -> None:
    """Load the slow libraries beside the first page, so that the second page need not wait."""
    names = ("explorer.models", "explorer.runs", "explorer.exports", "explorer.comparing",
             "explorer.count_views", "explorer.cell_views")  # fmt: skip
    load = lambda: [importlib.import_module(name) for name in names]  # noqa: E731
    threading.Thread(target=load, name="warm", daemon=True).start()


def version() -> str:
    """The version of this program."""
    try:
        return metadata.version("sparse-diffusion-explorer")
    except metadata.PackageNotFoundError:
        return "of the source tree"
