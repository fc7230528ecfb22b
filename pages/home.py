"""Start: one recorded sample builds itself, before any model is loaded."""

import streamlit as st

from explorer import frame, recorded
from explorer.player import player

CARDS = {
    "Decode": "Make your own: pick a digit and a seed, stop anywhere, choose another pixel.",
    "Compare": "Same seed, sparse and dense models: guess which keeps the zeros, then see.",
    "Counts": "Whole numbers die unit by unit and are born again; erase a digit and fill it in.",
    "Cells": "Single cells as whole counts: draw a loop around them and look at any gene.",
    "Models": "What is behind it: size, data, how well it does, how to load it in two lines.",
    "About": "The method, its limits, the paper, and how to cite this.",
}

frame.heading(
    "Most of the data is zero. Build one sample and see why.",
    "Noise becomes a small latent; the latent becomes pixels, one (place, value) pair at a time. "
    "Every pixel that is never chosen is **exactly** zero.",
)
start = recorded.start()
picture, cards = st.columns([7, 3], gap="large")
with picture:
    player([start.scene], key="start", autoplay=True, forks=False)
    st.caption(start.words)
with cards:
    st.metric("Exact zeros in this sample", f"{start.zeros} of {start.dim}")
    for title, text in CARDS.items():
        with st.container(border=True, gap="xsmall"):
            st.markdown(text)
            page = f"pages/{title.lower()}.py"
            st.page_link(page, label=f"**{title}**", icon=":material/arrow_forward:")
