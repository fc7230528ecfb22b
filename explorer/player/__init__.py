"""The player: replays scenes in the browser, as a Streamlit component or as a page by itself."""

import base64
import html as escaping
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from explorer.figures.colours import COLOURS, table

HERE = Path(__file__).parent
SHARED = ("parts.js", "reel.js")  # of all players
Scene = Mapping[str, Any]


def player(
    scenes: Scene | Sequence[Scene],
    *,
    key: str,
    autoplay: bool = True,
    start: int | None = None,
    forks: bool = True,
    on_step: Callable[[], None] | None = None,
    on_fork: Callable[[], None] | None = None,
) -> Any:
    """Play one scene, or a scene and its fork side by side, in a Streamlit page.

    Args:
        autoplay: play once, unless the reader asked the browser for less motion.
        start: a position of the time line to show instead (`scene.place` says what it means).
        forks: offer "Choose this instead"; False where the page has nothing to continue with.

    Returns:
        the component's result: `.step`, the position where the reader last stopped (None before),
        and `.fork`, {"at", "index", "scene"} in the one run in which a choice was asked for.
    """
    return _component()(
        key=key,
        data=payload(scenes, autoplay=autoplay, start=start, forks=forks),
        on_step_change=on_step or _nothing,
        on_fork_change=on_fork or _nothing,
    )


def html(
    scenes: Scene | Sequence[Scene],
    *,
    title: str,
    autoplay: bool = True,
    start: int | None = None,
) -> str:
    """One page that plays the scenes by itself: no server, no network, nothing else to load."""
    data = json.dumps(payload(scenes, autoplay=autoplay, start=start)).replace("<", "\\u003c")
    return PAGE.format(
        title=escaping.escape(title), css=source("player.css"), js=source("player.js"), data=data
    )


def payload(
    scenes: Scene | Sequence[Scene],
    *,
    autoplay: bool = True,
    start: int | None = None,
    forks: bool = True,
) -> dict[str, Any]:
    """What player.js takes as `data`: the scenes and the colour rules of `explorer.figures`."""
    shown = [scenes] if isinstance(scenes, Mapping) else list(scenes)
    if not 1 <= len(shown) <= 2:
        raise ValueError(f"the player shows one scene or two side by side, got {len(shown)}")
    colours = COLOURS | {"table": base64.b64encode(table().tobytes()).decode()}
    asked = {"autoplay": autoplay, "start": start, "forks": forks}
    return {"scenes": shown, "colours": colours, **asked}


def source(name: str) -> str:
    """The text of player.js with what it is joined to, or of player.css."""
    parts = (*SHARED, name) if name.endswith(".js") else (name,)
    return "\n".join((HERE / part).read_text(encoding="utf-8") for part in parts)


@cache
def _component() -> Any:
    from streamlit.components.v2 import component  # a static page needs none

    return component("sed_player", js=source("player.js"), css=source("player.css"))


def _nothing() -> None:
    """Streamlit reports a value only where a callback stands."""


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';
  img-src data:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body {{ margin: 0 auto; max-width: 72rem; padding: 1.5rem clamp(1rem, 4vw, 3rem) 3rem;
  color: #14171c;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }}
h1 {{ font-size: 1.1rem; font-weight: 500; color: #555b66; margin: 0 0 1rem; }}
{css}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<div id="player"></div>
</main>
<script type="application/json" id="scenes">{data}</script>
<script type="module">
{js}
player({{
  parentElement: document.getElementById("player"),
  data: JSON.parse(document.getElementById("scenes").textContent),
}});
</script>
</body>
</html>
"""
