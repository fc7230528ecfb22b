"""The counts player: replays a scene of counts in the browser, or as a page by itself."""

import base64
import html as escaping
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from explorer import player
from explorer.figures.colours import COLOURS, table

HERE = Path(__file__).parent


def counts_player(
    scene: Mapping[str, Any],
    *,
    key: str,
    autoplay: bool = True,
    start: int | None = None,
    on_step: Callable[[], None] | None = None,
) -> Any:
    """Play one scene of `explorer.counts_scene` in a Streamlit page.

    Args:
        autoplay: play once, unless the reader asked the browser for less motion.
        start: a position of the time line to show instead (`counts_scene.place` tells it).

    Returns:
        the component's result: `.step`, the position where the reader last stopped (None before).
    """
    data = payload(scene, autoplay=autoplay, start=start)
    return _component()(key=key, data=data, on_step_change=on_step or _nothing)


def html(
    scene: Mapping[str, Any], *, title: str, autoplay: bool = True, start: int | None = None
) -> str:
    """One page that plays the scene by itself: no server, no network, nothing else to load."""
    data = json.dumps(payload(scene, autoplay=autoplay, start=start)).replace("<", "\\u003c")
    return player.PAGE.format(
        title=escaping.escape(title), css=source("counts.css"), js=source("counts.js"), data=data
    )


def payload(
    scene: Mapping[str, Any], *, autoplay: bool = True, start: int | None = None
) -> dict[str, Any]:
    """What counts.js takes as `data`: the scene and the colour rules of `explorer.figures`."""
    colours = COLOURS | {"table": base64.b64encode(table().tobytes()).decode()}
    return {"scene": scene, "colours": colours, "autoplay": autoplay, "start": start}


def source(name: str) -> str:
    """The text of counts.js or counts.css, with what it shares with the first player."""
    shared = player.SHARED if name.endswith(".js") else ("player.css",)
    own = (HERE / name).read_text(encoding="utf-8")
    return "\n".join([*((player.HERE / part).read_text(encoding="utf-8") for part in shared), own])


@cache
def _component() -> Any:
    from streamlit.components.v2 import component  # a static page needs none

    return component("sed_counts", js=source("counts.js"), css=source("counts.css"))


def _nothing() -> None:
    """Streamlit reports a value only where a callback stands."""
