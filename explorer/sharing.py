"""What stands under a result on every page: its recipe, a link to it, its files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import streamlit as st

MIME = {
    ".png": "image/png", ".gif": "image/gif", ".csv": "text/csv", ".json": "application/json",
    ".md": "text/markdown", ".html": "text/html", ".h5ad": "application/x-hdf5",
}  # fmt: skip
Files = Mapping[str, tuple[str, Callable[[], Any]]]


def carry(
    stamp: str,
    *,
    command: str,
    recipe: Mapping[str, Any],
    link: str,
    files: Files,
    what: str,
    about_files: str = "",
    key: str = "get",
) -> None:
    """Three small buttons, each of which opens its part.

    Args:
        files: words of a button -> name of its file, and what makes it once the button is pressed.
        what: what can be made again.
        about_files: what to know before one opens them.
        key: begins the keys of the buttons, where a page has more than one result.
    """
    with st.popover(f"Recipe {stamp}"):
        st.markdown(f"Enough to make {what} again, anywhere.")
        st.code(command, language=None, wrap_lines=True)
        st.code(json.dumps(recipe, indent=1), language=None, wrap_lines=True)
    with st.popover("Copy link"):
        st.markdown("Opens this page with these settings.")
        st.code(link, language=None, wrap_lines=True)
    with st.popover("Download"):
        if about_files:
            st.markdown(about_files)
        for words, (name, make) in files.items():
            ending = Path(name).suffix
            st.download_button(
                words, make, name, width="stretch", key=f"{key}-{ending[1:]}", on_click="ignore",
                mime=MIME.get(ending, "application/octet-stream"),
            )  # fmt: skip
