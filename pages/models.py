"""Models: what ships with the app, how well it does, and how to load it."""

import streamlit as st

from explorer import controls, frame, models
from explorer.models import Card


def table(cards: list[Card]) -> None:
    """One line a checkpoint."""
    st.dataframe(
        [models.line(card) for card in cards],
        hide_index=True,
        width="stretch",
        column_config={
            "size": st.column_config.NumberColumn(format="bytes"),
            "parameters": st.column_config.NumberColumn(format="localized"),
        },
    )


def details(card: Card) -> None:
    """A checkpoint's card text, a snippet that loads it, and the way to use it."""
    st.header(card.title, anchor=False)
    st.markdown(card.story)
    if fault := models.fault(card):
        st.warning(fault)
        return
    if card.name in models.kinds():
        st.button(f"Use {card.name}", key=f"use-{card.name}", on_click=use, args=(card.name,))
    if rows := models.measured(card):
        st.dataframe(rows, hide_index=True, width="content")
    st.code(models.snippet(card), language=None, wrap_lines=True)
    with st.expander("The whole card"):
        st.markdown(models.card_text(card))


def use(name: str) -> None:
    """Remember which model the reader wants; the page goes to Decode next."""
    controls.choose_model(name)
    st.session_state["go"] = "pages/decode.py"


if page := st.session_state.pop("go", None):
    st.switch_page(page)
frame.heading("Models", "Every model here is a file on this machine, checked byte by byte.")
cards = models.cards()
if not cards:
    st.warning(
        "No checkpoint is here. Fetch the repository's checkpoints folder again, "
        "or train one with `sed-core train sed-mnist`."
    )
else:
    table(cards)
    st.caption(
        "Zeros of data and of samples are shares of exact zeros. “verified” means that every file "
        "has the sha256 its manifest names."
    )
for card in cards:
    details(card)
