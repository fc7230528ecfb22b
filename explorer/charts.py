"""Plotly figures on a page: one look, no outside world, words for who can't see them, files."""

from collections.abc import Mapping
from html import escape
from typing import Any

import streamlit as st

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "png", "scale": 3},
}


def show(fig: Any, *, alt: str, key: str, caption: str = "") -> None:
    """Draw a figure with its name for assistive tools and the line that says what to see."""
    st.plotly_chart(fig, width="stretch", theme=None, config=CONFIG, alt=alt, key=key)
    if caption:
        st.caption(caption)


def html(figures: Mapping[str, Any], *, title: str) -> str:
    """Figures under their headings as one page that needs no network."""
    parts = [
        f"<h2>{escape(name)}</h2>\n"
        + fig.to_html(full_html=False, include_plotlyjs=not place, config=CONFIG)
        for place, (name, fig) in enumerate(figures.items())
    ]
    return PAGE.format(title=escape(title), body="\n".join(parts))


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
padding: 0 1rem; color: #14171c; }}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
